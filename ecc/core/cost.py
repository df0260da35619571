"""Costs: a metric of one inference as a function of the widths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ecc.core.table import Provenance
from ecc.core.widths import Widths, WidthSpace

__all__ = ["METRICS", "CostModel", "as_vector"]

METRICS: Mapping[str, str] = {
    "latency": "s",
    "energy": "J",
    "macs": "MAC",
    "params": "parameters",
    "memory": "B",
}
"""The metrics that a budget can be set on, and their units."""


def as_vector(space: WidthSpace, widths: Widths | Tensor) -> Tensor:
    """Widths (a checked mapping, or a tensor of shape (…, n_groups) taken as it is) as a float64 tensor."""
    if isinstance(widths, Tensor):
        return widths.to(torch.float64)
    return torch.from_numpy(space.vector(widths)).to(torch.float64)


class CostModel(Protocol):
    """A metric of one inference as a function of the widths; differentiable."""

    @property
    def metric(self) -> str:
        """A key of METRICS."""

    @property
    def space(self) -> WidthSpace:
        """The groups, in the order of width vectors."""

    @property
    def dense(self) -> float:
        """The metric at dense widths, in its unit of METRICS."""

    @property
    def provenance(self) -> Provenance | None:
        """What was measured to make the model; None for a count that needs no device."""

    def __call__(self, widths: Widths | Tensor) -> Tensor:
        """The metric at widths (a mapping, or channels of shape (…, n_groups)): shape (…)."""

    def interval(self, widths: Widths | Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Prediction interval (low, high) at that level, each of shape (…)."""

    def save(self, path: str | Path) -> None:
        """Write the model as JSON."""
