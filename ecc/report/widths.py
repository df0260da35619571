"""The page of a width graph: a map of who ties with whom, and under it the groups with all tensor axes that they hold.

The page stands alone: its one script is named by its hash in the page's security policy, and nothing is fetched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from itertools import takewhile
from pathlib import Path

import numpy as np

from ecc.core.widths import Slot, WidthGroup, Widths
from ecc.network.graph import Block, WidthGraph
from ecc.network.values import owner
from ecc.report.files import write_file
from ecc.report.style import COLOURS, quantity
from ecc.report.templates import fill
from ecc.report.tracks import Line, Mark, Row, Section, Tracks, lay_out, macs_shares

__all__ = ["render_widths", "write_widths"]

_ROW = 26  # height of a row in pixels; strokes and stops are placed in it
_MOST_LINES = 3  # of a note
_FEW_LANES = 8  # up to here there is room between them
_MANY_ROWS = 300  # from here on sections start closed


@dataclass(frozen=True, slots=True)
class _Stroke:
    """A piece of a line inside one row: from top to bottom at x; ``line`` indexes groups or blocks."""

    line: int
    x: float
    top: float
    bottom: float


@dataclass(frozen=True, slots=True)
class _Stop:
    """What a row does with a group; the first stop of a line bears its width as a label of ``breadth`` pixels."""

    line: int
    x: float
    mark: Mark
    label: str
    breadth: float


@dataclass(frozen=True, slots=True)
class _Shown:
    """A row as it is painted.

    ``notes`` are what to say of the groups that begin here, as (class of the colour, text), and ``room`` is how many
    lines of them fit above the next.
    """

    row: Row
    label: str
    norms: str
    share: float
    strokes: Sequence[_Stroke]
    stops: Sequence[_Stop]
    brackets: Sequence[_Stroke]
    notes: Sequence[tuple[str, str]]
    room: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A section as it is painted: its rows, and the lines through its heading when it is open and when it is closed."""

    section: Section
    rows: Sequence[_Shown]
    share: float
    opened: Sequence[_Stroke]
    closed: Sequence[_Stroke]


@dataclass(frozen=True, slots=True)
class _Tied:
    """Tensors of one layer that a group lies along in one way."""

    layer: str
    tensors: str
    role: str
    positions: str


@dataclass(frozen=True, slots=True)
class _Listed:
    """A group as the table lists it; ``look`` is the class of its colour."""

    group: WidthGroup
    look: str
    tip: str
    share: float
    renormalises: bool
    tied: Sequence[_Tied]


@dataclass(frozen=True, slots=True)
class _Bracketed:
    """A block as the table lists it."""

    block: Block
    tip: str


