"""GPU energy by NVML: the board's counter by the slope over its ticks, or sampled power, integrated.

Where a board has both, each window is measured by both, because they are known to disagree on some boards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ecc.core.errors import InputError, MeterError
from ecc.core.meter import Probe, Reading
from ecc.profiler.clock import Clock, HostClock
from ecc.profiler.meters.board import Board, told
from ecc.profiler.meters.estimators import counted, integrated
from ecc.profiler.meters.polling import Poll, Samples, Ticks
from ecc.profiler.meters.sensors import Counter, Power, find_counter, find_power

__all__ = ["AGREEMENT", "ENERGY_SOURCES", "NvmlMeter"]

ENERGY_SOURCES: tuple[str, ...] = ("auto", "counter", "power")
"""What energy may be read from; ``auto`` is the counter where there is one."""

AGREEMENT = (0.9, 1.1)
"""Counter over integrated power; outside, a reading is flagged ``counter-suspect``."""

_POLL_S = 0.005
_WINDOW_S, _TICKS_PER_WINDOW = 1.0, 10  # rms error of the slope 0.16 % at 100 ms ticks, 0.28 % where Python is busy
_TICKS = 20  # to know their period
_CALIBRATION_S = 15.0
_STRETCH_S, _SETTLE_S = 10.0, 2.0  # of a cross-check


@dataclass(frozen=True, slots=True)
class _Sensors:
    """What is read.

    Attributes:
        main: The value of a window comes of it.
        second: What it is compared with; None where the board has nothing comparable.
    """

    main: Counter | Power
    second: Power | None = None


@dataclass(frozen=True, slots=True)
class _Window:
    """A window that is open."""

    start: float
    ticks: Ticks
    samples: Samples
    polls: tuple[Poll, ...]


class NvmlMeter:
    """Joules of one NVIDIA board.

    Attributes:
        metric: ``energy``.

    Args:
        index: NVML's index of the board.
        source: One of ENERGY_SOURCES.
        library: Stands in for the pynvml module.
        find: Finds the board instead of ``index``.
        synchronise: Waits until the board has finished its work.
        clock: Simulated in tests.
    """

    metric = "energy"

    def __init__(
        self,
        index: int = 0,
        *,
        source: str = "auto",
        library: Any = None,
        find: Callable[[], Board] | None = None,
        synchronise: Callable[[], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if source not in ENERGY_SOURCES:
            raise InputError(f"energy source {source!r} is unknown; choose from {', '.join(ENERGY_SOURCES)}")
        self._find = find or (lambda: Board.open(index, library=library))
        self._source, self._clock = source, clock or HostClock()
        self._synchronise = synchronise or (lambda: None)
        self._sensors: _Sensors | None = None
        self._tick_s: float | None = None
        self._cross: Mapping[str, float | None] = {}
        self._facts: Mapping[str, Any] = {}
        self._window: _Window | None = None

    @classmethod
    def of(cls, device: str, source: str = "auto") -> NvmlMeter:
        """The board of a torch CUDA device, whatever CUDA_VISIBLE_DEVICES hides."""
        place = torch.device(device)
        return cls(source=source, find=lambda: Board.of(device), synchronise=lambda: torch.cuda.synchronize(place))

    def probe(self) -> Probe:
        """Call the counter and the power sensor once; ``details`` hold what earlier calls have found out."""
        try:
            sensor = self._opened().main
        except MeterError as error:
            return Probe(False, reason=str(error))
        kind = "power" if isinstance(sensor, Power) else "counter"
        details: dict[str, Any] = {"kind": kind, "scope": sensor.scope, **self._facts}
        if self._tick_s is not None:
            details |= {"tick_s": self._tick_s, "window_s": self.shortest_window_s}
        if self._cross:
            suspect = self._source == "auto" and not all(map(_agrees, self._cross.values()))
            details |= {"counter_over_power": dict(self._cross), "flag": "counter-suspect" if suspect else ""}
        return Probe(True, sensor.source, details=details)

    def check(self, load: Callable[[float], None]) -> Probe:
        """Measure the counter's period, and compare it with integrated power over a loaded and an idle stretch.

        Takes about half a minute; ``probe`` then tells of it: ``counter_over_power`` has ``loaded`` and ``idle``, None
        where the board has no second sensor.

        Args:
            load: Keeps the board busy for so many seconds, and waits for it.
        """
        try:
            _ = self.shortest_window_s
            self._cross = {
                "loaded": self._ratio(load, lead_in_s=_SETTLE_S),
                "idle": self._ratio(self._clock.wait, lead_in_s=_SETTLE_S),
            }
        except MeterError as error:
            return Probe(False, reason=str(error))
        return self.probe()

    @property
    def shortest_window_s(self) -> float:
        """A second or ten ticks of the counter; its period is measured at the first call."""
        sensor = self._opened().main
        if isinstance(sensor, Power):
            return sensor.sampling.window_s
        if self._tick_s is None:
            self._tick_s = _tick_s(sensor, self._clock)
        return max(_WINDOW_S, _TICKS_PER_WINDOW * self._tick_s)

    def begin(self) -> None:
        """Wait for the board and start polling; a window that was left open by an error is forgotten."""
        sensors = self._opened()
        for poll in self._window.polls if self._window is not None else ():
            _stopped(poll)
        self._synchronise()
        ticks, samples, polls = Ticks(), Samples(), []
        start = self._clock.now()
        for sensor in (sensors.main, sensors.second):
            if isinstance(sensor, Power):
                polls.append(Poll(sensor.read, samples, self._clock, sensor.sampling.period_s / 2))
            elif sensor is not None:
                polls.append(Poll(sensor.read, ticks, self._clock, _POLL_S))
        self._window = _Window(start, ticks, samples, tuple(polls))

    def end(self) -> Reading:
        """Joules since ``begin``.

        Flags: ``delta`` when too few ticks fell into the window for the slope; ``power`` when power was integrated,
        ``power-average`` when that of a lagging sensor; ``counter-suspect`` when counter and power disagree and the
        user has not chosen between them.

        Raises:
            MeterReset: If the counter was reset meanwhile.
            MeterError: If a sensor stopped answering or does not move.
        """
        if self._window is None:
            raise MeterError("NvmlMeter.end() was called without begin()")
        self._synchronise()
        end = self._clock.now()
        window, self._window = self._window, None
        problems = [problem for poll in window.polls if (problem := _stopped(poll)) is not None]
        if problems:
            raise problems[0]
        return self._reading(window, end)

    def _reading(self, window: _Window, end: float) -> Reading:
        sensors, seconds = self._opened(), end - window.start
        power = sensors.main if isinstance(sensors.main, Power) else sensors.second
        seen = None if power is None else integrated(window.samples, window.start, end, power.sampling)
        if isinstance(sensors.main, Power):
            if seen is None:
                raise MeterError(f"{sensors.main.source}: no reading within {seconds:.3f} s; measure a longer window")
            return Reading(seen.joules, "power-average" if sensors.main.averaged else "power", error=seen.error)
        found = counted(window.ticks, window.start, end, self._tick_s)
        if found.joules <= 0:
            raise MeterError(f"{sensors.main.source} does not move within {seconds:.3f} s; measure latency instead")
        flags = [] if found.by_slope else ["delta"]
        check = seen.joules if seen is not None and found.by_slope else None
        if check is not None and self._source == "auto" and not _agrees(found.joules / check):
            flags.append("counter-suspect")
        delta = window.ticks.delta
        return Reading(found.joules, " ".join(flags), found.error, delta if delta > 0 else None, check)

    def _ratio(self, load: Callable[[float], None], *, lead_in_s: float) -> float | None:
        """Counter over integrated power in one stretch; the plain delta, because power may still be settling."""
        load(lead_in_s)
        self.begin()
        load(_STRETCH_S)
        reading = self.end()
        return None if reading.check is None or reading.delta is None else reading.delta / reading.check

    def _opened(self) -> _Sensors:
        """The sensors that answer.

        Raises:
            MeterError: If there is none, or not the one that the user chose.
        """
        if self._sensors is None:
            board = self._find()
            self._sensors = _chosen(board, self._source)
            self._facts = board.facts()
        return self._sensors


def _chosen(board: Board, source: str) -> _Sensors:
    if source == "power":
        return _Sensors(find_power(board))
    power = told(lambda: find_power(board))
    counter = told(lambda: find_counter(board))
    if counter is None:
        return _Sensors(power if power is not None and source == "auto" else find_counter(board))
    comparable = power is not None and not power.averaged and power.scope == counter.scope
    return _Sensors(counter, power if comparable else None)


def _agrees(ratio: float | None) -> bool:
    return ratio is None or AGREEMENT[0] <= ratio <= AGREEMENT[1]


def _stopped(poll: Poll) -> MeterError | None:
    try:
        poll.stop()
    except MeterError as error:
        return error
    return None


def _tick_s(counter: Counter, clock: Clock) -> float:
    """Median period of the counter over 20 ticks, or as many as come within 15 s.

    Raises:
        MeterError: If there are fewer than two periods.
    """
    ticks, deadline = Ticks(), clock.now() + _CALIBRATION_S
    poll = Poll(counter.read, ticks, clock, _POLL_S)
    while len(ticks.times) <= _TICKS and clock.now() < deadline:
        clock.wait(_POLL_S)
    poll.stop()
    if len(ticks.times) < 3:
        raise MeterError(f"{counter.source} does not move within {_CALIBRATION_S:.0f} s; measure latency instead")
    return float(np.median(np.diff(ticks.times)))
