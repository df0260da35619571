"""Ranges of activations: which power of two their bytes count in, from what they are on calibration data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ecc.stages.fixed_point.arithmetic import Range
from ecc.stages.fixed_point.quantising import steps_of

__all__ = ["CALIBRATIONS", "Observed"]

CALIBRATIONS = ("mse", "max", "percentile")
"""By least squared error, by the largest magnitude, or such that 99.99 % of the numbers fit."""

_SHARE = 0.9999
_SAMPLE = 1 << 14  # numbers of a tensor that are kept per batch
_FINER = 4  # powers of two below that of the largest magnitude that are tried


@dataclass(slots=True)
class Observed:
    """The numbers that one activation takes, as a sample, and its ends.

    Attributes:
        low: The smallest so far.
        high: The largest so far.
        sample: Spread evenly over each batch.
    """

    low: float = 0.0
    high: float = 0.0
    sample: list[Tensor] = field(default_factory=list)

    def add(self, values: Tensor) -> None:
        """Take in one batch; what is not finite is passed over."""
        flat = values.detach().reshape(-1).float()
        flat = flat[flat.isfinite()]
        if not flat.numel():
            return
        ends = flat.aminmax()
        self.low, self.high = min(self.low, float(ends.min)), max(self.high, float(ends.max))
        places = torch.linspace(0, flat.numel() - 1, min(_SAMPLE, flat.numel()), dtype=torch.float64).round().long()
        self.sample.append(flat[places])

    def range(self, calibration: str) -> Range:
        """The bytes that fit best.

        Args:
            calibration: One of CALIBRATIONS.
        """
        signed = self.low < 0
        most = 127 if signed else 255
        rows = torch.cat([torch.tensor([self.low, self.high]), *self.sample]).reshape(1, -1)
        fit = _SHARE if calibration == "percentile" else 1.0
        first = int(steps_of(rows, most, clip="max", power_of_two=True, fit=fit))
        if calibration != "mse":
            return Range(first, signed)
        tried = [Range(max(first - finer, -120), signed) for finer in range(_FINER)]
        return min(tried, key=lambda place: _error(rows, place))


def _error(rows: Tensor, place: Range) -> float:
    step = 2.0**place.exponent
    return float((((rows / step).round().clamp(place.low, place.high) * step - rows) ** 2).sum())
