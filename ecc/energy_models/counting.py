"""Counts: MACs, parameters and bytes of memory as exact functions of the widths, each a cost model."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ecc.core.cost import METRICS, as_vector
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.interactions import Interactions, product_interactions, summands
from ecc.core.layers import Layer, Side, SumOfProducts
from ecc.core.memory import Activation, Peak
from ecc.core.widths import Widths, WidthSpace
from ecc.energy_models.cost_files import as_side, metric_of, objects, refuse_large, space_of, write_cost
from ecc.network.graph import TensorAxes, WidthGraph

__all__ = ["COUNTED", "CountCost", "Countable"]

COUNTED = ("macs", "params", "memory")
"""The metrics that are counted instead of measured."""

_MOST_AXES = 64
_MOST_BYTES = 1 << 62


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

    @property
    def buffers(self) -> Mapping[str, TensorAxes]:
        """Shape and sides of every buffer."""

    @property
    def activations(self) -> tuple[Activation, ...]:
        """What a forward keeps in memory meanwhile."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """What a saved count holds of a graph."""

    space: WidthSpace
    layers: tuple[Layer, ...]
    parameters: Mapping[str, TensorAxes]
    buffers: Mapping[str, TensorAxes]
    activations: tuple[Activation, ...]


@dataclass(frozen=True, eq=False)
class CountCost:
    """The multiply-accumulates, parameters or bytes of memory of a network; exact, needs no device.

    Memory is that of parameters and buffers and, at the peak, of inputs, outputs and what lies between, each from the
    operator that makes it to the last one that needs it, for the batch that was traced. Its gradient is that of the
    instant of the peak, evenly of several instants alike: a subgradient where one takes over from another.

    Attributes:
        metric: ``macs``, ``params`` or ``memory``.
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
    def exact(self) -> bool:
        """True: a count is certain."""
        return True

    @property
    def source(self) -> str:
        """Empty: a count is of the network and of no accelerator."""
        return ""

    @property
    def provenance(self) -> None:
        """Nothing was measured."""
        return None

    @property
    def dense(self) -> float:
        """The count at dense widths."""
        return float(self({}))

    @cached_property
    def _held(self) -> Mapping[str, TensorAxes]:
        """The tensors that count whatever is run."""
        if self.metric == "macs":
            return {}
        return {**self.graph.parameters, **(self.graph.buffers if self.metric == "memory" else {})}

    @cached_property
    def _activations(self) -> tuple[Activation, ...]:
        return self.graph.activations if self.metric == "memory" else ()

    @cached_property
    def _products(self) -> tuple[SumOfProducts, Tensor]:
        """The products that are counted, the activations behind the others, and the dense count of each."""
        products = self._counted
        sides, counts = [sides for sides, _ in products], [float(count) for _, count in products]
        return SumOfProducts(self.space, sides), torch.tensor(counts, dtype=torch.float64)

    @cached_property
    def _counted(self) -> list[tuple[Sequence[Side], int]]:
        """The sides of each product and its dense count."""
        products: list[tuple[Sequence[Side], int]]
        products = [(axes.sides, math.prod(axes.shape) * self._each(axes)) for axes in self._held.values()]
        if self.metric == "macs":
            products = [((layer.reads, layer.writes), layer.macs) for layer in self.graph.layers if layer.macs]
        return products + [(each.sides, each.nbytes) for each in self._activations]

    def _each(self, axes: TensorAxes) -> int:
        """What an element counts."""
        return axes.itemsize if self.metric == "memory" else 1

    @cached_property
    def _peak(self) -> Peak:
        return Peak(self._activations)

    def __call__(self, widths: Widths | Tensor) -> Tensor:
        """The count at widths (a mapping, or channels of shape (…, n_groups)): shape (…), float64, differentiable."""
        products, counts = self._products
        found = products(as_vector(self.space, widths)) * counts
        rest = len(counts) - len(self._activations)
        total: Tensor = found[..., :rest].sum(-1)
        if self._activations:
            total = total + self._peak(found[..., rest:])
        return total if isinstance(widths, Tensor) else total.round()  # a count is whole where the widths are

    def without(self, graph: WidthGraph, blocks: Collection[str]) -> CountCost:
        """The count of the network without some residual blocks, exactly; groups that go with them play no part.

        Args:
            graph: Of the network with them.
            blocks: Names of removable blocks.
        """
        left = graph.without(blocks)
        return CountCost(
            self.metric, _Counted(self.space, left.layers, left.parameters, left.buffers, left.activations)
        )

    @property
    def interactions(self) -> Interactions:
        """Groups that share a product; of memory, whose peak may be anywhere, all groups together."""
        if self._activations:
            return (tuple(range(len(self.space))),)
        return product_interactions(self.space, ([summands(side) for side in sides] for sides, _ in self._counted))

    def interval(self, widths: Widths | Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """(value, value): a count is certain."""
        value = self(widths)
        return value, value

    def save(self, path: str | Path) -> None:
        """Write the count as JSON."""
        layers = self.graph.layers if self.metric == "macs" else ()
        document: dict[str, Any] = {
            "metric": self.metric,
            "unit": self.unit,
            "space": self.space.to_json(),
            "layers": [layer.to_json() for layer in layers if layer.macs],
            "parameters": [
                {
                    "name": name,
                    "shape": list(axes.shape),
                    "sides": [side.to_json() for side in axes.sides],
                    "itemsize": self._each(axes),
                }
                for name, axes in self._held.items()
            ],
        }
        if self.metric == "memory":
            document["activations"] = [
                {
                    "bytes": each.nbytes,
                    "sides": [side.to_json() for side in each.sides],
                    "first": each.first + 1,  # from 1, and 0 for an input of the network
                    "last": each.last + 1,
                }
                for each in self._activations
            ]
        write_cost(path, "count", document)

    @classmethod
    def from_fields(cls, fields: Fields) -> CountCost:
        """Read what ``save`` wrote, without trusting it."""
        metric, space = metric_of(fields, COUNTED), space_of(fields)
        layers = tuple(_layer(each, space) for each in objects(fields, "layers"))
        parameters = dict(_parameter(each, space) for each in objects(fields, "parameters"))
        given = objects(fields, "activations") if metric == "memory" else []
        activations = tuple(_activation(each, space) for each in given)
        tensors = [axes.sides for axes in parameters.values()]
        refuse_large([(layer.reads, layer.writes) for layer in layers] + tensors + [each.sides for each in activations])
        return cls(metric, _Counted(space, layers, parameters, {}, activations))


def _layer(fields: Fields, space: WidthSpace) -> Layer:
    reads, writes = (as_side(fields.items(name), space, foreign=True) for name in ("reads", "writes"))
    sizes = (fields.whole(name) if name in fields else 0 for name in ("channels_in", "channels_out"))
    return Layer(fields.text("name"), fields.text("kind"), reads, writes, fields.whole("macs"), *sizes)


def _parameter(fields: Fields, space: WidthSpace) -> tuple[str, TensorAxes]:
    shape = fields.wholes("shape")
    sides = tuple(as_side(value, space, foreign=True) for value in fields.items("sides"))
    itemsize = fields.whole("itemsize", 1) if "itemsize" in fields else 1
    if len(shape) != len(sides) or len(shape) > _MOST_AXES or math.prod((*shape, itemsize)) > _MOST_BYTES:
        raise InputError(
            f"cost model: parameter {fields.text('name')!r} must have one side per axis and a possible size"
        )
    return fields.text("name"), TensorAxes(shape, sides, itemsize)


def _activation(fields: Fields, space: WidthSpace) -> Activation:
    sides = tuple(as_side(value, space, foreign=True) for value in fields.items("sides"))
    nbytes, first, last = fields.whole("bytes", 1), fields.whole("first"), fields.whole("last")
    if len(sides) > _MOST_AXES or nbytes > _MOST_BYTES or last < first:
        raise InputError("cost model: an activation must have a possible size, and end no earlier than it begins")
    return Activation(nbytes, sides, (first - 1, last - 1))
