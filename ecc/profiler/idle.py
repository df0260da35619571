"""Idle: the power of a device that has nothing to do while a process holds it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ecc.core.errors import MeterError
from ecc.core.meter import Meter, Runtime
from ecc.profiler.clock import Clock
from ecc.profiler.window import Window

__all__ = ["Idle"]

_REST_S = 1.0  # clocks and power fall for a while after the last work

_LOG = logging.getLogger("ecc")


class Idle:
    """Measures the idle power at first and then every so many visits.

    Idle energy is reported and never subtracted: what a network adds to it is not known from watts taken at other
    clocks and temperatures, and the error, common to a configuration and the reference, would be largest in the ratios
    of small networks.

    Attributes:
        watts: What was found last; None before, and where there is no energy meter.
    """

    def __init__(self, meters: Sequence[Meter], runtime: Runtime, window: Window, clock: Clock) -> None:
        self.watts: float | None = None
        self._meter = next((meter for meter in meters if meter.metric == "energy"), None) if window.idle_s else None
        self._runtime, self._window, self._clock = runtime, window, clock
        self._visits = 0

    def pause(self) -> bool:
        """Called before each visit: rests and measures when it is time to; whether it did."""
        due = self._meter is not None and self._visits % self._window.idle_every == 0
        self._visits += 1
        if due and self._meter is not None:
            self._measure(self._meter)
        return due

    def _measure(self, meter: Meter) -> None:
        seconds = max(self._window.idle_s, meter.shortest_window_s)
        self._runtime.synchronise()
        self._clock.wait(_REST_S)
        try:
            meter.begin()
            start = self._clock.now()
            self._clock.wait(seconds)
            joules = meter.end().value
        except MeterError as error:  # the next visit fails by itself if the sensor is gone
            _LOG.warning("idle power is unknown: %s", error)
            self.watts = None
        else:
            self.watts = joules / (self._clock.now() - start)
