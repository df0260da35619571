"""The file layout in which the authors of Deep Compression released AlexNet, to read and to write.

First a uint32 per layer: its entries, fillers among them. Then layer by layer: float32 codebook of 2^b values, float32
biases, the packed codes, the packed gaps; all little-endian. Fields are packed from the low bits up: of two 4-bit ones
in a byte the first is the low nibble. A stored gap g passes g elements of the flattened tensor; an entry beyond the
largest gap is reached by fillers of code 0 with that gap. Every element that is not named has the codebook's value 0,
which is 0.0. The released file has codes of 8 bits for convolutions and 4 for linear layers, and gaps of 4; the other
widths of the paper (5 and 8) are packed alike here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.code import PackedCode, decode_node
from ecc.stages.nodes import Form, Node, Numbers, Symbols
from ecc.stages.sparse_index import sparse_form

__all__ = ["ALEXNET", "ReleasedLayer", "read_released", "write_released"]

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReleasedLayer:
    """What a file says of a layer only by its place.

    Attributes:
        name: Of the layer; its tensors are ``name.weight`` and ``name.bias``.
        shape: Of the weights; biases are as many as its first axis.
        code_bits: From 1 to 8.
        gap_bits: From 1 to 8.
    """

    name: str
    shape: tuple[int, ...]
    code_bits: int
    gap_bits: int = 4

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise InputError(f"ReleasedLayer(shape=...) must have positive axes, got {self.shape}")
        for field in ("code_bits", "gap_bits"):
            if not 1 <= getattr(self, field) <= 8:
                raise InputError(f"ReleasedLayer({field}=...) must be from 1 to 8, got {getattr(self, field)}")

    @property
    def size(self) -> int:
        """Elements of the weights."""
        return math.prod(self.shape)

    def nbytes(self, entries: int) -> int:
        """In the file, without its count."""
        fields = sum(-(-entries * bits // 8) for bits in (self.code_bits, self.gap_bits))
        return 4 * ((1 << self.code_bits) + self.shape[0]) + fields


ALEXNET = (
    ReleasedLayer("conv1", (96, 3, 11, 11), 8),
    ReleasedLayer("conv2", (256, 48, 5, 5), 8),
    ReleasedLayer("conv3", (384, 256, 3, 3), 8),
    ReleasedLayer("conv4", (384, 192, 3, 3), 8),
    ReleasedLayer("conv5", (256, 192, 3, 3), 8),
    ReleasedLayer("fc6", (4096, 9216), 4),
    ReleasedLayer("fc7", (4096, 4096), 4),
    ReleasedLayer("fc8", (1000, 4096), 4),
)
"""The released network: Caffe's AlexNet, with groups in the second, fourth and fifth convolution."""


def read_released(content: bytes, layers: Sequence[ReleasedLayer] = ALEXNET) -> PackedCode:
    """The code in a file. Entries of code 0, fillers among them, are zeros and are not entries any more.

    Args:
        content: The whole file.
        layers: In its order.

    Raises:
        InputError: If the file has another size than its counts say, an entry lies beyond its tensor, or the first
            value of a codebook is not 0.
    """
    head = 4 * len(layers)
    if len(content) < head:
        raise InputError(f"the file ends within the counts of its {len(layers)} layers, after {len(content)} bytes")
    counts = [int(count) for count in np.frombuffer(content, "<u4", len(layers))]
    for layer, count in zip(layers, counts, strict=True):
        if count > layer.size:
            raise InputError(f"the file declares {count} entries for {layer.name}, which has {layer.size} weights")
    expected = head + sum(layer.nbytes(count) for layer, count in zip(layers, counts, strict=True))
    if len(content) != expected:
        raise InputError(f"the file has {len(content)} bytes, and its counts of entries ask for {expected}")
    nodes: dict[str, Node] = {}
    for layer, count in zip(layers, counts, strict=True):
        end = head + layer.nbytes(count)
        nodes[f"{layer.name}.weight"], nodes[f"{layer.name}.bias"] = _read_layer(content[head:end], layer, count)
        head = end
    return PackedCode(nodes)


def write_released(code: PackedCode, layers: Sequence[ReleasedLayer] = ALEXNET) -> bytes:
    """The file of a code.

    Args:
        code: Its weights have shared values, at most 2^code_bits - 1, and are sparse or whole; its biases are stored
            as they are.

    Raises:
        InputError: If a layer is missing or has another form.
    """
    written = [_write_layer(code, layer) for layer in layers]
    counts = np.array([count for count, _ in written], "<u4").tobytes()
    return counts + b"".join(content for _, content in written)


