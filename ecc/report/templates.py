"""Templates: pages from the HTML files of this folder, all text escaped, nothing undefined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jinja2

__all__ = ["fill"]


def fill(name: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """The template of that name, filled in; it may include other files of the folder."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ecc", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name).render(**values)
