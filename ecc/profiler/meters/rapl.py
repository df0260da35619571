"""CPU energy by RAPL, from the powercap tree or else by perf_event: all packages, and their DRAM where it is told."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from ecc.core.errors import InputError, MeterError
from ecc.core.meter import Probe, Reading
from ecc.profiler.clock import Clock, HostClock
from ecc.profiler.meters.perf_event import EVENTS, PerfEvents, find_events
from ecc.profiler.meters.powercap import TREE, find_zones

__all__ = ["DOMAINS", "RaplMeter"]

DOMAINS: tuple[str, ...] = ("package", "dram")
"""What can be measured; ``psys``, the whole platform, overlaps with both and is never added."""

_SAMPLES_PER_WRAP = 4


class _Counter(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def wrap_s(self) -> float: ...
    def read(self) -> int: ...
    def spent_j(self, before: int, after: int) -> float: ...


class RaplMeter:
    """Joules of all CPU packages and their DRAM; ``parts`` of a reading has each.

    Attributes:
        metric: ``energy``.
        shortest_window_s: Half a second: 500 updates of the counters.

    Args:
        tree: Of powercap.
        events: The kernel's description of the energy events.
        domains: Which of DOMAINS to add up.
        perf: Stands in for the kernel's perf_event.
        clock: Simulated in tests.
    """

    metric = "energy"
    shortest_window_s = 0.5

    def __init__(
        self,
        tree: Path = TREE,
        events: Path = EVENTS,
        *,
        domains: Collection[str] = DOMAINS,
        perf: PerfEvents | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not domains or not set(domains) <= set(DOMAINS):
            raise InputError(f"RaplMeter(domains=...) must be some of {', '.join(DOMAINS)}, got {tuple(domains)}")
        self._tree, self._events, self._domains, self._perf = tree, events, tuple(domains), perf
        self._clock = clock or HostClock()
        self._found: tuple[str, Sequence[_Counter]] | None = None
        self._tally: _Tally | None = None

    def probe(self) -> Probe:
        """Read every counter once."""
        try:
            source, counters = self._opened()
            for counter in counters:
                counter.read()
        except MeterError as error:
            self._found = None
            return Probe(False, reason=str(error))
        names = ", ".join(counter.name for counter in counters)
        return Probe(True, f"RAPL {source} ({names})", details={"kind": "counter", "scope": "cpu"})

    def check(self) -> Probe:
        """The probe, and the ``watts`` of each domain over half a second."""
        probe = self.probe()
        if not probe.available:
            return probe
        start = self._clock.now()
        try:
            self.begin()
            self._clock.wait(self.shortest_window_s)
            parts = self.end().parts
        except MeterError as error:
            return Probe(False, reason=str(error))
        seconds = self._clock.now() - start
        watts = {domain: joules / seconds for domain, joules in parts.items()}
        return Probe(True, probe.source, details={**probe.details, "watts": watts})

    def begin(self) -> None:
        """Read the counters; they are read again in mid-window as often as they might wrap around."""
        if self._tally is not None:  # left open by an error
            self._tally.cancel()
        self._tally = _Tally(self._opened()[1], self._clock)

    def end(self) -> Reading:
        """Joules since ``begin``.

        Raises:
            MeterError: If a counter cannot be read or does not move.
        """
        if self._tally is None:
            raise MeterError("RaplMeter.end() was called without begin()")
        tally, self._tally = self._tally, None
        parts = tally.stop()
        spent = sum(parts.values())
        if spent <= 0:
            raise MeterError("the RAPL counters do not move; measure latency instead")
        return Reading(spent, parts=parts)

    def _opened(self) -> tuple[str, Sequence[_Counter]]:
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> tuple[str, Sequence[_Counter]]:
        problems = []
        for source, find in (
            ("powercap", lambda: find_zones(self._tree)),
            ("perf_event", lambda: find_events(self._events, self._perf)),
        ):
            try:
                counters: Sequence[_Counter] = [each for each in find() if each.domain in self._domains]
            except MeterError as error:
                problems.append(error)
                continue
            if counters:
                return source, counters
        if problems:
            raise problems[0]
        raise MeterError(
            f"no RAPL {' or '.join(self._domains)} counter under {self._tree} or {self._events} (virtual machines and "
            "containers hide it, and only Linux has it); measure energy on the host itself, or measure latency"
        )


class _Tally:
    """What counters count from now until ``stop``, however often they wrap around."""

    def __init__(self, counters: Sequence[_Counter], clock: Clock) -> None:
        self._counters = counters
        self._last = [counter.read() for counter in counters]
        self._spent_j = dict.fromkeys([counter.domain for counter in counters], 0.0)
        self._error: MeterError | None = None
        soonest = min(counter.wrap_s for counter in counters)
        watched = soonest < float("inf")
        self._stop = clock.repeat(self._step, soonest / _SAMPLES_PER_WRAP) if watched else None

    def stop(self) -> dict[str, float]:
        """Joules per domain.

        Raises:
            MeterError: If a counter could not be read.
        """
        self.cancel()
        self._step()
        if self._error is not None:
            raise self._error
        return self._spent_j

    def cancel(self) -> None:
        """Read no more."""
        if self._stop is not None:
            self._stop()

    def _step(self) -> None:
        try:
            for index, counter in enumerate(self._counters):
                now = counter.read()
                self._spent_j[counter.domain] += counter.spent_j(self._last[index], now)
                self._last[index] = now
        except MeterError as error:
            self._error = self._error or error
