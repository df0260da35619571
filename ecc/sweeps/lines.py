"""On which line of a TOML text each value stands: tomllib reads values, and forgets where they were."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

__all__ = ["Path", "lines_of"]

Path = tuple[str | int, ...]
"""Keys and places in arrays that lead to a value."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_LONG_BASIC = re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}", re.DOTALL)
_OTHER = re.compile(r"[^,\]}#\n]+")  # numbers, flags, dates


def lines_of(text: str) -> Mapping[Path, int]:
    """Line, from 1, of the key of each value, and of each element of an array.

    Args:
        text: TOML that tomllib has read.
    """
    return _Reader(text.replace("\r\n", "\n")).read()


class _Reader:
    """One pass over a sound text."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._lines: dict[Path, int] = {}
        self._tables: dict[Path, int] = {}  # arrays of tables: how many there are so far

    def read(self) -> Mapping[Path, int]:
        prefix: Path = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text.startswith("[", self._at):
                prefix = self._header()
            else:
                self._entry(prefix)
        return self._lines

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match is not None else self._at + 1
        return self._at

    def _take(self, pattern: re.Pattern[str]) -> str:
        start = self._at
        return self._text[start : self._skip(pattern)]

    def _note(self, path: Path) -> None:
        self._lines.setdefault(path, bisect_right(self._starts, self._at))

    def _header(self) -> Path:
        """``[a.b]`` or ``[[a.b]]``: where the entries that follow belong."""
        several = self._text.startswith("[[", self._at)
        start = self._at
        self._at += 2 if several else 1
        keys, end = self._keys(), self._at
        path: Path = ()
        self._at = start
        for place, key in enumerate(keys):
            path = (*path, key)
            self._note(path)
            if several and place == len(keys) - 1:
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
                self._note(path)
        self._at = end + (2 if several else 1)
        return path

    def _entry(self, prefix: Path) -> None:
        """``a.b = value``"""
        start = self._at
        keys, end = self._keys(), self._at
        self._at = start
        for place in range(1, len(keys) + 1):
            self._note((*prefix, *keys[:place]))
        self._at = end + 1  # the sign
        self._skip(_SPACE)
        self._value((*prefix, *keys))

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            keys.append(self._key())
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _key(self) -> str:
        if self._text.startswith('"', self._at):
            key: Any = tomllib.loads(f"key = {self._take(_BASIC)}")["key"]
            return str(key)
        if self._text.startswith("'", self._at):
            return self._take(_LITERAL)[1:-1]
        return self._take(_BARE_KEY)

    def _value(self, path: Path) -> None:
        rest = self._text[self._at : self._at + 3]
        if rest == '"""':
            self._skip(_LONG_BASIC)
        elif rest == "'''":
            self._skip(_LONG_LITERAL)
        elif rest[:1] in ('"', "'"):
            self._skip(_BASIC if rest[0] == '"' else _LITERAL)
        elif rest[:1] == "[":
            self._array(path)
        elif rest[:1] == "{":
            self._inline(path)
        else:
            self._skip(_OTHER)

    def _array(self, path: Path) -> None:
        self._at += 1
        place = 0
        while self._text[self._skip(_BLANK)] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._note((*path, place))
            self._value((*path, place))
            place += 1
        self._at += 1

    def _inline(self, path: Path) -> None:
        self._at += 1
        while self._text[self._skip(_BLANK)] != "}":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._entry(path)
        self._at += 1
