"""Cores: which of them measure, how the process is kept on them, and what else runs there."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from ecc.core.errors import InputError

__all__ = ["Load", "boost_state", "choose_cores", "free_to_measure_on", "physical_cores", "pinned", "smt_state"]

_TREE = Path("/sys/devices/system/cpu")
_STAT = Path("/proc/stat")
_TASKS = Path("/proc/self/task")
_MORE: ContextVar[frozenset[int]] = ContextVar("cores to measure on", default=frozenset())
_BUSY = (1, 2, 3, 6, 7)  # user, nice, system, irq, softirq of a line of /proc/stat


def choose_cores(threads: int, wanted: Sequence[int] = (), *, tree: Path = _TREE) -> tuple[int, ...]:
    """The cores to measure on: those wanted, or one hardware thread of each of the first ``threads`` physical cores.

    Args:
        threads: Intra-op threads, each of which needs a core.
        wanted: Numbers of cores; empty to choose.
        tree: The kernel's folder of cores.
    Returns:
        Sorted numbers; empty where the system cannot keep a process on cores.
    Raises:
        InputError: If a wanted core is not there, not allowed or named twice, or there are fewer of them than threads.
    """
    allowed = _allowed()
    if not wanted:
        physical = _physical(allowed, tree)
        siblings = [core for core in allowed if core not in physical]
        return tuple(sorted([*physical, *siblings][:threads]))
    if not allowed:
        raise InputError("processes cannot be kept on cores on this system; leave the cores out")
    if len(set(wanted)) < len(wanted):
        raise InputError(f"name each core once, got {','.join(map(str, wanted))}")
    missing = sorted(set(wanted) - set(allowed))
    if missing:
        raise InputError(f"core {missing[0]} is not among the cores of this process: {_listed(allowed)}")
    if len(set(wanted)) < threads:
        raise InputError(f"{threads} threads need as many cores, got {_listed(sorted(set(wanted)))}")
    return tuple(sorted(set(wanted)))


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Keep all threads of this process on these cores while the body runs; nothing happens without cores."""
    if sys.platform != "linux" or not cores:
        yield
        return
    outside = os.sched_getaffinity(0)
    before = {}
    for task in _tasks():
        with suppress(OSError):  # a thread may end at any time
            before[task] = os.sched_getaffinity(task)
            os.sched_setaffinity(task, cores)
    try:
        yield
    finally:
        for task in _tasks():
            with suppress(OSError):
                os.sched_setaffinity(task, before.get(task, outside))


def smt_state(tree: Path = _TREE) -> str:
    """Whether cores have two hardware threads each: ``on``, ``off`` or ``unknown``."""
    return {"1": "on", "0": "off"}.get(_text(tree / "smt/active"), "unknown")


def boost_state(tree: Path = _TREE) -> str:
    """Whether clocks may rise above the nominal one: ``on``, ``off`` or ``unknown``."""
    if forbidden := _text(tree / "intel_pstate/no_turbo"):
        return {"0": "on", "1": "off"}.get(forbidden, "unknown")
    return {"1": "on", "0": "off"}.get(_text(tree / "cpufreq/boost"), "unknown")


@dataclass(frozen=True, slots=True)
class Load:
    """What some cores have done until an instant.

    Attributes:
        at: Monotonic seconds.
        busy_s: Time that they were busy, summed over them; None where it is not told.
        own_s: CPU time of this process.
        cores: How many they are.
    """

    at: float
    busy_s: float | None
    own_s: float
    cores: int

    @classmethod
    def now(cls, cores: Sequence[int], *, stat: Path = _STAT) -> Load:
        """Read the counters of these cores."""
        return cls(time.monotonic(), _busy_s(cores, stat), time.process_time(), len(cores))

    def foreign_share(self, earlier: Load) -> float | None:
        """Share of the cores' time since ``earlier`` that others took; None where unknown or within half a second."""
        seconds = self.at - earlier.at
        if self.busy_s is None or earlier.busy_s is None or seconds < 0.5:
            return None
        others = (self.busy_s - earlier.busy_s) - (self.own_s - earlier.own_s)
        return max(0.0, others / (seconds * self.cores))


def physical_cores(*, tree: Path = _TREE) -> int:
    """How many physical cores this process may use, at least 1; all that there are where the system does not tell."""
    return max(1, len(_physical(_allowed(), tree)) if sys.platform == "linux" else os.cpu_count() or 1)


@contextmanager
def free_to_measure_on(cores: Iterable[int]) -> Iterator[None]:
    """Within, measurements may use these cores beside those that this process is kept on for its other work."""
    token = _MORE.set(frozenset(cores))
    try:
        yield
    finally:
        _MORE.reset(token)


def _allowed() -> list[int]:
    return sorted(os.sched_getaffinity(0) | _MORE.get()) if sys.platform == "linux" else []


def _physical(cores: Sequence[int], tree: Path) -> list[int]:
    """The first hardware thread of each core."""
    seen: set[str] = set()
    first = []
    for core in cores:
        siblings = _text(tree / f"cpu{core}/topology/thread_siblings_list") or str(core)
        if siblings not in seen:
            seen.add(siblings)
            first.append(core)
    return first


def _busy_s(cores: Sequence[int], stat: Path) -> float | None:
    wanted = {f"cpu{core}" for core in cores}
    try:
        lines = [line.split() for line in stat.read_text().splitlines()]
        found = [sum(int(fields[i]) for i in _BUSY) for fields in lines if fields and fields[0] in wanted]
        return sum(found) / os.sysconf("SC_CLK_TCK") if wanted and len(found) == len(wanted) else None
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _tasks() -> list[int]:
    try:
        return [int(entry.name) for entry in _TASKS.iterdir()]
    except OSError:
        return [0]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _listed(cores: Sequence[int]) -> str:
    return ",".join(map(str, cores))
