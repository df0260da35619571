"""Tracks: a width graph laid out as a railway map; a row per layer, a line per group, few lanes.

Nothing here knows how a row or a line is painted; ``widths.py`` does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

from ecc.core.layers import Layer
from ecc.network.graph import Block, WidthGraph
from ecc.network.values import owner

__all__ = ["Line", "Mark", "Row", "Section", "Tracks", "lay_out", "macs_shares"]

Mark = Literal["write", "read", "both", "pass"]
"""What a layer does with a group: make its channels, take them in, both, or work on each alone (norm, depthwise)."""

_PASSING = frozenset({"norm", "depthwise", "matmul"})
_LONGEST_SECTION = 60  # rows; a longer one is cut at the next dot of its layers' paths


@dataclass(frozen=True, slots=True)
class Row:
    """A layer, with the norms that go along with it.

    Attributes:
        name: Path of the layer.
        norms: Paths of the norms before or after it that see the same channels.
        kinds: What the layer does, as in ``Layer.kind``; empty for a bare parameter.
        macs: Multiply-accumulates of one example when dense.
        marks: What it does with each group that it touches; keys are indices into ``graph.groups``.
    """

    name: str
    norms: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()
    macs: int = 0
    marks: Mapping[int, Mark] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """Where a group or a block runs.

    Attributes:
        lane: Counted from 0; two lines in one lane never meet.
        first: Index of its first row.
        last: Index of its last row, inclusive.
        stream: Whether several layers write the same channels, as along a residual stream.
    """

    lane: int
    first: int
    last: int
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """Consecutive rows under one path.

    Attributes:
        name: The path that they share.
        start: Index of the first row.
        stop: Index behind the last row.
    """

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Tracks:
    """The map.

    Attributes:
        rows: In order of execution.
        lines: One per group, in the order of ``graph.groups``.
        brackets: One per block, in the order of ``graph.blocks``; None where none of its layers has a row.
        sections: They cover all rows.
    """

    rows: tuple[Row, ...]
    lines: tuple[Line, ...]
    brackets: tuple[Line | None, ...]
    sections: tuple[Section, ...]


def lay_out(graph: WidthGraph) -> Tracks:
    """Rows, lines, brackets and sections of a width graph."""
    rows = _fold_norms(_rows(graph))
    at: dict[str, int] = {}
    for i, row in enumerate(rows):
        at |= dict.fromkeys((row.name, *row.norms), i)
    lines = _lines(rows, len(graph.groups))
    sections = tuple(_sections([row.name for row in rows], 0, 1))
    return Tracks(tuple(rows), lines, _brackets(graph.blocks, graph, at), sections)


def macs_shares(graph: WidthGraph) -> dict[str, float]:
    """For each prunable group the share of the MACs that scale with it: what would go if all of it went."""
    gone = {group.name: 0.0 for group in graph.prunable}
    for layer in graph.layers:
        for name in (layer.reads.groups | layer.writes.groups) & gone.keys():
            gone[name] += layer.macs * (1 - layer.reads.fraction({name: 0.0}) * layer.writes.fraction({name: 0.0}))
    total = max(sum(layer.macs for layer in graph.layers), 1)
    return {name: macs / total for name, macs in gone.items()}


def _rows(graph: WidthGraph) -> list[Row]:
    """A row per module that computes or holds a tensor of a group."""
    holders = {owner(slot.tensor) for group in graph.groups for slot in group.slots}
    rows: dict[str, Row] = {}
    for layer in graph.layers:
        name = _module(layer.name, graph, holders)
        row = rows.get(name, Row(name))
        marks = row.marks if name in holders else {**row.marks, **_costs(graph, layer)}
        rows[name] = replace(row, kinds=row.kinds | {layer.kind}, macs=row.macs + layer.macs, marks=marks)
    for group in graph.groups:  # parameters that no layer uses alone: learned positions, scales, tokens
        for before, name in zip(("", *group.layers), group.layers, strict=False):
            if name not in rows:
                rows = _inserted(rows, Row(name), after=before)
    for i, group in enumerate(graph.groups):
        for slot in group.slots:
            row = rows[owner(slot.tensor)]
            mark: Mark = "pass" if row.kinds and row.kinds <= _PASSING else slot.role
            known = row.marks.get(i, mark)
            rows[row.name] = replace(row, marks={**row.marks, i: mark if mark == known else "both"})
    return list(rows.values())


def _module(layer: str, graph: WidthGraph, holders: Collection[str]) -> str:
    """The module of a layer: recurrent layers have one per weight, and those used again end in @2, @3 …"""
    if layer in holders:
        return layer
    plain = re.sub(r"@\d+$", "", layer)
    return owner(plain) if plain in graph.parameters else plain if plain in holders else layer


def _costs(graph: WidthGraph, layer: Layer) -> dict[int, Mark]:
    """Groups that the cost of a layer without parameters scales with."""
    names = layer.reads.groups | layer.writes.groups
    return {i: "pass" for i, group in enumerate(graph.groups) if group.name in names}


def _inserted(rows: Mapping[str, Row], row: Row, *, after: str) -> dict[str, Row]:
    """The rows with one more behind the named one, or in front."""
    found = {} if after in rows else {row.name: row}
    for name, other in rows.items():
        found[name] = other
        if name == after:
            found[row.name] = row
    return found


def _fold_norms(rows: Sequence[Row]) -> list[Row]:
    """Norms join the layer that makes or takes the same channels, the nearer one by path; else they keep their row.

    Of two that are equally near the maker is right if it is a sibling (convolution and batch norm), else the taker
    (norms on a residual stream).
    """
    found: list[Row] = []
    waiting: list[Row] = []
    for row, following in zip(rows, [*rows[1:], Row("")], strict=False):
        if row.kinds == {"norm"} and row.marks:
            before = found[-1] if found and not waiting and _has(found[-1], row, {"write", "both", "pass"}) else None
            after = following if _has(following, row, {"read", "both"}) else None
            if before and (not after or _prefers(before, after, row)):
                found[-1] = replace(before, norms=(*before.norms, row.name))
                continue
            if after:
                waiting.append(row)
                continue
        found.append(replace(row, norms=(*(norm.name for norm in waiting), *row.norms)))
        waiting = []
    return found


def _has(row: Row, norm: Row, marks: Collection[Mark]) -> bool:
    """Whether a row does one of these things with every group of a norm."""
    return row.kinds != {"norm"} and all(row.marks.get(group) in marks for group in norm.marks)


def _prefers(before: Row, after: Row, norm: Row) -> bool:
    """Whether the row before a norm is the nearer one."""
    parents = [row.name.split(".")[:-1] for row in (before, after, norm)]
    left, right = (_shared(parent, parents[2]) for parent in parents[:2])
    return left > right or (left == right and parents[0] == parents[2])


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    """Leading parts that two paths share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _lines(rows: Sequence[Row], n_groups: int) -> tuple[Line, ...]:
    touched: list[list[int]] = [[] for _ in range(n_groups)]
    writers = [0] * n_groups
    for i, row in enumerate(rows):
        for group, mark in row.marks.items():
            touched[group].append(i)
            writers[group] += mark in ("write", "both")
    spans = [(min(at), max(at)) for at in touched]
    streams = [i for i in range(n_groups) if writers[i] > 1]  # they have the left lanes to themselves
    others = [i for i in range(n_groups) if writers[i] <= 1]
    lanes = dict(zip(streams, _lanes([spans[i] for i in streams]), strict=True))
    free = 1 + max(lanes.values(), default=-1)
    lanes |= {i: free + lane for i, lane in zip(others, _lanes([spans[i] for i in others]), strict=True)}
    return tuple(Line(lanes[i], *spans[i], stream=writers[i] > 1) for i in range(n_groups))


