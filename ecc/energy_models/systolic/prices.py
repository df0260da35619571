"""Prices: the relaxed energy as a constant plus what each weight costs that is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ecc.energy_models.systolic.account import index_bound, layer_energy, rates
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.energy import counted, weights_of
from ecc.energy_models.systolic.indices import NO_INDEX, SparseIndex
from ecc.energy_models.systolic.layers import SystolicLayer
from ecc.network.graph import WidthGraph

__all__ = ["WeightPrices", "layer_prices", "weight_prices"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WeightPrices:
    """What each weight of a network costs if it is kept, and what is spent anyway, in the unit of the array.

    With the constant, the prices of the weights that are kept add up to the relaxed energy, and that is never below the
    exact one.

    Attributes:
        names: Of the weights: parameters or other attributes of modules, by path.
        values: The weights as they are, in the order of ``names``.
        prices: Of each element, float64, of equal shapes; they may be views of a single number and are to be read only.
        constant: Inputs, outputs, and layers whose weights could not be found.
        unit: Of prices and constant.
    """

    names: tuple[str, ...]
    values: tuple[Tensor, ...]
    prices: tuple[Tensor, ...]
    constant: float
    unit: str

    def __repr__(self) -> str:
        count = sum(value.numel() for value in self.values)
        return f"WeightPrices({count:,} weights in {len(self.names)} tensors, constant {self.constant:.5g} {self.unit})"

    def spent(self) -> float:
        """The relaxed energy: the constant and the prices of the weights that are not zero."""
        kept = (float(price[value != 0].sum()) for value, price in zip(self.values, self.prices, strict=True))
        return self.constant + math.fsum(kept)


def weight_prices(
    model: nn.Module,
    graph: WidthGraph,
    array: SystolicArray | str | Path | None = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    index: SparseIndex = NO_INDEX,
) -> WeightPrices:
    """The prices of all weights that ``systolic_energy`` counts, with the same arguments.

    In a layer the largest weights that the weight cache holds are the cheaper ones. A weight that several layers use
    has the sum of its prices.

    Raises:
        InputError: As ``systolic_energy``.
    """
    array = SystolicArray() if array is None else SystolicArray.parse(array)
    masks = {} if masks is None else masks
    values: dict[str, Tensor] = {}
    prices: dict[str, Tensor] = {}
    constant = []
    layers, _ = counted(graph, masks)
    for layer, weight in zip(layers, weights_of(model, graph, layers), strict=True):
        energy = layer_energy(layer, array, mask=masks.get(layer.name), index=index)
        constant.append(energy.fixed if weight is not None else energy.relaxed)
        if weight is not None:
            values[layer.weight] = weight
            price = layer_prices(layer, array, weight, index=index)
            prices[layer.weight] = prices[layer.weight] + price if layer.weight in prices else price
    return WeightPrices(tuple(values), tuple(values.values()), tuple(prices.values()), math.fsum(constant), array.unit)


def layer_prices(
    layer: SystolicLayer, array: SystolicArray, weight: Tensor, *, index: SparseIndex = NO_INDEX
) -> Tensor:
    """What each weight of a layer costs if it is kept: float64, of the shape of ``weight``."""
    share, _ = index_bound(layer, array, index)
    used = layer.positions * layer.repeats * (array.e_rf + array.e_mac)
    cached, every = (used + (1 + share) * rate for rate in rates(layer, array))
    held = array.weight_cache
    if cached == every or weight.numel() <= held:
        return torch.tensor(cached, dtype=torch.float64, device=weight.device).expand(weight.shape)
    price = torch.full((weight.numel(),), every, dtype=torch.float64, device=weight.device)
    price[weight.abs().flatten().topk(held, sorted=False).indices] = cached
    return price.reshape(weight.shape)
