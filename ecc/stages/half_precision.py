"""The kind ``half``: floats that are stored as floats of 16 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.nodes import Form, is_floating, shape_of

__all__ = ["HalfPrecision"]


class HalfPrecision:
    """Part ``values``: floats of the tensor's shape, of another type; no parameters."""

    name = "half"
    number = 3

    def check(self, form: Form) -> None:
        """Refuse a form without floats of its shape, or that is itself no float.

        Raises:
            InputError: With what does not agree.
        """
        values = form.parts.get("values")
        if set(form.parts) != {"values"} or form.parameters or values is None or not is_floating(values):
            raise InputError("a form of kind half has the part 'values', which are floats, and no parameters")
        if shape_of(values) != form.shape or not form.dtype.is_floating_point:
            raise InputError(f"a form of kind half of shape {form.shape} has values of shape {shape_of(values)}")

    def operand(self, form: Form) -> tuple[int, float]:
        """All entries, of 16 bits."""
        return math.prod(form.shape), 16.0

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """The values in the form's type."""
        return parts["values"].to(form.dtype)
