"""Canonical Huffman codes of limited length, each stream with its own (Huffman 1952; Larmore and Hirschberg 1990)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecc.core.errors import InputError
from ecc.stages.coders.alphabets import (
    MOST_USED,
    Ints,
    Stream,
    count_symbols,
    narrowest,
    read_levels,
    read_used,
    write_levels,
    write_used,
)
from ecc.stages.coders.bits import BitSink, BitSource
from ecc.stages.coders.lanes import WORD_BITS, Words, check_lanes, choose_lanes, from_steps, lane_blocks

__all__ = ["Huffman", "code_lengths"]

_LANE_BITS = 5
_MOST_BITS = 16


class Huffman:
    """Whole bits per symbol: near the entropy where no symbol has more than half of the stream."""

    name = "huffman"
    number = 1
    largest_alphabet = MOST_USED

    def encode(self, values: Stream, size: int) -> bytes:
        """The stream as bytes: table, then words; nothing for an empty stream.

        Args:
            values: Symbols, shape (n,), each below ``size``.
            size: Of the alphabet.

        Raises:
            InputError: If the alphabet is larger than ``largest_alphabet``.
        """
        if size > MOST_USED:
            raise InputError(f"an alphabet of {size} symbols gets no Huffman code, at most {MOST_USED} do; use rans")
        if not len(values):
            return b""
        used, counts = count_symbols(values)
        lengths = code_lengths(counts)
        nbytes = int((counts * lengths).sum()) + 7 >> 3
        exponent = choose_lanes(len(values), nbytes)
        sink = BitSink()
        sink.field(exponent, _LANE_BITS)
        write_used(sink, used)
        if len(used) == 1:
            return sink.content()
        write_levels(sink, lengths)
        code = _Code.of(lengths)
        places = np.zeros(int(used[-1]) + 1, np.uint16)
        places[used] = np.arange(len(used))
        return sink.content() + _words(code, places[values], 1 << exponent).astype("<u2").tobytes()

    def decode(self, content: bytes, size: int, count: int) -> Stream:
        """The symbols, shape (count,).

        Raises:
            InputError: If the bytes are not those of so many symbols.
        """
        if not count:
            if content:
                raise InputError("an empty stream has bytes")
            return np.zeros(0, np.uint8)
        source = BitSource(content)
        exponent = source.field(_LANE_BITS)
        used = read_used(source, size)
        symbols: Stream = used.astype(narrowest(size))
        if len(used) == 1:
            if source.rest():
                raise InputError("a stream of one symbol is followed by bytes")
            return np.full(count, symbols[0])
        lanes = check_lanes(exponent, count)
        lengths = read_levels(source, len(used), _MOST_BITS)
        if int((1 << _MOST_BITS - lengths).sum()) != 1 << _MOST_BITS:
            raise InputError("the code lengths of a Huffman stream are not those of a full code")
        rest = source.rest()
        if len(rest) % 2:
            raise InputError("a Huffman stream ends within a word")
        words = np.frombuffer(rest, "<u2")
        code = _Code.of(lengths)
        table = symbols[code.decoded]
        if lanes == 1:
            return _decode_one(code, table, words, count)
        return _decode_lanes(code, table, words, count, lanes)


def code_lengths(counts: Ints, most: int = _MOST_BITS) -> Ints:
    """The lengths of the prefix code of limited length that is shortest for symbols of such counts.

    Package-merge (Larmore and Hirschberg 1990): a symbol's length is the number of the lists whose cheapest items, as
    many as are needed, include it.

    Args:
        counts: Positive, shape (n,), n ≤ 2^most.
        most: Bits of a code.

    Returns:
        Shape (n,); 0 for a single symbol.
    """
    if len(counts) == 1:
        return np.zeros(1, np.int64)
    order = np.argsort(counts, kind="stable")
    leaves = counts[order].astype(np.int64)
    merged, is_leaf = leaves, np.ones(len(leaves), bool)
    lists = [is_leaf]
    for _ in range(most - 1):
        packages = merged[: len(merged) // 2 * 2].reshape(-1, 2).sum(axis=1)
        both = np.concatenate((leaves, packages))
        place = np.argsort(both, kind="stable")
        merged, is_leaf = both[place], place < len(leaves)
        lists.append(is_leaf)
    lengths = np.zeros(len(leaves), np.int64)
    needed = 2 * (len(leaves) - 1)
    for is_leaf in reversed(lists):
        own = int(np.count_nonzero(is_leaf[:needed]))
        lengths[:own] += 1
        needed = 2 * (needed - own)
    found = np.empty_like(lengths)
    found[order] = lengths
    return found


@dataclass(frozen=True, slots=True)
class _Code:
    """Codes by symbol, and symbols by the bits that come next.

    Attributes:
        bits: Of the longest code.
        lengths: Of each symbol's code.
        codes: Each symbol's, its first bit lowest.
        decoded: By the next ``bits`` bits, which symbol, and in ``consumed`` how many of them are its.
    """

    bits: int
    lengths: NDArray[np.uint32]
    codes: NDArray[np.uint32]
    decoded: Words
    consumed: NDArray[np.uint32]

    @classmethod
    def of(cls, lengths: Ints) -> _Code:
        """The canonical code: shorter codes first, and among equal ones the lower symbol; Kraft's sum is 1."""
        bits = int(lengths.max())
        order = np.argsort(lengths, kind="stable")
        spans = 1 << bits - lengths[order]
        starts = np.cumsum(spans) - spans
        codes = np.empty(len(lengths), np.uint32)
        codes[order] = _reversed(starts, bits)  # a start's lowest bits are zero, so its code's highest are
        mirror = _reversed(np.arange(1 << bits), bits)
        decoded = np.repeat(order, spans).astype(np.uint16)[mirror]
        return cls(bits, lengths.astype(np.uint32), codes, decoded, lengths[decoded].astype(np.uint32))


