"""Layers as a systolic cost keeps them: their numbers in the energy model, each as a function of the widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ecc.core.calls import OperatorCall
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.layers import Side
from ecc.core.operators import CONVOLUTIONS, RECURRENT
from ecc.core.widths import WidthSpace
from ecc.energy_models.systolic.account import layer_energy
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.layers import SystolicLayer, layers_of
from ecc.energy_models.systolic.sizes import Size, Sizes, folds, whole_up_to
from ecc.network.graph import WidthGraph

__all__ = ["Energies", "LayerPart", "layer_parts", "rows_twice"]

_LARGEST = 1 << 40

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
        batches: How the rows of an example are fetched batch by batch: (rows, rows that a kernel needs, rows between
            these, empty rows above, empty rows below); empty where the cache holds all rows, so that none comes twice.
        examples: How often that is.
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
    batches: tuple[int, ...] = ()
    examples: int = 1

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
            batches=_batches(layer, array) if convolves else (),
            examples=layer.examples,
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
        return value | {"batches": list(self.batches)}

    @classmethod
    def from_fields(cls, fields: Fields, space: WidthSpace) -> LayerPart:
        """Read what ``to_json`` wrote, without trusting it.

        Raises:
            InputError: If a member is missing or impossible.
        """
        channels, reached, written, positions = (Size.from_fields(fields.inner(name), space) for name in _SIZES)
        wholes: dict[str, Any] = {name: whole_up_to(fields, name, _LARGEST, least) for name, least in _WHOLES.items()}
        batches = fields.wholes("batches")
        if batches and (len(batches) != 5 or max(batches) > _LARGEST or min(batches[:3]) < 1 or not wholes["row"]):
            raise InputError("cost model: 'batches' of a layer must be empty or five possible numbers of rows")
        return cls(fields.text("name"), channels, reached, written, positions, batches=batches, **wholes)


_SIZES = ("channels", "reached", "written", "positions")
_WHOLES = {"taps": 1, "met": 0, "repeats": 1, "pixels": 0, "row": 0, "places": 0, "examples": 1}


def _batches(layer: SystolicLayer, array: SystolicArray) -> tuple[int, ...]:
    height, row = layer.rows
    return () if layer.input_shape[0] * row * height <= array.input_cache else (height, *layer.row_window)


def rows_twice(batches: Tensor, held: Tensor) -> Tensor:
    """``read_twice`` of rows that are all alike, in rows: a closed form, as all batches but the first and last are too.

    Args:
        batches: As in a LayerPart, float64, shape (5, n).
        held: Rows that the cache holds, at least as many as a kernel needs; shape (…, n).
    """
    height, need, stride, above, below = batches
    end = above + height + below
    first = ((above + held - need) // stride + 1) * stride  # where the second batch begins
    step = ((held - need) // stride + 1) * stride  # from there to the third, and so on
    more = ((above + height - first - held) / step).ceil()  # batches that do not reach the last row
    room = (end - need - first) // step  # batches after which there is a window left
    total = (held - first + above).clamp(min=0) + torch.minimum(more, room).clamp(min=0) * (held - step).clamp(min=0)
    return torch.where((first + need > end) | (held >= height), 0.0, total)


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
        self._taps, self._met, self._repeats, self._pixels, self._row, self._places, self._examples = torch.tensor(
            [[float(getattr(part, name)) for part in parts] for name in _WHOLES], dtype=torch.float64
        )
        self._product = (self._pixels == 0).double() * self._repeats  # repeats of matrix products, 0 of convolutions
        self._twice = torch.tensor([i for i, part in enumerate(parts) if part.batches], dtype=torch.int64)
        rows = [part.batches for part in parts if part.batches]
        self._batches = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5).T

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
            held = (self._array.input_cache / row).floor().maximum(self._batches[1])
            rows = self._examples[self._twice] * rows_twice(self._batches, held)
        total: Tensor = row * rows
        return total
