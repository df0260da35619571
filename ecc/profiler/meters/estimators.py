"""Joules of a window from what a sensor told meanwhile.

A counter that ticks every 100 ms is wrong by up to a tick at each end of a window. The slope through the instants at
which it ticks is not: at 100 ms ticks and 2 s windows the error falls from 1.2 % to below 0.1 % rms of a steady load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid

from ecc.profiler.meters.polling import Samples, Ticks

__all__ = ["FEWEST_TICKS", "Energy", "Sampling", "counted", "integrate", "integrated", "slope"]

FEWEST_TICKS = 5
"""Ticks in a window below which the plain delta is taken."""

_SHARPEST_S = 0.002  # no tick is known better than that, however often the counter is read


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules of a window.

    Attributes:
        joules: The best estimate.
        error: Its standard error; None where it is not known.
        by_slope: Whether it comes of the slope over ticks.
    """

    joules: float
    error: float | None
    by_slope: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a power sensor sees a load.

    Attributes:
        average_s: Time over which a reading is the mean.
        period_s: Time after which there is a new one.
    """

    average_s: float
    period_s: float

    @property
    def rise_s(self) -> float:
        """How long readings tell of what was before."""
        return max(1.5 * self.average_s, self.average_s + self.period_s)

    @property
    def window_s(self) -> float:
        """Shortest window: 20 readings, and more than three times the rise."""
        return max(2.0, 20 * self.period_s, 5.0 * self.average_s)


def slope(times: ArrayLike, values: ArrayLike, weights: ArrayLike = 1.0) -> tuple[float, float]:
    """Least-squares slope of values over times, and its standard error (0 for two points)."""
    t, v = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    w = np.broadcast_to(np.asarray(weights, dtype=np.float64), t.shape)
    t, v = t - np.average(t, weights=w), v - np.average(v, weights=w)
    spread = float(w @ t**2)
    rate = float(w @ (t * v)) / spread
    freedom = max(1, len(t) - 2)
    return rate, float(np.sqrt(w @ (v - rate * t) ** 2 / freedom / spread))


def counted(ticks: Ticks, start: float, end: float, tick_s: float | None = None) -> Energy:
    """Joules from start to end by a counter: the slope over its ticks, or the plain delta where these are few.

    A change lies somewhere between two readings, and not earlier than a tick ago: the middle of that time is taken, and
    weighed by its length, because the gaps between readings are uneven where the interpreter is busy. The error of the
    slope comes of its residuals; that of the delta is the quantisation at both ends, known when the tick is.
    """
    seen = zip(ticks.times, ticks.gaps, ticks.values, strict=True)
    inside = np.array([reading for reading in seen if start <= reading[0] <= end])
    if len(inside) >= FEWEST_TICKS:
        times, gaps, values = inside.T
        doubt = np.minimum(gaps, tick_s or float(np.median(np.diff(times))))
        rate, error = slope(times - doubt / 2, values, 1 / (doubt**2 + _SHARPEST_S**2))
        return Energy(rate * (end - start), error * (end - start), by_slope=True)
    rounding = None if tick_s is None else ticks.delta / (end - start) * tick_s / math.sqrt(6)  # two uniform ends
    return Energy(ticks.delta, rounding)


def integrate(times: ArrayLike, watts: ArrayLike, start: float, end: float) -> float:
    """Joules from start to end by the trapezoid rule; power is constant outside the samples."""
    t = np.asarray(times, dtype=np.float64)
    knots = np.array([start, *t[(start < t) & (t < end)], end])
    return float(trapezoid(np.interp(knots, t, np.asarray(watts, dtype=np.float64)), knots))


def integrated(samples: Samples, start: float, end: float, sampling: Sampling) -> Energy | None:
    """Joules from start to end by sampled power, its rise left out; None without a sample after that.

    The error takes each period of the sensor for one independent reading.
    """
    settled = start + min(sampling.rise_s, (end - start) / 2)
    kept = [(t, w) for t, w in zip(samples.times, samples.values, strict=True) if settled <= t <= end]
    if not kept:
        return None
    times, watts = np.array(kept).T
    mean = integrate(times, watts, settled, end) / (end - settled)
    periods = max(1.0, (end - settled) / max(sampling.period_s, sampling.average_s))
    error = float(watts.std(ddof=1)) / math.sqrt(periods) * (end - start) if len(watts) > 1 else None
    return Energy(mean * (end - start), error)
