"""The kinds ``factors`` and ``deepthin``: tensors that are the product of two thin matrices, as it is or laid anew.

Both have the parts ``left`` and ``right``, floats, and no parameters. In ``factors`` the product is the tensor as a
matrix of its first axis and the others. In ``deepthin`` (Sotoudeh and Baghsorkhi, 2018) the product's elements, in
row-major order, are the tensor's in row-major order: with rows of another length their copies are broken up, and the
tensor has a rank far above that of the factors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.nodes import Form, Numbers, Symbols, is_floating, leaves, shape_of

__all__ = ["Factors", "RelaidFactors"]


class Factors:
    """Kind ``factors``: ``left`` (m, r) times ``right`` (r, n), or batches of them, (g, m, r) and (g, r, n).

    The g blocks lie below each other, as the gates of a recurrent layer do: the first axis has g·m elements, the others
    have n together.
    """

    name = "factors"
    number = 11

    def check(self, form: Form) -> None:
        """Refuse parts that are no factors of a tensor of the form's shape.

        Raises:
            InputError: With what does not agree.
        """
        left, right = _shapes(form)
        if len(left) not in (2, 3) or len(right) != len(left) or left[:-2] != right[:-2]:
            raise InputError(f"a form of kind factors has two matrices or as many of each, not {left} and {right}")
        _demand_rank(form, left, right)
        if math.prod(left[:-1]) != form.shape[0] or form.shape[0] * right[-1] != math.prod(form.shape):
            raise InputError(f"factors of shapes {left} and {right} do not make a tensor of shape {form.shape}")

    def operand(self, form: Form) -> tuple[int, float]:
        """The entries of both factors, and the most bits that one of them has."""
        return _operand(form)

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """The product."""
        return _product(form, parts).reshape(form.shape).to(form.dtype)


class RelaidFactors:
    """Kind ``deepthin``: ``left`` (m, r) times ``right`` (r, n), of which the first elements are the tensor's."""

    name = "deepthin"
    number = 12

    def check(self, form: Form) -> None:
        """Refuse parts whose product has not just as many rows as the tensor's elements fill.

        Raises:
            InputError: With what does not agree.
        """
        left, right = _shapes(form)
        if len(left) != 2 or len(right) != 2:
            raise InputError(f"a form of kind deepthin has two matrices, not parts of shapes {left} and {right}")
        _demand_rank(form, left, right)
        numel = math.prod(form.shape)
        if right[1] > numel or left[0] != -(-numel // right[1]):
            raise InputError(f"a product of shape {left[0]} × {right[1]} is not filled by a tensor of {numel} elements")

    def operand(self, form: Form) -> tuple[int, float]:
        """The entries of both factors, and the most bits that one of them has."""
        return _operand(form)

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """The first elements of the product, in the tensor's shape."""
        return _product(form, parts).flatten()[: math.prod(form.shape)].reshape(form.shape).to(form.dtype)


def _shapes(form: Form) -> tuple[tuple[int, ...], tuple[int, ...]]:
    left, right = form.parts.get("left"), form.parts.get("right")
    if set(form.parts) != {"left", "right"} or form.parameters or left is None or right is None:
        raise InputError(f"a form of kind {form.kind} has the parts left and right, and no parameters")
    if not (is_floating(left) and is_floating(right) and form.dtype.is_floating_point):
        raise InputError(f"a form of kind {form.kind} and its parts are floats")
    return shape_of(left), shape_of(right)


def _demand_rank(form: Form, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    rank = left[-1]
    if right[-2] != rank or not 1 <= rank <= min(left[-2], right[-1]):
        raise InputError(f"factors of shapes {left} and {right} have no common rank from 1 to their smaller side")
    if not form.shape or not math.prod(form.shape):
        raise InputError(f"factors make no tensor of shape {form.shape}")


def _product(form: Form, parts: Mapping[str, Tensor]) -> Tensor:
    wide = torch.promote_types(form.dtype, torch.float32)  # products of short floats lose too much
    return parts["left"].to(wide) @ parts["right"].to(wide)


def _operand(form: Form) -> tuple[int, float]:
    entries, bits = 0, 0.0
    for part in form.parts.values():
        entries += math.prod(shape_of(part))
        codes = [float(max(leaf.size - 1, 1).bit_length()) for _, leaf in leaves(part) if isinstance(leaf, Symbols)]
        floats = [8.0 * leaf.values.element_size() for _, leaf in leaves(part) if isinstance(leaf, Numbers)]
        bits = max(bits, *(codes or floats))
    return entries, bits
