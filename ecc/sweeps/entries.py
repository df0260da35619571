"""Typed access to a TOML document that nobody has checked yet; mistakes are collected, each with its line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ecc.core.errors import InputError
from ecc.core.factories import kind_of, suggestion
from ecc.sweeps.lines import Path

__all__ = ["Entries", "Mistakes"]


@dataclass(frozen=True, slots=True)
class Mistakes:
    """What is wrong with a job file, in any order.

    Attributes:
        where: The file, for people.
        lines: Line of each value.
        found: Lines and sentences, each once.
        paths: Of all values that something is wrong with.
    """

    where: str
    lines: Mapping[Path, int]
    found: set[tuple[int, str]] = field(default_factory=set)
    paths: set[Path] = field(default_factory=set)

    def add(self, path: Path, text: str) -> None:
        """Note one, at the line of the value, or of the nearest one around it that has a line."""
        self.found.add((self.line(path), text))
        self.paths.add(path)

    def hold(self, path: Path) -> bool:
        """Whether one is of a value, or of something within it."""
        return any(each[: len(path)] == path for each in self.paths)

    def line(self, path: Path) -> int:
        """Where a value stands; 1 where it is not there at all."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def refuse(self) -> None:
        """Raise with all of them, if there are any.

        Raises:
            InputError: If there are.
        """
        if not self.found:
            return
        told = [f"line {line}: {text}" for line, text in sorted(self.found)]
        if len(told) == 1:
            raise InputError(f"{self.where}, {told[0]}")
        raise InputError("\n  ".join([f"{self.where} has {len(told)} mistakes", *told]))


class Entries:
    """The entries of one table; every method notes a mistake and gives the default where an entry is not as asked.

    Args:
        value: What tomllib gave.
        path: Of the table.
        mistakes: Where what is wrong is noted.
    """

    def __init__(self, value: Mapping[str, Any], path: Path, mistakes: Mistakes) -> None:
        self.value, self.path, self.mistakes = value, path, mistakes
        self._asked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether there is such an entry."""
        return name in self.value

    def at(self, name: str, *rest: str | int) -> Path:
        """The path of an entry."""
        return (*self.path, name, *rest)

    def wrong(self, name: str, text: str) -> None:
        """Note a mistake of an entry."""
        self.mistakes.add(self.at(name), text)

    def raw(self, name: str) -> Any:
        """An entry as it is; None where there is none."""
        self._asked.add(name)
        return self.value.get(name)

    def text(self, name: str, default: str = "") -> str:
        """A text that is not empty."""
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, str) and value:
            return value
        self.wrong(name, f"{name} must be a text, got {_shown(value)}")
        return default

    def demanded_text(self, name: str, example: str) -> str:
        """A text that must be there."""
        if name not in self:
            self.mistakes.add(self.path, f"{name} is missing; give for example {name} = {example!r}")
        return self.text(name)

    def whole(self, name: str, least: int, default: int | None = None) -> int | None:
        """A whole number of at least ``least``."""
        value = self.raw(name)
        if value is None:
            return default
        if type(value) is int and value >= least:
            return value
        self.wrong(name, f"{name} must be a whole number from {least}, got {_shown(value)}")
        return default

    def number(self, name: str, default: float | None = None) -> float | None:
        """A finite number."""
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        self.wrong(name, f"{name} must be a number, got {_shown(value)}")
        return default

    def flag(self, name: str) -> bool:
        """True or false; false where there is none."""
        value = self.raw(name)
        if value is not None and not isinstance(value, bool):
            self.wrong(name, f"{name} must be true or false, got {_shown(value)}")
        return value is True

    def array(self, name: str, example: str) -> list[Any]:
        """An array; one value alone counts as an array of it, except a table."""
        value = self.raw(name)
        if value is None:
            return []
        if isinstance(value, list):
            return value
        if isinstance(value, Mapping):
            self.wrong(name, f"{name} must be a list, for example {example}")
            return []
        return [value]

    def texts(self, name: str, example: str) -> list[str]:
        """An array of texts, or one text."""
        found = []
        for place, value in enumerate(self.array(name, example)):
            if isinstance(value, str) and value:
                found.append(value)
            else:
                self.mistakes.add(self.at(name, place), f"{name} must hold texts, got {_shown(value)}")
        return found

    def table(self, name: str) -> Entries:
        """A table; an empty one where there is none."""
        value = self.raw(name)
        if value is not None and not isinstance(value, Mapping):
            self.wrong(name, f"{name} must be a table, got {_shown(value)}")
        return Entries(value if isinstance(value, Mapping) else {}, self.at(name), self.mistakes)

    def leaves(self) -> Iterator[tuple[tuple[str, ...], Any]]:
        """All values below, without tables, each with the names that lead to it."""
        for name in self.value:
            value = self.raw(name)
            if isinstance(value, Mapping):
                yield from (((name, *rest), each) for rest, each in self.table(name).leaves())
            else:
                yield (name,), value

    def demand_known(self, what: str) -> None:
        """Note every entry that nobody has asked for.

        Args:
            what: The table, for messages.
        """
        for name in self.value:
            if name not in self._asked:
                self.wrong(name, f"{what} has no setting {name!r}{suggestion(name, sorted(self._asked))}")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return "a table" if isinstance(value, Mapping) else "a list"
    return kind_of(value) if len(repr(value)) > 60 else repr(value)
