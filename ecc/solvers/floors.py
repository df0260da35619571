"""Floors: the fewest units that a method leaves in every group, as far as the budgets allow."""

from __future__ import annotations

from collections.abc import Callable

from ecc.core.errors import InputError
from ecc.core.problem import Problem
from ecc.solvers.allocation import demand_reachable
from ecc.solvers.limits import Limits

__all__ = ["floored_limits"]


def floored_limits(problem: Problem, min_fraction: float, kind: Callable[[Problem, float], Limits] = Limits) -> Limits:
    """The limits with the largest floor, of ``min_fraction`` and its halves, at which they can be met.

    Args:
        min_fraction: Least fraction of each group's units that is kept; one unit always is.
        kind: Of the limits.

    Raises:
        InputError: If no admissible widths meet the constraints.
    """
    while min_fraction * max(group.units for group in problem.groups) > 1:
        try:
            limits = kind(problem, min_fraction)
            demand_reachable(limits)
        except InputError:
            min_fraction /= 2
        else:
            return limits
    limits = kind(problem, 0.0)
    demand_reachable(limits)
    return limits
