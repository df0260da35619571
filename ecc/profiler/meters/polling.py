"""A sensor read again and again while something runs: the instants at which a counter changed, or samples of power."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ecc.core.errors import MeterError, MeterReset
from ecc.profiler.clock import Clock
from ecc.profiler.meters.board import Unsupported

__all__ = ["Poll", "Samples", "Series", "Ticks"]


class Series(Protocol):
    """What readings are added to."""

    def add(self, time: float, value: float) -> None:
        """One more reading."""


@dataclass(slots=True)
class Samples:
    """Every reading of a sensor.

    Attributes:
        times: Monotonic seconds.
        values: What was read then, same length.
    """

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, time: float, value: float) -> None:
        """One more reading."""
        self.times.append(time)
        self.values.append(value)


@dataclass(slots=True)
class Ticks:
    """The changes of a counter.

    Attributes:
        times: Monotonic seconds of the readings that showed a new value first.
        gaps: Seconds since the reading before, same length: the change lies in that time.
        values: The new values, same length.
        first: First reading; None before it.
        last: Last reading.
    """

    times: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    first: float | None = None
    last: float | None = None
    _read: float = 0.0

    def add(self, time: float, value: float) -> None:
        """One more reading.

        Raises:
            MeterReset: If the counter went back.
        """
        if self.last is None:
            self.first = value
        elif value < self.last:
            raise MeterReset("the NVML energy counter was reset in mid-window (driver reloaded?); measure again")
        elif value > self.last:
            self.times.append(time)
            self.gaps.append(time - self._read)
            self.values.append(value)
        self.last, self._read = value, time

    @property
    def delta(self) -> float:
        """Last minus first reading; 0 before there are two."""
        return 0.0 if self.first is None or self.last is None else self.last - self.first


class Poll:
    """Reads a sensor into a series beside the caller's work, from now until ``stop``.

    A reading of 0 is none: neither a counter since the driver was loaded nor the power of a board is ever 0, but some
    boards say so, or that they do not know, when they are asked often.

    Raises:
        MeterError: If the first reading fails.
    """

    def __init__(self, read: Callable[[], float], series: Series, clock: Clock, period_s: float) -> None:
        self._read, self._series, self._clock = read, series, clock
        self._error: MeterError | None = None
        self._once()
        self._stop = clock.repeat(self._step, period_s)

    def stop(self) -> None:
        """Read once more and end.

        Raises:
            MeterError: If a reading failed meanwhile.
        """
        self._stop()
        if self._error is not None:
            raise self._error
        self._once()

    def _step(self) -> None:
        if self._error is None:
            try:
                self._once()
            except MeterError as error:
                self._error = error

    def _once(self) -> None:
        try:
            value = self._read()
        except Unsupported:
            return
        if value > 0:
            self._series.add(self._clock.now(), value)
