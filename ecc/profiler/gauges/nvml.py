"""The state of an NVIDIA board, sampled ten times a second."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ecc.core.errors import MeterError
from ecc.profiler.clock import Clock, HostClock
from ecc.profiler.conditions import UNKNOWN, Conditions
from ecc.profiler.gauges.processes import shows_whole_host
from ecc.profiler.meters.board import Board, told, uncounted, words_of

__all__ = ["NvmlGauge"]

_PERIOD_S = 0.1


@dataclass(slots=True)
class _Visit:
    """What was seen since ``begin``; thrown away by ``end``."""

    temperature_c: float | None
    counters: dict[int, float]
    stop: Callable[[], None] = field(default=lambda: None)
    clocks_hz: list[float] = field(default_factory=list)
    memory_clocks_hz: list[float] = field(default_factory=list)
    reasons: set[str] | None = None


class NvmlGauge:
    """Clocks, temperature, reasons of throttling, power cap and other compute processes of a board.

    A board that cannot be reached is a board of which nothing is known.

    Args:
        find: Opens the board, at the first ``begin``.
        clock: Simulated in tests.
        proc: Where the kernel shows processes.
    """

    def __init__(self, find: Callable[[], Board], *, clock: Clock | None = None, proc: Path = Path("/proc")) -> None:
        self._find, self._clock, self._proc = find, clock or HostClock(), proc
        self._board: Board | None = None
        self._visit: _Visit | None = None

    def begin(self) -> None:
        """Read the temperature and the counters of throttling, and start sampling."""
        try:
            board = self._board = self._board or self._find()
        except MeterError:
            return
        if self._visit is not None:  # left open by an error
            self._visit.stop()
        visit = _Visit(told(board.temperature_c), told(board.throttle_counters) or {})
        visit.stop = self._clock.repeat(lambda: _sample(board, visit), _PERIOD_S)
        self._visit = visit

    def end(self) -> Conditions:
        """What was seen since ``begin``."""
        visit, self._visit = self._visit, None
        if visit is None or self._board is None:
            return UNKNOWN
        visit.stop()
        _sample(self._board, visit)
        cold, warm = visit.temperature_c, told(self._board.temperature_c)
        return Conditions(
            clock_hz=_middle(visit.clocks_hz),
            clock_low_hz=min(visit.clocks_hz, default=None),
            memory_clock_hz=_middle(visit.memory_clocks_hz),
            temperature_c=warm,
            temperature_rise_c=None if cold is None or warm is None else warm - cold,
            throttled=_throttled(visit, told(self._board.throttle_counters) or {}),
            power_limit_w=told(self._board.power_limit_w),
            foreign=self._foreign(self._board),
        )

    def _foreign(self, board: Board) -> int | None:
        """Other processes on the board; None in a container, which sees none of them or not under their numbers."""
        pids = told(board.compute_pids)
        return None if pids is None or not shows_whole_host(self._proc) else len(set(pids) - {os.getpid()})


def _sample(board: Board, visit: _Visit) -> None:
    clock_hz, memory_clock_hz = told(board.clock_hz), told(board.memory_clock_hz)
    visit.clocks_hz += [] if clock_hz is None else [clock_hz]
    visit.memory_clocks_hz += [] if memory_clock_hz is None else [memory_clock_hz]
    reasons = told(board.throttle_reasons)
    if reasons is not None:
        visit.reasons = (visit.reasons or set()) | reasons


def _throttled(visit: _Visit, counters: dict[int, float]) -> tuple[str, ...] | None:
    """Counters that rose, which miss nothing, and for what is not counted the reasons that samples happened to see."""
    shared = counters.keys() & visit.counters.keys()
    if not shared and visit.reasons is None:
        return None
    risen = {number for number in shared if counters[number] > visit.counters[number]}
    return tuple(sorted(words_of(risen) | ((visit.reasons or set()) & uncounted(shared))))


def _middle(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None
