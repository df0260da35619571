"""Layers as a systolic cost keeps them: their numbers in the energy model, each as a function of the widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecc.core.calls import OperatorCall
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.layers import Side
from ecc.core.operators import CONVOLUTIONS, RECURRENT
from ecc.core.widths import WidthSpace
from ecc.energy_models.systolic.account import layer_energy, read_twice
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.layers import SystolicLayer, layers_of
from ecc.energy_models.systolic.sizes import Size, Sizes, folds, whole_up_to
from ecc.network.graph import WidthGraph

__all__ = ["Energies", "LayerPart", "layer_parts"]

_LARGEST = 1 << 40
_MOST_ROWS = 1 << 16

_Sides = tuple[Side | None, ...]


@dataclass(frozen=True, slots=True)
class LayerPart:
    """One layer's numbers in the energy model, with dense weights.

    Attributes:
        name: Of the layer.
        channels: Input channels, those of all groups.
        reached: Output channels that each input channel reaches.
        written: Output channels.
        positions: Output positions of one time step, over all examples.
        taps: Weights that connect an input channel with an output channel.
        met: Pairs of a tap and an input of one channel that meet, over all examples; 0 of a matrix product, in which
            each input meets one tap.
        repeats: Time steps.
        pixels: Inputs of one channel, over all examples; 0 of a matrix product.
        row: Inputs in a row of one channel.
        places: Outputs of one channel, over all examples; 0 of a matrix product.
        again: Rows that are fetched twice, over all examples, where the input cache holds so many rows of one: pairs
            (rows held, rows fetched twice), rising; nothing is fetched twice where more are held.
    """

    name: str
    channels: Size
    reached: Size
    written: Size
    positions: Size
    taps: int = 1
    met: int = 0
    repeats: int = 1
    pixels: int = 0
    row: int = 0
    places: int = 0
    again: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, layer: SystolicLayer, space: WidthSpace, sides: _Follow, array: SystolicArray) -> LayerPart:
        """The numbers of a layer whose sizes follow these sides."""
        operator, convolves = layer.operator, layer.convolves
        rows, columns = layer.taps()
        written = operator.channels_out * (1 if convolves else layer.groups)
        return cls(
            layer.name,
            Size.of(space, layer.input_shape[0], sides.channels),
            Size.of(space, layer.fan_out, sides.reached, sides.split),
            Size.of(space, written, sides.written),
            Size.of(space, layer.positions, sides.positions),
            taps=operator.kernel_h * operator.kernel_w if convolves else 1,
            met=round(float(rows.sum()) * float(columns.sum())) * layer.examples if convolves else 0,
            repeats=layer.repeats,
            pixels=layer.examples * operator.height * operator.width if convolves else 0,
            row=layer.rows[1] if convolves else 0,
            places=layer.outputs // written if convolves else 0,
            again=_again(layer, array) if convolves else (),
        )

    @property
    def sizes(self) -> tuple[Size, ...]:
        """What follows the widths."""
        return (self.channels, self.reached, self.written, self.positions)

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``from_fields`` is the inverse."""
        value: dict[str, Any] = {"name": self.name}
        value |= {name: getattr(self, name).to_json() for name in _SIZES}
        value |= {name: getattr(self, name) for name in _WHOLES}
        return value | {"again": [list(pair) for pair in self.again]}

    @classmethod
    def from_fields(cls, fields: Fields, space: WidthSpace) -> LayerPart:
        """Read what ``to_json`` wrote, without trusting it.

        Raises:
            InputError: If a member is missing or impossible.
        """
        channels, reached, written, positions = (Size.from_fields(fields.inner(name), space) for name in _SIZES)
        wholes: dict[str, Any] = {name: whole_up_to(fields, name, _LARGEST, least) for name, least in _WHOLES.items()}
        pairs = [Fields({"again": pair}, "cost model: a layer").wholes("again") for pair in fields.items("again")]
        held = [pair[0] for pair in pairs if len(pair) == 2]
        if len(held) < len(pairs) or held != sorted(set(held)) or (held and held[-1] > _MOST_ROWS):
            raise InputError("cost model: 'again' of a layer must be pairs of numbers of rows, rising")
        if max((rows for _, rows in pairs), default=0) > _LARGEST:
            raise InputError("cost model: 'again' of a layer is too large")
        again = tuple((first, rows) for first, rows in pairs)
        return cls(fields.text("name"), channels, reached, written, positions, again=again, **wholes)


_SIZES = ("channels", "reached", "written", "positions")
_WHOLES = {"taps": 1, "met": 0, "repeats": 1, "pixels": 0, "row": 0, "places": 0}


