"""What state a device is in while something is measured on it, one kind of device a file."""

from __future__ import annotations

import torch

from ecc.profiler.conditions import Gauge
from ecc.profiler.gauges.cpu import CpuGauge
from ecc.profiler.gauges.nvml import NvmlGauge
from ecc.profiler.meters.board import Board

__all__ = ["gauge_for"]


def gauge_for(device: str = "cpu") -> Gauge:
    """The gauge of a torch device; what it cannot see is None in its Conditions."""
    if torch.device(device).type == "cuda":
        return NvmlGauge(lambda: Board.of(device))
    return CpuGauge()
