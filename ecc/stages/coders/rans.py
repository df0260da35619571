"""Asymmetric numeral systems (Duda 2013, arXiv 1311.2540): fractions of bits per symbol, by ranges of a state.

A state x from 2¹⁶ to below 2³² takes a symbol of frequency f and start c of 2^scale by
x ← ⌊x / f⌋ 2^scale + c + x mod f; before that it gives a word of 16 bits away where it would grow too large. Symbols
are coded from the last to the first, so that they are decoded from the first on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecc.core.errors import InputError
from ecc.stages.coders.alphabets import MOST_USED, Ints, Stream, count_symbols, narrowest
from ecc.stages.coders.bits import BitSink, BitSource
from ecc.stages.coders.frequencies import (
    Frequencies,
    choose_frequencies,
    estimate_bits,
    read_frequencies,
    write_frequencies,
)
from ecc.stages.coders.lanes import WORD_BITS, Words, check_lanes, choose_lanes, from_steps, to_steps
from ecc.stages.coders.packed import pack_bits, unpack_bits

__all__ = ["Rans"]

_LOWEST = 1 << WORD_BITS  # of a state
_LANE_BITS, _RAW_BITS = 5, 5


class Rans:
    """Streams at their entropy, near enough; the lowest bits of symbols may be stored as they are.

    That is done where an alphabet is large and its frequencies would take more than they give, as with fixed point of
    16 bits.
    """

    name = "rans"
    number = 2
    largest_alphabet = 1 << 24

    def encode(self, values: Stream, size: int) -> bytes:
        """The stream as bytes: table, states, words, raw bits; nothing for an empty stream.

        Args:
            values: Symbols, shape (n,), each below ``size``.
            size: Of the alphabet.
        """
        if not len(values):
            return b""
        raw, used, counts = _choose_raw(*count_symbols(values))
        table, bits = choose_frequencies(used, counts)
        exponent = choose_lanes(len(values), bits >> 3)
        sink = BitSink()
        sink.field(exponent, _LANE_BITS)
        sink.field(raw, _RAW_BITS)
        write_frequencies(sink, table)
        content = sink.content()
        if len(table.used) > 1:
            places = np.zeros(int(table.used[-1]) + 1, np.uint16)
            places[table.used] = np.arange(len(table.used))
            states, words = _encoded(_Ranges.of(table), places[values >> raw], 1 << exponent)
            content += states.astype("<u4").tobytes() + words.astype("<u2").tobytes()
        return content + pack_bits(values & values.dtype.type((1 << raw) - 1), raw)

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
        exponent, raw = source.field(_LANE_BITS), source.field(_RAW_BITS)
        table = read_frequencies(source, (size - 1 >> raw) + 1)
        rest = source.rest()
        cut = len(rest) - (-(-count * raw // 8))
        if cut < 0:
            raise InputError("a stream of rANS ends early")
        low = unpack_bits(rest[cut:], raw, count)
        high = _decoded(table, rest[:cut], exponent, count)
        wide = narrowest(size)
        values: Stream = high.astype(wide, copy=False)
        if raw:
            values = np.bitwise_or(values << wide(raw), low.astype(wide))
            if int(values.max()) >= size:
                raise InputError(f"a stream of rANS holds a symbol that is not below {size}")
        return values


def _choose_raw(used: Ints, counts: Ints) -> tuple[int, Ints, Ints]:
    """How many of the lowest bits are better stored as they are, and the symbols and counts above them."""
    total, raw = int(counts.sum()), 0
    while len(used) > MOST_USED:
        raw, (used, counts) = raw + 1, _halved(used, counts)
    best = estimate_bits(counts) + raw * total, raw, used, counts
    while used[-1] > 1:
        raw, (used, counts) = raw + 1, _halved(used, counts)
        bits = estimate_bits(counts) + raw * total
        if bits < best[0]:
            best = bits, raw, used, counts
        elif bits > best[0] + best[0] // 8:
            break
    return best[1:]


def _halved(used: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """The symbols without their lowest bit, and their counts."""
    first = np.flatnonzero(np.diff(used >> 1, prepend=-1))
    return (used >> 1)[first], np.add.reduceat(counts, first)


@dataclass(frozen=True, slots=True)
class _Ranges:
    """Frequencies and where each begins, by symbol; and by slot from 0 to 2^scale what decoding needs."""

    scale: int
    widths: NDArray[np.uint32]
    starts: NDArray[np.uint32]

    @classmethod
    def of(cls, table: Frequencies) -> _Ranges:
        widths = table.shares()
        return cls(table.scale, widths, (np.cumsum(widths) - widths).astype(np.uint32))

    def slots(self) -> tuple[Words, NDArray[np.uint32], NDArray[np.uint32]]:
        """Which symbol, its frequency, and the slot less the symbol's start; each of shape (2^scale,)."""
        places = np.repeat(np.arange(len(self.widths), dtype=np.uint16), self.widths)
        offsets = np.arange(1 << self.scale, dtype=np.uint32) - self.starts[places]
        return places, self.widths[places], offsets


