"""Operators: what a network is run as, one call after the other.

An operator is its kind and whole numbers, each 1 where the kind has no use for it: so that those of a device's profile
and those of a network can be compared column by column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ecc.core.errors import InputError

__all__ = ["COLUMNS", "CONVOLUTIONS", "KINDS", "POINTWISE", "RECURRENT", "Operator", "convolution_kind"]

CONVOLUTIONS = ("conv", "depthwise", "grouped", "transposed")
RECURRENT: Mapping[str, int] = {"lstm": 4, "gru": 3, "rnn": 1}
"""Kinds of recurrent layers, and their gates."""

POINTWISE = ("relu", "relu6", "sigmoid", "tanh", "silu", "gelu", "hardswish", "hardsigmoid")
_PRODUCTS = ("linear", "matmul", "attention")
_NORMS: Mapping[str, int] = {"batch-norm": 4, "layer-norm": 2, "group-norm": 2}  # numbers per channel
_BINARY = ("add", "multiply")  # two operands of one shape
_OTHERS = ("max-pool", "average-pool", "reduce", *POINTWISE, "softmax", *_BINARY, "shift", "scale", "cat", "copy")

KINDS: tuple[str, ...] = (*CONVOLUTIONS, *_PRODUCTS, *RECURRENT, "embedding", *_NORMS, *_OTHERS)
"""All kinds; stores number them from 1 in this order, so that new ones go to the end."""


def convolution_kind(groups: int, channels_in: int) -> str:
    """``conv``, ``depthwise`` or ``grouped``."""
    return CONVOLUTIONS[0 if groups == 1 else 1 if groups == channels_in else 2]


@dataclass(frozen=True, slots=True)
class Operator:
    """One call: its kind and its shape.

    ``linear`` multiplies batch × length rows; ``matmul`` gives batch × groups products of length × channels_in and
    channels_in × channels_out; ``attention`` lets length tokens look at context ones in groups heads of size
    channels_in, and gives channels_out each. ``reduce`` is a mean, sum or maximum over all positions, ``shift`` and
    ``scale`` add and multiply by a number or something smaller, ``copy`` moves. A recurrent operator is one layer in
    one direction.

    Attributes:
        kind: One of KINDS.
        batch: Examples.
        length: Tokens or time steps.
        context: Tokens that attention looks at.
        groups: Of a convolution or a group norm; heads; products of a kind per example.
        channels_in: Channels or features read; rows of an embedding's table.
        channels_out: Those written.
        height: Of the input; 1 for a signal in one dimension.
        width: Of the input.
        out_height: Of the output.
        out_width: Of the output.
        kernel_h: Of the kernel.
        kernel_w: Of the kernel.
        stride: The larger one.
        dilation: The larger one.
    """

    kind: str
    batch: int = 1
    length: int = 1
    context: int = 1
    groups: int = 1
    channels_in: int = 1
    channels_out: int = 1
    height: int = 1
    width: int = 1
    out_height: int = 1
    out_width: int = 1
    kernel_h: int = 1
    kernel_w: int = 1
    stride: int = 1
    dilation: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"Operator(kind=...) {self.kind!r} is unknown; choose from {', '.join(KINDS)}")
        for name in COLUMNS:
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(f"Operator({name}=...) must be a whole number of at least 1, got {size!r}")
        if self.kind in CONVOLUTIONS and (self.channels_in % self.groups or self.channels_out % self.groups):
            raise InputError(f"Operator(groups={self.groups}) must divide the channels of a {self.kind} convolution")

    def __str__(self) -> str:
        """Its kind and the numbers that are not 1."""
        return " ".join([self.kind, *(f"{name}={size}" for name, size in self.shape.items() if size != 1)])

    @property
    def shape(self) -> dict[str, int]:
        """All numbers by column."""
        return {name: getattr(self, name) for name in COLUMNS}

    @property
    def macs(self) -> int:
        """Multiply-accumulates; 0 where none are counted, as in norms."""
        taps = self.kernel_h * self.kernel_w
        if self.kind in ("conv", "depthwise", "grouped"):
            positions = self.batch * self.out_height * self.out_width
            return positions * self.channels_out * (self.channels_in // self.groups) * taps
        if self.kind == "transposed":
            positions = self.batch * self.height * self.width
            return positions * self.channels_in * (self.channels_out // self.groups) * taps
        if self.kind == "attention":
            return self.batch * self.groups * self.length * self.context * (self.channels_in + self.channels_out)
        if self.kind in ("linear", "matmul"):
            return self.batch * self.groups * self.length * self.channels_in * self.channels_out
        if self.kind in RECURRENT:
            return self.batch * self.length * self.weights
        return 0

    @property
    def weights(self) -> int:
        """Numbers in its weights, biases left out."""
        if self.kind in CONVOLUTIONS:
            return self.channels_out * self.channels_in // self.groups * self.kernel_h * self.kernel_w
        if self.kind == "linear":
            return self.channels_in * self.channels_out
        if self.kind in RECURRENT:
            return RECURRENT[self.kind] * self.channels_out * (self.channels_in + self.channels_out)
        return _NORMS.get(self.kind, 0) * self.channels_in

    @property
    def reads(self) -> int:
        """Numbers that it reads besides its weights; of an embedding, those of the rows that it looks up."""
        if self.kind == "matmul":
            return self.batch * self.groups * self.channels_in * (self.length + self.channels_out)
        if self.kind == "attention":
            each = self.length * self.channels_in + self.context * (self.channels_in + self.channels_out)
            return self.batch * self.groups * each
        if self.kind == "embedding":
            return self.writes
        once = self.batch * self.length * self.channels_in * self.height * self.width
        return 2 * once if self.kind in _BINARY else once

    @property
    def writes(self) -> int:
        """Numbers that it writes."""
        if self.kind in ("matmul", "attention"):
            return self.batch * self.groups * self.length * self.channels_out
        if self.kind == "reduce":
            return self.batch * self.channels_out * self.out_height * self.out_width
        return self.batch * self.length * self.channels_out * self.out_height * self.out_width


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Operator))[1:]
"""The names of an operator's numbers, in order."""
