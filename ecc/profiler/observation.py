"""Observation: one visit measured, with the state of device and host around it, and again if that was disturbed."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from ecc.core.errors import MeterReset
from ecc.core.meter import Meter
from ecc.profiler.clock import Clock
from ecc.profiler.conditions import UNKNOWN, Conditions, Gauge
from ecc.profiler.flags import Norm, Patience, bad_period, condition_flags, host_flags
from ecc.profiler.host import Disturbance
from ecc.profiler.pairing import Pairs, Ready, alternate

__all__ = ["Blind", "Observation", "Observer"]

_LOG = logging.getLogger("ecc")


class Blind:
    """A gauge that sees nothing."""

    def begin(self) -> None:
        """Nothing to start."""

    def end(self) -> Conditions:
        """Nothing is known."""
        return UNKNOWN


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What one visit gave.

    Attributes:
        pairs: The readings; their flags are all of the visit's.
        conditions: State of the device.
        disturbance: Counters of the host.
        started: Unix time at which it began.
        seconds: How long it took.
    """

    pairs: Pairs
    conditions: Conditions
    disturbance: Disturbance
    started: float
    seconds: float


class Observer:
    """Measures visits and judges each by those before it.

    Args:
        gauge: Watches the device.
        clock: Simulated in tests.
    """

    def __init__(self, gauge: Gauge, clock: Clock) -> None:
        self._gauge, self._clock = gauge, clock
        self._norm, self._patience = Norm(), Patience()
        self._ticks: dict[str, float | None] = {}

    def begin_block(self) -> None:
        """Forget what clock and temperature were."""
        self._norm = Norm()

    def observe(
        self,
        network: Ready,
        reference: Ready,
        meter: Meter,
        n: int,
        rng: np.random.Generator,
        *,
        burst: int = 1,
        flags: Collection[str] = (),
    ) -> Observation:
        """Measure n pairs, and once more if what disturbed them may have passed; ``retried`` then tells.

        Args:
            burst: Windows per side of a pair, at most.
            flags: Words that the visit has anyway.
        Raises:
            MeterError: If the meter stops answering, or its counter goes back twice in a row.
        """
        words = {*flags, *self._period_flags(network, reference, meter)}
        try:
            found = self._measure(network, reference, meter, n, rng, burst)
        except MeterReset as error:
            _LOG.warning("%s; the visit is measured again", error)
            found = self._measure(network, reference, meter, n, rng, burst)
            words.add("retried")
        else:
            if self._patience.worth(found.pairs.flags):
                before = found.pairs.flags
                found = self._measure(network, reference, meter, n, rng, burst)
                self._patience.learn(before, found.pairs.flags)
                words.add("retried")
        self._norm.learn(found.conditions)
        pairs = replace(found.pairs, flags=tuple(sorted(words | set(found.pairs.flags))))
        return replace(found, pairs=pairs)

    def _measure(
        self, network: Ready, reference: Ready, meter: Meter, n: int, rng: np.random.Generator, burst: int
    ) -> Observation:
        started, start, before = time.time(), self._clock.now(), Disturbance.now()
        self._gauge.begin()
        try:
            pairs = alternate(network, reference, meter, n, rng, burst=burst, clock=self._clock)
        finally:
            conditions = self._gauge.end()
        seconds, disturbance = self._clock.now() - start, Disturbance.now().since(before)
        words = {
            *pairs.flags,
            *host_flags(disturbance, seconds),
            *condition_flags(conditions),
            *self._norm.flags(conditions),
        }
        return Observation(replace(pairs, flags=tuple(sorted(words))), conditions, disturbance, started, seconds)

    def _period_flags(self, network: Ready, reference: Ready, meter: Meter) -> set[str]:
        if meter.metric not in self._ticks:
            _ = meter.shortest_window_s  # after which a meter knows its ticks
            tick_s = meter.probe().details.get("tick_s")
            self._ticks[meter.metric] = None if tick_s is None else float(tick_s)
        tick_s = self._ticks[meter.metric]
        if tick_s is None:
            return set()
        return {"period"} if any(bad_period(each.inference_s, tick_s) for each in (network, reference)) else set()
