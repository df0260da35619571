"""The kind ``product``: rows cut in parts of a few elements, each the code of an entry of a codebook (Jégou, 2011).

The tensor counts as a matrix, its first axis the rows. Parts: ``codes`` of shape (rows · positions,), row by row;
``centroids`` of shape (entries, part), or (positions, entries, part) where each position has a codebook of its own;
and ``scale`` of shape (columns,), where columns are multiplied by a scale of their own. The last part of a row is cut
off where the columns end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.nodes import Form, Symbols, is_floating, shape_of

__all__ = ["ProductCodes"]


class ProductCodes:
    """Kind ``product``."""

    name = "product"
    number = 5

    def check(self, form: Form) -> None:
        """Refuse codes that are not one per part of every row, or codebooks that do not fit them."""
        codes, centroids, scale = form.parts.get("codes"), form.parts.get("centroids"), form.parts.get("scale")
        if not isinstance(codes, Symbols) or centroids is None or not is_floating(centroids) or not form.shape:
            raise InputError("a product form needs a tensor of rows, codes, and centroids that are floats")
        rows, columns = form.shape[0], math.prod(form.shape[1:])
        book = shape_of(centroids)
        if len(book) not in (2, 3) or not 1 <= book[-1] <= columns:
            raise InputError("the centroids of a product form must be of shape (…, entries, part), part up to a row")
        positions = -(-columns // book[-1])
        if len(codes.values) != rows * positions or (len(book) == 3 and book[0] != positions):
            raise InputError("a product form needs one code per part of every row, and one or all positions' codebooks")
        if codes.size > book[-2]:
            raise InputError("the codes of a product form go beyond its codebook")
        if scale is not None and (not is_floating(scale) or shape_of(scale) != (columns,)):
            raise InputError("the scale of a product form must be floats, one per column")

    def operand(self, form: Form) -> tuple[int, float]:
        """All entries; the bits of a code divided by the elements of a part."""
        codes = form.parts["codes"]
        bits = (codes.size - 1).bit_length() if isinstance(codes, Symbols) else 0
        return math.prod(form.shape), bits / shape_of(form.parts["centroids"])[-1]

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """Entries of the codebooks side by side, times the scale."""
        rows, columns = form.shape[0], math.prod(form.shape[1:])
        centroids = parts["centroids"]
        positions = -(-columns // centroids.shape[-1])
        codes = parts["codes"].reshape(rows, positions)
        taken = centroids[codes] if centroids.ndim == 2 else centroids[torch.arange(positions), codes]
        values = taken.reshape(rows, positions * centroids.shape[-1])[:, :columns]
        if "scale" in parts:
            values = values * parts["scale"]
        return values.reshape(form.shape).to(form.dtype)
