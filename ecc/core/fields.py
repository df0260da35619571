"""Typed access to a JSON object that nobody has checked yet; everything is bounded."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from ecc.core.errors import InputError

__all__ = ["DAMAGED", "Fields", "Scalar", "parse_object"]

Scalar = str | int | float | bool | None
"""A JSON value without parts."""

DAMAGED = "; it is damaged or not from this program"
"""How sentences end of members that are missing or not what was asked for."""

_MOST = 1 << 20  # entries of any list or object
_LARGEST = (1 << 63) - 1  # of any whole number
_GREATEST = sys.float_info.max  # of any number; a whole number beyond it has no float
_LONGEST = 1 << 12  # characters of any text
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # would drive a terminal, or cannot be encoded


def parse_object(text: bytes, where: str) -> Fields:
    """Read one JSON object from bytes.

    Raises:
        InputError: If it is not UTF-8 JSON, nests too deep, holds NaN or Infinity, or is not an object.
    """
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not readable JSON ({error}); write it again") from error
    return Fields(value, where)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


class Fields:
    """The members of a JSON object, each asked for by name and type.

    Every method raises InputError when the member is missing (and no default is given) or is not what was asked for.

    Args:
        value: What the JSON held.
        where: What to call it in messages.
    """

    def __init__(self, value: object, where: str) -> None:
        self._where = where
        if not isinstance(value, dict) or len(value) > _MOST:
            raise self._error("is not an object of sensible size")
        self._value: dict[str, Any] = value

    def text(self, name: str, default: str | None = None) -> str:
        """A text without control characters (line ends and tabs may be)."""
        return self._text(self._value.get(name, default), name)

    def whole(self, name: str, least: int = 0) -> int:
        """A whole number of at least ``least``."""
        return self._whole(self._value.get(name), name, least)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self._value.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -_GREATEST <= value <= _GREATEST:
            raise self._error(f"has no finite number {name!r}")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        """A finite number, or None where there is none."""
        return None if self._value.get(name) is None else self.number(name)

    def optional_flag(self, name: str) -> bool | None:
        """True, False, or None where there is none."""
        value = self._value.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._error(f"has {name!r} that is neither true, false nor null")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(self._text(item, name) for item in self.items(name))

    def wholes(self, name: str, least: int = 0) -> tuple[int, ...]:
        """A list of whole numbers."""
        return tuple(self._whole(item, name, least) for item in self.items(name))

    def items(self, name: str) -> list[Any]:
        """A list of values that are not checked yet."""
        value = self._value.get(name)
        if not isinstance(value, list) or len(value) > _MOST:
            raise self._error(f"has no list {name!r} of sensible length")
        return value

    def inner(self, name: str) -> Fields:
        """An object of its own."""
        return Fields(self._value.get(name), f"{self._where}: {name!r}")

    def scalars(self, name: str) -> dict[str, Scalar]:
        """An object whose members are texts, numbers, flags or null."""
        inner = self.inner(name)
        return {key: inner._scalar(key) for key in inner}

    def _scalar(self, name: str) -> Scalar:
        value = self._value[name]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(name)
        return self.whole(name, -_LARGEST) if isinstance(value, int) else self.number(name)

    def _text(self, value: object, name: str) -> str:
        if not isinstance(value, str) or len(value) > _LONGEST or _CONTROL.search(value):
            raise self._error(f"has no plain text {name!r} of sensible length")
        return value

    def _whole(self, value: object, name: str, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
            raise self._error(f"has no whole number {name!r} of {least} or more")
        return value

    def _error(self, problem: str) -> InputError:
        return InputError(f"{self._where} {problem}{DAMAGED}")

    def __iter__(self) -> Iterator[str]:
        """Names of the members."""
        return (self._text(name, "name") for name in self._value)