def _encoded(ranges: _Ranges, places: Words, lanes: int) -> tuple[NDArray[np.uint32], Words]:
    """Final states of the lanes, shape (lanes,), and the words in the order in which they will be read."""
    if lanes == 1:
        return _encoded_one(ranges, places)
    steps, last = to_steps(places, lanes)
    states = np.full(lanes, _LOWEST, np.uint32)
    shift, scale, room = np.uint32(WORD_BITS), np.uint32(ranges.scale), np.uint32(32 - ranges.scale)
    # Where a state would not be below 2³² after a symbol, that is x ≥ f 2^(32 - scale), a word leaves it first.
    words = []
    for step in range(len(steps) - 1, -1, -1):
        now = last if step == len(steps) - 1 else lanes
        place, state = steps[step, :now], states[:now]
        width = ranges.widths[place]
        full = np.flatnonzero(state >> room >= width)
        words.append(state[full].astype(np.uint16))
        state[full] >>= shift
        share, rest = np.divmod(state, width)
        states[:now] = (share << scale) + rest + ranges.starts[place]
    return states, np.concatenate(words[::-1])


def _encoded_one(ranges: _Ranges, places: Words) -> tuple[NDArray[np.uint32], Words]:
    state, scale, room = _LOWEST, ranges.scale, 32 - ranges.scale
    widths, starts = ranges.widths.tolist(), ranges.starts.tolist()
    words = []
    for place in reversed(places.tolist()):
        width = widths[place]
        if state >> room >= width:
            words.append(state & 0xFFFF)
            state >>= WORD_BITS
        share, rest = divmod(state, width)
        state = (share << scale) + rest + starts[place]
    return np.array([state], np.uint32), np.array(words[::-1], np.uint16)


def _decoded(table: Frequencies, content: bytes, exponent: int, count: int) -> Stream:
    """The symbols without their raw bits, shape (count,)."""
    symbols: Stream = table.used.astype(narrowest(int(table.used[-1]) + 1))
    if len(symbols) == 1:
        if content:
            raise InputError("a stream of one symbol is followed by bytes")
        return np.full(count, symbols[0])
    lanes = check_lanes(exponent, count)
    if len(content) < 4 * lanes or len(content) % 2:
        raise InputError("a stream of rANS ends early")
    states = np.frombuffer(content, "<u4", lanes).astype(np.uint32)
    words = np.frombuffer(content, "<u2", offset=4 * lanes).astype(np.uint16, copy=False)
    if int(states.min()) < _LOWEST:
        raise InputError("a stream of rANS begins with an impossible state")
    ranges = _Ranges.of(table)
    decode = _places_one if lanes == 1 else _places
    found: Stream = symbols[decode(ranges, states, words, count)]
    return found


def _places(ranges: _Ranges, states: NDArray[np.uint32], words: Words, count: int) -> Words:
    lanes = len(states)
    steps = -(-count // lanes)
    places, widths, offsets = ranges.slots()
    mask, scale, shift = np.uint32((1 << ranges.scale) - 1), np.uint32(ranges.scale), np.uint32(WORD_BITS)
    found = np.empty((steps, lanes), np.uint16)
    slots, factors = np.empty(lanes, np.uint32), np.empty(lanes, np.uint32)
    taken = 0
    for step in range(steps):
        now = lanes if step < steps - 1 else count - step * lanes
        state, slot, factor = states[:now], slots[:now], factors[:now]
        np.bitwise_and(state, mask, out=slot)
        found[step, :now] = slot
        np.right_shift(state, scale, out=state)
        np.take(widths, slot, out=factor, mode="clip")
        np.multiply(state, factor, out=state)
        np.take(offsets, slot, out=factor, mode="clip")
        np.add(state, factor, out=state)
        low = np.flatnonzero(state < _LOWEST)
        if taken + len(low) > len(words):
            raise InputError("a stream of rANS ends early")
        state[low] = state[low] << shift | words[taken : taken + len(low)]
        taken += len(low)
    if taken != len(words) or (states != _LOWEST).any():
        raise InputError("a stream of rANS does not end where it began")
    result: Words = places[from_steps(found, count)]
    return result


def _places_one(ranges: _Ranges, states: NDArray[np.uint32], words: Words, count: int) -> Words:
    state, scale, mask = int(states[0]), ranges.scale, (1 << ranges.scale) - 1
    symbols, by_slot, by_offset = (each.tolist() for each in ranges.slots())
    reader = iter(words.tolist())
    found = []
    try:
        for _ in range(count):
            slot = state & mask
            found.append(symbols[slot])
            state = by_slot[slot] * (state >> scale) + by_offset[slot]
            if state < _LOWEST:
                state = state << WORD_BITS | next(reader)
    except StopIteration:
        raise InputError("a stream of rANS ends early") from None
    if state != _LOWEST or next(reader, None) is not None:
        raise InputError("a stream of rANS does not end where it began")
    return np.array(found, np.uint16)
