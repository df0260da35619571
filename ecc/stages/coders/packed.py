"""Symbols in fields of equal width: what a coder that knows nothing of frequencies needs."""

from __future__ import annotations

import numpy as np

from ecc.core.errors import InputError
from ecc.stages.coders.alphabets import Stream, narrowest

__all__ = ["Packed", "pack_bits", "unpack_bits"]

_GROUP = 8  # symbols; so many of b bits are exactly b bytes


class Packed:
    """Fields of ⌈log₂ size⌉ bits, the lowest bits first; the last byte is filled with zeros."""

    name = "packed"
    number = 0
    largest_alphabet = 1 << 24

    def encode(self, values: Stream, size: int) -> bytes:
        """The stream as bytes.

        Args:
            values: Symbols, shape (n,), each below ``size``.
            size: Of the alphabet.
        """
        return pack_bits(values, (size - 1).bit_length())

    def decode(self, content: bytes, size: int, count: int) -> Stream:
        """The symbols, shape (count,).

        Raises:
            InputError: If the bytes are not those of so many symbols.
        """
        values = unpack_bits(content, (size - 1).bit_length(), count)
        if count and int(values.max()) >= size:
            raise InputError(f"a packed stream holds a symbol that is not below {size}")
        return values


def pack_bits(values: Stream, bits: int) -> bytes:
    """Fields of ``bits`` bits (0 to 25), the lowest first.

    Args:
        values: Shape (n,), each below 2^bits.
    """
    count = len(values)
    rows = -(-count // _GROUP)
    fields = np.zeros((rows, _GROUP), np.uint32)
    fields.reshape(-1)[:count] = values
    found = np.zeros((rows, bits), np.uint8)
    for column in range(_GROUP):
        for byte in range(column * bits // 8, -(-(column + 1) * bits // 8)):
            shift = byte * 8 - column * bits
            field = fields[:, column]
            found[:, byte] |= (field >> np.uint32(shift) if shift >= 0 else field << np.uint32(-shift)).astype(np.uint8)
    return found.tobytes()[: _length(count, bits)]


def unpack_bits(content: bytes, bits: int, count: int) -> Stream:
    """The fields of :func:`pack_bits`, shape (count,), in the narrowest type.

    Raises:
        InputError: If the bytes are too few or too many, or those that fill the last one are not zero.
    """
    if len(content) != _length(count, bits):
        raise InputError(f"{count} fields of {bits} bits have {len(content)} bytes instead of {_length(count, bits)}")
    kind = narrowest(1 << bits)
    if bits == 0 or count == 0:
        return np.zeros(count, kind)
    if (spare := len(content) * 8 - count * bits) and content[-1] >> (8 - spare):
        raise InputError(f"{count} fields of {bits} bits are followed by bits that are not zero")
    rows = -(-count // _GROUP)
    stored = np.zeros((rows, bits), np.uint8)
    stored.reshape(-1)[: len(content)] = np.frombuffer(content, np.uint8)
    found = np.empty((rows, _GROUP), kind)
    for column in range(_GROUP):
        first = column * bits // 8
        field = np.zeros(rows, np.uint32)  # it and the 7 bits before it
        for byte in range(first, -(-(column + 1) * bits // 8)):
            field |= stored[:, byte].astype(np.uint32) << np.uint32(8 * (byte - first))
        found[:, column] = field >> np.uint32(column * bits % 8) & np.uint32((1 << bits) - 1)
    return found.reshape(-1)[:count]


def _length(count: int, bits: int) -> int:
    return -(-count * bits // 8)