def render_widths(graph: WidthGraph, title: str, widths: Widths | None = None, *, removed: Collection[str] = ()) -> str:
    """The page as HTML text; it opens from disk and needs no network.

    Args:
        title: Name of the network.
        widths: Channels kept per group, to be shown beside the dense ones.
        removed: Names of blocks to count as removed.

    Raises:
        InputError: If a width or a block is not admissible.
    """
    source = resources.files("ecc.report").joinpath("widths.html").read_text(encoding="utf-8")
    script = source.partition("<script>")[2].partition("</script>")[0]
    tracks = lay_out(graph)
    listed = _listed(graph, tracks)
    parts, breadth, bracket_breadth = _painted(graph, tracks, [each.look for each in listed])
    return fill(
        "widths.html",
        {"percent": _percent, "quantity": quantity, "size": "×".join},
        title=title,
        graph=graph,
        groups=listed,
        blocks=[_Bracketed(block, _block_tip(block)) for block in graph.blocks],
        kept=_kept(graph, widths or {}, removed) if widths or removed else None,
        at=(graph.macs(widths, removed=removed), graph.params(widths, removed=removed)),
        removed=removed,
        parts=parts,
        lines=tracks.lines,
        in_units=any(group.step > 1 for group in graph.groups),
        many=len(tracks.rows) > _MANY_ROWS,
        largest=max((row.share for part in parts for row in part.rows), default=0.0) or 1.0,
        height=_ROW,
        breadth=breadth,
        name_breadth=_name_breadth(parts),
        bracket_breadth=bracket_breadth,
        colours=COLOURS,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write_widths(
    graph: WidthGraph, title: str, path: str | Path, widths: Widths | None = None, *, removed: Collection[str] = ()
) -> Path:
    """Write the page of ``render_widths``; returns its path.

    Raises:
        InputError: If the file cannot be written, or a width or a block is not admissible.
    """
    return write_file(path, render_widths(graph, title, widths, removed=removed).encode())


def _kept(graph: WidthGraph, widths: Widths, removed: Collection[str]) -> dict[str, int]:
    """Channels left of every group; none of those that go with the removed blocks."""
    left = {group.name for group in graph.without(removed, widths).groups}
    return {group.name: widths.get(group.name, group.width) * (group.name in left) for group in graph.groups}


def _painted(graph: WidthGraph, tracks: Tracks, looks: Sequence[str]) -> tuple[list[_Part], float, float]:
    """All sections, and how broad the lanes and the brackets are."""
    labels = [_label(group) for group in graph.groups]
    breadths = [9 + 6.8 * len(label) for label in labels]
    centres, breadth = _centres(tracks.lines, breadths)
    bracketed = {i: line for i, line in enumerate(tracks.brackets) if line is not None}
    total = max(graph.macs(), 1)
    makers = [[row.name for row in tracks.rows if row.marks.get(g) in ("write", "both")] for g in range(len(labels))]

    notes: dict[int, list[tuple[str, str]]] = {i: [] for i in range(len(tracks.rows))}
    for line, group, look, names in zip(tracks.lines, graph.groups, looks, makers, strict=True):
        notes[line.first] += [(look, note)] if (note := _note(group, names)) else []

    def shown(i: int, row: Row, section: Section) -> _Shown:
        starting = [g for g in row.marks if tracks.lines[g].first == i]
        return _Shown(
            row,
            label=_relative(row.name, section),
            norms=", ".join(_last_part(norm) for norm in row.norms),
            share=row.macs / total,
            strokes=_strokes(i, dict(enumerate(tracks.lines)), centres),
            stops=[
                _Stop(g, centres[tracks.lines[g].lane], mark, labels[g] if g in starting else "", breadths[g])
                for g, mark in row.marks.items()
            ],
            brackets=_strokes(i, bracketed, [6.0 + 10 * n for n in range(1 + len(bracketed))]),
            notes=notes[i],
            room=next((n for n in range(1, _MOST_LINES) if notes.get(i + n)), _MOST_LINES),
        )

    parts = []
    for section in tracks.sections:
        rows = [shown(i, tracks.rows[i], section) for i in range(section.start, section.stop)]
        through = partial(_through, lines=tracks.lines, centres=centres, section=section)
        parts.append(_Part(section, rows, sum(row.share for row in rows), through(closed=False), through(closed=True)))
    brackets = 1 + max((line.lane for line in bracketed.values()), default=-1)
    return parts, breadth, 10.0 * brackets + 4 if brackets else 0.0


def _name_breadth(parts: Sequence[_Part]) -> float:
    """Pixels for names and norms, about."""
    rows = [row for part in parts for row in part.rows]
    return min(max([140.0, *(64 + 8.2 * len(row.label) + 6.9 * len(row.norms) for row in rows)]), 330.0)


def _centres(lines: Sequence[Line], breadths: Sequence[float]) -> tuple[list[float], float]:
    """Middle of each lane, wide enough for the labels in it, and the breadth of all."""
    lanes = [0.0] * (1 + max((line.lane for line in lines), default=-1))
    gap = 14 if len(lanes) <= _FEW_LANES else 4
    for line, breadth in zip(lines, breadths, strict=True):
        lanes[line.lane] = max(lanes[line.lane], breadth + gap)
    return [sum(lanes[:i]) + lane / 2 + 4 for i, lane in enumerate(lanes)], sum(lanes) + 8


def _note(group: WidthGroup, makers: Sequence[str]) -> str:
    """What the reader of a map should see without pointing at a line."""
    if not group.prunable:
        return f"stays dense: {group.reason}"
    if len(makers) < 2:
        return ""
    paths = [name.split(".") for name in makers]
    parents = zip(*(path[:-1] for path in paths), strict=False)
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, parents)]
    names = ", ".join(".".join(path[len(shared) :]) for path in paths)
    return f"{len(makers)} layers make these channels: {'.'.join([*shared, f'{{{names}}}' if shared else names])}"


