"""Costs: a metric of one inference as a function of the widths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.interactions import Interactions
from ecc.core.table import Provenance
from ecc.core.widths import Widths, WidthSpace

__all__ = ["METRICS", "NORMALISED", "CostModel", "Decomposable", "as_vector", "units_of"]

METRICS: Mapping[str, str] = {
    "latency": "s",
    "energy": "J",
    "macs": "MAC",
    "params": "parameters",
    "memory": "B",
}
"""The metrics that a budget can be set on, and their units."""

NORMALISED = ("e_RF", "e_MAC")
"""Units of energy of analytic models that know no joules: an access to a register file, a multiply-accumulate."""


def units_of(metric: str) -> tuple[str, ...]:
    """The units that a metric may be in, the one that it is measured in first."""
    return (METRICS[metric], *(NORMALISED if metric == "energy" else ()))


def as_vector(space: WidthSpace, widths: Widths | Tensor) -> Tensor:
    """Widths (a checked mapping, or a tensor of shape (…, n_groups) taken as it is) as a float64 tensor.

    Raises:
        InputError: If the mapping is no widths of these groups, or the last axis of the tensor has another length.
    """
    if isinstance(widths, Tensor):
        if not widths.ndim or widths.shape[-1] != len(space):
            raise InputError(
                f"widths have shape {tuple(widths.shape)}, and the network has {len(space)} groups; give a tensor of "
                f"shape (…, {len(space)}), or a mapping from names of groups"
            )
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
        """The metric at dense widths, in ``unit``."""

    @property
    def unit(self) -> str:
        """Of all values; that of METRICS, but for analytic models that know no joules."""

    @property
    def exact(self) -> bool:
        """Whether the values are certain by definition, as counts and analytic models are, and nothing is measured."""

    @property
    def source(self) -> str:
        """The analytic model of an accelerator that values are of; empty for counts and for what was measured."""

    @property
    def provenance(self) -> Provenance | None:
        """What was measured to make the model; None for a count that needs no device."""

    def __call__(self, widths: Widths | Tensor) -> Tensor:
        """The metric at widths (a mapping, or channels of shape (…, n_groups)): shape (…)."""

    def interval(self, widths: Widths | Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Prediction interval (low, high) at that level, each of shape (…)."""

    def save(self, path: str | Path) -> None:
        """Write the model as JSON."""


@runtime_checkable
class Decomposable(Protocol):
    """A cost that is a sum of functions of few groups each, which makes the best widths under it computable."""

    @property
    def interactions(self) -> Interactions:
        """Sets of positions in ``space``: the cost is exactly a sum of functions of one set each, and a constant."""
