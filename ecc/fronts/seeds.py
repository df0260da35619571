"""Means over random seeds, with the interval that so few runs allow.

The interval is Student's: mean ± t(n − 1) · s / √n. With two or three seeds it is wide, and rightly so: the percentile
bootstrap, which draws from the same three values, covers the mean of a normal distribution only two times in three.
Where the runs tell nothing of their spread (one seed, or values that do not differ at all), there is no interval, and
the reason is told instead. All of it holds for the test set that the runs were scored on, and for the dense network
that they started from where that is one; others are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

__all__ = ["LEVEL", "SeedMean", "mean_over_seeds"]

LEVEL = 0.95
"""Of every interval over seeds."""

_ONE_SEED = "one seed tells nothing of the spread"
_NO_SPREAD = "the seeds do not differ, which tells nothing of the spread"


@dataclass(frozen=True, slots=True)
class SeedMean:
    """A mean over seeds.

    Attributes:
        mean: Of one value per seed.
        low: Lower end of its 95 % interval; None when there is none.
        high: Upper end.
        seeds: How many there are.
        p: Probability of a mean so far from 0, or farther, if the true mean were 0 (two-sided t test); None where there
            is no interval.
        reason: Why there is no interval; empty where there is one.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    p: float | None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The same names; what there is not is null, with its reason."""
        return {
            "mean": self.mean,
            "low": self.low,
            "high": self.high,
            "seeds": self.seeds,
            "p": self.p,
            "reason": self.reason,
        }


def mean_over_seeds(values: Sequence[float]) -> SeedMean:
    """Mean and interval of one value per seed; at least one value."""
    count = len(values)
    mean = math.fsum(values) / count
    spread = float(np.std(values, ddof=1)) if count > 1 else 0.0
    if spread <= 1e-12 * max(map(abs, values)):  # of equal values the mean is rounded
        return SeedMean(mean, None, None, count, None, _ONE_SEED if count == 1 else _NO_SPREAD)
    error = spread / math.sqrt(count)
    reach = float(special.stdtrit(count - 1, (1 + LEVEL) / 2)) * error
    p = 2 * float(special.stdtr(count - 1, -abs(mean) / error))
    return SeedMean(mean, mean - reach, mean + reach, count, p)
