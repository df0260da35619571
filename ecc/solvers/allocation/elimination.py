"""Elimination: the least of a sum of tables, exactly, one variable after the other (Bertelè and Brioschi, 1972).

A variable goes by being minimised over for all values of those it shares tables with, which gives a table over these.
The order is that of least work at each step. Networks are chains of layers around few stages, so tables stay small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Elimination"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Scope = tuple[int, ...]

_AT_ONCE = 1 << 15  # entries that are summed in one go; more are summed value by value, which stays in caches


@dataclass(frozen=True, slots=True)
class _Step:
    """One variable that goes, and the variables of the table that it leaves."""

    variable: int
    left: Scope


class Elimination:
    """An order in which to eliminate variables, for tables over the same sets of variables.

    Args:
        sizes: Values of each variable.
        scopes: Variables of each table of at least two.

    Attributes:
        work: Entries summed in one elimination.
    """

    def __init__(self, sizes: Sequence[int], scopes: Sequence[Scope]) -> None:
        self._sizes = tuple(sizes)
        near: dict[int, set[int]] = {variable: set() for variable in range(len(sizes))}
        for scope in scopes:
            for variable in scope:
                near[variable] |= set(scope) - {variable}
        self._steps: list[_Step] = []
        self.work = 0.0
        weight = {variable: self._weight(variable, near) for variable in near}
        while near:
            variable = min(near, key=lambda each: (weight[each], each))
            self.work += weight[variable]
            around = near.pop(variable)
            self._steps.append(_Step(variable, tuple(sorted(around))))
            for other in around:
                near[other] |= around - {other}
                near[other].discard(variable)
            for other in around:
                weight[other] = self._weight(other, near)
        self._turn = {step.variable: turn for turn, step in enumerate(self._steps)}

    def _weight(self, variable: int, near: Mapping[int, set[int]]) -> float:
        return self._sizes[variable] * math.prod(float(self._sizes[other]) for other in near[variable])

    def minimise(self, singles: Sequence[Floats], joint: Mapping[Scope, Floats]) -> tuple[float, Whole]:
        """The least sum, and a place of each variable where it is; of several alike always the same.

        Args:
            singles: One table per variable, shape (d_i,).
            joint: Tables by their variables, shape (d_i, d_j, …).
        """
        value, parts, _ = self._forward(singles, joint)
        chosen = np.zeros(len(self._sizes), dtype=np.int64)
        for step, mine in zip(reversed(self._steps), reversed(parts), strict=True):
            places = [int(chosen[other]) for other in step.left]
            total = np.zeros(self._sizes[step.variable])
            for part in mine:
                row = part
                for place, size in zip(places, part.shape[1:], strict=True):
                    row = row[:, place if size > 1 else 0]
                total = total + row
            chosen[step.variable] = int(np.argmin(total))
        return value, chosen

    def marginals(self, singles: Sequence[Floats], joint: Mapping[Scope, Floats]) -> list[Floats]:
        """The least sum for each value of each variable: one table per variable, shape (d_i,)."""
        _, parts, messages = self._forward(singles, joint)
        down: dict[int, list[tuple[Scope, Floats]]] = {turn: [] for turn in range(len(self._steps))}
        found: list[Floats] = [np.empty(0)] * len(self._sizes)
        rest = sum(float(message) for step, message in zip(self._steps, messages, strict=True) if not step.left)
        for turn in reversed(range(len(self._steps))):
            step = self._steps[turn]
            full = np.zeros((self._sizes[step.variable], *(self._sizes[other] for other in step.left)))
            for part in parts[turn]:
                full += part
            for _, table in down[turn]:  # of the whole set that is left, without this variable
                full += table[None]
            own = 0.0 if step.left else float(messages[turn])
            found[step.variable] = full.reshape(len(full), -1).min(1) + (rest - own if not step.left else 0.0)
            scope = (step.variable, *step.left)
            for child in self._children(turn):
                kept = self._steps[child].left
                away = tuple(axis for axis, variable in enumerate(scope) if variable not in kept)
                table = _ordered(full.min(axis=away), tuple(v for v in scope if v in kept), kept) - messages[child]
                down[child].append((kept, table if step.left else table + (rest - own)))
            del full
        return found

    def _children(self, turn: int) -> list[int]:
        """Turns whose tables are summed at this turn."""
        return [
            earlier
            for earlier in range(turn)
            if self._steps[earlier].left and min(self._turn[v] for v in self._steps[earlier].left) == turn
        ]

    def _forward(
        self, singles: Sequence[Floats], joint: Mapping[Scope, Floats]
    ) -> tuple[float, list[list[Floats]], list[Floats]]:
        """The least sum; per turn the tables that are summed, with the variable's axis first, and their minimum."""
        waiting: list[list[tuple[Scope, Floats]]] = [[] for _ in self._steps]
        for variable, single in enumerate(singles):
            waiting[self._turn[variable]].append(((variable,), single))
        for scope, table in joint.items():
            waiting[min(self._turn[variable] for variable in scope)].append((scope, table))
        value, parts, messages = 0.0, [], []
        for step, tables in zip(self._steps, waiting, strict=True):
            scope = (step.variable, *step.left)
            mine = _merged([_spread(table, own, scope) for own, table in tables])
            least = _least(mine, tuple(self._sizes[other] for other in step.left))
            parts.append(mine)
            messages.append(least)
            if step.left:
                waiting[min(self._turn[other] for other in step.left)].append((step.left, least))
            else:
                value += float(least)
        return value, parts, messages


def _ordered(table: Floats, scope: Scope, wanted: Scope) -> Floats:
    """A table with its axes in another order."""
    return table.transpose([scope.index(variable) for variable in wanted])


def _spread(table: Floats, own: Scope, scope: Scope) -> Floats:
    """A table with the axes of a larger scope, of length 1 where it does not vary."""
    there = tuple(variable for variable in scope if variable in own)
    moved = _ordered(table, own, there)
    sizes = iter(moved.shape)
    return moved.reshape([next(sizes) if variable in own else 1 for variable in scope])


def _merged(tables: list[Floats]) -> list[Floats]:
    """The same sum with as few tables as need no table to grow."""
    kept: list[Floats] = []
    for table in sorted(tables, key=lambda each: -each.size):
        for place, other in enumerate(kept):
            if np.broadcast_shapes(other.shape, table.shape) == other.shape:
                kept[place] = other + table
                break
        else:
            kept.append(table)
    return kept


def _least(tables: list[Floats], shape: tuple[int, ...]) -> Floats:
    """The least of a sum of tables along their first axis."""
    first = len(tables[0])
    if len(tables) == 1 or first * math.prod(shape) <= _AT_ONCE:
        total = tables[0]
        for table in tables[1:]:
            total = total + table
        return np.asarray(np.broadcast_to(total.min(0), shape))
    least, some = np.full(shape, np.inf), np.empty(shape)
    for place in range(first):
        np.add(tables[0][place], tables[1][place], out=some)
        for table in tables[2:]:
            some += table[place]
        np.minimum(least, some, out=least)
    return least