def _reversed(values: Ints, bits: int) -> NDArray[np.uint32]:
    """Each with its lowest ``bits`` bits in the other order."""
    found = np.zeros(values.shape, np.uint32)
    for bit in range(bits):
        found |= ((values >> bit & 1) << bits - 1 - bit).astype(np.uint32)
    return found


def _words(code: _Code, places: Words, lanes: int) -> Words:
    """The words of all lanes in the order in which they will be read: by step, then by lane."""
    words, turns = [], []
    for first, rows in lane_blocks(places, lanes):
        lengths = code.lengths[rows].astype(np.int64)
        before = np.cumsum(lengths, axis=1) - lengths
        # A lane reads a word whenever it holds fewer bits than the longest code has.
        due = -(-(before + code.bits) // WORD_BITS)
        width = int(due.max())
        place = before // WORD_BITS + np.arange(len(rows))[:, None] * width
        shifted = code.codes[rows] << (before % WORD_BITS).astype(np.uint32)
        # The bits of different symbols are different ones, so that sums put them together.
        low = np.bincount(place.ravel(), (shifted & 0xFFFF).ravel(), len(rows) * width + 1)
        high = np.bincount(place.ravel() + 1, (shifted >> WORD_BITS).ravel(), len(rows) * width + 1)
        found = (low + high)[:-1].astype(np.uint16).reshape(len(rows), width)
        lane, step = np.nonzero(np.diff(due, axis=1, prepend=0))
        words.append(found[lane, due[lane, step] - 1])
        turns.append(step * lanes + lane + first)
    return np.concatenate(words)[np.argsort(np.concatenate(turns), kind="stable")]


def _decode_one(code: _Code, table: Stream, words: Words, count: int) -> Stream:
    """One lane, symbol by symbol."""
    decoded, consumed = table.tolist(), code.consumed.tolist()
    buffer, held, most, mask = 0, 0, code.bits, (1 << code.bits) - 1
    reader = iter(words.tolist())
    values = []
    try:
        for _ in range(count):
            if held < most:
                buffer |= next(reader) << held
                held += WORD_BITS
            place = buffer & mask
            values.append(decoded[place])
            buffer >>= consumed[place]
            held -= consumed[place]
    except StopIteration:
        raise InputError("a Huffman stream ends early") from None
    if buffer or next(reader, None) is not None:
        raise InputError("a Huffman stream is followed by bits that are not zero")
    return np.array(values, table.dtype)


def _decode_lanes(code: _Code, table: Stream, words: Words, count: int, lanes: int) -> Stream:
    """All lanes step by step."""
    steps = -(-count // lanes)
    places = np.empty((steps, lanes), np.uint16)
    buffer, held = np.zeros(lanes, np.uint32), np.zeros(lanes, np.uint32)
    mask, most, width = np.uint32((1 << code.bits) - 1), np.uint32(code.bits), np.uint32(WORD_BITS)
    taken, used = 0, np.empty(lanes, np.uint32)
    for step in range(steps):
        now = lanes if step < steps - 1 else count - step * lanes
        empty = np.flatnonzero(held[:now] < most)
        if taken + len(empty) > len(words):
            raise InputError("a Huffman stream ends early")
        buffer[empty] |= words[taken : taken + len(empty)].astype(np.uint32) << held[empty]
        held[empty] += width
        taken += len(empty)
        place = buffer[:now] & mask
        places[step, :now] = place
        np.take(code.consumed, place, out=used[:now], mode="clip")
        buffer[:now] >>= used[:now]
        held[:now] -= used[:now]
    if taken != len(words) or buffer.any():
        raise InputError("a Huffman stream is followed by bits that are not zero")
    found: Stream = table[from_steps(places, count)]
    return found
