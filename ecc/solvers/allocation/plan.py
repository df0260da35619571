"""Plan: of which costs exact tables are made, and over which units, so that time and memory stay bounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.cost import Decomposable
from ecc.core.errors import InputError
from ecc.core.interactions import Interactions, maximal
from ecc.solvers.allocation.elimination import Elimination
from ecc.solvers.allocation.minimising import MOST_WORK
from ecc.solvers.allocation.tables import Tables, cut_tables
from ecc.solvers.limits import Limits

__all__ = ["Plan"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Cuts = tuple[Floats, list[Floats], dict[tuple[int, ...], Floats]]

_MOST_ROWS = 400_000  # width vectors that costs are asked for in all
_LARGEST_SET = 4  # groups that one table is over
_FEWEST = 12  # choices of a group below which its tables would say too little
_NEAR = 6  # choices on each side of a present width, where not all are


@dataclass(frozen=True, eq=False)
class Plan:
    """What tables of these costs are made of; serves any limits of the same costs.

    Attributes:
        limits: Of the costs; their values do not matter.
        interactions: Sets of groups that tables are made of.
        unknown: Names of the constraints that tables do not hold exactly.
        stride: Units between the choices of each group where not all can be choices, 1 elsewhere, shape (n_groups,).
    """

    limits: Limits
    interactions: Interactions
    unknown: tuple[str, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, limits: Limits) -> Plan:
        """The most that can be tabulated exactly."""
        sets: list[tuple[int, ...]] = []
        unknown = []
        for name, constraint in zip(limits.names, limits.constraints, strict=True):
            own = constraint.cost.interactions if isinstance(constraint.cost, Decomposable) else None
            small = own is not None and all(len(scope) <= _LARGEST_SET for scope in own)
            if own is not None and small and _stride(limits, maximal([*sets, *own])) is not None:
                sets += own
            else:
                unknown.append(name)
        interactions = maximal(sets)
        return cls(limits, interactions, tuple(unknown), _stride(limits, interactions) or (1,) * len(limits.dense))

    @property
    def whole(self) -> bool:
        """Whether all units of all groups are choices."""
        return max(self.stride, default=1) == 1

    def choices(self, present: Tensor | None, closer: int) -> list[Whole]:
        """Units to choose from: at each closer look half the stride, around the present units."""
        found = []
        bounds = zip(self.limits.lowest.tolist(), self.limits.dense.tolist(), self.stride, strict=True)
        for group, (low, high, stride) in enumerate(bounds):
            if stride == 1:
                found.append(np.arange(int(low), int(high) + 1))
                continue
            step = max(1, stride >> closer)
            grid = np.arange(int(high), int(low) - 1, -step)
            if present is not None:
                now = int(present[group])
                near = grid if closer == 0 else grid[np.abs(grid - now) <= _NEAR * step]
                grid = np.append(near, now)
            if closer == 0:
                grid = np.append(grid, int(low))
            found.append(np.unique(grid))
        return found

    def tables(self, curves: Sequence[Floats], choices: Sequence[Whole], anchor: Tensor, limits: Tensor) -> Tables:
        """Tables over choices; costs that are unknown are right where at most one group leaves the anchor.

        Args:
            limits: Of the relative costs, shape (n_constraints,).

        Raises:
            InputError: If a cost is not finite at some of the choices.
        """
        everything = self.whole and not self.unknown
        centre, alone, joint = self._everything if everything else self._cut(choices, anchor)
        return Tables(
            tuple(choices),
            tuple(curve[own] for curve, own in zip(curves, choices, strict=True)),
            tuple(alone),
            joint,
            0.0,
            centre - limits.numpy(),
        )

    @cached_property
    def _everything(self) -> Cuts:
        """Tables over all units, which serve all curves and limits."""
        return self._cut(self.choices(None, 0), self.limits.dense)

    def _cut(self, choices: Sequence[Whole], anchor: Tensor) -> Cuts:
        places = [int(np.searchsorted(own, now)) for own, now in zip(choices, anchor.tolist(), strict=True)]
        centre, alone, joint = cut_tables(self.limits.costs, self.interactions, choices, np.array(places))
        for table in (centre, *alone, *joint.values()):
            wrong = ~np.isfinite(table).all(axis=tuple(range(1, table.ndim)))
            if wrong.any():
                name = self.limits.names[int(np.argmax(wrong))]
                raise InputError(f"the {name} cost model gives no finite cost at some widths; fit it on sound data")
        return centre, alone, joint


def _stride(limits: Limits, interactions: Interactions) -> tuple[int, ...] | None:
    """Units between choices, powers of two, the least with which tables stay small; None if there are none."""
    sizes = (limits.dense - limits.lowest + 1).to(torch.int64).tolist()
    most = max(sizes, default=1)
    cap = most
    while True:
        stride = [_power(size / cap) for size in sizes]
        counts = [-(-size // each) + 1 if each > 1 else size for size, each in zip(sizes, stride, strict=True)]
        if _affordable(counts, interactions):
            return tuple(stride)
        if cap <= min(_FEWEST, most):
            return None
        cap = max(cap // 2, min(_FEWEST, most))


def _affordable(counts: Sequence[int], interactions: Interactions) -> bool:
    rows = sum(math.prod(counts[group] for group in scope) for scope in interactions)
    if rows > _MOST_ROWS:
        return False
    pairs = all(len(scope) <= 2 for scope in interactions)
    return pairs or Elimination(counts, interactions).work <= MOST_WORK


def _power(ratio: float) -> int:
    """The least power of two that is no less."""
    return 1 << max(0, math.ceil(math.log2(max(ratio, 1.0)) - 1e-9))
