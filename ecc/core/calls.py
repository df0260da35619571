"""Calls: the operators of one forward, and how their shapes follow the widths.

A call is an operator at dense widths and a side for each of its numbers that gets smaller with the widths, so that the
operators of any smaller network are known without building it. Layers are what cost is fitted to; calls are what cost
is composed of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ecc.core.layers import Side
from ecc.core.operators import COLUMNS, Operator, convolution_kind

__all__ = ["OperatorCall", "calls_without"]

_PAIRS = ("padding", "strides", "dilations")


@dataclass(frozen=True, slots=True)
class OperatorCall:
    """One operator that a forward runs.

    Attributes:
        module: Path of the module whose forward makes the call; empty at the top.
        operator: Its kind and shape at dense widths, for the batch that was traced.
        sides: Of the operator's columns that follow the widths: pairs (column, side).
        inputs: Numbers of the calls whose outputs it reads, views looked through; −1 for an input of the network.
            Weights are not among them.
        weight: Name of the parameter that it multiplies by, views looked through; empty where there is none.
        padding: Of a convolution or a pooling, in rows and columns of the input, on either side.
        strides: Of a convolution, in rows and columns; 1 for others.
        dilations: Of a convolution, in rows and columns; 1 for others.
    """

    module: str
    operator: Operator
    sides: tuple[tuple[str, Side], ...] = ()
    inputs: tuple[int, ...] = ()
    weight: str = ""
    padding: tuple[int, int] = (0, 0)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)

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
            "strides": list(self.strides),
            "dilations": list(self.dilations),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OperatorCall:
        """The inverse of ``to_json``."""
        shape = {column: int(size) for column, size in value["shape"].items() if column in COLUMNS}
        sides = tuple((str(column), Side.from_json(side)) for column, side in value["sides"].items())
        pairs = ((int(first), int(second)) for first, second in (value[name] for name in _PAIRS))
        return cls(
            str(value["module"]),
            Operator(str(value["kind"]), **shape),
            sides,
            tuple(int(number) - 1 for number in value["inputs"]),
            str(value["weight"]),
            *pairs,
        )


def calls_without(calls: Sequence[OperatorCall], gone: Callable[[str], str]) -> tuple[OperatorCall, ...]:
    """The calls that are left when modules go that give back what they get; what they gave is read from before them.

    Args:
        gone: The removed module that holds the module of that path; empty where it stays.
    """
    sources: list[tuple[int, ...]] = []  # of each call, what a reader of it reads in terms of calls that stay
    entries: dict[str, dict[int, None]] = {}  # what each removed module gets
    number: dict[int, int] = {-1: -1}
    left: list[OperatorCall] = []
    for i, call in enumerate(calls):
        read = tuple(dict.fromkeys(each for n in call.inputs for each in ((-1,) if n < 0 else sources[n])))
        block = gone(call.module)
        if block:
            outside = [n for n in call.inputs if n < 0 or gone(calls[n].module) != block]
            found = entries.setdefault(block, {})
            found.update(dict.fromkeys(each for n in outside for each in ((-1,) if n < 0 else sources[n])))
            sources.append(tuple(found))
        else:
            number[i] = len(left)
            left.append(replace(call, inputs=tuple(number[n] for n in read)))
            sources.append((i,))
    return tuple(left)
