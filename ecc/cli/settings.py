"""PART.OPTION=VALUE as it is typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ecc.core.errors import InputError
from ecc.core.factories import parse_value

__all__ = ["settings_of_texts"]


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
