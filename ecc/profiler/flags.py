"""Flags: words on what disturbed a visit, and which of them are worth a second try.

``throttled``   heat, a hardware limit or the power brake held the clocks down
``power-cap``   the power limit did: legitimate at full load
``clock``       median clock more than 2 % off the median of the block so far
``temperature`` more than 5 °C off the median of the block so far
``foreign``     another process computed on the device
``steal``       the hypervisor gave a tenth of the time to others
``switches``    the process was pushed off its core more than a hundred times in a second
``loaded``      others took a fifth of the cores before the profile began
``period``      inferences keep the time of a sensor that looks only part of it
``retried``     the visit was measured a second time; the first is not kept
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from ecc.profiler.conditions import Conditions
from ecc.profiler.host import Disturbance

__all__ = ["PASSING", "Norm", "Patience", "bad_period", "condition_flags", "host_flags"]

PASSING = frozenset({"throttled", "clock", "temperature", "foreign", "steal"})
"""Words for what may have passed a moment later, so that the visit is measured once more."""

_HOLDING = {"thermal", "hardware-slowdown", "power-brake"}
_STEAL = 0.1
_SWITCHES_PER_S = 100.0
_CLOCK, _TEMPERATURE_C = 0.02, 5.0
_VISITS_TO_KNOW = 3
_FUTILE = 3
_SENSOR_S, _PERIOD = 0.1, 0.05


def host_flags(disturbance: Disturbance, seconds: float) -> set[str]:
    """What the counters of the host say about a visit that took so long."""
    if seconds <= 0.1:  # the counters are too coarse for less
        return set()
    words = set()
    if disturbance.steal_s is not None and disturbance.steal_s > _STEAL * seconds:
        words.add("steal")
    if disturbance.switches is not None and disturbance.switches > _SWITCHES_PER_S * seconds:
        words.add("switches")
    return words


def condition_flags(conditions: Conditions) -> set[str]:
    """What the state of the device over a visit says by itself."""
    reasons = set(conditions.throttled or ())
    words = {"power-cap"} & reasons
    if reasons & _HOLDING:
        words.add("throttled")
    if conditions.foreign:
        words.add("foreign")
    return words


class Norm:
    """What clock and temperature were in the block so far."""

    def __init__(self) -> None:
        self._clocks: list[float] = []
        self._temperatures: list[float] = []

    def flags(self, conditions: Conditions) -> set[str]:
        """``clock`` and ``temperature`` where the device is off its norm; nothing before three visits are known."""
        words = set()
        clock_hz, usual_hz = conditions.clock_hz, _usual(self._clocks)
        if clock_hz is not None and usual_hz is not None and abs(clock_hz - usual_hz) > _CLOCK * usual_hz:
            words.add("clock")
        temperature_c, usual_c = conditions.temperature_c, _usual(self._temperatures)
        if temperature_c is not None and usual_c is not None and abs(temperature_c - usual_c) > _TEMPERATURE_C:
            words.add("temperature")
        return words

    def learn(self, conditions: Conditions) -> None:
        """Add a visit, flagged or not: a change that stays is the norm half a block later."""
        if conditions.clock_hz is not None:
            self._clocks.append(conditions.clock_hz)
        if conditions.temperature_c is not None:
            self._temperatures.append(conditions.temperature_c)


def _usual(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) >= _VISITS_TO_KNOW else None


class Patience:
    """Says whether a second try is worth its time: not where three in a row found the same again."""

    def __init__(self) -> None:
        self._futile: Counter[str] = Counter()

    def worth(self, flags: Collection[str]) -> bool:
        """Whether a visit with these flags should be measured once more."""
        for word in PASSING - set(flags):
            self._futile[word] = 0
        return any(self._futile[word] < _FUTILE for word in PASSING & set(flags))

    def learn(self, before: Collection[str], after: Collection[str]) -> None:
        """Tell the flags of both tries."""
        for word in PASSING & set(before):
            self._futile[word] = self._futile[word] + 1 if word in after else 0


def bad_period(inference_s: float, tick_s: float) -> bool:
    """Whether a board's power sensor may see always the same part of an inference.

    Some boards look for 25 of every 100 ms. Where inferences take 100 or 50 ms, or a tick of the counter or half of it,
    to within 5 %, what they do drifts past the sensor more slowly than a window lasts. Waiting for the device after
    every few inferences does not help (simulated: 25 to 40 % error with or without): the load still has that period.
    """
    periods = (_SENSOR_S, _SENSOR_S / 2, tick_s, tick_s / 2)
    return any(abs(inference_s - period_s) <= _PERIOD * period_s for period_s in periods)
