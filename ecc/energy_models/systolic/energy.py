"""The energy of a network with the weights that it has, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from ecc.core.code import Stored
from ecc.core.errors import InputError
from ecc.core.markup import card
from ecc.energy_models.systolic.account import LayerEnergy, layer_energy
from ecc.energy_models.systolic.array import DATAFLOWS, Dataflow, SystolicArray
from ecc.energy_models.systolic.dataflow import execute
from ecc.energy_models.systolic.indices import NO_INDEX, SparseIndex
from ecc.energy_models.systolic.layers import LeftOut, SystolicLayer, layers_of
from ecc.network.graph import WidthGraph
from ecc.network.input_masks import held_masks

__all__ = ["SystolicEnergy", "counted", "systolic_energy", "weights_of"]


@dataclass(frozen=True, slots=True, repr=False)
class SystolicEnergy:
    """What one forward of a network takes on an array, for the batch that was traced.

    Attributes:
        array: The accelerator.
        layers: What each layer takes, in order of execution.
        relaxed_dense: The relaxed energy with all weights and inputs kept, which budgets are fractions of.
        left_out: What else the network multiplies.
    """

    array: SystolicArray
    layers: tuple[LayerEnergy, ...]
    relaxed_dense: float
    left_out: tuple[LeftOut, ...] = ()

    @property
    def unit(self) -> str:
        """Of all energies."""
        return self.array.unit

    @property
    def total(self) -> float:
        """The energy of all layers."""
        return math.fsum(each.total for each in self.layers)

    @property
    def relaxed_total(self) -> float:
        """The relaxed energy of all layers; never below ``total``."""
        return math.fsum(each.relaxed for each in self.layers)

    @property
    def floor(self) -> float:
        """What is left with all weights zero, as a fraction of ``relaxed_dense``."""
        return math.fsum(each.fixed for each in self.layers) / self.relaxed_dense

    @property
    def nonzeros(self) -> int:
        """Weights that are not zero; those of a layer that is used twice count twice."""
        return sum(each.nonzeros for each in self.layers)

    @property
    def assumed_dense(self) -> tuple[str, ...]:
        """Names of the layers whose weights could not be looked at."""
        return tuple(each.layer.name for each in self.layers if not each.known)

    def cycles(self, dataflow: Dataflow | None = None) -> tuple[int, ...]:
        """Cycles of each layer, dense, by a dataflow (the array's own when None)."""
        array = replace(self.array, dataflow=dataflow or self.array.dataflow)
        return tuple(execute([each.layer.operator], array).cycles * each.layer.repeats for each in self.layers)

    def __str__(self) -> str:
        """The total and what it is of."""
        return f"{self.total:.5g} {self.unit} on {self.array.name}, {len(self.layers)} layers"

    def __repr__(self) -> str:
        return f"SystolicEnergy({self})"

    def _repr_html_(self) -> str:
        total = self.total
        rows = [
            [each.layer.name, each.layer.operator.kind, each.nonzeros, f"{each.total:.4g}", f"{each.total / total:.1%}"]
            for each in self.layers
        ]
        return card(repr(self), header=["layer", "kind", "weights kept", f"total ({self.unit})", "share"], rows=rows)

    def table(self) -> pd.DataFrame:
        """A row per layer with what it takes and what for."""
        return pd.DataFrame([each.to_json() for each in self.layers]).set_index("name")

    def to_json(self) -> dict[str, Any]:
        """A JSON value."""
        cycles = {dataflow: self.cycles(dataflow) for dataflow in DATAFLOWS}
        frequency = self.array.frequency_hz
        return {
            "total": self.total,
            "unit": self.unit,
            "relaxed_total": self.relaxed_total,
            "relaxed_dense": self.relaxed_dense,
            "floor": self.floor,
            "nonzeros": self.nonzeros,
            "cycles": {dataflow: sum(each) for dataflow, each in cycles.items()},
            "seconds": None
            if frequency is None
            else {dataflow: sum(each) / frequency for dataflow, each in cycles.items()},
            "array": self.array.to_json(),
            "layers": [
                each.to_json() | {"cycles": {dataflow: cycles[dataflow][i] for dataflow in DATAFLOWS}}
                for i, each in enumerate(self.layers)
            ],
            "left_out": [
                {"name": each.name, "kind": each.kind, "macs": each.macs, "reason": each.reason}
                for each in self.left_out
            ],
            "assumed_dense": list(self.assumed_dense),
        }


def systolic_energy(
    model: nn.Module,
    graph: WidthGraph,
    array: SystolicArray | str | Path | None = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    index: SparseIndex = NO_INDEX,
    stored: Mapping[str, Stored] | None = None,
) -> SystolicEnergy:
    """The energy of a network's convolutions and matrix products by the weights that it has now.

    Args:
        model: Its weights that are zero are not fetched.
        graph: Of the model; the batch is the one that was traced.
        array: The accelerator, the name of a preset, or a TOML file; Eyeriss when None.
        masks: By layer, which inputs are kept (those that are not zero): shape (channels, height, width) for a
            convolution, (channels,) else; the same for all examples. Those that the model holds when None, as of
            ``masked-sgd``.
        index: What it takes to say which weights are kept; nothing by default, as in the paper.
        stored: By name of a weight, what it is stored in, with its index; words of the array where none is named.

    Raises:
        InputError: If the graph is of another network, nothing can be counted, a mask is of no layer, of another
            shape or NaN, what is stored is of none of its layers, or the cache of inputs cannot hold the rows that a
            kernel needs.
    """
    array = SystolicArray() if array is None else SystolicArray.parse(array)
    masks = held_masks(model) if masks is None else masks
    layers, left_out = counted(graph, masks)
    stored = {} if stored is None else stored
    if stored and not any(layer.weight in stored for layer in layers):
        raise InputError(f"stored: {next(iter(stored))!r} and the others are weights of no layer that the array runs")
    found = tuple(
        layer_energy(
            layer, array, weight=weight, mask=masks.get(layer.name), index=index, stored=stored.get(layer.weight)
        )
        for layer, weight in zip(layers, weights_of(model, graph, layers), strict=True)
    )
    dense = (layer_energy(layer, array, index=index) for layer in layers)
    return SystolicEnergy(array, found, math.fsum(each.relaxed for each in dense), left_out)


def _demand_masks(masks: object) -> None:
    if not isinstance(masks, Mapping):
        raise InputError(
            f"masks must map names of layers to tensors, got {type(masks).__name__}; leave them out where all inputs "
            "are kept"
        )
    for name, mask in masks.items():
        if not isinstance(mask, Tensor):
            raise InputError(f"the mask of {name} must be a tensor, got {type(mask).__name__}; wrap it in torch.tensor")
        if bool(mask.isnan().any()):
            raise InputError(f"the mask of {name} holds NaN; give 0 where an input is dropped, anything else where not")


def counted(
    graph: WidthGraph, masks: Mapping[str, Tensor] | None = None
) -> tuple[tuple[SystolicLayer, ...], tuple[LeftOut, ...]]:
    """The layers that are counted, at least one, and what is left out.

    Args:
        masks: By name of a layer that has to be among them.

    Raises:
        InputError: If there are none, or a mask is no tensor, holds NaN or is of another layer.
    """
    masks = {} if masks is None else masks
    _demand_masks(masks)
    layers, left_out = layers_of(graph)
    if not layers:
        raise InputError("the network has no convolution and no linear layer; a systolic array has nothing to do in it")
    names = [layer.name for layer in layers]
    for name in masks:
        if name not in names:
            few = ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
            raise InputError(f"masks: there is no layer {name!r}; the layers are {few}")
    return layers, left_out


def weights_of(model: nn.Module, graph: WidthGraph, layers: Sequence[SystolicLayer]) -> list[Tensor | None]:
    """The weights of layers as they are now; None where they cannot be looked at, or have no values.

    Raises:
        InputError: If a parameter that the graph has is not in the model, or of another size.
    """
    return [_weight(model, layer, stored=layer.weight in graph.parameters) for layer in layers]


def _weight(model: nn.Module, layer: SystolicLayer, *, stored: bool) -> Tensor | None:
    path, _, name = layer.weight.rpartition(".")
    try:
        found = getattr(model.get_submodule(path), name, None) if name else None
    except AttributeError:
        found = None
    if isinstance(found, Tensor) and found.numel() == layer.size:
        return None if found.is_meta else found.detach()
    if stored:
        raise InputError(
            f"the graph is of another network: its {layer.weight} has {layer.size} weights; trace this one"
        )
    return None
