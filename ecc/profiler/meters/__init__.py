"""What a device spent between two instants, one sensor a file."""

from __future__ import annotations

import torch

from ecc.core.errors import InputError
from ecc.core.meter import Meter
from ecc.profiler.meters.latency import CpuLatency, CudaLatency
from ecc.profiler.meters.nvml import NvmlMeter
from ecc.profiler.meters.rapl import RaplMeter

__all__ = ["METRICS", "meter_for"]

METRICS: tuple[str, ...] = ("latency", "energy")
"""The metrics that meters can measure."""


def meter_for(metric: str, device: str = "cpu") -> Meter:
    """The meter of a metric on a torch device; ``probe`` says whether it answers.

    Raises:
        InputError: If the metric is not measured.
    """
    if metric not in METRICS:
        raise InputError(f"metric {metric!r} is not measured; choose from {', '.join(METRICS)}")
    on_gpu = torch.device(device).type == "cuda"
    if metric == "latency":
        return CudaLatency(device) if on_gpu else CpuLatency()
    return NvmlMeter.of(device) if on_gpu else RaplMeter()
