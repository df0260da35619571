"""The kind ``sparse``: which elements of a tensor are stored, as the gaps between them (Deep Compression, ICLR 2016).

The tensor is scanned in one run without row pointers. A symbol below the largest is a gap: so many elements are
passed, and the next one is an entry. The largest symbol passes elements and names no entry; where the published form
has a filler entry of value zero, this has none, so long gaps cost no codes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.nodes import Form, Node, Numbers, Symbols, is_floating, leaves, shape_of

__all__ = ["SparseIndex", "entry_places", "gap_symbols", "regapped", "sparse_form"]

_MOST_BITS = 12  # of a gap that is chosen here; longer ones are passed in several steps
_ORDERS = (0, 1)
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SparseIndex:
    """Zeros but for entries at given places.

    Parts: ``gaps``, symbols of which the largest, ``size`` - 1, passes as many elements without an entry and any other
    one, s, passes s elements and names the next; ``values``, the entries in the order of the scan. Parameter:
    ``order``, 0 to scan the last axis fastest and 1 to scan the first axis fastest and the others as they are.
    """

    @property
    def name(self) -> str:
        """As in ``Form.kind``."""
        return "sparse"

    @property
    def number(self) -> int:
        """In the container."""
        return 1

    def check(self, form: Form) -> None:
        """Refuse other parts, an unknown order, and a count of values that is not that of the entries."""
        gaps, values = form.parts.get("gaps"), form.parts.get("values")
        if len(form.parts) != 2 or not isinstance(gaps, Symbols) or values is None or isinstance(values, Symbols):
            raise InputError("a sparse form has gaps, which are symbols, and values, and nothing else")
        if gaps.size < 2 or set(form.parameters) != {"order"} or form.parameters["order"] not in _ORDERS:
            raise InputError("a sparse form has two or more symbols for gaps and an order of 0 or 1")
        entries = int(np.count_nonzero(gaps.values != gaps.size - 1))
        shape = shape_of(values)
        if shape != (entries,) or entries > math.prod(form.shape):
            raise InputError(
                f"a sparse form of shape {form.shape} has gaps to {entries} entries and values of shape {shape}"
            )
        if not (is_floating(values) and form.dtype.is_floating_point):
            raise InputError("a sparse form and its values are floats")

    def operand(self, form: Form) -> tuple[int, float]:
        """The entries, and the bits of a value or of its code."""
        values = form.parts["values"]
        if isinstance(values, Numbers):
            return values.values.numel(), 8.0 * values.values.element_size()
        codes = [leaf.size for _, leaf in leaves(values) if isinstance(leaf, Symbols)]
        wide = [8.0 * leaf.values.element_size() for _, leaf in leaves(values) if isinstance(leaf, Numbers)]
        bits = float(max(max(codes) - 1, 1).bit_length()) if codes else max(wide, default=32.0)
        return math.prod(shape_of(values)), bits

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """The tensor; refuses gaps that lead beyond it."""
        gaps, values, numel = parts["gaps"], parts["values"], math.prod(form.shape)
        symbols = form.parts["gaps"]
        escape = symbols.size - 1 if isinstance(symbols, Symbols) else 0
        named = gaps != escape
        places = (torch.cumsum(gaps + named, 0) - 1)[named]
        if len(places) and int(places[-1]) >= numel:
            raise InputError(f"the gaps of a sparse form lead to element {int(places[-1])} of {numel}")
        if form.parameters["order"] and form.shape:
            first = form.shape[0]
            places = places % first * (numel // first) + places // first
        dense = torch.zeros(numel, dtype=form.dtype, device=values.device)
        return dense.scatter_(0, places, values.to(form.dtype)).reshape(form.shape)


def sparse_form(tensor: Tensor, kept: Tensor | None = None, *, gap_bits: int | None = None) -> Form:
    """A tensor as a sparse form, in the order of the scan in which its places take the fewest bits.

    Args:
        tensor: Of floats, on the CPU.
        kept: Bool of its shape, True for entries; those that are not zero where None.
        gap_bits: Of a packed gap, 1 to 24; those with the least bytes in all where None.
    """
    kept = tensor != 0 if kept is None else kept
    scans = [_scanned(kept, order).numpy() for order in _ORDERS if order == 0 or tensor.ndim > 1]
    gaps = [_gaps(np.flatnonzero(scan)) for scan in scans]
    order = min(range(len(gaps)), key=lambda each: _coded_bits(_Counts.of(gaps[each]), 1 << _MOST_BITS))
    values = _scanned(tensor.detach(), order)[torch.from_numpy(scans[order])].clone()
    size = 1 << gap_bits if gap_bits is not None else _least_size(gaps[order], packed=True)
    parts: dict[str, Node] = {"gaps": Symbols(gap_symbols(gaps[order], size), size), "values": Numbers(values)}
    return Form("sparse", tuple(tensor.shape), tensor.dtype, {"order": order}, parts)


def regapped(node: Node, *, packed: bool) -> Node:
    """The same tensor with the gaps of sparse forms in it of the size that takes the least bytes.

    The places, the values and the names of coders stay as they are.

    Args:
        node: Any tree.
        packed: Whether gaps are going to be stored with equal length each, or behind an entropy coder.
    """
    if not isinstance(node, Form):
        return node
    parts = {name: regapped(part, packed=packed) for name, part in node.parts.items()}
    symbols = parts.get("gaps")
    if node.kind == "sparse" and isinstance(symbols, Symbols):
        gaps = _gaps(entry_places(symbols))
        size = _least_size(gaps, packed=packed)
        parts["gaps"] = Symbols(gap_symbols(gaps, size), size, symbols.coder)
    return replace(node, parts=parts)


def gap_symbols(gaps: Integers, size: int) -> NDArray[np.unsignedinteger]:
    """Symbols below ``size``, which is 2 or more, for gaps: elements that are passed before each entry."""
    escapes, rest = np.divmod(gaps, size - 1)
    symbols = np.full(int(escapes.sum()) + len(gaps), size - 1, np.min_scalar_type(size - 1))
    symbols[np.cumsum(escapes + 1) - 1] = rest
    return symbols


def entry_places(symbols: Symbols) -> Integers:
    """Where the entries are in the order of the scan, from 0."""
    named = symbols.values != symbols.size - 1
    places: Integers = (np.cumsum(symbols.values.astype(np.int64) + named) - 1)[named]
    return places


def _scanned(tensor: Tensor, order: int) -> Tensor:
    return (tensor.movedim(0, -1) if order else tensor).reshape(-1)


def _gaps(places: Integers) -> Integers:
    gaps: Integers = np.diff(places, prepend=-1) - 1
    return gaps


@dataclass(frozen=True, slots=True, eq=False)
class _Counts:
    """How often each gap occurs."""

    gaps: Integers
    counts: Integers

    @classmethod
    def of(cls, gaps: Integers) -> _Counts:
        return cls(*np.unique(gaps, return_counts=True))


def _least_size(gaps: Integers, *, packed: bool) -> int:
    """How many symbols take the least bytes."""
    if not len(gaps):
        return 2
    counts = _Counts.of(gaps)
    sizes = [1 << bits for bits in range(1, _MOST_BITS + 1)]
    return min(sizes, key=lambda size: (_packed_bits if packed else _coded_bits)(counts, size))


def _packed_bits(counts: _Counts, size: int) -> float:
    symbols = counts.counts.sum() + (counts.counts * (counts.gaps // (size - 1))).sum()
    return float(symbols * (size - 1).bit_length())


def _coded_bits(counts: _Counts, size: int) -> float:
    """The entropy of the symbols, at least a bit of each as in Huffman codes, and a byte for each different one.

    Without that bit the shortest gaps would look as good as longer ones to an ideal coder, which is slower with them.
    """
    if not len(counts.gaps):
        return 0.0
    escapes, rest = np.divmod(counts.gaps, size - 1)
    found = np.bincount(rest, counts.counts)
    found = np.append(found, (counts.counts * escapes).sum())
    found = found[found > 0]
    return float((found * np.maximum(np.log2(found.sum() / found), 1.0)).sum() + 8 * len(found))
