"""The cost of a network on a systolic array as a function of its widths: analytic, exact and differentiable.

Energy is that of ``systolic_energy`` with dense weights, latency that of the cycles of ``stream``. Both are of the
model of an accelerator, and never of a device that was measured: ``source`` names the array.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from dataclasses import fields as attributes
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ecc.core.cost import METRICS, as_vector
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.interactions import Interactions, joint_interactions
from ecc.core.markup import card
from ecc.core.widths import Widths, WidthSpace
from ecc.energy_models.cost_files import objects, refuse_large, space_of, write_cost
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.layer_parts import Energies, LayerPart, layer_parts
from ecc.energy_models.systolic.product_parts import Cycles, ProductPart, product_parts
from ecc.network.graph import WidthGraph, holder

__all__ = ["SYSTOLIC_METRICS", "SystolicCost", "SystolicMetric"]

SystolicMetric = Literal["energy", "latency"]

SYSTOLIC_METRICS: tuple[SystolicMetric, ...] = get_args(SystolicMetric)
"""What a systolic array can be asked for."""


@dataclass(frozen=True, eq=False)
class SystolicCost:
    """Energy or latency of one forward on a systolic array, for the batch that was traced; exact, needs no device.

    Attributes:
        metric: ``energy`` or ``latency``.
        array: The accelerator.
        space: The groups, in the order of width vectors.
        layers: What energy is the sum of; empty for latency.
        products: What latency is the sum of; empty for energy.
    """

    metric: SystolicMetric
    array: SystolicArray
    space: WidthSpace
    layers: tuple[LayerPart, ...] = ()
    products: tuple[ProductPart, ...] = ()

    def __post_init__(self) -> None:
        if self.metric not in SYSTOLIC_METRICS:
            raise InputError(f"SystolicCost(metric=...) must be energy or latency, got {self.metric!r:.80}")
        if not (self.layers if self.metric == "energy" else self.products):
            raise InputError(f"SystolicCost has nothing that takes {self.metric}")
        if self.metric == "latency" and self.array.frequency_hz is None:
            raise InputError(
                f"the frequency of the systolic array {self.array.name} is not known, so cycles are no seconds; "
                "give frequency_hz in a TOML file of your own"
            )

    @classmethod
    def of(
        cls, graph: WidthGraph, array: SystolicArray | str | Path, metric: SystolicMetric = "energy"
    ) -> SystolicCost:
        """The cost of a network.

        Args:
            array: The accelerator, the name of a preset, or a TOML file.

        Raises:
            InputError: If nothing of it can be counted, the array is too small for it, or seconds are asked of an array
                whose frequency is not known.
        """
        array = SystolicArray.parse(array)
        if metric == "latency":
            return cls(metric, array, graph.space, products=product_parts(graph))
        return cls(metric, array, graph.space, layers=layer_parts(graph, array))

    def on(self, space: WidthSpace) -> SystolicCost:
        """The same cost for other steps of the same groups.

        Raises:
            InputError: If the groups are other ones.
        """
        if (space.names, space.dense) != (self.space.names, self.space.dense):
            raise InputError(f"the {self.metric} of {self.source} was made for another network; make it for this one")
        return replace(self, space=space)

    @property
    def unit(self) -> str:
        """Of the values: s, or the unit of the array's energies."""
        return METRICS["latency"] if self.metric == "latency" else self.array.unit

    @property
    def exact(self) -> bool:
        """True: the values are the model's own, and nothing about them is to be measured."""
        return True

    @property
    def source(self) -> str:
        """What the values are of."""
        return f"systolic array {self.array.name}"

    @property
    def provenance(self) -> None:
        """Nothing was measured."""
        return None

    @cached_property
    def dense(self) -> float:
        """The cost at dense widths."""
        return float(self({}))

    @cached_property
    def _evaluator(self) -> Energies | Cycles:
        if self.metric == "energy":
            return Energies(self.layers, self.space, self.array)
        return Cycles(self.products, self.space, self.array)

    def __call__(self, widths: Widths | Tensor) -> Tensor:
        """The cost at widths (a mapping, or channels of shape (…, n_groups)): shape (…), float64, differentiable.

        The value is exact; its gradient takes ⌈x / n⌉ as x / n, what it is on average.
        """
        total: Tensor = self._evaluator(as_vector(self.space, widths)).sum(-1)
        return total if self.metric == "energy" else total / float(self.array.frequency_hz or 1.0)

    def without(self, graph: WidthGraph, blocks: Collection[str]) -> SystolicCost:
        """The cost of the network without some residual blocks, exactly; groups that go with them play no part.

        Args:
            graph: Of the network with them.
            blocks: Names of removable blocks.
        """
        gone = [block.name for block in graph.removable(blocks)]
        layers = tuple(part for part in self.layers if not holder(part.name, gone))
        return replace(self, layers=layers, products=tuple(p for p in self.products if not holder(p.name, gone)))

    @property
    def interactions(self) -> Interactions:
        """The groups of each layer: what it takes depends on all of its sizes together."""
        sizes = [part.sizes for part in self.layers] or [part.sizes for part in self.products]
        sides = ([side for size in each for side in (*size.over, *size.under)] for each in sizes)
        return joint_interactions(self.space, ({name for side in each for name in side.groups} for each in sides))

    def shares(self, widths: Widths) -> dict[str, float]:
        """What each layer, or module, takes at these widths, in ``unit``; what has one name is added up."""
        with torch.no_grad():
            values = self._evaluator(as_vector(self.space, widths)).tolist()
        scale = 1.0 if self.metric == "energy" else float(self.array.frequency_hz or 1.0)
        found: dict[str, float] = {}
        names = [part.name for part in self.layers] or [part.name for part in self.products]
        for name, value in zip(names, values, strict=True):
            found[name] = found.get(name, 0.0) + value / scale
        return found

    def interval(self, widths: Widths | Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """(value, value): what a model says is certain; how far a device is from it is another matter."""
        value = self(widths)
        return value, value

    def save(self, path: str | Path) -> None:
        """Write the cost as JSON.

        Raises:
            InputError: If the file cannot be written.
        """
        document: dict[str, Any] = {
            "metric": self.metric,
            "unit": self.unit,
            "array": self.array.to_json(),
            "space": self.space.to_json(),
            "layers": [part.to_json() for part in self.layers],
            "products": [part.to_json() for part in self.products],
        }
        write_cost(path, "systolic", document)

    @classmethod
    def from_fields(cls, fields: Fields) -> SystolicCost:
        """Read what ``save`` wrote, without trusting it.

        Raises:
            InputError: If a member is missing or impossible.
        """
        space, array = space_of(fields), _array(fields.scalars("array"))
        layers = tuple(LayerPart.from_fields(each, space) for each in objects(fields, "layers"))
        products = tuple(ProductPart.from_fields(each, space) for each in objects(fields, "products"))
        sizes = [size for layer in layers for size in layer.sizes] + [size for each in products for size in each.sizes]
        refuse_large([sides for size in sizes for sides in (size.over, size.under)])
        metric = next((each for each in SYSTOLIC_METRICS if each == fields.text("metric")), None)
        if metric is None:
            raise InputError(f"cost model: metric {fields.text('metric')!r:.80} is none of a systolic array")
        cost = cls(metric, array, space, layers, products)
        if fields.text("unit") != cost.unit:
            raise InputError(f"cost model: {cost.metric} in {fields.text('unit')!r:.80} is not what its array gives")
        return cost

    def __repr__(self) -> str:
        return f"SystolicCost({self.metric} {self.dense:.4g} {self.unit} dense, {self.source})"

    def _repr_html_(self) -> str:
        facts = [
            ("dense", f"{self.dense:.4g} {self.unit}"),
            ("of", self.source),
            ("widths", f"{len(self.space)} groups, {sum(self.space.dense):,} channels"),
        ]
        return card(f"SystolicCost of {self.metric}: computed, not measured", facts)


def _array(given: Mapping[str, Any]) -> SystolicArray:
    """An array from what a file says of it."""
    if unknown := sorted(set(given) - {attribute.name for attribute in attributes(SystolicArray)}):
        raise InputError(f"cost model: its array has the unknown member {unknown[0]!r:.80}")
    return SystolicArray(**given)
