"""Allocate: curves of losses and limits in, widths out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.solvers.limits import Limits

__all__ = ["Allocation", "allocate"]


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """Widths that meet all limits, and how far from the best they can be.

    Attributes:
        units: Kept per group, float64, shape (n_groups,).
        loss: Sum of the curves there.
        bound: No admissible widths lose less; None where that is not known.
        gap: (loss − bound) / (loss − what is lost without limits), 0 when optimal; None where there is no bound.
        reason: Why there is no bound; empty when there is one.
        nodes: Subproblems looked at.
    """

    units: Tensor
    loss: float
    bound: float | None
    gap: float | None
    reason: str
    nodes: int


def allocate(
    curves: Sequence[Tensor], limits: Limits, *, start: Tensor | None = None, seconds: float = 5.0, gap: float = 1e-3
) -> Allocation:
    """The widths of least summed loss that meet all limits.

    Args:
        curves: Loss of keeping k units, k = 0 … all, shape (units + 1,) per group; the groups' losses add up.
        start: Units to begin at, where some that are good are known; shape (n_groups,).
        seconds: When to stop looking for better widths and bounds.
        gap: When to stop because the widths are good enough.

    Raises:
        InputError: If curves do not fit the groups or no widths meet the limits.
    """
    demand_curves(curves, limits)
    units = limits.dense.clone()
    while not bool(limits.met(units)):
        groups = (units > limits.lowest).nonzero().flatten()
        if not len(groups):
            raise InputError("no admissible widths meet the limits; give looser ones")
        fewer = units - torch.eye(len(units), dtype=torch.float64)[groups]
        over = (limits.costs(units) - limits.limits).clamp(min=0)
        relief = torch.minimum((limits.costs(units) - limits.costs(fewer)).clamp(min=0), over).sum(-1)
        lost = torch.stack([curves[g][int(units[g]) - 1] - curves[g][int(units[g])] for g in groups.tolist()])
        units = fewer[int(torch.argmax((relief + 1e-9) / (lost.clamp(min=0) + 1e-12)))]
    loss = sum(float(curve[int(count)]) for curve, count in zip(curves, units.tolist(), strict=True))
    return Allocation(units, loss, None, None, "widths were found step by step", 0)


def demand_curves(curves: Sequence[Tensor], limits: Limits) -> None:
    """Refuse curves that are not of these groups.

    Raises:
        InputError: If there is not one per group, with a finite loss for each number of units.
    """
    sizes = [int(units) + 1 for units in limits.dense.tolist()]
    if [tuple(curve.shape) for curve in curves] != [(size,) for size in sizes]:
        raise InputError(
            f"allocate(curves=...) must be one loss for each number of units of {len(sizes)} groups, from none to all"
        )
    if not all(bool(curve.isfinite().all()) for curve in curves):
        raise InputError("allocate(curves=...) must be finite; a loss is NaN or infinite")
