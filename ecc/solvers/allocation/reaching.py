"""Reaching: whether any widths meet the limits, and how far down each cost goes."""

from __future__ import annotations

from torch import Tensor

from ecc.solvers.limits import Limits

__all__ = ["demand_reachable", "least_costs"]


def least_costs(limits: Limits) -> Tensor:
    """The smallest relative cost that any admissible widths have, of each constraint alone: shape (n_constraints,)."""
    return limits.costs(limits.lowest)


def demand_reachable(limits: Limits) -> None:
    """Refuse limits that no admissible widths meet.

    Raises:
        InputError: If there are none, with the smallest reachable values.
    """
