"""The coders by name and by their number in the container."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ecc.stages.coders.alphabets import Stream
from ecc.stages.coders.huffman import Huffman
from ecc.stages.coders.packed import Packed
from ecc.stages.coders.rans import Rans

__all__ = ["CODERS", "Coder"]


class Coder(Protocol):
    """Turns symbols into bytes and back."""

    @property
    def name(self) -> str:
        """As in ``Symbols.coder``."""

    @property
    def number(self) -> int:
        """In the container; never changed once files have it."""

    @property
    def largest_alphabet(self) -> int:
        """That it can code."""

    def encode(self, values: Stream, size: int) -> bytes:
        """The stream as bytes.

        Args:
            values: Symbols, shape (n,), each below ``size``.
            size: Of the alphabet.

        Raises:
            InputError: If the alphabet is larger than ``largest_alphabet``.
        """

    def decode(self, content: bytes, size: int, count: int) -> Stream:
        """The symbols, shape (count,).

        Memory is at most 8 bytes per symbol beside the content, whatever the content is.

        Raises:
            InputError: If the content is not that of ``count`` symbols below ``size``.
        """


CODERS: Mapping[str, Coder] = {coder.name: coder for coder in (Packed(), Huffman(), Rans())}
"""By name."""
