"""Single bits, for the small tables before a stream: fields, Elias and Rice codes (Elias 1975; Rice 1979)."""

from __future__ import annotations

import numpy as np

from ecc.core.errors import InputError

__all__ = ["BitSink", "BitSource"]

_BLOCK_BYTES = 1 << 12
_MOST_UNARY = 1 << 16


class BitSink:
    """Bits that are being written, the highest of a byte first."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def field(self, value: int, bits: int) -> None:
        """``bits`` bits, the highest first."""
        if bits:
            self._pieces.append(f"{value:0{bits}b}")

    def unary(self, value: int) -> None:
        """So many ones and a zero."""
        self._pieces.append("1" * value + "0")

    def elias(self, value: int) -> None:
        """A number from 1 on in 2⌊log₂ value⌋ + 1 bits."""
        length = value.bit_length() - 1
        self.unary(length)
        self.field(value - (1 << length), length)

    def rice(self, value: int, bits: int) -> None:
        """A number from 0 on: its lowest ``bits`` bits as a field, the rest in unary."""
        self.unary(value >> bits)
        self.field(value & (1 << bits) - 1, bits)

    def content(self) -> bytes:
        """All of them; the last byte is filled with zeros."""
        text = "".join(self._pieces)
        text += "0" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big") if text else b""


class BitSource:
    """Bits that are being read; whatever is impossible raises ``InputError``."""

    def __init__(self, content: bytes) -> None:
        self._content, self._next = content, 0
        self._bits, self._place = b"", 0

    def field(self, bits: int) -> int:
        """As :meth:`BitSink.field` writes it."""
        if not bits:
            return 0
        while len(self._bits) - self._place < bits:
            self._refill()
        self._place += bits
        return int(self._bits[self._place - bits : self._place], 2)

    def unary(self) -> int:
        """As :meth:`BitSink.unary` writes it."""
        while (end := self._bits.find(b"0", self._place)) < 0:
            if len(self._bits) - self._place > _MOST_UNARY:
                raise InputError("a table of symbols is damaged")
            self._refill()
        value = end - self._place
        self._place = end + 1
        return value

    def elias(self) -> int:
        """As :meth:`BitSink.elias` writes it; below 2³²."""
        length = self.unary()
        if length > 31:
            raise InputError("a table of symbols is damaged")
        return 1 << length | self.field(length)

    def rice(self, bits: int) -> int:
        """As :meth:`BitSink.rice` writes it."""
        return self.unary() << bits | self.field(bits)

    def rest(self) -> bytes:
        """The bytes after the current one, whose bits that were not read must be zero."""
        unread = len(self._bits) - self._place
        if b"1" in self._bits[self._place : self._place + unread % 8]:
            raise InputError("a table of symbols is followed by bits that are not zero")
        return self._content[self._next - unread // 8 :]

    def _refill(self) -> None:
        block = self._content[self._next : self._next + _BLOCK_BYTES]
        if not block:
            raise InputError("a table of symbols ends early")
        self._next += len(block)
        fresh = (np.unpackbits(np.frombuffer(block, np.uint8)) + np.uint8(ord("0"))).tobytes()
        self._bits, self._place = self._bits[self._place :] + fresh, 0
