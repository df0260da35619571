"""Matrix products as a systolic cost keeps them: their sizes as functions of the widths, and the cycles they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ecc.core.calls import OperatorCall
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.layers import Side
from ecc.core.operators import CONVOLUTIONS, RECURRENT
from ecc.core.widths import WidthSpace
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.dataflow import gemms_of
from ecc.energy_models.systolic.sizes import Size, Sizes, folds
from ecc.network.graph import WidthGraph

__all__ = ["Cycles", "ProductPart", "product_parts"]

_SIZES = ("m", "n", "k", "count")
_Sides = tuple[Side | None, ...]


@dataclass(frozen=True, slots=True)
class ProductPart:
    """``count`` products of an (m × k) and a (k × n) matrix, whose sizes follow the widths.

    Attributes:
        name: Of the module that they are run by.
        m: Output positions.
        n: Output channels.
        k: Inputs of one output.
        count: Products, one after the other.
    """

    name: str
    m: Size
    n: Size
    k: Size
    count: Size

    @property
    def sizes(self) -> tuple[Size, ...]:
        """What follows the widths."""
        return (self.m, self.n, self.k, self.count)

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``from_fields`` is the inverse."""
        return {"name": self.name} | {name: getattr(self, name).to_json() for name in _SIZES}

    @classmethod
    def from_fields(cls, fields: Fields, space: WidthSpace) -> ProductPart:
        """Read what ``to_json`` wrote, without trusting it.

        Raises:
            InputError: If a member is missing or impossible.
        """
        return cls(fields.text("name"), *(Size.from_fields(fields.inner(name), space) for name in _SIZES))


def product_parts(graph: WidthGraph) -> tuple[ProductPart, ...]:
    """The matrix products of all operators that multiply, those without stored weights among them.

    Raises:
        InputError: If there are none.
    """
    parts = []
    for call in graph.calls:
        gemms = gemms_of(call.operator)
        for gemm, sides in zip(gemms, _follow(call)[: len(gemms)], strict=True):
            sizes = (
                Size.of(graph.space, getattr(gemm, name), over, under)
                for name, (over, under) in zip(_SIZES, sides, strict=True)
            )
            parts.append(ProductPart(call.module or call.operator.kind, *sizes))
    if not parts:
        raise InputError("the network multiplies no matrices; a systolic array has nothing to do in it")
    return tuple(parts)


def _follow(call: OperatorCall) -> tuple[tuple[tuple[_Sides, _Sides], ...], ...]:
    """For each product of a call, the sides above and below of m, n, k and count."""
    side = dict(call.sides).get
    kind, read, written, length = call.operator.kind, side("channels_in"), side("channels_out"), side("length")
    copies = (side("batch"), side("groups"))
    none: tuple[_Sides, _Sides] = ((), ())
    if kind in CONVOLUTIONS:
        groups = (side("groups"),)
        return ((none, ((written,), groups), ((read,), groups), (groups, ())),)
    if kind == "linear":
        return ((((side("batch"), length), ()), ((written,), ()), ((read,), ()), none),)
    if kind in RECURRENT:
        return tuple((none, ((written,), ()), ((first,), ()), none) for first in (read, written))
    context = side("context")
    first = (((length,), ()), ((written if kind == "matmul" else context,), ()), ((read,), ()), (copies, ()))
    return (first, (((length,), ()), ((written,), ()), ((context,), ()), (copies, ())))


class Cycles:
    """Evaluates the cycles of products for batches of width vectors, differentiably.

    The values are those of ``stream``; a number of folds has the gradient that it has on average.

    Args:
        parts: The products.
        space: The order and the dense values of the width vectors.
        array: The accelerator.
    """

    def __init__(self, parts: Sequence[ProductPart], space: WidthSpace, array: SystolicArray) -> None:
        self._array = array
        self._sizes = Sizes(space, [getattr(part, name) for name in _SIZES for part in parts])

    def __call__(self, widths: Tensor) -> Tensor:
        """Cycles at widths in channels: shape (…, n_groups) → (…, n_products), float64."""
        m, n, k, count = self._sizes.columns(widths, len(_SIZES))
        flow = self._array.dataflow
        tall, wide, streamed = {"os": (m, n, k), "ws": (k, n, m), "is": (k, m, n)}[flow]
        rows, columns = self._array.rows, self._array.columns
        filling = (1 if flow == "os" else 2) * rows + columns - 2  # and draining
        total: Tensor = count * folds(tall, rows) * folds(wide, columns) * (streamed + filling)
        return total
