"""Counts: MACs and parameters as exact functions of the widths, behind the protocol of a cost model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ecc.core.cost import METRICS, as_vector
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.layers import Layer, Side, SumOfProducts
from ecc.core.widths import Widths, WidthSpace
from ecc.energy_models.cost_files import as_side, metric_of, objects, refuse_large, space_of, write_cost
from ecc.network.graph import TensorAxes

__all__ = ["COUNTED", "CountCost", "Countable"]

COUNTED = ("macs", "params")
"""The metrics that are counted instead of measured."""


class Countable(Protocol):
    """What can be counted; a WidthGraph is one."""

    @property
    def space(self) -> WidthSpace:
        """Admissible widths."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers with their MACs."""

    @property
    def parameters(self) -> Mapping[str, TensorAxes]:
        """Shape and sides of every parameter."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """What a saved count holds of a graph."""

    space: WidthSpace
    layers: tuple[Layer, ...]
    parameters: Mapping[str, TensorAxes]


@dataclass(frozen=True, eq=False)
class CountCost:
    """The number of multiply-accumulates or parameters of a network; exact, needs no device.

    Attributes:
        metric: ``macs`` or ``params``.
        graph: What is counted.
    """

    metric: str
    graph: Countable

    def __post_init__(self) -> None:
        if self.metric not in COUNTED:
            raise InputError(f"CountCost(metric=...) must be one of {', '.join(COUNTED)}, got {self.metric!r}")

    @property
    def space(self) -> WidthSpace:
        """The groups, in the order of width vectors."""
        return self.graph.space

    @property
    def unit(self) -> str:
        """Of the values."""
        return METRICS[self.metric]

    @property
    def provenance(self) -> None:
        """Nothing was measured."""
        return None

    @property
    def dense(self) -> float:
        """The count at dense widths."""
        return float(self({}))

    @cached_property
    def _products(self) -> tuple[SumOfProducts, Tensor]:
        """The products that are counted, and the dense count of each."""
        products: list[tuple[Sequence[Side], int]]
        if self.metric == "macs":
            products = [((layer.reads, layer.writes), layer.macs) for layer in self.graph.layers if layer.macs]
        else:
            products = [(axes.sides, math.prod(axes.shape)) for axes in self.graph.parameters.values()]
        sides, counts = [sides for sides, _ in products], [float(count) for _, count in products]
        return SumOfProducts(self.space, sides), torch.tensor(counts, dtype=torch.float64)

    def __call__(self, widths: Widths | Tensor) -> Tensor:
        """The count at widths (a mapping, or channels of shape (…, n_groups)): shape (…), float64, differentiable."""
        products, counts = self._products
        total: Tensor = products(as_vector(self.space, widths)) @ counts
        return total if isinstance(widths, Tensor) else total.round()  # a count is whole where the widths are

    def interval(self, widths: Widths | Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """(value, value): a count is certain."""
        value = self(widths)
        return value, value

    def save(self, path: str | Path) -> None:
        """Write the count as JSON."""
        layers = self.graph.layers if self.metric == "macs" else ()
        parameters = self.graph.parameters if self.metric == "params" else {}
        document = {
            "metric": self.metric,
            "unit": self.unit,
            "space": self.space.to_json(),
            "layers": [layer.to_json() for layer in layers if layer.macs],
            "parameters": [
                {"name": name, "shape": list(axes.shape), "sides": [side.to_json() for side in axes.sides]}
                for name, axes in parameters.items()
            ],
        }
        write_cost(path, "count", document)

    @classmethod
    def from_fields(cls, fields: Fields) -> CountCost:
        """Read what ``save`` wrote, without trusting it."""
        metric, space = metric_of(fields, COUNTED), space_of(fields)
        layers = tuple(_layer(each, space) for each in objects(fields, "layers"))
        parameters = dict(_parameter(each, space) for each in objects(fields, "parameters"))
        refuse_large([(layer.reads, layer.writes) for layer in layers] + [axes.sides for axes in parameters.values()])
        return cls(metric, _Counted(space, layers, parameters))


def _layer(fields: Fields, space: WidthSpace) -> Layer:
    reads, writes = (as_side(fields.items(name), space, foreign=True) for name in ("reads", "writes"))
    sizes = (fields.whole(name) if name in fields else 0 for name in ("channels_in", "channels_out"))
    return Layer(fields.text("name"), fields.text("kind"), reads, writes, fields.whole("macs"), *sizes)


def _parameter(fields: Fields, space: WidthSpace) -> tuple[str, TensorAxes]:
    shape = fields.wholes("shape")
    sides = tuple(as_side(value, space, foreign=True) for value in fields.items("sides"))
    if len(shape) != len(sides) or len(shape) > 8 or math.prod(shape) > 1 << 62:
        raise InputError(
            f"cost model: parameter {fields.text('name')!r} must have one side per axis and a possible size"
        )
    return fields.text("name"), TensorAxes(shape, sides)
