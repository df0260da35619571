"""Moving: better widths near given ones, judged by the costs themselves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.solvers.limits import Limits

__all__ = ["Mover"]

Floats = NDArray[np.float64]

_BATCH = 2048  # width vectors that costs are asked for at a time
_MOST = 4 * _BATCH  # pairs of moves that are looked at before giving up
_STEPS = 10000


@dataclass(frozen=True, eq=False)
class Mover:
    """Moves single groups, and pairs of groups, by powers of two of their units.

    Attributes:
        curves: Loss of keeping k units, per group.
        limits: What must hold.
        deadline: Of ``time.monotonic``.
    """

    curves: Sequence[Floats]
    limits: Limits
    deadline: float

    def loss(self, units: Tensor) -> float:
        """Sum of the curves."""
        return float(sum(float(curve[int(count)]) for curve, count in zip(self.curves, units.tolist(), strict=True)))

    def best(self, units: Tensor) -> tuple[Tensor, float] | None:
        """Widths near these that meet all limits and lose little, and their loss; None if none are found."""
        found = self.repaired(units)
        if found is None:
            return None
        better = self.improved(found)
        return better, self.loss(better)

    @torch.no_grad()
    def repaired(self, units: Tensor) -> Tensor | None:
        """Widths that meet all limits: each move is the one that brings costs nearest for what it loses."""
        units = units.clone()
        for _ in range(_STEPS):
            if bool(self.limits.met(units)):
                return units
            groups, counts, change = self._moves(units)
            if not len(groups):
                return None
            moved = units.repeat(len(groups), 1)
            moved[torch.arange(len(groups)), groups] = counts
            now = self._over(units[None])[0]
            relief = (now - self._over(moved)).numpy()
            useful = relief > 1e-12
            if not useful.any():
                return None
            scale = max(float(np.abs(change).max()), 1e-300)
            price = np.where(useful, (change / scale + 1e-9) / np.where(useful, relief, 1.0), np.inf)
            gain = np.where(useful & (change <= 0), -relief, 0.0)  # what loses nothing goes first
            pick = int(np.argmin(gain)) if gain.min() < 0 else int(np.argmin(price))
            units = moved[pick]
        return None

    @torch.no_grad()
    def improved(self, units: Tensor) -> Tensor:
        """Widths that no single move and no pair of moves improves, as far as time and patience allow."""
        units = units.clone()
        tiny = 1e-12 * max(1.0, *(float(np.ptp(curve)) for curve in self.curves))
        for _ in range(_STEPS):
            groups, counts, change = self._moves(units)
            moved = self._first_met(units, groups, counts, change, tiny)
            if moved is None:
                moved = self._first_pair(units, groups, counts, change, tiny)
            if moved is None or time.monotonic() > self.deadline:
                return units if moved is None else moved
            units = moved
        return units

    def _moves(self, units: Tensor) -> tuple[Tensor, Tensor, Floats]:
        """Groups, their new units, and how the loss changes; of all single moves, shape (n,) each."""
        moves = _moves_of(units, self.limits)
        change = [float(self.curves[group][count] - self.curves[group][int(units[group])]) for group, count in moves]
        groups, counts = torch.tensor([*moves, (0, 0)]).T[:, :-1]
        return groups, counts.to(torch.float64), np.array(change)

    @staticmethod
    def neighbours(units: Tensor, limits: Limits) -> Tensor:
        """Units after each move of a single group, shape (n, n_groups)."""
        moves = _moves_of(units, limits)
        moved = units.repeat(len(moves), 1)
        for row, (group, count) in zip(moved, moves, strict=True):
            row[group] = count
        return moved

    def _over(self, units: Tensor) -> Tensor:
        """How far limits are exceeded, in limits: shape (n, n_groups) → (n,)."""
        return (
            ((self.limits.costs(units) - self.limits.limits) / self.limits.limits.abs().clamp(min=1e-300))
            .clamp(min=0)
            .sum(-1)
        )

    def _first_met(self, units: Tensor, groups: Tensor, counts: Tensor, change: Floats, tiny: float) -> Tensor | None:
        """The single move that lowers the loss most and keeps all limits."""
        order = np.argsort(change, kind="stable")
        order = order[change[order] < -tiny]
        return self._first(units, [(groups[order], counts[order])])

    def _first_pair(self, units: Tensor, groups: Tensor, counts: Tensor, change: Floats, tiny: float) -> Tensor | None:
        """The pair of moves of two groups that does."""
        both = change[:, None] + change[None, :]
        own = groups.numpy()
        both[(own[:, None] >= own[None, :])] = np.inf
        flat = both.reshape(-1)
        count = min(_MOST, int((flat < -tiny).sum()))
        if not count:
            return None
        order = np.argpartition(flat, count - 1)[:count]
        order = order[np.lexsort((order, flat[order]))]
        first, second = order // len(change), order % len(change)
        return self._first(units, [(groups[first], counts[first]), (groups[second], counts[second])])

    def _first(self, units: Tensor, moves: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
        """The first row of moves after which all limits hold."""
        for start in range(0, len(moves[0][0]), _BATCH):
            parts = [(groups[start : start + _BATCH], counts[start : start + _BATCH]) for groups, counts in moves]
            rows = torch.arange(len(parts[0][0]))
            moved = units.repeat(len(rows), 1)
            for groups, counts in parts:
                moved[rows, groups] = counts
            good = self.limits.met(moved).nonzero().flatten()
            if len(good):
                return moved[good[0]]
        return None


def _moves_of(units: Tensor, limits: Limits) -> list[tuple[int, int]]:
    """Single moves by powers of two, and to the ends: (group, its new units)."""
    moves = []
    bounds = zip(units.tolist(), limits.lowest.tolist(), limits.dense.tolist(), strict=True)
    for group, (now, low, high) in enumerate(bounds):
        targets, step = {int(low), int(high)}, 1
        while step < high - low:
            targets |= {int(max(low, now - step)), int(min(high, now + step))}
            step *= 2
        moves += [(group, count) for count in sorted(targets - {int(now)})]
    return moves
