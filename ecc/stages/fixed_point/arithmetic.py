"""Integer arithmetic of the reference path: shifts that round, saturation, and numbers with their exponents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ecc.stages.fixed_point.quantising import sizes_of

__all__ = ["INT32", "Range", "Whole", "aligned", "rounded_shift", "to_bytes", "to_whole"]

INT32 = 2**31 - 1
"""The largest accumulator."""

_MOST_RIGHT, _MOST_LEFT = 40, 31  # beyond, every int32 becomes 0, or no longer fits


@dataclass(frozen=True, slots=True)
class Range:
    """The bytes of an activation: q · 2^exponent.

    Attributes:
        exponent: Of the step.
        signed: Whether q is from -128 to 127, else from 0 to 255.
    """

    exponent: int
    signed: bool

    @property
    def low(self) -> int:
        """The smallest byte."""
        return -128 if self.signed else 0

    @property
    def high(self) -> int:
        """The largest byte."""
        return 127 if self.signed else 255


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A tensor of whole numbers times powers of two.

    Attributes:
        numbers: int64 that fit int32.
        exponents: int64, one, or one per channel in the shape that broadcasts.
        bound: That no magnitude of ``numbers`` can exceed, whatever the inputs.
    """

    numbers: Tensor
    exponents: Tensor
    bound: int

    @property
    def uniform(self) -> bool:
        """Whether all numbers have one exponent."""
        return self.exponents.numel() == 1

    def floats(self) -> Tensor:
        """The numbers that are meant, in float32."""
        return (self.numbers.double() * sizes_of(self.exponents).double()).float()


def rounded_shift(numbers: Tensor, shift: Tensor | int) -> Tensor:
    """(numbers + 2^(s-1)) >> s where s > 0, numbers << -s elsewhere; halves go up.

    Without the first term a shift of negative numbers would round to minus infinity: half a step of bias per layer.
    """
    shifts = torch.as_tensor(shift, dtype=torch.int64).clamp(-_MOST_LEFT, _MOST_RIGHT)
    right, left = shifts.clamp_min(0), (-shifts).clamp_min(0)
    half = torch.where(right > 0, torch.ones_like(right) << (right - 1).clamp_min(0), torch.zeros_like(right))
    return ((numbers << left) + half) >> right


def to_bytes(whole: Whole, place: Range) -> Whole:
    """The same numbers in 8 bits: shifted to the exponent of ``place``, rounded, saturated."""
    shift = place.exponent - whole.exponents
    numbers = rounded_shift(whole.numbers, shift).clamp_(place.low, place.high)
    return Whole(numbers, torch.tensor(place.exponent), max(place.high, -place.low))


def to_whole(values: Tensor, place: Range) -> Whole:
    """Floats as bytes: the one step that is no integer arithmetic, at the input and behind layers that stay float."""
    step = sizes_of(torch.tensor(place.exponent)).double()
    numbers = torch.floor(values.double() / step + 0.5).clamp_(place.low, place.high).to(torch.int64)
    return Whole(numbers, torch.tensor(place.exponent), max(place.high, -place.low))


def aligned(one: Whole, other: Whole) -> tuple[Tensor, Tensor, Tensor, int] | None:
    """Both tensors' numbers at the finer of their exponents, these, and a bound of the sum; None beyond int32."""
    exponents = torch.minimum(one.exponents, other.exponents)
    lefts = [each.exponents - exponents for each in (one, other)]
    most = [int(left.max()) for left in lefts]
    bound = sum(each.bound << left for each, left in zip((one, other), most, strict=True))
    if bound > INT32:
        return None
    return one.numbers << lefts[0], other.numbers << lefts[1], exponents, bound
