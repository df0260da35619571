"""Which symbols of an alphabet a stream has, and a small level for each of them, as a table of few bits.

The levels are code lengths (Huffman) or the number of bits of a frequency (rANS). Neighbours in an alphabet are
mostly alike, for gaps and for sorted codebooks, so that their differences are stored; an alphabet in which symbols are
missing has the distances between those that are there as Rice codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecc.core.errors import InputError
from ecc.stages.coders.bits import BitSink, BitSource

__all__ = [
    "MOST_USED",
    "Ints",
    "Stream",
    "count_symbols",
    "narrowest",
    "read_levels",
    "read_used",
    "write_levels",
    "write_used",
]

MOST_USED = 1 << 16
"""Symbols that a table can hold."""

_FULL_COUNT = 1 << 16  # alphabets up to which all symbols are counted in a table
_WHOLE = 0  # instead of a Rice parameter: the symbols are 0, 1, … without a hole
_PARAMETER_BITS, _LEVEL_BITS = 5, 5

Ints = NDArray[np.int64]
Stream = NDArray[np.unsignedinteger[Any]]


def narrowest(size: int) -> type[np.unsignedinteger[Any]]:
    """The type in which symbols of an alphabet of such size are decoded."""
    return np.uint8 if size <= 1 << 8 else np.uint16 if size <= 1 << 16 else np.uint32


def count_symbols(values: Stream) -> tuple[Ints, Ints]:
    """The symbols of a stream that is not empty, ascending, and how often each is there; both of shape (n_used,)."""
    if int(values.max()) > _FULL_COUNT + 4 * len(values):
        symbols, counts = np.unique(values, return_counts=True)
        return symbols.astype(np.int64), counts.astype(np.int64)
    counts = np.bincount(values)
    used: Ints = np.flatnonzero(counts)
    return used, counts[used].astype(np.int64)


def write_used(sink: BitSink, used: Ints) -> None:
    """Append which symbols there are.

    Args:
        used: Ascending, shape (n_used,), at least one and at most ``MOST_USED``.
    """
    sink.elias(len(used))
    if used[-1] == len(used) - 1:
        sink.field(_WHOLE, _PARAMETER_BITS)
        return
    gaps = np.diff(used, prepend=-1) - 1
    costs = [int((gaps >> bits).sum()) + bits * len(gaps) for bits in range(25)]
    bits = int(np.argmin(costs))
    sink.field(bits + 1, _PARAMETER_BITS)
    for gap in gaps.tolist():
        sink.rice(gap, bits)


def read_used(source: BitSource, size: int) -> Ints:
    """The symbols that there are.

    Args:
        source: Of the table.
        size: Of the alphabet.

    Raises:
        InputError: If they are too many or not in the alphabet.
    """
    count = source.elias()
    if count > min(size, MOST_USED):
        raise InputError(f"a table has {count} symbols of an alphabet of {size}; at most {MOST_USED} are allowed")
    parameter = source.field(_PARAMETER_BITS)
    if parameter == _WHOLE:
        return np.arange(count)
    gaps = np.array([source.rice(parameter - 1) for _ in range(count)], np.int64)
    used: Ints = np.cumsum(gaps + 1) - 1
    if used[-1] >= size or used[-1] == count - 1:
        raise InputError(f"a table has symbols that are not in an alphabet of {size}, or could be shorter")
    return used


def write_levels(sink: BitSink, levels: Ints) -> None:
    """Append a level from 0 to 31 of each symbol: the first one, then differences."""
    sink.field(int(levels[0]), _LEVEL_BITS)
    for step in np.diff(levels).tolist():
        if not step:
            sink.field(0, 1)
        else:
            sink.field(3 if step < 0 else 2, 2)
            sink.unary(abs(step) - 1)


def read_levels(source: BitSource, count: int, most: int) -> Ints:
    """The levels of ``count`` symbols.

    Raises:
        InputError: If one is not from 1 to ``most``.
    """
    level = source.field(_LEVEL_BITS)
    levels = np.empty(count, np.int64)
    for place in range(count):
        if place and source.field(1):
            falls = source.field(1)
            step = source.unary() + 1
            level += -step if falls else step
        if not 1 <= level <= most:
            raise InputError(f"a table has the level {level}; from 1 to {most} are allowed")
        levels[place] = level
    return levels
