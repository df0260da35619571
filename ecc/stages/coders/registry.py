"""The coders by name and by their number in the container."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecc.stages.coders.packed import Packed

__all__ = ["CODERS", "Coder"]


class Coder(Protocol):
    """Turns symbols into bytes and back."""

    @property
    def name(self) -> str:
        """As in ``Symbols.coder``."""

    @property
    def number(self) -> int:
        """In the container; never changed once files have it."""

    def encode(self, values: NDArray[np.unsignedinteger], size: int) -> bytes:
        """The stream as bytes.

        Args:
            values: Symbols, shape (n,), each below ``size``.
            size: Of the alphabet.

        Raises:
            InputError: If the coder cannot code so many different symbols.
        """

    def decode(self, content: bytes, size: int, count: int) -> NDArray[np.unsignedinteger]:
        """The symbols, shape (count,).

        Memory is at most 8 bytes per symbol beside the content, whatever the content is.

        Raises:
            InputError: If the content is not that of ``count`` symbols below ``size``.
        """


CODERS: Mapping[str, Coder] = {coder.name: coder for coder in (Packed(),)}
"""By name."""