def _read_layer(content: bytes, layer: ReleasedLayer, count: int) -> tuple[Form, Numbers]:
    values, biases = 1 << layer.code_bits, layer.shape[0]
    floats = np.frombuffer(content, "<f4", values + biases)
    codebook, bias = floats[:values].astype(np.float32), floats[values:].astype(np.float32)
    if codebook[0] != 0:
        raise InputError(f"the codebook of {layer.name} begins with {codebook[0]:g}, and elements not named must be 0")
    fields = np.frombuffer(content, np.uint8, offset=4 * (values + biases))
    split = -(-count * layer.code_bits // 8)
    codes = _unpacked(fields[:split], layer.code_bits, count)
    places = np.cumsum(_unpacked(fields[split:], layer.gap_bits, count) + 1) - 1
    if count and places[-1] >= layer.size:
        raise InputError(f"the gaps of {layer.name} lead to element {places[-1]} of {layer.size}")
    dense = np.zeros(layer.size, np.int64)
    dense[places] = codes
    return _shared(torch.from_numpy(dense).reshape(layer.shape), codebook), Numbers(torch.from_numpy(bias))


def _shared(codes: Tensor, codebook: NDArray[np.float32]) -> Form:
    """A sparse form with shared values; code 0 is no entry and has no centroid."""
    sparse = sparse_form(codes.float(), codes != 0)
    values = sparse.parts["values"]
    entries = decode_node(values).numpy().astype(np.uint8) - np.uint8(1)
    parts: dict[str, Node] = {
        "codes": Symbols(entries, max(len(codebook) - 1, 1)),
        "centroids": Numbers(torch.from_numpy(codebook[1:].copy())),
    }
    shared = Form("codebook", (len(entries),), torch.float32, {}, parts)
    return Form("sparse", sparse.shape, torch.float32, sparse.parameters, {**sparse.parts, "values": shared})


def _write_layer(code: PackedCode, layer: ReleasedLayer) -> tuple[int, bytes]:
    """Count of entries and content."""
    weights, biases = code.nodes.get(f"{layer.name}.weight"), code.nodes.get(f"{layer.name}.bias")
    if not isinstance(biases, Numbers) or tuple(biases.values.shape) != layer.shape[:1]:
        raise InputError(f"{layer.name}.bias must be stored as {layer.shape[0]} floats, as the layout has them")
    codes, centroids = _codes(weights, layer)
    if len(centroids) >= 1 << layer.code_bits:
        raise InputError(
            f"{layer.name}.weight has {len(centroids)} values, and codes of {layer.code_bits} bits with one for zero "
            f"name {(1 << layer.code_bits) - 1} at most"
        )
    codebook = np.zeros(1 << layer.code_bits, "<f4")
    codebook[1 : 1 + len(centroids)] = centroids
    places = np.flatnonzero(codes)
    reach = 1 << layer.gap_bits
    fillers, rest = np.divmod(np.diff(places, prepend=-1) - 1, reach)
    named = np.cumsum(fillers + 1) - 1
    count = len(places) + int(fillers.sum())
    gaps, symbols = np.full(count, reach - 1), np.zeros(count, np.int64)
    gaps[named], symbols[named] = rest, codes[places]
    content = codebook.tobytes() + biases.values.numpy().astype("<f4").tobytes()
    content += _packed(symbols, layer.code_bits).tobytes() + _packed(gaps, layer.gap_bits).tobytes()
    return count, content


def _codes(node: Node | None, layer: ReleasedLayer) -> tuple[Integers, NDArray[np.float32]]:
    """For each element in row-major order its code, 0 where it is no entry, and the values of the codes from 1."""
    shared = node.parts.get("values") if isinstance(node, Form) and node.kind == "sparse" else node
    if not isinstance(node, Form) or not isinstance(shared, Form) or shared.kind != "codebook":
        raise InputError(f"{layer.name}.weight must have shared values; apply prune and codebook to it")
    symbols = shared.parts["codes"]
    if node.shape != layer.shape or not isinstance(symbols, Symbols):
        raise InputError(f"{layer.name}.weight has shape {node.shape}, and the layout has {layer.shape} there")
    numbered = Numbers(torch.from_numpy(symbols.values.astype(np.float32) + 1).reshape(shared.shape))
    whole = node is shared
    codes = decode_node(
        numbered if whole else replace(node, dtype=torch.float32, parts={**node.parts, "values": numbered})
    )
    return codes.flatten().numpy().astype(np.int64), decode_node(shared.parts["centroids"]).float().numpy()


def _packed(values: Integers, bits: int) -> Bytes:
    """Fields of so many bits, from the low bits of each byte up."""
    spread = (values[:, None] >> np.arange(bits)) & 1
    return np.packbits(spread.astype(np.uint8).reshape(-1), bitorder="little")


def _unpacked(content: Bytes, bits: int, count: int) -> Integers:
    spread = np.unpackbits(content, count=count * bits, bitorder="little").reshape(count, bits)
    return np.asarray(spread.astype(np.int64) @ (1 << np.arange(bits)))
