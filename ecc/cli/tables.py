"""Tables: with bold headers and colours on a terminal, plain text elsewhere, folded to the width where there is one.

What is piped has no escape codes whatever the environment says, and a line per row unless COLUMNS is set. NO_COLOR
(no-color.org) and TERM=dumb make a terminal's tables plain too. rich is imported on a terminal or to fold, so that it
costs nothing elsewhere.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TextIO

from ecc.core.markup import printable

__all__ = ["Look", "Tone", "Toned", "table", "toned"]

Tone = Literal["good", "warning", "bad", "faint"]

_STYLES: Mapping[Tone, str] = MappingProxyType(
    {"good": "green", "warning": "yellow", "bad": "bold red", "faint": "dim"}
)
_GAP = "  "
_LONGEST_WORD = 24  # characters of a word that a column is kept wide enough for
_SHORT = 16  # a column that is no wider is not folded
_NARROWEST = 8  # columns of a terminal: less is not meant


@dataclass(frozen=True, slots=True)
class Toned:
    """A cell that stands out where there are colours; its text says the same without.

    Attributes:
        text: Of the cell.
        tone: How it stands out.
    """

    text: str
    tone: Tone

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Look:
    """How tables look where they are written to.

    Attributes:
        width: Characters of a line; None where lines may be of any length.
        styled: Whether there are bold headers and colours.
    """

    width: int | None = None
    styled: bool = False

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str] = os.environ) -> Look:
        """What suits a stream: a terminal, a pipe or a file."""
        terminal = stream.isatty()
        given = environment.get("COLUMNS", "")
        if given.isdecimal() and int(given) >= _NARROWEST:
            width: int | None = int(given)
        else:
            width = max(_NARROWEST, shutil.get_terminal_size().columns) if terminal else None
        plain = bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
        return cls(width, terminal and not plain)


def toned(text: str, tone: Tone) -> Toned:
    """A cell of that tone."""
    return Toned(text, tone)


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, look: Look | None = None) -> str:
    """Columns under a header, numbers to the right; a block per row where the columns do not fit beside each other.

    Args:
        look: How it looks; what suits the standard output by default.
    """
    look = look or Look.of(sys.stdout)
    names = [printable(name) for name in header]
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(names))]
    widths = [max(map(_columns, column)) for column in zip(names, *cells, strict=True)]
    fits = look.width is None or _total(widths) <= look.width
    if fits and not look.styled:
        return _plain(names, cells, widths, right)
    if look.width is not None and not fits:
        least = [_least(column, width) for column, width in zip(zip(names, *cells, strict=True), widths, strict=True)]
        if _total(least) > look.width:
            return _blocks(names, cells, look)
    return _rich(names, cells, rows, widths, right, look)


def _plain(names: Sequence[str], cells: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool]) -> str:
    def line(values: Sequence[str]) -> str:
        padded = [_padded(value, width, to_right=r) for value, width, r in zip(values, widths, right, strict=True)]
        return _GAP.join(padded).rstrip()

    return "\n".join([line(names), line(["-" * width for width in widths]), *map(line, cells)])


def _rich(
    names: Sequence[str],
    cells: Sequence[Sequence[str]],
    rows: Sequence[Sequence[object]],
    widths: Sequence[int],
    right: Sequence[bool],
    look: Look,
) -> str:
    """The same by rich, which folds cells and knows how a terminal is told of styles."""
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        box=Box("    \n    \n -  \n    \n    \n    \n    \n    \n", ascii=True),
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
        collapse_padding=False,
    )
    for name, width, to_right in zip(names, widths, right, strict=True):
        drawn.add_column(
            Text(name),
            justify="right" if to_right else "left",
            no_wrap=to_right or width <= _SHORT,
            overflow="fold",
        )
    for row, own in zip(cells, rows, strict=True):
        drawn.add_row(
            *(
                Text(text, style=_STYLES[cell.tone] if isinstance(cell, Toned) else "")
                for text, cell in zip(row, own, strict=True)
            )
        )
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=look.width or _total(widths),
        force_terminal=look.styled,
        color_system="auto" if look.styled else None,
        no_color=not look.styled,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(drawn)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _blocks(names: Sequence[str], cells: Sequence[Sequence[str]], look: Look) -> str:
    """A block of ``name  value`` lines per row."""
    width = max(map(_columns, names), default=0)
    blocks = [
        _plain_pairs([(name, cell) for name, cell in zip(names, row, strict=True) if cell], width, look)
        for row in cells
    ]
    return "\n\n".join(blocks)


def _plain_pairs(pairs: Sequence[tuple[str, str]], width: int, look: Look) -> str:
    import textwrap

    indent = width + len(_GAP)
    room = max(_NARROWEST, (look.width or 80) - indent)
    lines = []
    for name, value in pairs:
        first, *rest = textwrap.wrap(value, room) or [""]
        lines.append(f"{_padded(name, width)}{_GAP}{first}".rstrip())
        lines += [" " * indent + line for line in rest]
    return "\n".join(lines)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _least(column: Sequence[str], width: int) -> int:
    """How narrow a column may become: its longest word, unless that is very long; short columns stay as they are."""
    if width <= _SHORT:
        return width
    return max(_SHORT, min(_LONGEST_WORD, max(_columns(word) for text in column for word in text.split() or [""])))


def _columns(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _padded(text: str, width: int, *, to_right: bool = False) -> str:
    fill = " " * (width - _columns(text))
    return fill + text if to_right else text + fill
