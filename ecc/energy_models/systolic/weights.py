"""WeightEnergy: the energy on a systolic array as a cost of single weights, for budgets that a projection keeps."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
from torch import Tensor, nn

from ecc.core.code import Stored
from ecc.core.errors import InputError
from ecc.core.weights import Masks, Price, Prices
from ecc.energy_models.systolic.account import index_bound, layer_energy, most_pairs, rates
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.energy import SystolicEnergy, counted, systolic_energy, weights_of
from ecc.energy_models.systolic.indices import NO_INDEX, SparseIndex
from ecc.energy_models.systolic.input_prices import input_prices
from ecc.energy_models.systolic.layers import SystolicLayer
from ecc.network.graph import WidthGraph

__all__ = ["WeightEnergy", "layer_price", "stored_weights"]


@dataclass(frozen=True, eq=False, repr=False)
class WeightEnergy:
    """Energy of one forward on a systolic array as a function of its single weights (Yang, Zhu, Liu: ICLR 2019, §3).

    What a weight costs depends on the layers that use it alone, so prices are found once. Layers whose weights are no
    parameters of the network (computed from others, or unknown) are in the constant, as dense.

    Attributes:
        graph: Of the network, for the batch that was traced.
        array: The accelerator.
        index: What it takes to say which weights are kept; nothing by default, as in the paper.
        layers: What is counted, in order of execution.
        weights: By layer, the name of the parameter that it multiplies by; empty where there is none.
    """

    graph: WidthGraph
    array: SystolicArray
    index: SparseIndex
    layers: tuple[SystolicLayer, ...]
    weights: tuple[str, ...]
    metric: str = field(default="energy", init=False)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        graph: WidthGraph,
        array: SystolicArray | str | Path | None = None,
        *,
        index: SparseIndex = NO_INDEX,
    ) -> WeightEnergy:
        """The energy of a network.

        Args:
            model: Whose parameters are priced; their values play no part.
            graph: Of the model.
            array: The accelerator, the name of a preset, or a TOML file; Eyeriss when None.

        Raises:
            InputError: If the graph is of another network, nothing can be counted, or the array is too small for it.
        """
        array = SystolicArray() if array is None else SystolicArray.parse(array)
        layers, _ = counted(graph)
        cost = cls(graph, array, index, layers, stored_weights(model, graph, layers))
        if not any(cost.weights):
            raise InputError("none of the layers that the systolic array runs multiplies by a parameter of the network")
        _ = cost.dense  # refuses an array that is too small
        return cost

    def __repr__(self) -> str:
        return f"WeightEnergy({self.dense:.5g} {self.unit} of {self.source}, {len(self.prices({}).tensors)} tensors)"

    @property
    def unit(self) -> str:
        """Of all values."""
        return self.array.unit

    @property
    def source(self) -> str:
        """What the values are of."""
        return f"systolic array {self.array.name}"

    @cached_property
    def dense(self) -> float:
        """The relaxed energy with all weights and inputs kept."""
        return math.fsum(layer_energy(layer, self.array, index=self.index).relaxed for layer in self.layers)

    @cached_property
    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """Modules that run once and get one map, signal or vector per example: (channels, h, w) or (channels,).

        A signal's height is 1. The rows that a linear layer multiplies one after the other, such as tokens, differ.
        """
        names = [layer.name for layer in self.layers]
        return {
            layer.name: layer.input_shape
            for layer in self.layers
            if layer.weight == f"{layer.name}.weight"
            and f"{layer.name}@2" not in names
            and (layer.convolves or (layer.operator.kind == "linear" and layer.operator.length == 1))
        }

    def prices(self, masks: Masks) -> Prices:
        """The relaxed energy: an upper bound of the exact one.

        Raises:
            InputError: If a mask is of no layer, or of another shape.
        """
        for name in masks:
            if name not in self._dense_constants:
                raise InputError(f"masks: there is no layer {name!r} that the systolic array runs")
        constants = [
            self._constant(layer, weight, masks[layer.name])
            if layer.name in masks
            else self._dense_constants[layer.name]
            for layer, weight in zip(self.layers, self.weights, strict=True)
        ]
        return Prices(self._tensors(masks), math.fsum(constants))

    def input_prices(self, masks: Masks) -> Mapping[str, Tensor]:
        """What masking an input takes off the constant, by layer of ``inputs``."""
        return {
            layer.name: input_prices(layer, self.array, masks.get(layer.name))
            for layer in self.layers
            if layer.name in self.inputs
        }

    def exact(self, model: nn.Module, masks: Masks) -> float:
        """The energy of the weights as they are.

        Raises:
            InputError: As ``systolic_energy``.
        """
        return self.energy(model, masks).total

    def table(self, model: nn.Module, masks: Masks) -> pd.DataFrame:
        """A row per layer with what it takes and what for, and its weights left, ``nonzeros`` of ``size``."""
        return self.energy(model, masks).table()

    def energy(self, model: nn.Module, masks: Masks, stored: Mapping[str, Stored] | None = None) -> SystolicEnergy:
        """The whole account of the weights as they are, or as they are stored."""
        return systolic_energy(model, self.graph, self.array, masks=masks, index=self.index, stored=stored)

    def of_stored(
        self, tensors: Mapping[str, Tensor], stored: Mapping[str, Stored], masks: Masks, only: Collection[str] = ()
    ) -> float:
        """The energy of weights as they are stored.

        Args:
            tensors: Values by name of a weight; layers of others, or of none, count as dense words of the array.
            stored: What these weights are stored in.
            masks: By layer.
            only: Names of weights whose layers are counted; all layers where empty.
        """
        return math.fsum(
            layer_energy(
                layer,
                self.array,
                weight=tensors.get(layer.weight),
                mask=masks.get(layer.name),
                index=self.index,
                stored=stored.get(layer.weight),
            ).total
            for layer in self.layers
            if not only or layer.weight in only
        )

    def _tensors(self, masks: Masks) -> Mapping[str, Price]:
        """A weight that several layers use has the sum of its prices; the cache holds as many of it for each."""
        prices: dict[str, Price] = {}
        for layer, weight in zip(self.layers, self.weights, strict=True):
            if weight:
                price = layer_price(layer, self.array, mask=masks.get(layer.name), index=self.index)
                before = prices.get(weight)
                if before is not None:
                    price = Price(before.first + price.first, before.rest + price.rest, price.held)
                prices[weight] = price
        return prices

    @cached_property
    def _dense_constants(self) -> Mapping[str, float]:
        """What each layer takes with its weights zero and all inputs kept."""
        return {
            layer.name: self._constant(layer, weight, None)
            for layer, weight in zip(self.layers, self.weights, strict=True)
        }

    def _constant(self, layer: SystolicLayer, weight: str, mask: Tensor | None) -> float:
        energy = layer_energy(layer, self.array, mask=mask, index=self.index)
        return energy.fixed if weight else energy.relaxed


def layer_price(
    layer: SystolicLayer, array: SystolicArray, *, mask: Tensor | None = None, index: SparseIndex = NO_INDEX
) -> Price:
    """What the weights of a layer cost that are kept; those that the weight cache holds are the cheaper ones.

    A weight multiplies at every output position at most; behind a mask (ECC's tightening) only as often as the weight
    of the layer that meets most kept inputs.
    """
    share, _ = index_bound(layer, array, index)
    positions = layer.positions * layer.repeats
    pairs = positions if mask is None else min(positions, most_pairs(layer, mask))
    used = array.e_rf * positions + array.e_mac * pairs
    cached, every = (used + (1 + share) * rate for rate in rates(layer, array))
    return Price(cached, every, array.weight_cache)


def stored_weights(model: nn.Module, graph: WidthGraph, layers: Sequence[SystolicLayer]) -> tuple[str, ...]:
    """By layer the parameter that it multiplies by, as ``named_parameters`` calls it; empty where it is none.

    Raises:
        InputError: If the graph is of another network.
    """
    weights_of(model, graph, layers)  # refuses what does not fit
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    named = dict(model.named_parameters(remove_duplicate=False))
    return tuple(
        first[id(named[layer.weight])] if layer.weight in named and named[layer.weight].numel() == layer.size else ""
        for layer in layers
    )
