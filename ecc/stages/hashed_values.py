r"""The kind ``hashed``: every element is plus or minus one of a few values, told by a hash of its position.

HashedNets (Chen et al., ICML 2015, eq. 3): :math:`V_{ij} = \xi(i, j)\, w_{h(i, j)}`. Only w and the key are stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.hashing import MOST_BUCKETS, HashKey
from ecc.stages.nodes import Form, Node, Numbers, is_floating, shape_of
from ecc.stages.virtual_weights import Places, gathered

__all__ = ["HashedValues", "check_empty", "columns_of", "key_of_hashed", "with_empty"]


class HashedValues:
    """Kind ``hashed``.

    Parts: ``values``, floats of shape (K,); and ``empty``, int64, rows that are zero, rising, where there are any.
    Parameters: ``salt``; ``published``, 1 for the authors' key.
    """

    name = "hashed"
    number = 9

    def check(self, form: Form) -> None:
        """Refuse other parts and parameters, and values that are not a vector."""
        values = form.parts.get("values")
        if not set(form.parts) <= {"values", "empty"} or set(form.parameters) != {"salt", "published"}:
            raise InputError("a hashed form has values, empty rows if any, a salt, and whether its key is published")
        if values is None or not is_floating(values) or not form.dtype.is_floating_point or not form.shape:
            raise InputError("a hashed form has one axis or more, and it and its values are floats")
        shape = shape_of(values)
        if len(shape) != 1 or not 1 <= shape[0] <= MOST_BUCKETS:
            raise InputError(f"a hashed form has a vector of values, and not of shape {shape}")
        if form.parameters["published"] not in (0, 1) or not isinstance(form.parameters["salt"], int):
            raise InputError("a hashed form has a whole number as its salt, and 0 or 1 for published")
        check_empty(form)
        key_of_hashed(form)

    def operand(self, form: Form) -> tuple[int, float]:
        """All entries, of the type's bits."""
        return math.prod(form.shape), 8.0 * form.dtype.itemsize

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """The values where the hash leads, with its sign."""
        wide = torch.promote_types(form.dtype, torch.float32)
        values = parts["values"].to(wide)
        places = Places(key_of_hashed(form), math.prod(form.shape), values.device)
        return with_empty(gathered(values, places).to(form.dtype).reshape(form.shape), parts)


def key_of_hashed(form: Form) -> HashKey:
    """Where the elements of a hashed form read."""
    letter = ("W" if len(form.shape) > 1 else "B") if form.parameters["published"] else ""
    (buckets,) = shape_of(form.parts["values"])
    return HashKey(int(form.parameters["salt"]), columns_of(form.shape), buckets, published=letter)


def columns_of(shape: tuple[int, ...]) -> int:
    """Elements of a row, at least one: of a matrix, of a convolution in·kh·kw, of a vector 1."""
    return max(math.prod(shape[1:]), 1)


def check_empty(form: Form) -> None:
    """Refuse a part ``empty`` that does not name rows of the form, rising.

    Raises:
        InputError: If it does not.
    """
    empty: Node | None = form.parts.get("empty")
    if empty is None:
        return
    if not isinstance(empty, Numbers) or empty.values.dtype != torch.int64 or empty.values.ndim != 1:
        raise InputError(f"the empty rows of a {form.kind} form are a vector of whole numbers of 64 bits")
    rows = empty.values
    if len(rows) and (int(rows[0]) < 0 or int(rows[-1]) >= form.shape[0] or bool((rows[1:] <= rows[:-1]).any())):
        raise InputError(f"the empty rows of a {form.kind} form are not rising from 0 to below {form.shape[0]}")


def with_empty(tensor: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
    """The tensor with its empty rows as zeros."""
    return tensor.index_fill(0, parts["empty"], 0.0) if "empty" in parts else tensor
