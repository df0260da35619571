"""Kind ``fixed``: whole numbers times a step, W ≈ q · Δ, with one step for all or one per channel."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.fixed_point.quantising import EXPONENTS, sizes_of
from ecc.stages.nodes import Form, Node, Numbers, Symbols, shape_of

__all__ = ["Fixed", "fixed_form"]

_MOST_CODES = 1 << 16


class Fixed:
    """Codes times steps.

    Parts: ``codes``, symbols of ``offset`` + q, or a form of kind ``sum`` whose numbers are q; ``scales``, Numbers of
    shape (1,) or (shape[0],), the steps in float32, or in int8 the exponents of steps that are powers of two.
    """

    name = "fixed"
    number = 7

    def check(self, form: Form) -> None:
        """Refuse a form whose parts do not agree."""
        codes, scales = form.parts.get("codes"), form.parts.get("scales")
        if set(form.parts) != {"codes", "scales"} or set(form.parameters) != {"offset"}:
            raise InputError("a fixed-point form has the parts codes and scales and the parameter offset")
        if not form.dtype.is_floating_point:
            raise InputError(f"a fixed-point form is of floats, not of {form.dtype}")
        if not isinstance(scales, Numbers) or scales.values.dtype not in (torch.float32, torch.int8):
            raise InputError("the scales of a fixed-point form must be numbers in float32 or int8")
        if scales.values.dtype == torch.int8 and scales.values.numel() and int(scales.values.min()) < EXPONENTS[0]:
            raise InputError(f"the exponents of a fixed-point form must be {EXPONENTS[0]} or more")
        if tuple(scales.values.shape) not in {(1,), (*form.shape, 1)[:1]}:
            raise InputError(f"the scales of a fixed-point form must be one, or one per row of {form.shape}")
        _check_codes(codes, form)

    def operand(self, form: Form) -> tuple[int, float]:
        """Every code with its bits; of a split, the bits of both matrices per entry."""
        size, codes = math.prod(form.shape), form.parts["codes"]
        if isinstance(codes, Symbols):
            return size, float(max(codes.size - 1, 1).bit_length())
        high = codes.parts["high"] if isinstance(codes, Form) else None
        outliers = _stored_values(high)
        return size, 8.0 * (size + outliers) / max(size, 1)

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """(codes - offset) · scales."""
        whole, steps = parts["codes"], parts["scales"]
        wide = torch.float64 if form.dtype == torch.float64 else torch.float32
        numbers = (whole - int(form.parameters["offset"])).to(wide)
        if math.prod(form.shape) == 0:
            return numbers.reshape(form.shape).to(form.dtype)
        rows = numbers.reshape(len(steps), -1)
        rows = rows * sizes_of(steps).to(wide)[:, None]
        return rows.reshape(form.shape).to(form.dtype)


def fixed_form(values: Tensor, codes: Tensor, steps: Tensor, most: int) -> Form:
    """The form of a tensor's codes.

    Args:
        values: The tensor; gives shape and dtype.
        codes: Whole numbers from -most to most, of any float or integral dtype and as many as there are values.
        steps: Of ``steps_of``.
        most: Largest code.
    """
    whole = (codes.reshape(-1).to(torch.int32) + most).numpy()
    symbols: NDArray[np.unsignedinteger] = whole.astype(np.uint8 if 2 * most < 256 else np.uint16)
    parts: dict[str, Node] = {"codes": Symbols(symbols, 2 * most + 1), "scales": Numbers(steps.contiguous())}
    return Form("fixed", tuple(values.shape), values.dtype, {"offset": most}, parts)


def _check_codes(codes: Node | None, form: Form) -> None:
    size, offset = math.prod(form.shape), form.parameters["offset"]
    if not isinstance(offset, int):
        raise InputError("the offset of a fixed-point form must be a whole number")
    if isinstance(codes, Symbols):
        if len(codes.values) != size or codes.size > _MOST_CODES or not 0 <= offset < codes.size:
            raise InputError(f"the codes of a fixed-point form do not agree with its shape {form.shape}")
    elif not (isinstance(codes, Form) and codes.kind == "sum" and codes.shape == form.shape and offset == 0):
        raise InputError("the codes of a fixed-point form must be symbols, or a sum of its shape")


def _stored_values(node: Node | None) -> int:
    """Entries of the high matrix that are stored."""
    if isinstance(node, Form):
        return math.prod(shape_of(node.parts["values"]) if "values" in node.parts else node.shape)
    return node.values.numel() if isinstance(node, Numbers) else 0
