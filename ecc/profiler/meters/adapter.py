"""Any monitor with ``begin_window`` and ``end_window`` as a meter: so AMD and Apple GPUs and Jetson boards are reached.

    from zeus.monitor import ZeusMonitor
    table = ecc.profile(model, inputs, meters=ZeusMonitor())

makes a WindowMeter of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from ecc.core.errors import InputError, MeterError
from ecc.core.meter import Probe, Reading
from ecc.profiler.clock import Clock, HostClock

__all__ = ["Monitor", "WindowMeter"]

_KEY = "ecc"


class Monitor(Protocol):
    """What is adapted; ZeusMonitor is one."""

    def begin_window(self, key: str) -> Any:
        """Open a window of that name."""

    def end_window(self, key: str) -> Any:
        """Close it: joules, or an object with ``total_energy`` in joules."""


class WindowMeter:
    """Joules of a device by a monitor of another library.

    Attributes:
        metric: ``energy``.
        shortest_window_s: Two seconds unless given: most such monitors read counters that tick every 100 ms.

    Args:
        monitor: Measures the device that the network runs on, and only that.
        synchronise: Waits until the device has finished its work; needed where the monitor does not do so itself.
        clock: Simulated in tests.
    """

    metric = "energy"

    def __init__(
        self,
        monitor: Monitor,
        *,
        shortest_window_s: float = 2.0,
        synchronise: Callable[[], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not 0 < shortest_window_s < math.inf:
            raise InputError(f"WindowMeter(shortest_window_s=...) must be positive seconds, got {shortest_window_s}")
        self.shortest_window_s = shortest_window_s
        self._monitor, self._name = monitor, type(monitor).__name__
        self._synchronise, self._clock = synchronise or (lambda: None), clock or HostClock()
        self._probe: Probe | None = None

    def probe(self) -> Probe:
        """Measure one idle window, the first time: some monitors tell only then that they have no sensor, by a 0."""
        if self._probe is None:
            try:
                self.begin()
                self._clock.wait(self.shortest_window_s)
                self.end()
            except MeterError as error:
                return Probe(False, reason=str(error))
            self._probe = Probe(True, f"{self._name} (adapter)")
        return self._probe

    def begin(self) -> None:
        """Wait for the device and open a window."""
        self._synchronise()
        self._called(lambda: self._monitor.begin_window(_KEY))

    def end(self) -> Reading:
        """Joules since ``begin``.

        Raises:
            MeterError: If the monitor fails or has no reading: 0, which means no sensor, is one of these.
        """
        self._synchronise()
        found = self._called(lambda: self._monitor.end_window(_KEY))
        try:
            joules = float(found if isinstance(found, int | float) else found.total_energy)
        except (AttributeError, TypeError, ValueError):
            raise MeterError(
                f"{self._name}.end_window gave {type(found).__name__}, neither joules nor an object with total_energy; "
                "give WindowMeter a monitor of energy"
            ) from None
        if not 0 < joules < math.inf:
            raise MeterError(
                f"{self._name} measured {joules:g} J, which means that it has no sensor here; give it a device that it "
                "can measure, or measure latency"
            )
        return Reading(joules)

    def _called(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # another library's errors, of any kind, end here
            raise MeterError(f"{self._name} failed: {error}; measure latency instead") from error