def _again(layer: SystolicLayer, array: SystolicArray) -> tuple[tuple[int, int], ...]:
    """The rows fetched twice for each number of rows that the cache may hold, from that of dense widths on."""
    height, row = layer.rows[0], layer.input_shape[0] * layer.rows[1]
    ones = np.ones(height)
    found = [
        (held, layer.examples * round(read_twice(layer, replace(array, input_cache=held), ones)))
        for held in range(max(1, array.input_cache // row), height)
    ]
    while found and not found[-1][1]:
        found.pop()
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Follow:
    """What the sizes of a LayerPart are proportional to; ``split`` is what ``reached`` is divided by."""

    channels: _Sides
    reached: _Sides
    written: _Sides
    positions: _Sides = ()
    split: _Sides = ()


def layer_parts(graph: WidthGraph, array: SystolicArray) -> tuple[LayerPart, ...]:
    """The layers that ``systolic_energy`` counts, in the same order.

    Raises:
        InputError: If there are none, or the cache of inputs cannot hold the rows that a kernel needs.
    """
    layers = layers_of(graph)[0]
    if not layers:
        raise InputError("the network has no convolution and no linear layer; a systolic array has nothing to do in it")
    for layer in layers:
        layer_energy(layer, array)  # refuses a cache that is too small
    left = iter(layers)
    return tuple(
        LayerPart.of(layer, graph.space, _follow(call, layer, number), array)
        for call in graph.calls
        for number, layer in enumerate(islice(left, _layers_in(call)))
    )


def _layers_in(call: OperatorCall) -> int:
    """How many layers a call is counted as."""
    kind = call.operator.kind
    return (
        2 if kind in RECURRENT else int(kind in (*CONVOLUTIONS, "linear") or (kind == "matmul" and bool(call.weight)))
    )


def _follow(call: OperatorCall, layer: SystolicLayer, number: int) -> _Follow:
    """The sides of a call's layer of that number."""
    side = dict(call.sides).get
    kind, read, written = call.operator.kind, side("channels_in"), side("channels_out")
    copies = (side("batch"), side("groups"))
    if layer.convolves:
        return _Follow((read,), (written,), (written,), split=(side("groups"),))
    if kind in RECURRENT:
        return _Follow((written if number else read,), (written,), (written,))
    if kind == "linear":
        return _Follow((read,), (written,), (written,), (side("batch"), side("length")))
    if layer.operator.kind == "matmul":
        return _Follow((*copies, read), (written,), (*copies, written), (side("length"),))
    if not layer.weights_first:
        return _Follow((read,), (written,), (written,), (*copies, side("length")))
    return _Follow((read,), (side("length"),), (side("length"),), (*copies, written))


class Energies:
    """Evaluates the energies of layers for batches of width vectors, differentiably.

    The values are those of ``layer_energy`` with dense weights. A number of folds has the gradient that it has on
    average, and how many rows are fetched twice is taken as fixed by the gradient.

    Args:
        parts: The layers.
        space: The order and the dense values of the width vectors.
        array: The accelerator.
    """

    def __init__(self, parts: Sequence[LayerPart], space: WidthSpace, array: SystolicArray) -> None:
        self._array = array
        self._sizes = Sizes(space, [getattr(part, name) for name in _SIZES for part in parts])
        self._taps, self._met, self._repeats, self._pixels, self._row, self._places = torch.tensor(
            [[float(getattr(part, name)) for part in parts] for name in _WHOLES], dtype=torch.float64
        )
        self._product = (self._pixels == 0).double() * self._repeats  # repeats of matrix products, 0 of convolutions
        self._twice = torch.tensor([i for i, part in enumerate(parts) if part.again], dtype=torch.int64)
        again = [part.again for part in parts if part.again]
        table = np.zeros((len(again), 2 + max((pairs[-1][0] for pairs in again), default=0)))
        for line, pairs in zip(table, again, strict=True):
            held, rows = (list(column) for column in zip(*pairs, strict=True))
            line[: held[0]] = rows[0]
            line[held] = rows
        self._table = torch.from_numpy(table)

    def __call__(self, widths: Tensor) -> Tensor:
        """Energies at widths in channels: shape (…, n_groups) → (…, n_layers), float64, in the array's unit."""
        array = self._array
        channels, reached, written, positions = self._sizes.columns(widths, len(_SIZES))
        weights = channels * reached * self._taps
        unfolded = channels * (self._met + self._product * positions)
        passes, tiles = folds(reached, array.columns), self._repeats * folds(positions, array.rows)
        words = weights + (tiles - 1) * (weights - array.weight_cache).clamp(min=0)
        words = words + channels * self._pixels + self._product * self._streamed(channels, positions, passes)
        words = words + written * (self._places + self._product * positions)
        if len(self._twice):
            words = words.index_add(-1, self._twice, self._fetched_twice(channels[..., self._twice]))
        registers = self._repeats * positions * weights + reached * unfolded
        cache = tiles * weights + passes * unfolded
        macs = reached * unfolded
        total: Tensor = array.e_mac * macs + array.e_rf * registers + array.e_cache * cache + array.e_dram * words
        return total

    def _streamed(self, channels: Tensor, positions: Tensor, passes: Tensor) -> Tensor:
        """Inputs of a matrix product from DRAM, tile by tile of rows; what the cache does not hold in each pass."""
        rows, cache = self._array.rows, self._array.input_cache
        full = (positions.detach() / rows).floor()
        beyond = full * (rows * channels - cache).clamp(min=0)
        beyond = beyond + ((positions - rows * full) * channels - cache).clamp(min=0)
        total: Tensor = channels * positions + (passes - 1) * beyond
        return total

    def _fetched_twice(self, channels: Tensor) -> Tensor:
        """Inputs of convolutions that are fetched twice, of those with that many channels; shape as ``channels``."""
        row = self._row[self._twice] * channels
        with torch.no_grad():
            held = (self._array.input_cache / row).floor().clamp(max=self._table.shape[1] - 1).long()
            rows = self._table.expand(*held.shape[:-1], *self._table.shape).gather(-1, held.unsqueeze(-1)).squeeze(-1)
        total: Tensor = row * rows
        return total
