"""HTML of values, as notebooks show them: a title, a few facts and a small table, in the notebook's own colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["card", "printable"]

_MOST_ROWS = 24
_MOST_LETTERS = 160  # of a cell


def printable(text: str) -> str:
    """Text that any terminal, figure and file can hold: names of folders and methods may be anything."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def card(
    title: str,
    facts: Iterable[tuple[str, object]] = (),
    header: Sequence[str] = (),
    rows: Sequence[Sequence[object]] = (),
) -> str:
    """A value as HTML.

    Whatever the texts hold is shown as text: names come from other people's files. Of many rows the first are shown,
    and how many there are.

    Args:
        title: What it is, in one line.
        facts: Names and what they are; those that are None or empty are left out.
        header: Of the table; there is none without rows.
        rows: A row each, as long as the header. Numbers go to the right.
    """
    known = [(name, fact) for name, fact in facts if fact is not None and fact != ""]
    parts = [f"<strong>{_text(title)}</strong>"]
    if known:
        parts.append(_table([], known))
    if rows:
        parts.append(_table(header, rows[:_MOST_ROWS]))
    if len(rows) > _MOST_ROWS:
        parts.append(f"<em>and {len(rows) - _MOST_ROWS:,} more rows</em>")
    return f"<div>{''.join(parts)}</div>"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = f"<thead><tr>{''.join(map(_head, header))}</tr></thead>" if header else ""
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _head(name: str) -> str:
    return f'<th style="text-align:left">{_text(name)}</th>'


def _cell(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td style="text-align:right">{value:,}</td>'
    return f'<td style="text-align:left">{_text(str(value))}</td>'


def _text(text: str) -> str:
    shown = text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"
    return escape("".join(letter if letter.isprintable() else "�" for letter in shown))
