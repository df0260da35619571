"""Reaching: whether any widths meet the limits, and how far down each cost goes."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.verdict import quantity
from ecc.solvers.allocation.branching import Search
from ecc.solvers.allocation.minimising import minimiser_for
from ecc.solvers.allocation.moving import Mover
from ecc.solvers.allocation.plan import Plan
from ecc.solvers.limits import Limits

__all__ = ["demand_reachable", "least_costs"]

_SECONDS = 5.0  # for the question whether limits go together
_STEPS = 1000


def least_costs(limits: Limits) -> Tensor:
    """The smallest relative cost that any admissible widths have, of each constraint alone: shape (n_constraints,).

    Costs need not rise with the widths. Where one is no sum of functions of few groups, or groups are too wide for
    tables, it is the smallest that moves of single groups lead to, and may be above the least.
    """
    return _costs_of(limits, _least(limits))


def demand_reachable(limits: Limits) -> None:
    """Refuse limits that no admissible widths meet, one by one or together.

    Limits whose costs no bound is known for are refused only where the search for the smallest values says so.

    Raises:
        InputError: If there are none, with the smallest reachable values.
    """
    if not len(limits) or bool(limits.met(limits.lowest)):
        return
    widths = _least(limits)
    if bool(limits.met(widths).any()):
        return
    apart = [bool(limits.met_each(units)[number]) for number, units in enumerate(widths)]
    if all(apart) and (len(limits) == 1 or not _contradict(limits)):
        return
    least = _costs_of(limits, widths).tolist()
    if all(apart):
        down = " and ".join(f"{limits.names[i]} down to {_said(limits, i, each)}" for i, each in enumerate(least))
        wanted = " and ".join(
            f"{limits.names[i]} ≤ {_said(limits, i, float(each))}" for i, each in enumerate(limits.limits)
        )
        raise InputError(f"budgets {wanted} cannot be reached together, though each can alone ({down}); loosen one")
    missed = [number for number, reached in enumerate(apart) if not reached]
    raise InputError(
        "; ".join(_missed(limits, number, least[number]) for number in missed) + "; give a limit above that"
    )


def _missed(limits: Limits, number: int, least: float) -> str:
    limit = _said(limits, number, float(limits.limits[number]))
    return (
        f"budget {limits.names[number]} ≤ {limit} cannot be reached: the smallest admissible network still needs "
        f"{_said(limits, number, least)}"
    )


def _said(limits: Limits, number: int, share: float) -> str:
    cost = limits.constraints[number].cost
    value = share * cost.dense
    return f"{quantity(value, value, cost.unit)} ({share:.3g} of dense)"


def _costs_of(limits: Limits, widths: Tensor) -> Tensor:
    return limits.costs(widths).diagonal() if len(limits) else torch.zeros(0, dtype=torch.float64)


def _least(limits: Limits) -> Tensor:
    """Units at which each cost is smallest, shape (n_constraints, n_groups)."""
    found = [limits.lowest] * len(limits)
    plan = Plan.of(limits)
    choices = plan.choices(None, 0)
    tables = plan.tables(
        [np.zeros(int(most) + 1) for most in limits.dense.tolist()], choices, limits.dense, limits.limits
    )
    minimiser = minimiser_for(tables.sizes, tuple(tables.joint))
    for number, name in enumerate(limits.names):
        singles = [table[number] for table in tables.singles]
        if name in plan.unknown:
            starts = [limits.lowest, limits.dense]
        else:
            _, chosen = minimiser.minimise(singles, {scope: table[number] for scope, table in tables.joint.items()})
            starts = [tables.units(chosen), limits.lowest]
        ends = [_descended(limits, number, units) for units in starts]
        costs = [float(limits.costs(units)[number]) for units in ends]
        found[number] = ends[int(np.argmin(costs))]
    return torch.stack(found) if found else torch.zeros((0, len(limits.dense)), dtype=torch.float64)


def _descended(limits: Limits, number: int, units: Tensor) -> Tensor:
    """Units from which no move of a single group makes that cost smaller."""
    for _ in range(_STEPS):
        moved = Mover.neighbours(units, limits)
        if not len(moved):
            return units
        costs = limits.costs(moved)[:, number]
        best = int(torch.argmin(costs.nan_to_num(nan=float("inf"))))
        if not float(costs[best]) < float(limits.costs(units)[number]):
            return units
        units = moved[best]
    return units


def _contradict(limits: Limits) -> bool:
    """Whether it is certain that no widths meet all limits, each of which can be met alone."""
    plan = Plan.of(limits)
    nothing = [np.zeros(int(most) + 1) for most in limits.dense.tolist()]
    deadline = time.monotonic() + _SECONDS
    mover = Mover(nothing, limits, deadline)
    if any(mover.repaired(units) is not None for units in (limits.lowest, limits.dense)):
        return False
    if plan.unknown or not plan.whole:
        return False
    search = Search(plan.tables(nothing, plan.choices(None, 0), limits.dense, limits.limits), limits.met, 0.0, deadline)
    return search.run(mover.best) and search.units is None
