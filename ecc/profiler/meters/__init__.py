"""What a device spent between two instants, one sensor a file."""

from __future__ import annotations

import torch

from ecc.core.errors import InputError
from ecc.core.meter import Meter, Probe
from ecc.profiler.meters.latency import CpuLatency, CudaLatency
from ecc.profiler.meters.load import keep_busy
from ecc.profiler.meters.nvml import ENERGY_SOURCES, NvmlMeter
from ecc.profiler.meters.rapl import RaplMeter

__all__ = ["ENERGY_SOURCES", "METRICS", "checked", "meter_for"]

METRICS: tuple[str, ...] = ("latency", "energy")
"""The metrics that meters can measure."""


def meter_for(metric: str, device: str = "cpu", *, source: str = "auto") -> Meter:
    """The meter of a metric on a torch device; ``probe`` says whether it answers.

    Args:
        source: Of energy, one of ENERGY_SOURCES; a CPU has counters only.
    Raises:
        InputError: If the metric is not measured, or not from that source.
    """
    if metric not in METRICS:
        raise InputError(f"metric {metric!r} is not measured; choose from {', '.join(METRICS)}")
    if source not in ENERGY_SOURCES:
        raise InputError(f"energy source {source!r} is unknown; choose from {', '.join(ENERGY_SOURCES)}")
    on_gpu = torch.device(device).type == "cuda"
    if metric == "latency":
        return CudaLatency(device) if on_gpu else CpuLatency()
    if on_gpu:
        return NvmlMeter.of(device, source)
    if source == "power":
        raise InputError("a CPU has energy counters, no power sensor; choose the energy source auto or counter")
    return RaplMeter()


def checked(meter: Meter, device: str) -> Probe:
    """What ``probe`` says after the meter's slow checks, of half a minute, where it has such."""
    if isinstance(meter, NvmlMeter):
        return meter.check(keep_busy(device))
    if isinstance(meter, RaplMeter):
        return meter.check()
    return meter.probe()
