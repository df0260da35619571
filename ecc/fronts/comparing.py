"""Comparing methods at equal measured budgets, paired by seed.

Of each seed that both methods have, the difference of their curves is averaged over the budgets that both reach with
all of these seeds; over the seeds it has a mean and Student's interval. A method is called better only where the paired
t test rejects equality after Holm's correction for all comparisons of the front, so that with a probability of 95 %
none of the claims is wrong (if differences over seeds are roughly normal).

Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import combinations
from typing import Any

import numpy as np

from ecc.fronts.curves import Curve
from ecc.fronts.seeds import LEVEL, SeedMean, mean_over_seeds

__all__ = ["MOST_METHODS", "Comparison", "Verdict", "compare", "holm"]

MOST_METHODS = 24
"""More methods than these are not compared in pairs: nothing would be left of any claim."""

_EQUAL = 0.02  # budgets that differ by less, relatively, count as one: of runs with one budget each no two meet exactly
_FEWEST_SEEDS = 3  # two that agree by chance say nothing of how seeds scatter
_ROUNDING = 1e-9  # of an accuracy


class Verdict(Enum):
    """What the seeds support."""

    FIRST = "the first is more accurate"
    SECOND = "the second is more accurate"
    OPEN = "not distinguishable"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two methods at equal budgets.

    Attributes:
        first: A method.
        second: Another one.
        start: The smallest budget that both reach; None where they were not compared.
        end: The largest one.
        difference: Accuracy of the first less that of the second, averaged over the budgets from start to end; None
            where they were not compared.
        p: ``difference.p`` after Holm's correction; None where there is no interval.
        comparisons: How many the correction is for.
        step: The smallest step between two accuracies of the front; a difference below it is no claim.
        reason: Why they were not compared; empty where they were.
    """

    first: str
    second: str
    start: float | None = None
    end: float | None = None
    difference: SeedMean | None = None
    p: float | None = None
    comparisons: int = 0
    step: float = 0.0
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        """Who is better, where the corrected test says so and the difference is one that a test set can show."""
        if self.difference is None or self.p is None or self.p >= 1 - LEVEL or self.difference.seeds < _FEWEST_SEEDS:
            return Verdict.OPEN
        if abs(self.difference.mean) < self.step:
            return Verdict.OPEN
        return Verdict.FIRST if self.difference.mean > 0 else Verdict.SECOND

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``better`` is the name of the better method, or null."""
        better = {Verdict.FIRST: self.first, Verdict.SECOND: self.second, Verdict.OPEN: None}
        return {
            "first": self.first,
            "second": self.second,
            "start": self.start,
            "end": self.end,
            "difference": None if self.difference is None else self.difference.to_json(),
            "p": self.p,
            "comparisons": self.comparisons,
            "step": self.step,
            "better": better[self.verdict],
            "reason": self.reason,
        }


def compare(methods: Mapping[str, Mapping[int | None, Curve]]) -> tuple[Comparison, ...]:
    """Every pair of methods, given the curves of each by seed; none of more than ``MOST_METHODS`` methods."""
    if len(methods) > MOST_METHODS:
        return ()
    pairs = [_pair(first, second, methods[first], methods[second]) for first, second in combinations(methods, 2)]
    tested = [i for i, pair in enumerate(pairs) if pair.difference is not None and pair.difference.p is not None]
    raw = [difference.p for i in tested if (difference := pairs[i].difference) is not None and difference.p is not None]
    for i, p in zip(tested, holm(raw), strict=True):
        pairs[i] = replace(pairs[i], p=p)
    step = _step([curve for curves in methods.values() for curve in curves.values()])
    return tuple(replace(pair, comparisons=len(tested), step=step) for pair in pairs)


def holm(p: Sequence[float]) -> list[float]:
    """Corrected probabilities, in the order given: each may be held against one level for all of them together."""
    corrected, reached = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        reached = max(reached, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = reached
    return corrected


def _step(curves: Sequence[Curve]) -> float:
    """The smallest difference of two accuracies: of shares of a test set, one example of it or a few."""
    if not curves:
        return 0.0
    gaps = np.diff(np.unique(np.concatenate([curve.accuracy for curve in curves])))
    return float(min(gaps[gaps > _ROUNDING], default=0.0))


def _pair(first: str, second: str, ours: Mapping[int | None, Curve], theirs: Mapping[int | None, Curve]) -> Comparison:
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return Comparison(first, second, reason="they have no seed in common")
    used = [curve for seed in seeds for curve in (ours[seed], theirs[seed])]
    start, end = max(float(curve.x[0]) for curve in used), min(float(curve.x[-1]) for curve in used)
    if start - end > _EQUAL * abs(start):
        return Comparison(first, second, reason="there is no budget that both reach with all seeds")
    end = max(start, end)
    differences = [ours[seed].mean(start, end) - theirs[seed].mean(start, end) for seed in seeds]
    return Comparison(first, second, start, end, mean_over_seeds(differences))
