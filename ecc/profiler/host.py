"""The host while it measures: kept quiet, and asked what disturbed it."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ecc.profiler.cores import pinned

try:
    import resource
except ImportError:  # Windows has no getrusage; the counter is then unavailable
    resource = None  # type: ignore[assignment]

__all__ = ["Disturbance", "quiet", "signal_stack_kept"]


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>
_LARGEST_MMAP_THRESHOLD = 32 << 20  # where glibc's own adaptation ends


@contextmanager
def quiet(threads: int, cores: Sequence[int] = ()) -> Iterator[None]:
    """Run the body with that many intra-op threads on these cores, without garbage collection, on a heap that stays.

    What lives already is frozen, so that the body can collect its own garbage between measurements at little cost. The
    heap matters because networks take turns: each would find the pages that it needs just given back by the other, and
    the page faults, not the network, would be timed (they doubled the scatter of ratios and the time of some networks).
    """
    before, collecting = torch.get_num_threads(), gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    torch.set_num_threads(threads)
    _keep_heap(1 << 30)
    try:
        with pinned(cores):
            yield
    finally:
        torch.set_num_threads(before)
        _keep_heap(2 * _LARGEST_MMAP_THRESHOLD)
        gc.unfreeze()
        if collecting:
            gc.enable()


def _keep_heap(free_bytes: int) -> None:
    """Let glibc keep that much free memory at the top of its heap; nothing happens with another C library."""
    try:
        library = ctypes.CDLL(None)
        mallopt, malloc_trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    mallopt(_M_TOP_PAD, free_bytes // 16)
    mallopt(_M_TRIM_THRESHOLD, free_bytes)
    malloc_trim(free_bytes)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Counters of the host at one instant; ``since`` gives what was added.

    Attributes:
        cpu_s: CPU time of this process.
        steal_s: Time that the hypervisor gave to others, summed over cores; None where it is not told.
        switches: Involuntary context switches of this process; None where they are not counted.
    """

    cpu_s: float
    steal_s: float | None
    switches: int | None

    @classmethod
    def now(cls) -> Disturbance:
        """Read the counters."""
        switches = None if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        return cls(time.process_time(), _steal_s(Path("/proc/stat")), switches)

    def since(self, earlier: Disturbance) -> Disturbance:
        """What was added since ``earlier``."""
        steal = None if self.steal_s is None or earlier.steal_s is None else self.steal_s - earlier.steal_s
        switches = None if self.switches is None or earlier.switches is None else self.switches - earlier.switches
        return Disturbance(self.cpu_s - earlier.cpu_s, steal, switches)


def _steal_s(path: Path) -> float | None:
    """Stolen time of all cores, the eighth figure of the first line of /proc/stat; None where there is none."""
    try:
        with path.open() as lines:
            fields = lines.readline().split()
        return int(fields[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


class _SignalStack(ctypes.Structure):
    """``stack_t`` of <signal.h>."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_NO_SIGNAL_STACK = 2  # SS_DISABLE: handlers run on the stack of the thread


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give the handlers of signals in this thread back the stack that they had before the body.

    OpenVINO puts one of its own in place once it has switched on the matrix unit (AMX) of a CPU, and frees it with its
    networks; the next Ctrl-C would then end in a segmentation fault.
    """
    try:
        exchange = ctypes.CDLL(None).sigaltstack
    except (OSError, AttributeError, TypeError):  # no such thing outside of Unix
        yield
        return
    before = _SignalStack()
    known = exchange(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if not known or exchange(ctypes.byref(before), None) != 0:
            exchange(ctypes.byref(_SignalStack(None, _NO_SIGNAL_STACK, 0)), None)
