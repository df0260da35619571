"""The kind ``shared``: a part that several tensors of a code have in common, stored and trained once.

Forms of this kind that are the same (``nodes.is_same``) are one: the container writes the first and then its number,
and tuning has one parameter for all. So stages may treat each tensor by itself, as long as they treat them alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.nodes import Form, Node, is_floating, shape_of

__all__ = ["SharedPart", "shared_parts"]


class SharedPart:
    """Part ``values``: floats of the tensor's shape and type, nothing in them shared; no parameters."""

    name = "shared"
    number = 14

    def check(self, form: Form) -> None:
        """Refuse other parts, other shapes, nothing at all, and shared parts in shared parts."""
        values = form.parts.get("values")
        if set(form.parts) != {"values"} or form.parameters or values is None or not is_floating(values):
            raise InputError("a form of kind shared has the part 'values', which are floats, and no parameters")
        if shape_of(values) != form.shape or not form.dtype.is_floating_point or not math.prod(form.shape):
            raise InputError(f"a form of kind shared of shape {form.shape} has values of shape {shape_of(values)}")
        if any(True for _ in shared_parts(values)):
            raise InputError("a shared part holds another one; they are not nested")

    def operand(self, form: Form) -> tuple[int, float]:
        """All entries, of the type's bits."""
        return math.prod(form.shape), 8.0 * form.dtype.itemsize

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """The values in the form's type."""
        return parts["values"].to(form.dtype)


def shared_parts(node: Node, path: str = "") -> list[tuple[str, Form]]:
    """The forms of kind ``shared`` in a tree, with their paths."""
    if not isinstance(node, Form):
        return []
    if node.kind == SharedPart.name:
        return [(path, node)]
    return [
        found for name, part in node.parts.items() for found in shared_parts(part, f"{path}/{name}" if path else name)
    ]
