"""Latency: wall time of a window, by the clock of the device that does the work."""

from __future__ import annotations

import time
from typing import Any

import torch

from ecc.core.errors import MeterError
from ecc.core.meter import Probe, Reading

__all__ = ["CpuLatency", "CudaLatency"]


class CpuLatency:
    """The monotonic clock of the host.

    Attributes:
        metric: ``latency``.
        shortest_window_s: Half a millisecond: ten thousand times the clock's resolution and cost.
    """

    metric = "latency"
    shortest_window_s = 0.5e-3

    def __init__(self) -> None:
        self._start = 0

    def probe(self) -> Probe:
        """A monotonic clock is always there."""
        return Probe(True, "monotonic clock")

    def begin(self) -> None:
        """Read the clock."""
        self._start = time.perf_counter_ns()

    def end(self) -> Reading:
        """Seconds since ``begin``."""
        return Reading((time.perf_counter_ns() - self._start) * 1e-9)


class CudaLatency:
    """CUDA events: recorded on the stream, so that launches of one window overlap with its computation.

    Attributes:
        metric: ``latency``.
        shortest_window_s: Two milliseconds: four thousand times the events' resolution.
    """

    metric = "latency"
    shortest_window_s = 2e-3

    def __init__(self, device: str = "cuda") -> None:
        self._device = device
        self._events: tuple[Any, Any] | None = None

    def probe(self) -> Probe:
        """Whether a CUDA device is here."""
        if torch.cuda.is_available():
            return Probe(True, "CUDA events")
        return Probe(False, reason="no CUDA device is visible to PyTorch here; measure with --device cpu")

    def begin(self) -> None:
        """Wait for the device, then record the first event."""
        probe = self.probe()
        if not probe.available:
            raise MeterError(probe.reason)
        with torch.cuda.device(self._device):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            first.record()
        self._events = first, last

    def end(self) -> Reading:
        """Seconds between the two events."""
        if self._events is None:
            raise MeterError("CudaLatency.end() was called without begin()")
        first, last = self._events
        with torch.cuda.device(self._device):
            last.record()
            torch.cuda.synchronize()
        self._events = None
        return Reading(float(first.elapsed_time(last)) * 1e-3)
