r"""Discrepancy: how far a cost model is from what the device shows near a budget, and how well that is known.

With x the logarithm of the predicted cost, relative to dense, and :math:`x_0` that of the limit, what is measured is
taken to be

.. math:: y = x + a + b (x - x_0) + e,

an offset and a scale that are common to all widths near the budget, and a rest e that belongs to the widths. Offset and
scale have normal priors, the offset's as wide as the interval that the model itself promises, and each trial is a
reading of y with its interval: a Bayesian linear regression with two unknowns. A trial says the less the farther its
widths are from those that are to be corrected, because e then differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecc.core.errors import InputError

__all__ = ["Discrepancy", "Reading", "distance"]

_OFFSET = 0.05  # standard deviation of a beyond what held-out rows show: solvers seek what a model is too kind to
_SCALE = 0.3  # standard deviation of b
_SCALE_MOST = 0.7  # of the mean of b, either way: what is measured rises with what is predicted
_UNKNOWN = 0.3  # spread of a model that promises no interval
_FINEST = 0.003  # two measurements of one network differ by that much whatever their intervals say
_COARSEST = 0.2
_FAR = 0.25  # distance of widths from which on nothing of the rest is shared
_Z95 = 1.959963984540054
_REACH = (-3.0, 1.0)  # of x - x0, where a limit is looked for


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured of one trial, relative to the dense network.

    Attributes:
        predicted: By the cost model.
        measured: By the device.
        low: Lower end of the 95 % interval; 0 where there is none.
        high: Upper end; infinite where there is none.
        apart: How far its widths are from those to be corrected, as of ``distance``; 1 where these are not known.
    """

    predicted: float
    measured: float
    low: float
    high: float
    apart: float = 1.0

    @property
    def spread(self) -> float:
        """Standard deviation of the logarithm of the measured value."""
        if not (self.low > 0 and self.high < math.inf):
            return _COARSEST
        return min(max(math.log(self.high / self.low) / (2 * _Z95), _FINEST), _COARSEST)

    @property
    def above(self) -> float:
        """How far the upper end of the interval is above the measured value, as a logarithm."""
        return math.log(self.high / self.measured) if self.high < math.inf else _Z95 * _COARSEST


@dataclass(frozen=True, eq=False)
class Discrepancy:
    """What is known of a and b, as a normal distribution.

    Attributes:
        centre: x₀.
        mean: Of (a, b), shape (2,).
        covariance: Shape (2, 2).
        rest: Standard deviation of e at widths that nothing is known of.
        reference: x of the widths to be corrected, which were measured; None where there are none.
    """

    centre: float
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    rest: float
    reference: float | None = None

    @classmethod
    def of(cls, limit: float, spread: float, readings: Sequence[Reading]) -> Discrepancy:
        """What the readings teach.

        Args:
            limit: Of the budget, relative to dense.
            spread: Standard deviation of log(measured / predicted) that the cost model promises; infinite where it
                promises nothing.
            readings: The widths that are to be corrected last.
        Raises:
            InputError: If the limit is not positive.
        """
        if not 0 < limit < math.inf:
            raise InputError(f"Discrepancy.of(limit=...) must be positive, got {limit}")
        own = spread if spread < _UNKNOWN else _UNKNOWN
        centre, rest = math.log(limit), max(own, _FINEST)
        precision = np.diag([1 / (own**2 + _OFFSET**2), 1 / _SCALE**2])
        moment = np.zeros(2)
        for reading in readings:
            row = np.array([1.0, math.log(reading.predicted) - centre])
            variance = reading.spread**2 + (rest * min(1.0, reading.apart / _FAR)) ** 2
            precision += np.outer(row, row) / variance
            moment += row * math.log(reading.measured / reading.predicted) / variance
        covariance = np.linalg.inv(precision)
        mean = covariance @ moment
        mean[1] = np.clip(mean[1], -_SCALE_MOST, _SCALE_MOST)
        last = readings[-1] if readings else None
        reference = math.log(last.predicted) if last is not None and last.apart == 0 else None
        return cls(centre, mean, covariance, rest, reference)

    def measured(self, predicted: float) -> tuple[float, float]:
        """What will probably be measured where ``predicted`` is, relative to dense, and the spread of its logarithm."""
        x = math.log(predicted)
        row = np.array([1.0, x - self.centre])
        moved = 1.0 if self.reference is None else min(1.0, abs(x - self.reference) / _FAR)
        variance = float(row @ self.covariance @ row) + (self.rest * moved) ** 2
        return math.exp(x + float(row @ self.mean)), math.sqrt(variance)

    def limit(self, bound: float, deviations: float = 0.0) -> float:
        """The predicted cost, relative to dense, up to which the measured one is probably within ``bound``.

        Args:
            bound: Relative to dense.
            deviations: Standard deviations that are kept clear of it: 0 for an even chance, 1.645 for 95 %.
        """
        low, high = (self.centre + reach for reach in _REACH)
        for _ in range(60):
            middle = (low + high) / 2
            value, spread = self.measured(math.exp(middle))
            low, high = (middle, high) if math.log(value / bound) + deviations * spread <= 0 else (low, middle)
        return math.exp(low)


def distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Root mean square of the differences of relative widths, each of shape (n_groups,)."""
    return float(np.sqrt(np.mean(np.square(one - other))))
