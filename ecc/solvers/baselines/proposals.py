"""Proposals: per group, the largest width that alone saves the cost that is asked for (NetAdapt, ECCV 2018, §3.2).

Several budgets are one number: how far the costs are above their limits, together, which any cost model gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ecc.solvers.limits import Limits

__all__ = ["Excess", "propose"]

_LEAST_CUT = 0.9  # of a group's units, where no width of any one group saves anything


@dataclass(frozen=True, slots=True, eq=False)
class Excess:
    """How far costs are above their limits: 0 where all are met, the number of constraints missed at the start there.

    Args:
        limits: The constraints.
        start: Units kept at the start, shape (n_groups,).
    """

    limits: Limits
    start: Tensor

    @torch.no_grad()
    def __call__(self, units: Tensor) -> Tensor:
        """Sum over the constraints of the violation relative to that at the start: shape (…, n_groups) → (…)."""
        limits = self.limits.limits
        above = self.limits.costs(self.start) - limits
        # A constraint that holds at the start must go on holding: relative to its limit it then counts from 0.
        scale = torch.where(above > 1e-9 * limits, above, limits)
        over = ((self.limits.costs(units) - limits) / scale).clamp(min=0).sum(-1).nan_to_num(nan=float("inf"))
        return torch.where(self.limits.met(units), 0.0, over.clamp(min=1e-12))


def propose(excess: Excess, units: Tensor, target: float) -> list[tuple[int, int]]:
    """(group, units kept) of each group that brings the excess down to the target by itself, at its largest such width.

    Where none can, the widths at which each group saves most; where none saves anything, because a cost is stepped or
    a maximum over layers, a tenth of each group.

    Args:
        units: Kept now, shape (n_groups,).

    Returns:
        Empty only where every group is at its lowest width.
    """
    now = float(excess(units))
    reaching, saving, cutting = [], [], []
    for group, (count, lowest) in enumerate(zip(units.tolist(), excess.limits.lowest.tolist(), strict=True)):
        widths = torch.arange(int(lowest), int(count), dtype=torch.float64)
        if not len(widths):
            continue
        rows = units.repeat(len(widths), 1)
        rows[:, group] = widths
        left = excess(rows)
        enough = widths[left <= target]
        if len(enough):
            reaching.append((group, int(enough.max())))
        if float(left.min()) < now:
            saving.append((group, int(widths[left <= left.min()].max())))
        cutting.append((group, max(int(lowest), min(int(count) - 1, int(count * _LEAST_CUT)))))
    return reaching or saving or cutting
