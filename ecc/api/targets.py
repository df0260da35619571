"""Targets: the sets of budgets that one run is to reach, from loose to tight, each with a network of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ecc.core.budget import Budget
from ecc.core.errors import InputError
from ecc.core.problem import Constraint

__all__ = ["Target", "demand_single", "labels_of", "sets_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Budgets that one network is to hold.

    Attributes:
        label: Names its states and its artefact; empty where there is but one target.
        budgets: As the user gave them.
        limits: One per budget, with the cost model itself; what is reported rests on these.
        constraints: One per budget, for the solver; on the upper end of the cost where a chance was asked for.
    """

    label: str
    budgets: tuple[Budget, ...]
    limits: tuple[Constraint, ...]
    constraints: tuple[Constraint, ...]


def sets_of(lists: Sequence[Sequence[Budget]]) -> list[tuple[Budget, ...]]:
    """Sets of budgets, one per step from loose to tight, from one list per metric; a list of one holds at every step.

    Raises:
        InputError: If lists have different lengths, mix fractions with absolute values, or do not fall.
    """
    if not lists:
        raise InputError("there is no budget; give one, for example latency<=60%")
    steps = max(map(len, lists))
    for budgets in lists:
        metric = budgets[0].metric
        if len(budgets) not in (1, steps):
            raise InputError(
                f"budget {metric} has {len(budgets)} limits and another one {steps}; give as many, or one for all steps"
            )
        if len({(budget.relative, budget.unit) for budget in budgets}) > 1:
            raise InputError(f"the limits of budget {metric} mix units; give fractions of dense or one unit")
        limits = [budget.limit for budget in budgets]
        if any(after >= before for before, after in pairwise(limits)):
            raise InputError(
                f"the limits of budget {metric} must fall, from loose to tight: "
                f"{metric}={','.join(f'{limit:g}' for limit in sorted(set(limits), reverse=True))}"
            )
    return [tuple(budgets[min(step, len(budgets) - 1)] for budgets in lists) for step in range(steps)]


def demand_single(sets: Sequence[tuple[Budget, ...]]) -> tuple[Budget, ...]:
    """The one set of budgets.

    Raises:
        InputError: If there are several.
    """
    if len(sets) > 1:
        raise InputError("a budget has several limits; ecc.compress_path gives one network for each")
    return sets[0]


def labels_of(sets: Sequence[tuple[Budget, ...]]) -> list[str]:
    """A name per set, of the budgets that differ between them: ``latency-0.70``; empty where there is one set."""
    if len(sets) < 2:
        return [""]
    differing = [place for place in range(len(sets[0])) if len({budgets[place].limit for budgets in sets}) > 1]
    digits = 2
    while True:
        labels = ["-".join(_label(budgets[place], digits) for place in differing) for budgets in sets]
        if len(set(labels)) == len(labels):
            return labels
        digits += 1


def _label(budget: Budget, digits: int) -> str:
    limit = f"{budget.limit:.{digits}f}" if budget.relative else f"{budget.limit:.{digits + 1}g}"
    return f"{budget.metric}-{limit}"
