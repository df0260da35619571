"""Schedules of the step size: by name as a factor of the step, or torch's own made by the user."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["SCHEDULES", "ScheduleFactory", "Shape"]

_CYCLE_RISE = 0.3  # torch's OneCycleLR: share of the steps that rise, and where it begins and ends
_CYCLE_START = 1 / 25
_CYCLE_END = 1 / 25 / 1e4


@dataclass(frozen=True, slots=True)
class ScheduleFactory:
    """A schedule of the user's own.

    Attributes:
        name: Identifies the schedule and its settings: a checkpoint of another name is not resumed.
        make: Optimiser → torch's scheduler. ``ReduceLROnPlateau`` is told the validation score (``mode="max"``).
        every: Whether the scheduler advances after each ``step`` of the optimiser or after each ``epoch``.
    """

    name: str
    make: Callable[[Optimizer], LRScheduler]
    every: Literal["step", "epoch"] = "epoch"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a named schedule depends on besides the step.

    Attributes:
        warm: Steps over which the step size rises; may be fractional.
        total: Steps of the whole run.
        step_at: Shares of the run at which ``step`` falls.
        step_factor: By how much ``step`` falls.
    """

    warm: float
    total: int
    step_at: tuple[float, ...]
    step_factor: float

    def rise(self, step: int) -> float:
        """The linear warm-up, in (0, 1]."""
        return min(1.0, (step + 1) / self.warm) if self.warm > 0 else 1.0

    def done(self, step: int) -> float:
        """Share of the steps behind the warm-up that are over, in [0, 1]."""
        return min(1.0, max(0.0, step - self.warm) / max(1.0, self.total - self.warm))


def _constant(step: int, shape: Shape) -> float:
    return shape.rise(step)


def _cosine(step: int, shape: Shape) -> float:
    return shape.rise(step) * 0.5 * (1 + math.cos(math.pi * shape.done(step)))


def _linear(step: int, shape: Shape) -> float:
    return shape.rise(step) * (1 - shape.done(step))


def _step(step: int, shape: Shape) -> float:
    falls = sum(step >= share * shape.total for share in shape.step_at)
    return float(shape.rise(step) * shape.step_factor**falls)


def _one_cycle(step: int, shape: Shape) -> float:
    """Cosines from 1/25 up to 1 at the end of the warm-up, then down to 1/250000 (Smith, Topin 2018)."""
    last = shape.total - 1.0
    peak = shape.warm - 1 if shape.warm > 0 else _CYCLE_RISE * shape.total - 1
    if step <= peak:
        return _between(_CYCLE_START, 1.0, step / peak if peak > 0 else 1.0)
    return _between(1.0, _CYCLE_END, min(1.0, (step - peak) / (last - peak) if last > peak else 1.0))


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from start to end."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


SCHEDULES: Mapping[str, Callable[[int, Shape], float]] = MappingProxyType(
    {"cosine": _cosine, "constant": _constant, "linear": _linear, "step": _step, "one-cycle": _one_cycle}
)
"""Name → (step from 0, shape) → factor of the step size."""
