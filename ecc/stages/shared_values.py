"""The kind ``codebook``: values that are shared, each stored as the number of its centroid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.nodes import Form, Symbols, is_floating, shape_of

__all__ = ["SharedValues"]


@dataclass(frozen=True, slots=True)
class SharedValues:
    """Every element is one of a few values.

    Parts: ``codes``, a symbol per element in row-major order, and ``centroids``, the values, shape (size of the
    symbols,), of a floating dtype. No parameters.
    """

    @property
    def name(self) -> str:
        """As in ``Form.kind``."""
        return "codebook"

    @property
    def number(self) -> int:
        """In the container."""
        return 2

    def check(self, form: Form) -> None:
        """Refuse other parts, codes that are not as many as elements, and centroids that are not as many as symbols."""
        codes, centroids = form.parts.get("codes"), form.parts.get("centroids")
        if len(form.parts) != 2 or form.parameters or not isinstance(codes, Symbols):
            raise InputError("a codebook form has codes, which are symbols, and centroids, and nothing else")
        if centroids is None or not is_floating(centroids):
            raise InputError("the centroids of a codebook form are floats")
        if shape_of(centroids) != (codes.size,):
            raise InputError(f"a codebook form has {codes.size} symbols and centroids of shape {shape_of(centroids)}")
        if len(codes.values) != math.prod(form.shape) or not form.dtype.is_floating_point:
            raise InputError(
                f"a codebook form of shape {form.shape} and {form.dtype} has {len(codes.values)} codes of floats"
            )

    def operand(self, form: Form) -> tuple[int, float]:
        """All elements, and the bits of a code."""
        codes = form.parts["codes"]
        size = codes.size if isinstance(codes, Symbols) else 1
        return math.prod(form.shape), float(max(size - 1, 1).bit_length())

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """The centroids of the codes."""
        return parts["centroids"].to(form.dtype).index_select(0, parts["codes"]).reshape(form.shape)