def _strokes(i: int, lines: Mapping[int, Line], centres: Sequence[float]) -> list[_Stroke]:
    """The pieces of lines in row i: from the middle where a line begins, to the middle where it ends."""
    return [
        _Stroke(n, centres[line.lane], _ROW / 2 * (line.first == i), _ROW - _ROW / 2 * (line.last == i))
        for n, line in lines.items()
        if line.first <= i <= line.last
    ]


def _through(*, lines: Sequence[Line], centres: Sequence[float], section: Section, closed: bool) -> list[_Stroke]:
    """The lines in the heading of a section: those that come in, and if it is closed those that go out below."""
    found = []
    for n, line in enumerate(lines):
        enters = line.first < section.start <= line.last
        leaves = section.start <= line.last and line.first < section.stop <= line.last
        if enters and (leaves or not closed):
            found.append(_Stroke(n, centres[line.lane], 0, _ROW))
        elif closed and (enters or leaves):
            half = (0, _ROW / 2 - 3) if enters else (_ROW / 2 + 3, _ROW)
            found.append(_Stroke(n, centres[line.lane], *half))
    return found


def _label(group: WidthGroup) -> str:
    """The width, or units × step where units are more than one channel."""
    return str(group.width) if group.step == 1 else f"{group.units}×{group.step}"


def _relative(name: str, section: Section) -> str:
    inside = name.removeprefix(f"{section.name}.")
    return inside if section.stop - section.start > 1 else name


def _listed(graph: WidthGraph, tracks: Tracks) -> list[_Listed]:
    shares, colour = macs_shares(graph), 0
    found = []
    for group, line in zip(graph.groups, tracks.lines, strict=True):
        look = f"c{colour % len(COLOURS)}" if group.prunable else "dense"
        colour += group.prunable
        renormalises = group.prunable and any(slot.tensor in graph.renormalised for slot in group.slots)
        tip = _tip(group, shares.get(group.name, 0.0))
        look += " stream" * line.stream
        found.append(_Listed(group, look, tip, shares.get(group.name, 0.0), renormalises, _tied(group.slots)))
    return found


def _tip(group: WidthGroup, share: float) -> str:
    """What there is to know of a group at a glance."""
    unit = f" in {group.units} units of {group.step}" if group.step > 1 else ""
    state = f"{_percent(share)} of the MACs scale with it" if group.prunable else f"stays dense: {group.reason}"
    return f"{group.name}: {group.width} channels{unit}; {state}"


def _block_tip(block: Block) -> str:
    return f"{block.name}: " + ("may be removed whole" if block.removable else f"stays: {block.reason}")


def _tied(slots: Sequence[Slot]) -> list[_Tied]:
    """Slots by layer; tensors that the group lies along in the same way share a line."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for slot in slots:
        layer = owner(slot.tensor)
        leaf = slot.tensor.removeprefix(f"{layer}.")
        role = {"write": "writes", "read": "reads"}[slot.role]
        alike.setdefault((layer, role, _positions(slot)), []).append(f"{leaf}[{slot.axis}]")
    return [_Tied(layer, " ".join(tensors), role, where) for (layer, role, where), tensors in alike.items()]


def _positions(slot: Slot) -> str:
    """Where a slot lies on its axis, in short."""
    low, high, each = int(slot.indices.min()), int(slot.indices.max()), slot.indices.shape[1]
    whole = len(np.unique(slot.indices)) == high - low + 1
    text = f"{low}–{high}" if whole else f"{slot.indices.size} of {low}–{high}"
    return text + (f", {each} per unit" if each > 1 else "")


def _percent(share: float) -> str:
    """A share as text, small ones not rounded to nothing."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def _last_part(path: str) -> str:
    """The end of a path that says something: a bare number takes the part before along."""
    *_, before, last = ("", *path.split("."))
    return f"{before}.{last}" if before and last.isdecimal() else last
