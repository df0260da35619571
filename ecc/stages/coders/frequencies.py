"""Frequencies of symbols for range coding: rounded so that table and stream together take the fewest bytes.

A frequency is stored as its number of bits and some of the bits after the first: few suffice, since the loss grows
with the square of the rounding. Everything is done in whole numbers, so that all platforms agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecc.core.errors import InputError
from ecc.stages.coders.alphabets import Ints, read_levels, read_used, write_levels, write_used
from ecc.stages.coders.bits import BitSink, BitSource

__all__ = ["Frequencies", "choose_frequencies", "estimate_bits", "log2_fixed", "read_frequencies", "write_frequencies"]

_SCALES = range(10, 17)
_SCALE_BITS, _DIGIT_BITS = 3, 4
_FINEST_SCALE = 14
"""Scales above it cost the coder itself up to 0.2 %, for its states are of 32 bits."""
_FINE_LOSS = 400
_COARSE_LOSS = 4096  # part of the bits that a smaller scale may cost
_TRIED_DIGITS = range(9)
_USUAL_DIGITS = 3
_FRACTION_BITS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Frequencies:
    """What a table says.

    Attributes:
        used: The symbols that there are, ascending, shape (n_used,).
        scale: The frequencies sum up to 2^scale.
        digits: Bits that are stored of a frequency after its first one.
        rounded: Frequencies as they are stored, shape (n_used,).
    """

    used: Ints
    scale: int
    digits: int
    rounded: Ints

    def shares(self) -> NDArray[np.uint32]:
        """The frequencies, each at least 1, which sum up to 2^scale."""
        return _shares(self.rounded, self.scale)


def choose_frequencies(used: Ints, counts: Ints) -> tuple[Frequencies, int]:
    """The frequencies with which table and stream are shortest, and about how many bits these take.

    The scale is chosen first, the smallest one that is about as good as the best, since its tables are small, and then
    the digits: the two hardly touch.

    Args:
        used: The symbols that there are, ascending, shape (n_used,), at most 65,536.
        counts: How often each is there.
    """
    scales = [scale for scale in _SCALES if len(used) <= 1 << scale]
    found = [_rounded(counts, scale, _USUAL_DIGITS)[1] for scale in scales]
    enough = min(found) + min(found) // _COARSE_LOSS
    scale = next(scale for scale, bits in zip(scales, found, strict=True) if bits <= enough)
    tried = [(_rounded(counts, scale, digits), digits) for digits in _TRIED_DIGITS]
    (rounded, bits), digits = min(tried, key=lambda each: each[0][1])
    return Frequencies(used, scale, digits, rounded), bits


def estimate_bits(counts: Ints) -> int:
    """About how many bits table and stream take; ``counts`` as for :func:`choose_frequencies`."""
    return _rounded(counts, _FINEST_SCALE if len(counts) <= 1 << _FINEST_SCALE else _SCALES[-1], _USUAL_DIGITS)[1]


def _rounded(counts: Ints, scale: int, digits: int) -> tuple[Ints, int]:
    """Frequencies that are stored with so many digits, and the bits of table and stream with them."""
    rounded = _round(_shares(counts, scale).astype(np.int64), digits)
    bits = _stream_bits(counts, _shares(rounded, scale), scale)
    if scale > _FINEST_SCALE:
        bits += bits // _FINE_LOSS
    return rounded, bits + _table_bits(rounded, digits)


def write_frequencies(sink: BitSink, table: Frequencies) -> None:
    """Append a table."""
    write_used(sink, table.used)
    if len(table.used) == 1:
        return
    sink.field(table.scale - _SCALES[0], _SCALE_BITS)
    sink.field(table.digits, _DIGIT_BITS)
    write_levels(sink, _bit_lengths(table.rounded))
    for frequency in table.rounded.tolist():
        after = frequency.bit_length() - 1
        kept = min(after, table.digits)
        sink.field((frequency >> after - kept) - (1 << kept), kept)


def read_frequencies(source: BitSource, size: int) -> Frequencies:
    """The table that comes next.

    Args:
        source: Of the stream.
        size: Of the alphabet.

    Raises:
        InputError: If it is impossible.
    """
    used = read_used(source, size)
    if len(used) == 1:
        return Frequencies(used, 0, 0, np.ones(1, np.int64))
    scale = source.field(_SCALE_BITS) + _SCALES[0]
    digits = source.field(_DIGIT_BITS)
    if scale > _SCALES[-1] or len(used) > 1 << scale:
        raise InputError(f"a table of {len(used)} frequencies has the scale {scale}")
    levels = read_levels(source, len(used), scale + 1)
    if digits >= int(levels.max()):
        raise InputError("a table of frequencies has more digits than they need")
    rounded = np.empty(len(used), np.int64)
    for place, level in enumerate(levels.tolist()):
        kept = min(level - 1, digits)
        rounded[place] = (1 << kept | source.field(kept)) << level - 1 - kept
    return Frequencies(used, scale, digits, rounded)


def _round(exact: Ints, digits: int) -> Ints:
    """Each to its first bit and so many after it."""
    drop = np.maximum(_bit_lengths(exact) - 1 - digits, 0)
    half = (1 << drop) >> 1
    return (exact + half) >> drop << drop


def _shares(weights: Ints, scale: int) -> NDArray[np.uint32]:
    """Whole numbers from 1 on in proportion to the weights, with the sum 2^scale, by largest remainders."""
    total, target = int(weights.sum()), 1 << scale
    scaled = weights << scale
    shares = np.maximum(scaled // total, 1)
    missing = target - int(shares.sum())
    if missing > 0:
        order = np.argsort(-(scaled - shares * total), kind="stable")
        shares[order[:missing]] += 1
    while missing < 0:  # numbers that were raised to 1 take from the largest ones
        largest = int(np.argmax(shares))
        taken = min(-missing, max(int(shares[largest]) // 16, 1))
        shares[largest] -= taken
        missing += taken
    found: NDArray[np.uint32] = shares.astype(np.uint32)
    return found


def _stream_bits(counts: Ints, shares: NDArray[np.uint32], scale: int) -> int:
    fixed = (scale << _FRACTION_BITS) - log2_fixed(shares.astype(np.uint64))
    return int((counts * fixed).sum()) >> _FRACTION_BITS


def _table_bits(rounded: Ints, digits: int) -> int:
    levels = _bit_lengths(rounded)
    steps = np.abs(np.diff(levels))
    return int((1 + (steps > 0) + steps).sum() + np.minimum(levels - 1, digits).sum())


def log2_fixed(values: NDArray[np.uint64]) -> Ints:
    """⌊2¹⁶ log₂ value⌋ of numbers from 1 to below 2³², by squaring; shape as given."""
    whole = _bit_lengths(values.astype(np.int64)) - 1
    power = values << (31 - whole).astype(np.uint64)  # from 2³¹ to below 2³²
    found = whole
    for _ in range(_FRACTION_BITS):
        power = power * power >> np.uint64(31)
        carry = power >> np.uint64(32)
        power >>= carry
        found = found * 2 + carry.astype(np.int64)
    return found


def _bit_lengths(values: Ints) -> Ints:
    """Bits of numbers from 1 to below 2⁵²."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)
