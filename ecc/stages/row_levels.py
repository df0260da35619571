"""The kind ``rows``: rows of a tensor in groups that are stored each in its own way, such as words by importance.

Parts: ``group``, one symbol per row, 0 for rows of zeros; and ``1``, ``2``, … the rows of each group in their order,
as tensors of shape (rows of the group, …).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.nodes import Form, Numbers, Symbols, is_floating, shape_of

__all__ = ["RowLevels"]


class RowLevels:
    """Kind ``rows``."""

    name = "rows"
    number = 6

    def check(self, form: Form) -> None:
        """Refuse groups whose tensors do not have the rows that the symbols give them."""
        group = form.parts.get("group")
        if not isinstance(group, Symbols) or not form.shape or len(group.values) != form.shape[0]:
            raise InputError("a form of rows needs one group per row")
        groups = len(form.parts) - 1
        if set(form.parts) != {"group", *map(str, range(1, groups + 1))} or group.size > groups + 1:
            raise InputError("a form of rows needs a tensor for each group")
        counts = np.bincount(group.values, minlength=groups + 1)
        for i in range(1, groups + 1):
            part = form.parts[str(i)]
            if not is_floating(part) or shape_of(part) != (int(counts[i]), *form.shape[1:]):
                raise InputError(f"group {i} of a form of rows is not a float tensor of its rows")

    def operand(self, form: Form) -> tuple[int, float]:
        """Entries of the rows that are stored; the mean bits of their codes, 32 for floats that are none."""
        columns = math.prod(form.shape[1:])
        entries, bits = 0, 0.0
        for name, part in form.parts.items():
            if name != "group":
                size = shape_of(part)[0] * columns
                entries, bits = entries + size, bits + size * _bits(part)
        return entries, bits / max(entries, 1)

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """The groups' rows, each in its place."""
        group = parts["group"]
        tensors = [parts[str(i)] for i in range(1, len(parts))]
        zeros = torch.zeros(int((group == 0).sum()), *form.shape[1:], dtype=form.dtype)
        stacked = torch.cat([zeros, *(tensor.to(form.dtype) for tensor in tensors)])
        places = torch.empty_like(group)
        places[torch.argsort(group, stable=True)] = torch.arange(len(group))
        return stacked[places]


def _bits(part: object) -> float:
    """Bits of an element of a group: of its code, spread over the elements that share one."""
    if isinstance(part, Form):
        codes = part.parts.get("codes")
        if isinstance(codes, Symbols) and codes.values.size:
            return (codes.size - 1).bit_length() * codes.values.size / math.prod(part.shape)
        return 32.0
    return 8.0 * part.values.element_size() if isinstance(part, Numbers) else 0.0
