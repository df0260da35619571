r"""The energy of dense or sparse weights on a systolic array (Yang, Zhu, Liu: ICLR 2019).

An array of m × n elements computes m output positions of n output channels at a time. Each operand is paid for where it
is read: from DRAM, from its cache, and from the registers of the elements; with P output positions, nW kept weights, nX
inputs that are not masked and U inputs that a kernel meets (padding and masked ones left out),

=========  =============================================================================================
part       energy
=========  =============================================================================================
mac        e_MAC · (pairs of an output and a tap whose weight and input are both kept)
weights    e_cache · ⌈P/m⌉ · nW + e_RF · P · nW + e_DRAM · (min(nW, k_W) + ⌈P/m⌉ · max(0, nW − k_W))
inputs     convolution: e_cache · U · ⌈d/n⌉ + e_RF · U · d + e_DRAM · (nX + inputs read twice)
\          product: e_cache · nX · ⌈d/n⌉ + e_RF · nX · d + e_DRAM · (min(nX, k_X) + ⌈d/n⌉ · max(0, nX − k_X))
outputs    e_DRAM · (outputs)
=========  =============================================================================================

with d the output channels that an input channel reaches, and k_W, k_X the elements that the caches hold. The *relaxed*
energy takes P · nW for the pairs, an upper bound; it is then a constant plus a price for each weight that is kept, and
a budget on it is one on the exact energy too. A layer's k_W largest weights stay in the cache and are the cheaper ones.

Weights that are stored in fewer bits (``ecc.core.code.Stored``) have prices of their own, see
``ecc.energy_models.systolic.stored_weights``.

Batches, time steps and transposed convolutions are ours: positions of all examples fill the array together, and rows of
a product that are computed at once share the cache of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.code import Stored
from ecc.core.errors import InputError
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.indices import NO_INDEX, SparseIndex
from ecc.energy_models.systolic.layers import SystolicLayer
from ecc.energy_models.systolic.stored_weights import fetched_stored, mac_energy, operand_share

__all__ = ["LayerEnergy", "fetched_again", "index_bound", "layer_energy", "most_pairs", "rates", "read_twice"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LayerEnergy:
    """What one layer takes, in the array's unit.

    Attributes:
        layer: Its shape.
        mac: Multiply-accumulates of kept weights with kept inputs.
        weights: Fetching the weights.
        inputs: Fetching the inputs.
        outputs: Writing the outputs.
        relaxed_mac: The upper bound of ``mac``.
        relaxed_weights: The upper bound of ``weights``; equal to it but for the index of sparse weights.
        fixed: What no pruned weight saves: inputs, outputs, and an index that has an entry for every weight.
        nonzeros: Weights that are not zero.
        input_nonzeros: Inputs of one example that are not masked.
        pairs: Multiply-accumulates with weight and input both kept; padding is none.
        known: Whether its weights could be looked at; they count as dense where not.
        stored: What its weights are stored in; None where they are words of the array.
    """

    layer: SystolicLayer
    mac: float
    weights: float
    inputs: float
    outputs: float
    relaxed_mac: float
    relaxed_weights: float
    fixed: float
    nonzeros: int
    input_nonzeros: int
    pairs: int
    known: bool = True
    stored: Stored | None = None

    @property
    def total(self) -> float:
        """All four parts."""
        return self.mac + self.weights + self.inputs + self.outputs

    @property
    def relaxed(self) -> float:
        """An upper bound that is a constant plus a price for each kept weight."""
        return self.relaxed_mac + self.relaxed_weights + self.inputs + self.outputs

    def to_json(self) -> dict[str, Any]:
        """A JSON value."""
        value = {
            "name": self.layer.name,
            "kind": self.layer.operator.kind,
            "mac": self.mac,
            "weights": self.weights,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "total": self.total,
            "relaxed": self.relaxed,
            "nonzeros": self.nonzeros,
            "size": self.layer.size,
            "macs": self.pairs,
        }
        return value if self.stored is None else value | {"bits": self.stored.bits, "nbytes": self.stored.nbytes}


def layer_energy(
    layer: SystolicLayer,
    array: SystolicArray,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    index: SparseIndex = NO_INDEX,
    stored: Stored | None = None,
) -> LayerEnergy:
    """The energy of one layer.

    Args:
        weight: Of ``layer.size`` elements, in the order of ``layer.blocks``; dense when None.
        mask: Which inputs are kept, of shape ``layer.input_shape``; all of them when None.
        index: What it takes to say which weights are kept.
        stored: What the weights are stored in, their index among it; as words of the array when None.

    Raises:
        InputError: If the mask is of another shape, the cache of inputs cannot hold the rows that a kernel needs, or
            what is stored is another tensor.
    """
    kept = _kept_inputs(layer, mask)
    alike = layer.input_shape[0] // len(kept)  # channels that have one and the same mask
    rows, columns = layer.taps()
    meets = rows @ kept @ columns.T  # kept inputs of a channel that each tap meets: (channels, kernel_h, kernel_w)
    unfolded = alike * round(float(meets.sum()))
    nonzeros, pairs = (layer.size, layer.fan_out * unfolded) if weight is None else _pairs(layer, weight, meets)
    pairs *= layer.examples * layer.repeats
    inputs = _inputs(layer, array, alike * kept.reshape(len(kept), *layer.rows).sum((0, 2)), unfolded)
    outputs = array.e_dram * layer.outputs
    held = array.e_rf * layer.positions * layer.repeats * nonzeros
    if stored is None:
        rate = _rate(layer, array, nonzeros)
        share, bound = index_bound(layer, array, index)
        weights = held + rate * (nonzeros + index.words(nonzeros, layer.size, array.bits))
        relaxed, e_mac = held + rate * nonzeros * (1 + share) + bound, array.e_mac
    else:
        weights = held * operand_share(stored, array) + fetched_stored(layer, array, stored)
        relaxed, bound, e_mac = weights, 0.0, mac_energy(stored, array)
    return LayerEnergy(
        layer,
        mac=e_mac * pairs,
        weights=weights,
        inputs=inputs,
        outputs=outputs,
        relaxed_mac=e_mac * layer.positions * layer.repeats * nonzeros,
        relaxed_weights=relaxed,
        fixed=inputs + outputs + bound,
        nonzeros=nonzeros,
        input_nonzeros=alike * round(float(kept.sum())),
        pairs=pairs,
        known=weight is not None,
        stored=stored,
    )


def most_pairs(layer: SystolicLayer, mask: Tensor) -> int:
    """Kept inputs, of all examples and time steps, that the weight meets which meets most of them.

    Raises:
        InputError: If the mask is of another shape.
    """
    rows, columns = layer.taps()
    meets = rows @ _kept_inputs(layer, mask) @ columns.T
    return round(float(meets.max())) * layer.examples * layer.repeats


def rates(layer: SystolicLayer, array: SystolicArray) -> tuple[float, float]:
    """Energy of bringing a weight to the array for all output positions, if the cache holds it and if not.

    Each comes from the cache once for each tile of positions, and from DRAM as often where the cache does not hold it.
    """
    tiles = layer.repeats * -(-layer.positions // array.rows)
    return array.e_cache * tiles + array.e_dram, (array.e_cache + array.e_dram) * tiles


def _rate(layer: SystolicLayer, array: SystolicArray, kept: int) -> float:
    """Mean of ``rates`` over so many weights, of which the cache holds as many as it can."""
    cached, every = rates(layer, array)
    return cached + (every - cached) * max(0, kept - array.weight_cache) / max(kept, 1)


def index_bound(layer: SystolicLayer, array: SystolicArray, index: SparseIndex) -> tuple[float, float]:
    """Of an upper bound on an index: its elements for each kept weight, and the energy of what all weights have."""
    if not isinstance(index, SparseIndex):
        raise InputError(f"index must be a SparseIndex such as SparseIndex(bits_per_nonzero=4), got {index!r:.80}")
    share, everywhere = index.bits_per_nonzero / array.bits, index.bits_per_weight / array.bits
    return share, layer.size * everywhere * _rate(layer, array, layer.size)


def _kept_inputs(layer: SystolicLayer, mask: Tensor | None) -> Floats:
    """1 where an input of an example is kept, else 0: (channels, height, width), or one channel where all are kept."""
    if mask is not None and tuple(mask.shape) != layer.input_shape:
        raise InputError(f"the mask of {layer.name} has shape {tuple(mask.shape)}, and its input {layer.input_shape}")
    channels, height, width = (*layer.input_shape, 1, 1)[:3]
    if mask is None:
        return np.ones((1, height, width))
    kept: Floats = (mask != 0).cpu().double().numpy().reshape(channels, height, width)
    return kept


def _pairs(layer: SystolicLayer, weight: Tensor, meets: Floats) -> tuple[int, int]:
    """Weights that are kept, and multiply-accumulates of these with kept inputs of one example."""
    if meets.size == 1 and meets[0] == 1:  # a matrix and no mask
        kept = int(torch.count_nonzero(weight != 0))  # of booleans, which is twice as fast
        return kept, kept
    blocks = layer.blocks
    counts = (weight.reshape(blocks) != 0).sum(2 if layer.inputs_first else 1)
    table: Floats = counts.reshape(-1, *blocks[3:]).cpu().double().numpy()
    return round(float(table.sum())), round(float((table * meets).sum()))


def _inputs(layer: SystolicLayer, array: SystolicArray, rows: Floats, unfolded: int) -> float:
    """Energy of fetching the inputs.

    Args:
        rows: Kept inputs of an example in each row of all channels, shape (rows,).
        unfolded: Kept inputs of an example that the kernel meets, counted once for each tap.
    """
    times = layer.examples * layer.repeats
    passes = -(-layer.fan_out // array.columns)
    near = (array.e_cache * passes + array.e_rf * layer.fan_out) * unfolded * times
    if layer.convolves:
        return near + array.e_dram * times * (float(rows.sum()) + read_twice(layer, array, rows))
    row = round(float(rows.sum()))
    full, rest = divmod(layer.examples, array.rows)
    words = sum(
        count * (held + (passes - 1) * max(0, held - array.input_cache))
        for count, held in ((full, array.rows * row), (1, rest * row))
    )
    return near + array.e_dram * layer.repeats * words


def read_twice(layer: SystolicLayer, array: SystolicArray, rows: Floats) -> float:
    """Inputs of an example that are fetched again, because the cache holds only some whole rows at a time.

    Args:
        rows: Kept inputs in each row of all channels.
    """
    again = fetched_again(layer, array, rows)
    return float(rows @ again)


def fetched_again(layer: SystolicLayer, array: SystolicArray, rows: Floats) -> Floats:
    """How often each row of the input is fetched once more; shape (rows,)."""
    window, stride, above, below = layer.row_window
    sums = np.cumsum(np.concatenate([np.zeros(1 + above), rows, np.zeros(below)]))
    last, first, again = len(sums) - 1, 0, np.zeros(above + len(rows) + below)
    while True:
        packed = int(np.searchsorted(sums, sums[first] + array.input_cache, side="right")) - 1 - first
        if packed < min(window, last):
            need = sums[min(first + window, last)] - sums[first]
            raise InputError(
                f"layer {layer.name}: {window} rows of its input are {need:.0f} elements, and the input cache of "
                f"{array.name} holds {array.input_cache}; give an array with a larger input_cache"
            )
        following = first + ((packed - window) // stride + 1) * stride
        if following + window > last:
            return again[above : above + len(rows)]
        again[following : first + packed] += 1  # none where the next rows begin behind these
        first = following
