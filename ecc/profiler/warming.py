"""Warming: a device is loaded until what it does no longer changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecc.core.meter import Runtime
from ecc.profiler.clock import Clock
from ecc.profiler.conditions import Gauge
from ecc.profiler.pairing import Ready
from ecc.profiler.window import Window

__all__ = ["settle"]

_SLICE_S = 1.0
_SPAN_S = 30.0
_RISE_C = 1.0  # per span
_CLOCK = 0.02


@dataclass(frozen=True, slots=True)
class _Moment:
    """State at an instant; NaN where the device does not tell."""

    at: float
    temperature_c: float
    clock_hz: float


def settle(reference: Ready, runtime: Runtime, gauge: Gauge, window: Window, clock: Clock) -> bool:
    """Run a network until the temperature changes by less than 1 °C in 30 s and the clock is steady.

    Returns:
        Whether it became so within ``device_warm_up_max_s``; true where the device tells neither.
    """
    start, moments = clock.now(), list[_Moment]()
    while clock.now() - start < window.device_warm_up_max_s:
        moments.append(_load(reference, runtime, gauge, clock))
        if np.isnan([(moment.temperature_c, moment.clock_hz) for moment in moments]).all() or _steady(moments):
            return True
    return not window.device_warm_up_max_s


def _load(reference: Ready, runtime: Runtime, gauge: Gauge, clock: Clock) -> _Moment:
    begun = clock.now()
    gauge.begin()
    while clock.now() - begun < _SLICE_S:
        reference.run(reference.repeats(_SLICE_S / 10))
        runtime.synchronise()
    state = gauge.end()
    known = (value if value is not None else float("nan") for value in (state.temperature_c, state.clock_hz))
    return _Moment(clock.now(), *known)


def _steady(moments: list[_Moment]) -> bool:
    now = moments[-1].at
    if now - moments[0].at < _SPAN_S:
        return False
    span = [moment for moment in moments if now - moment.at <= _SPAN_S + _SLICE_S]
    at = np.array([moment.at - now for moment in span])
    temperatures = np.array([moment.temperature_c for moment in span])
    clocks = np.array([moment.clock_hz for moment in span])
    return _slope(at, temperatures) * _SPAN_S < _RISE_C and _level(clocks)


def _slope(at: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Absolute slope; 0 where too few values are known."""
    known = np.isfinite(values)
    return abs(float(np.polyfit(at[known], values[known], 1)[0])) if known.sum() > 2 else 0.0


def _level(clocks: NDArray[np.float64]) -> bool:
    """Whether the median clock of the later half is that of the earlier one."""
    halves = [half[np.isfinite(half)] for half in np.array_split(clocks, 2)]
    if not all(len(half) for half in halves):
        return True
    early, late = (float(np.median(half)) for half in halves)
    return abs(late / early - 1) <= _CLOCK
