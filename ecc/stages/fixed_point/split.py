"""Kind ``sum``: whole numbers of 16 bits as a dense matrix of signed low bytes and a sparse one of high bytes.

A few outliers would cost all other weights their precision, so the step is chosen for the many and the outliers take 16
bits: W = W_L + 256 W_H, W_L = ((W + 128) mod 256) - 128 (feed-forward article's two matrices; with the low byte signed,
W_H is zero wherever W fits 8 bits, where bytes of the two's complement would have -1 for all small negative numbers).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.nodes import Form, Node, Numbers, Symbols, is_floating, shape_of
from ecc.stages.sparse_index import sparse_form

__all__ = ["LARGEST_SPLIT", "SHIFT", "Sum", "low_and_high", "split_codes"]

SHIFT = 8
"""Bits of the low matrix."""

LARGEST_SPLIT = 127 * 2**SHIFT + 127
"""The largest number of which both bytes are signed bytes; 32767 would have a high byte of 128."""

_LOW = 2**SHIFT


class Sum:
    """low - offset + high · 2^shift, in int32.

    Parts: ``low``, symbols, one per number; ``high``, a node of floats that are whole, of the same shape, as
    a rule sparse.
    """

    name = "sum"
    number = 8

    def check(self, form: Form) -> None:
        """Refuse a form whose parts do not agree."""
        low, high = form.parts.get("low"), form.parts.get("high")
        if set(form.parts) != {"low", "high"} or set(form.parameters) != {"shift", "offset"}:
            raise InputError("a sum has the parts low and high and the parameters shift and offset")
        shift, offset = form.parameters["shift"], form.parameters["offset"]
        if not isinstance(shift, int) or not isinstance(offset, int) or not 1 <= shift <= 16:
            raise InputError("the shift of a sum must be from 1 to 16, and its offset a whole number")
        if form.dtype != torch.int32:
            raise InputError(f"a sum is of int32, not of {form.dtype}")
        if not isinstance(low, Symbols) or len(low.values) != math.prod(form.shape) or not 0 <= offset < low.size:
            raise InputError(f"the low part of a sum does not agree with its shape {form.shape}")
        if high is None or shape_of(high) != form.shape or not is_floating(high):
            raise InputError(f"the high part of a sum must be floats of its shape {form.shape}")

    def operand(self, form: Form) -> tuple[int, float]:
        """Every entry, at the bits of the low part."""
        return math.prod(form.shape), float(int(form.parameters["shift"]))

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """The whole numbers."""
        low = (parts["low"] - int(form.parameters["offset"])).reshape(form.shape)
        high = parts["high"].to(torch.int64) * (1 << int(form.parameters["shift"]))
        return (low + high).to(torch.int32)


def low_and_high(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The two matrices W_L and W_H, both from -128 to 127, W = W_L + 256 W_H.

    Args:
        numbers: Whole numbers up to ±LARGEST_SPLIT, of an integral dtype.
    """
    low = (numbers + _LOW // 2) % _LOW - _LOW // 2
    return low, torch.div(numbers - low, _LOW, rounding_mode="floor")


def split_codes(numbers: Tensor) -> Form:
    """The sum of a tensor of whole numbers.

    Args:
        numbers: As for ``low_and_high``, of the decoded shape.
    """
    low, high = low_and_high(numbers)
    symbols = (low.reshape(-1) + _LOW // 2).to(torch.uint8).numpy()
    parts: dict[str, Node] = {"low": Symbols(symbols, _LOW), "high": _sparse(high.float())}
    return Form("sum", tuple(numbers.shape), torch.int32, {"shift": SHIFT, "offset": _LOW // 2}, parts)


def _sparse(high: Tensor) -> Form:
    """The few numbers that are not zero, as bytes."""
    form = sparse_form(high)
    values = form.parts["values"]
    if not isinstance(values, Numbers):
        raise TypeError("a sparse form is made of numbers")
    symbols = (values.values + _LOW // 2).to(torch.uint8).numpy()
    parts: dict[str, Node] = {
        "codes": Symbols(symbols, _LOW),
        "scales": Numbers(torch.zeros(1, dtype=torch.int8)),  # 2^0
    }
    whole = Form("fixed", tuple(values.values.shape), torch.float32, {"offset": _LOW // 2}, parts)
    return replace(form, parts={**form.parts, "values": whole})
