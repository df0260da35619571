"""Calls: the operators of one forward, and how their shapes and the memory they need follow the widths.

A call is an operator at dense widths and a side for each of its numbers that gets smaller with the widths, so that the
operators of any smaller network are known without building it. Layers are what cost is fitted to; calls are what cost
is composed of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ecc.core.layers import Side
from ecc.core.operators import COLUMNS, Operator, convolution_kind

__all__ = ["Activation", "OperatorCall"]


@dataclass(frozen=True, slots=True)
class OperatorCall:
    """One operator that a forward runs.

    Attributes:
        module: Path of the module whose forward makes the call; empty at the top.
        operator: Its kind and shape at dense widths, for the batch that was traced.
        sides: Of the operator's columns that follow the widths: pairs (column, side).
        inputs: Numbers of the calls whose outputs it reads, views looked through; −1 for an input of the network.
            Weights are not among them.
        weight: Name of the parameter that it multiplies by; empty where there is none.
        padding: Of a convolution or a pooling, in rows and columns of the input, on either side.
    """

    module: str
    operator: Operator
    sides: tuple[tuple[str, Side], ...] = ()
    inputs: tuple[int, ...] = ()
    weight: str = ""
    padding: tuple[int, int] = (0, 0)

    def at(self, relative: Mapping[str, float]) -> Operator:
        """The operator at relative widths in (0, 1]; a group that is not named counts as dense."""
        if not self.sides:
            return self.operator
        sizes = self.operator.shape
        sizes |= {column: max(1, round(sizes[column] * side.fraction(relative))) for column, side in self.sides}
        kind = self.operator.kind
        if kind in ("conv", "depthwise", "grouped"):
            kind = convolution_kind(sizes["groups"], sizes["channels_in"])
        return Operator(kind, **sizes)

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``from_json`` is the inverse. Numbers of the operator that are 1 are left out."""
        return {
            "module": self.module,
            "kind": self.operator.kind,
            "shape": {column: size for column, size in self.operator.shape.items() if size != 1},
            "sides": {column: side.to_json() for column, side in self.sides},
            "inputs": [number + 1 for number in self.inputs],  # from 1, and 0 for an input of the network
            "weight": self.weight,
            "padding": list(self.padding),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OperatorCall:
        """The inverse of ``to_json``."""
        shape = {column: int(size) for column, size in value["shape"].items() if column in COLUMNS}
        sides = tuple((str(column), Side.from_json(side)) for column, side in value["sides"].items())
        first, second = (int(size) for size in value["padding"])
        return cls(
            str(value["module"]),
            Operator(str(value["kind"]), **shape),
            sides,
            tuple(int(number) - 1 for number in value["inputs"]),
            str(value["weight"]),
            (first, second),
        )


@dataclass(frozen=True, slots=True)
class Activation:
    """A tensor that a forward makes and keeps in memory for a while; views share the memory of what they show.

    Attributes:
        nbytes: At dense widths, for the batch that was traced.
        sides: Whose fractions its size is multiplied by.
        first: Number of the call that makes it; −1 for an input of the network.
        last: Number of the last call that reads it; the number of calls for an output of the network.
    """

    nbytes: int
    sides: tuple[Side, ...]
    first: int
    last: int
