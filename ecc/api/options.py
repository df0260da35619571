"""Options: settings by name and value, for frozen objects that have a field of each name."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ecc.core.errors import InputError
from ecc.core.factories import suggestion
from ecc.core.fields import Scalar

__all__ = ["as_scalar", "checked_options", "names_of", "part_of"]

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a name", types.NoneType: "none"}


def names_of(kind: type[Any], reserved: Collection[str] = ()) -> list[str]:
    """The fields of a dataclass that are settings: values without parts, or tuples of these, taken when it is made.

    Args:
        reserved: Those that are given in another way.
    """
    hints = get_type_hints(kind)
    return [
        field.name
        for field in fields(kind)
        if field.init and field.name not in (*reserved, "name") and any(map(_plain, _members(hints[field.name])))
    ]


def checked_options(
    kind: type[Any], part: str, given: Mapping[str, Any], reserved: Collection[str] = ()
) -> dict[str, Any]:
    """Options as arguments of a dataclass.

    Args:
        part: What the options are called before the dot.
        given: Values without parts; parts joined by commas for a tuple; or an object of the field's type.
    Raises:
        InputError: If the dataclass has no such field, or one of another type.
    """
    known, hints = names_of(kind, reserved), get_type_hints(kind)
    found = {}
    for name, value in given.items():
        if name in reserved:
            raise InputError(f"option {part}.{name} is the job's own; give {name} (--{name}) instead")
        if name not in known:
            hint = suggestion(name, known) if known else f"; {part} has no options"
            raise InputError(f"option {part}.{name} is unknown{hint}")
        members = _members(hints[name])
        fitting = [each for each in (_fitted(value, member) for member in members) if each is not _UNFIT]
        if not fitting:
            raise InputError(f"option {part}.{name} must be {' or '.join(map(_said, members))}, got {value!r}")
        found[name] = fitting[0]
    return found


def part_of(options: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Of options ``PART.OPTION`` → value those of one part, by their names behind the dot."""
    return {name.removeprefix(f"{part}."): value for name, value in options.items() if name.startswith(f"{part}.")}


def as_scalar(value: Any) -> Scalar:
    """An option as a JSON value: numbers joined by commas, objects by their names or those of their types."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(getattr(value, "name", type(value).__name__))


_UNFIT = object()


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _plain(member: Any) -> bool:
    return get_origin(member) in (Literal, tuple) or member in _WORDS


def _fitted(value: Any, member: Any) -> Any:
    """The value as one of that type, or _UNFIT."""
    if get_origin(member) is Literal:
        return value if value in get_args(member) else _UNFIT
    if get_origin(member) is tuple:
        return _parts(value, get_args(member)[0])
    if isinstance(value, bool) and member is not bool:
        return _UNFIT
    if member is float:
        return float(value) if isinstance(value, int | float) else _UNFIT
    if member in _WORDS:
        return value if isinstance(value, member) else _UNFIT
    scalar = value is None or isinstance(value, str | int | float)
    return _UNFIT if scalar else value  # an object of the user's own, which the dataclass checks


def _parts(value: Any, kind: Any) -> Any:
    """A tuple of texts, whole numbers or numbers."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    if kind is int and any(isinstance(part, float) for part in parts):
        return _UNFIT  # not to be cut off
    try:
        return tuple(kind(part) if kind in (int, str) else float(part) for part in parts)
    except (TypeError, ValueError):
        return _UNFIT


def _said(member: Any) -> str:
    if get_origin(member) is Literal:
        return ", ".join(map(str, get_args(member)))
    if get_origin(member) is tuple:
        kinds = {int: "whole numbers", str: "names"}
        return f"{kinds.get(get_args(member)[0], 'numbers')} joined by commas"
    return _WORDS.get(member, f"an object such as {getattr(member, '__name__', member)}")
