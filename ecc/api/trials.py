"""Trials: widths that were measured, and what is learnt from them for the next ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ecc.core.budget import Budget
from ecc.core.problem import Solution
from ecc.core.verdict import Measured

__all__ = ["AIM", "SAFE", "USED", "Trial", "best", "exponent", "share_used"]

AIM = 0.985  # where in the budget a correction aims: inside by about the width of the measured interval
SAFE = 0.99  # two measurements of one network differ by up to that much
USED = 0.95  # of a budget: below that, widths are given back


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Widths that were measured; per metric, the upper end of the interval over the limit."""

    solution: Solution
    over: Mapping[str, float]

    @property
    def worst(self) -> float:
        """Of all budgets."""
        return max(self.over.values())


def best(seen: Sequence[Trial]) -> Trial:
    """The trial that uses most of its budget and holds it, or comes nearest to that."""
    inside = [trial for trial in seen if trial.worst <= SAFE] or [trial for trial in seen if trial.worst <= 1]
    return max(inside, key=lambda trial: trial.worst) if inside else min(seen, key=lambda trial: trial.worst)


def exponent(seen: Sequence[Trial], metric: str) -> float:
    """d log measured / d log predicted of the last two trials, within bounds; 1 where there is one trial."""
    if len(seen) < 2:
        return 1.0
    before, now = seen[-2:]
    step = np.log(now.solution.predicted[metric] / before.solution.predicted[metric])
    if abs(step) < 1e-2:
        return 1.0
    return float(np.clip(np.log(now.over[metric] / before.over[metric]) / step, 0.3, 2.0))


def share_used(budget: Budget, measured: Measured) -> float:
    """Upper end of the interval over the limit."""
    return measured.ratio_high / budget.limit if budget.relative else measured.value_high / budget.limit
