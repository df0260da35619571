"""PART.OPTION=VALUE as it is typed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from ecc.core.errors import InputError
from ecc.core.factories import parse_value

__all__ = ["add_settings", "settings_of_texts"]


def add_settings(parser: argparse.ArgumentParser, known: Mapping[str, Sequence[str]]) -> None:
    """A section of the help that names every PART.OPTION, a line for each part."""
    lines = [f"  {part}: {', '.join(names)}" for part, names in known.items() if names]
    parser.add_argument_group("settings, as --set PART.OPTION=VALUE", "\n".join(lines))


def settings_of_texts(texts: Sequence[str], example: str) -> dict[str, Any]:
    """PART.OPTION=VALUE texts as options by name.

    Args:
        example: One that makes sense here, for messages.
    Raises:
        InputError: If a text is no such option, or one is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or "." not in name:
            raise InputError(f"--set {text!r} is not PART.OPTION=VALUE; write for example {example}")
        if name in found:
            raise InputError(f"--set gives {name} more than once; give it once")
        found[name] = None if value.lower() == "none" else parse_value(value)
    return found
