"""The state of a CPU: read before and after a visit only, because whatever watches it in between takes its time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecc.profiler.clock import Clock, HostClock
from ecc.profiler.conditions import UNKNOWN, Conditions
from ecc.profiler.gauges.processes import Process, Processes, busy_others, shows_whole_host

__all__ = ["CpuGauge"]

_CHIPS = {"coretemp", "k10temp", "zenpower", "cpu_thermal", "fam15h_power"}
_THERMAL_ZONES = ("x86_pkg_temp", "cpu")
_BUSY = 0.2  # share of a core above which another process is foreign load …
_FEWEST_TICKS = 3  # … and at least that many ticks of its CPU time, which is counted in hundredths of a second
_SHORTEST_S = 0.1


@dataclass(frozen=True, slots=True)
class _Moment:
    """What was read at one instant."""

    time: float
    clocks_hz: tuple[float, ...]
    temperature_c: float | None
    throttles: int | None
    processes: dict[int, Process]


class CpuGauge:
    """Clocks of the cores that compute, package temperature, thermal throttling, load by other processes.

    Args:
        system: Where the kernel shows devices.
        proc: Where it shows processes.
        clock: Simulated in tests.
    """

    def __init__(self, system: Path = Path("/sys"), proc: Path = Path("/proc"), *, clock: Clock | None = None) -> None:
        self._system, self._proc, self._clock = system, proc, clock or HostClock()
        self._processes = Processes(proc)
        self._begun: _Moment | None = None

    def begin(self) -> None:
        """Read everything."""
        self._begun = self._moment()

    def end(self) -> Conditions:
        """Read everything again."""
        before, self._begun = self._begun, None
        if before is None:
            return UNKNOWN
        after = self._moment()
        clocks = before.clocks_hz + after.clocks_hz
        cold, warm = before.temperature_c, after.temperature_c
        return Conditions(
            clock_hz=float(np.median(clocks)) if clocks else None,
            clock_low_hz=min(clocks, default=None),
            temperature_c=warm,
            temperature_rise_c=None if cold is None or warm is None else warm - cold,
            throttled=_throttled(before.throttles, after.throttles),
            foreign=self._foreign(before, after),
        )

    def _moment(self) -> _Moment:
        return _Moment(
            self._clock.now(),
            tuple(self._clocks_hz()),
            self._temperature_c(),
            self._throttles(),
            self._processes.now(),
        )

    def _foreign(self, before: _Moment, after: _Moment) -> int | None:
        """Other processes on our cores; None where the time is too short to tell, or where we might not see them."""
        seconds = after.time - before.time
        if seconds < _SHORTEST_S or not after.processes:
            return None
        ticks = max(_FEWEST_TICKS, _BUSY * seconds * os.sysconf("SC_CLK_TCK"))
        count = busy_others(before.processes, after.processes, ticks, _allowed(), os.getpid())
        return count if count or shows_whole_host(self._proc) else None

    def _clocks_hz(self) -> list[float]:
        """Clocks of the cores that this process is pinned to; of the one that it is on where it is not."""
        cores = _allowed()
        if len(cores) == os.cpu_count():
            cores = self._current() or cores
        files = [self._system / f"devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq" for core in sorted(cores)]
        clocks = [value * 1e3 for value in map(_number, files) if value is not None]
        return clocks or self._listed_hz(cores)

    def _listed_hz(self, cores: Iterable[int]) -> list[float]:
        """The same from the list of processors; x86 only."""
        clocks, core, wanted = [], -1, set(cores)
        for line in _lines(self._proc / "cpuinfo"):
            name, _, value = line.partition(":")
            if name.strip() == "processor":
                core = int(value)
            elif name.strip() == "cpu MHz" and core in wanted:
                clocks.append(float(value) * 1e6)
        return clocks

    def _current(self) -> set[int]:
        try:
            return {Process.parse((self._proc / "self" / "stat").read_text()).core}
        except (OSError, ValueError, IndexError):
            return set()

    def _temperature_c(self) -> float | None:
        """The hottest sensor of the CPU."""
        found = []
        for folder in self._system.glob("class/hwmon/hwmon*"):
            if _line_of(folder / "name") in _CHIPS:
                found += [value for value in map(_number, folder.glob("temp*_input")) if value is not None]
        if not found:
            for folder in self._system.glob("class/thermal/thermal_zone*"):
                if _line_of(folder / "type").startswith(_THERMAL_ZONES):
                    found += [value for value in [_number(folder / "temp")] if value is not None]
        return max(found) * 1e-3 if found else None

    def _throttles(self) -> int | None:
        """How often our cores were throttled so far because of heat."""
        files = [
            self._system / f"devices/system/cpu/cpu{core}/thermal_throttle/{scope}_throttle_count"
            for core in sorted(_allowed())
            for scope in ("core", "package")
        ]
        counts = [value for value in map(_number, files) if value is not None]
        return int(sum(counts)) if counts else None


def _allowed() -> set[int]:
    try:
        return set(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # Linux only
        return set(range(os.cpu_count() or 1))


def _throttled(before: int | None, after: int | None) -> tuple[str, ...] | None:
    if before is None or after is None:
        return None
    return ("thermal",) if after > before else ()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _line_of(path: Path) -> str:
    return next(iter(_lines(path)), "").strip()


def _number(path: Path) -> float | None:
    try:
        return float(_line_of(path))
    except ValueError:
        return None
