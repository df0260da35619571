"""The kind ``log``: levels evenly spaced in the logarithm, downward from the largest value, both signs, and a zero.

Parts: ``codes``; ``peak``, the largest value, of shape (1,) or one per row; ``step``, octaves between levels, shape
(1,); and where the levels are not the first ones below the peak ``places``, how many steps each is below it.
Parameters: ``levels`` per sign, and ``zero``, 1 where code 0 is zero. After that code come the levels from the peak
downward, then their negatives in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.nodes import Form, Symbols, is_floating, shape_of

__all__ = ["LogLevels", "level_table"]


class LogLevels:
    """Kind ``log``."""

    name = "log"
    number = 4

    def check(self, form: Form) -> None:
        """Refuse what is not codes of the tensor's size, a peak per tensor or row, and a step."""
        codes, places = form.parts.get("codes"), form.parts.get("places")
        peak, step = form.parts.get("peak"), form.parts.get("step")
        levels, zero = form.parameters.get("levels"), form.parameters.get("zero")
        if not isinstance(codes, Symbols) or len(codes.values) != math.prod(form.shape):
            raise InputError("a log form needs one code per element of its tensor")
        if not isinstance(levels, int) or zero not in (0, 1) or not 0 < codes.size <= 2 * levels + zero:
            raise InputError("a log form needs a number of levels that has all its codes, and zero of 0 or 1")
        if peak is None or step is None or not is_floating(peak) or shape_of(step) != (1,) or not is_floating(step):
            raise InputError("a log form needs a peak and one step, both floats")
        if shape_of(peak) != (1,) and (not form.shape or shape_of(peak) != form.shape[:1]):
            raise InputError("the peaks of a log form must be one, or one per row")
        if places is not None and (not isinstance(places, Symbols) or len(places.values) != levels):
            raise InputError("the places of a log form must be one per level")
        if places is None and levels > codes.size:
            raise InputError("a log form has more levels than codes")

    def operand(self, form: Form) -> tuple[int, float]:
        """All entries; the bits of a code."""
        codes = form.parts["codes"]
        bits = (codes.size - 1).bit_length() if isinstance(codes, Symbols) else 0
        return math.prod(form.shape), float(bits)

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """A look-up, times the peak."""
        levels, zero = int(form.parameters["levels"]), int(form.parameters["zero"])
        table = level_table(parts["step"], levels, zero, parts.get("places"))
        peak = parts["peak"].float()
        values = table[parts["codes"]].reshape(form.shape)
        return (values * peak.reshape(-1, *[1] * (len(form.shape) - 1))).reshape(form.shape).to(form.dtype)


def level_table(step: Tensor, levels: int, zero: int, places: Tensor | None = None) -> Tensor:
    """What the codes stand for at a peak of one, shape (2·levels + zero,): float32, differentiable in the step."""
    below = torch.arange(levels) if places is None else places
    positive = torch.exp2(-below.float() * step.float())
    return torch.cat([positive.new_zeros(zero), positive, -positive])
