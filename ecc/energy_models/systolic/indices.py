"""Indices: what it takes to say which weights of a sparse layer are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ecc.core.errors import InputError

__all__ = ["NO_INDEX", "SparseIndex"]

_MOST_BITS = 64


@dataclass(frozen=True, slots=True)
class SparseIndex:
    """Bits that are fetched beside the weights of a layer that has zeros; the default is none, as in the paper.

    Attributes:
        bits_per_nonzero: For each weight that is kept, as with relative or run-length indices.
        bits_per_weight: For each weight, kept or not, as with a bitmap.
    """

    bits_per_nonzero: float = 0.0
    bits_per_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in ("bits_per_nonzero", "bits_per_weight"):
            bits = getattr(self, name)
            if isinstance(bits, bool) or not isinstance(bits, int | float) or not 0 <= bits <= _MOST_BITS:
                raise InputError(f"SparseIndex({name}=...) must be from 0 to {_MOST_BITS} bits, got {bits!r:.80}")

    @classmethod
    def bitmap(cls) -> SparseIndex:
        """One bit for each weight."""
        return cls(bits_per_weight=1.0)

    @classmethod
    def parse(cls, text: str) -> SparseIndex:
        """``bitmap``, or bits for each kept weight (on average, so that they need not be whole).

        Raises:
            InputError: If it is neither.
        """
        if text == "bitmap":
            return cls.bitmap()
        try:
            bits = float(text)
        except ValueError:
            bits = math.nan
        if not 0 <= bits <= _MOST_BITS:
            raise InputError(
                f"index bits {text!r:.80} are neither a number from 0 to {_MOST_BITS} for each kept weight nor 'bitmap'"
            )
        return cls(bits_per_nonzero=bits)

    def words(self, nonzeros: int, size: int, bits: int) -> float:
        """Elements of so many bits that the index of a layer takes; none where no weight is zero."""
        if nonzeros == size:
            return 0.0
        return (self.bits_per_nonzero * nonzeros + self.bits_per_weight * size) / bits


NO_INDEX = SparseIndex()
"""Sparse weights whose places cost nothing, as in the paper."""
