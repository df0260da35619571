"""What codes are made of: numbers as they are, symbols to be coded, and forms that put tensors together from both.

A code of a tensor is a tree. Stages replace leaves: pruning turns ``Numbers`` into a sparse form of gaps and values,
a codebook turns these values into codes and centroids, entropy coding turns the coder of the ``Symbols`` into a better
one. Every kind of form decodes by operations of torch, so what is stored can be trained through its decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.errors import InputError

__all__ = [
    "Form", "Node", "Numbers", "Symbols", "bytes_of", "is_floating", "is_same", "leaves", "map_leaves", "map_weights",
    "shape_of",
]  # fmt: skip

_MOST_SYMBOLS = 1 << 24
_QUANTISED = frozenset({"codebook", "fixed", "log", "product", "sum"})  # kinds whose floats are scales and codebooks
_WEIGHTS = {"multi-hash": ("space",)}  # parts that carry weights, of kinds with others beside them


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """Numbers that are stored as they are.

    Attributes:
        values: On the CPU, contiguous, of any dtype and shape.
    """

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.device.type != "cpu" or not self.values.is_contiguous():
            raise InputError("Numbers(values=...) must be a contiguous tensor on the CPU")


@dataclass(frozen=True, slots=True, eq=False)
class Symbols:
    """Whole numbers from 0 to below ``size``, which a coder turns into bits.

    Attributes:
        values: Shape (n,), of dtype uint8, uint16 or uint32.
        size: How many different ones there may be, at most 2²⁴.
        coder: Name of the coder: ``packed`` (all of equal length), ``huffman`` or ``rans``.
    """

    values: NDArray[np.unsignedinteger]
    size: int
    coder: str = "packed"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= _MOST_SYMBOLS:
            raise InputError(f"Symbols(size=...) must be from 1 to {_MOST_SYMBOLS}, got {self.size}")
        if self.values.ndim != 1 or self.values.dtype not in (np.uint8, np.uint16, np.uint32):
            raise InputError("Symbols(values=...) must be a vector of uint8, uint16 or uint32")
        if self.values.size and int(self.values.max()) >= self.size:
            raise InputError(f"Symbols(values=...) must be below size={self.size}, got {int(self.values.max())}")


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A tensor that is put together from parts.

    Attributes:
        kind: Name of the rule, one of ``ecc.stages.kinds.KINDS``.
        shape: Of the decoded tensor.
        dtype: Of the decoded tensor.
        parameters: Whole numbers and floats that the rule needs beside the parts.
        parts: By the names that the rule gives them.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    parameters: Mapping[str, int | float]
    parts: Mapping[str, Node]


Node = Numbers | Symbols | Form


def leaves(node: Node, path: str = "") -> Iterator[tuple[str, Numbers | Symbols]]:
    """The leaves below a node with their paths (``values/centroids``), depth first in the order of the parts."""
    if not isinstance(node, Form):
        yield path, node
        return
    for name, part in node.parts.items():
        yield from leaves(part, f"{path}/{name}" if path else name)


def map_leaves(node: Node, change: Callable[[str, Numbers | Symbols], Node], path: str = "") -> Node:
    """The tree with every leaf replaced by ``change(path, leaf)``."""
    if not isinstance(node, Form):
        return change(path, node)
    parts = {name: map_leaves(part, change, f"{path}/{name}" if path else name) for name, part in node.parts.items()}
    return replace(node, parts=parts)


def map_weights(node: Node, change: Callable[[Numbers], Node]) -> Node:
    """The tree with every leaf that carries weights replaced by ``change(leaf)``.

    These are floats: a whole tensor, the values of a sparse one, factors. Codebooks and scales of what is quantised
    already are not among them.
    """
    if isinstance(node, Form):
        if node.kind in _QUANTISED:
            return node
        weights = _WEIGHTS.get(node.kind, tuple(node.parts))
        parts = {name: map_weights(part, change) if name in weights else part for name, part in node.parts.items()}
        return replace(node, parts=parts)
    return change(node) if isinstance(node, Numbers) and node.values.is_floating_point() else node


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of the tensor that a node decodes to."""
    if isinstance(node, Form):
        return node.shape
    return tuple(node.values.shape)


def is_same(one: Node, other: Node) -> bool:
    """Whether two trees are stored in the same way and hold the same, bit for bit."""
    if one is other:
        return True
    if isinstance(one, Form) and isinstance(other, Form):
        return (
            (one.kind, one.shape, one.dtype, one.parameters) == (other.kind, other.shape, other.dtype, other.parameters)
            and list(one.parts) == list(other.parts)
            and all(map(is_same, one.parts.values(), other.parts.values()))
        )
    if isinstance(one, Symbols) and isinstance(other, Symbols):
        return (one.size, one.coder) == (other.size, other.coder) and np.array_equal(one.values, other.values)
    if isinstance(one, Numbers) and isinstance(other, Numbers):
        a, b = one.values, other.values
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bytes_of(a), bytes_of(b))
    return False


def bytes_of(tensor: Tensor) -> Tensor:
    """Bytes of a tensor in row-major order, in the order of this machine; shape (bytes,), a copy.

    A tensor can pass for contiguous and yet have no bytes to look at: one element of an expanded tensor (stride 0), or
    one whose sign or conjugation is still to be done.
    """
    copied = tensor.detach().reshape(-1).clone(memory_format=torch.contiguous_format)
    return copied.view(torch.uint8)


def is_floating(node: Node | None) -> bool:
    """Whether there is a node and it decodes to floats."""
    if isinstance(node, Form):
        return node.dtype.is_floating_point
    return isinstance(node, Numbers) and node.values.is_floating_point()
