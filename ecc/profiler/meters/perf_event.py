"""RAPL counters by the kernel's perf_event interface, where powercap is hidden: of 64 bits, so they never wrap."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import struct
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from ecc.core.errors import MeterError, MeterReset

__all__ = ["EVENTS", "EnergyEvent", "Kernel", "PerfEvents", "find_events"]

EVENTS = Path("/sys/bus/event_source/devices/power")
"""Where Linux describes the energy events."""

_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
_DOMAINS: Mapping[str, str] = {"energy-pkg": "package", "energy-ram": "dram"}  # energy-psys overlaps with both
_SYSCALLS: Mapping[str, int] = {
    "x86_64": 298,
    "AMD64": 298,
    "i386": 336,
    "i686": 336,
    "aarch64": 241,
    "riscv64": 241,
    "ppc64le": 319,
    "s390x": 331,
}
_ATTRIBUTES = struct.Struct("=IIQQQQQIIQ")  # perf_event_attr, first version: type, size, config, seven that stay 0
_CLOSE_ON_EXEC = 8


class PerfEvents(Protocol):
    """Counters of the kernel."""

    def open(self, kind: int, config: int, cpu: int) -> int:
        """Descriptor of a new counter of one CPU; raises OSError."""

    def read(self, descriptor: int) -> int:
        """Its count since it was opened; raises OSError."""

    def close(self, descriptor: int) -> None:
        """Give it back."""


class Kernel:
    """The system call, by ctypes.

    Args:
        syscall: Stands in for the C library's.
    """

    def __init__(self, syscall: Callable[..., int] | None = None) -> None:
        self._syscall = syscall

    def open(self, kind: int, config: int, cpu: int) -> int:
        """Descriptor of a new counter of one CPU, of all processes.

        Raises:
            OSError: If the kernel refuses.
        """
        number = _SYSCALLS.get(platform.machine())
        if number is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        call = self._syscall or ctypes.CDLL(None, use_errno=True).syscall
        attributes = ctypes.create_string_buffer(_ATTRIBUTES.pack(kind, _ATTRIBUTES.size, config, *[0] * 7))
        everyone, no_group = ctypes.c_int(-1), ctypes.c_int(-1)
        flags = ctypes.c_ulong(_CLOSE_ON_EXEC)
        descriptor = call(ctypes.c_long(number), attributes, everyone, ctypes.c_int(cpu), no_group, flags)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return int(descriptor)

    def read(self, descriptor: int) -> int:
        """Its count since it was opened."""
        return int(struct.unpack("=Q", os.read(descriptor, 8))[0])

    def close(self, descriptor: int) -> None:
        """Give it back."""
        os.close(descriptor)


class EnergyEvent:
    """One open counter.

    Attributes:
        name: ``package-0``.
        domain: ``package`` or ``dram``.
        wrap_s: Infinite.

    Raises:
        OSError: If the kernel refuses.
    """

    wrap_s = float("inf")

    def __init__(
        self, name: str, domain: str, events: PerfEvents, kind: int, config: int, cpu: int, scale_j: float
    ) -> None:
        self.name, self.domain = name, domain
        self._events, self._scale_j = events, scale_j
        self._descriptor = events.open(kind, config, cpu)
        weakref.finalize(self, events.close, self._descriptor)

    def read(self) -> int:
        """Counts of the kernel's unit.

        Raises:
            MeterError: If it cannot be read.
        """
        try:
            return self._events.read(self._descriptor)
        except (OSError, struct.error) as error:
            raise MeterError(
                f"the perf event of {self.name} cannot be read ({error}); measure latency instead"
            ) from error

    def spent_j(self, before: int, after: int) -> float:
        """Joules between two readings.

        Raises:
            MeterReset: If it went back.
        """
        if after < before:
            raise MeterReset(f"the perf event of {self.name} went back in mid-window; measure again")
        return (after - before) * self._scale_j


def find_events(folder: Path = EVENTS, events: PerfEvents | None = None) -> tuple[EnergyEvent, ...]:
    """The package and DRAM counters of every package, opened and read once; none where the kernel has no such events.

    Raises:
        MeterError: If the kernel has them and does not let us; says how to mend it.
    """
    found = []
    try:
        kind = int((folder / "type").read_text())
        cpus = _cpus((folder / "cpumask").read_text())
        described = {event: _described(folder / "events", event) for event in _DOMAINS}
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise MeterError(f"{folder} cannot be understood ({error}); measure latency instead") from error
    for event, description in described.items():
        if description is None:
            continue
        config, scale_j = description
        for package, cpu in enumerate(cpus):
            domain = _DOMAINS[event]
            try:
                counter = EnergyEvent(f"{domain}-{package}", domain, events or Kernel(), kind, config, cpu, scale_j)
            except OSError as error:
                raise MeterError(_refusal(event, error)) from error
            counter.read()
            found.append(counter)
    return tuple(found) if any(counter.domain == "package" for counter in found) else ()


def _described(folder: Path, event: str) -> tuple[int, float] | None:
    """Configuration and joules per count of an event; None where the kernel does not have it."""
    try:
        text = (folder / event).read_text()
    except FileNotFoundError:
        return None
    number = re.fullmatch(r"event=(0x[0-9a-fA-F]+|\d+)", text.strip())
    unit, scale_j = (folder / f"{event}.unit").read_text().strip(), float((folder / f"{event}.scale").read_text())
    if number is None or unit != "Joules" or not scale_j > 0:
        raise ValueError(f"{event} is {text.strip()[:40]!r} in units of {scale_j:g} {unit[:20]}")
    return int(number[1], 0), scale_j


def _cpus(text: str) -> list[int]:
    """The kernel's list of CPUs, ``0,18`` or ``0-1``: one per package here."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


def _refusal(event: str, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        try:
            level = f" (kernel.perf_event_paranoid is {_PARANOID.read_text().strip()})"
        except OSError:
            level = ""
        return (
            f"the kernel does not allow the perf event {event}{level}; allow it with "
            "`sudo sysctl kernel.perf_event_paranoid=0`, give python CAP_PERFMON, or run as root (in a container: on "
            "the host)"
        )
    return f"the kernel does not open the perf event {event} ({error.strerror}); measure latency instead"