def _lanes(spans: Sequence[tuple[int, int]]) -> list[int]:
    """A lane for each span, the long ones first: no two in a lane share a row."""
    lanes = [0] * len(spans)
    taken: list[list[tuple[int, int]]] = []
    for i in sorted(range(len(spans)), key=lambda i: (spans[i][0] - spans[i][1], spans[i][0])):
        first, last = spans[i]
        lane = next((n for n, held in enumerate(taken) if all(last < a or b < first for a, b in held)), len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append(spans[i])
        lanes[i] = lane
    return lanes


def _brackets(blocks: Sequence[Block], graph: WidthGraph, at: Mapping[str, int]) -> tuple[Line | None, ...]:
    names = [{_module(layer, graph, at) for layer in block.layers} & at.keys() for block in blocks]
    spans = [(min(at[n] for n in inside), max(at[n] for n in inside)) if inside else None for inside in names]
    lanes = iter(_lanes([span for span in spans if span]))
    return tuple(Line(next(lanes), *span) if span else None for span in spans)


def _sections(names: Sequence[str], start: int, depth: int) -> Iterable[Section]:
    """Runs of names that share their first ``depth`` parts; long runs are cut deeper where they can be."""
    for prefix, run in groupby(names, key=lambda name: tuple(name.split(".")[:depth])):
        inside = list(run)
        if len(inside) > _LONGEST_SECTION and any(name.count(".") >= depth for name in inside):
            yield from _sections(inside, start, depth + 1)
        else:
            yield Section(".".join(prefix), start, start + len(inside))
        start += len(inside)
