"""The operators that a forward runs, with the sides that their shapes follow.

The labels of a record tell the size of every tensor at any widths, so each operator is written down dense and at a few
widths drawn at random; a number of its shape follows the side, or the product of two, that gives it at all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from ecc.core.calls import OperatorCall
from ecc.core.layers import Side
from ecc.core.operators import COLUMNS, CONVOLUTIONS, Operator
from ecc.core.widths import WidthGroup
from ecc.network.axes import Propagation
from ecc.network.capture import Capture, is_item, live
from ecc.network.channels import Labels
from ecc.network.opaque import Opaque
from ecc.network.operator_rules import translate
from ecc.network.values import Value, values_in

__all__ = ["find_calls"]

_POINTS = 6  # widths at which operators are compared with sides
_FIXED = Side()

SideOf = Callable[[Labels | None], Side]


def find_calls(
    captured: Capture, propagation: Propagation, groups: Sequence[WidthGroup], side_of: SideOf
) -> tuple[OperatorCall, ...]:
    """The operators of a record in order.

    Args:
        propagation: Of the record.
        groups: Found in it.
        side_of: The side of an axis with these labels.
    """
    return _Finder(captured, propagation, groups, side_of).find()


class _Finder:
    def __init__(
        self, captured: Capture, propagation: Propagation, groups: Sequence[WidthGroup], side_of: SideOf
    ) -> None:
        self._nodes = live(captured)
        self._modules = captured.modules
        placeholders = [node for node in self._nodes if node.op == "placeholder"]
        self._parameters = dict(zip(placeholders, captured.tensors, strict=False))
        self._values = propagation.values
        self._side_of = side_of
        self._points = _points(groups)
        self._calls: list[OperatorCall] = []
        self._sources: dict[fx.Node, tuple[int, ...]] = {}
        self._slim: list[dict[fx.Node, Any]] = [{} for _ in self._points]

    def find(self) -> tuple[OperatorCall, ...]:
        for node in self._nodes:
            if node.op == "call_function" and not is_item(node):
                read = [source for source in node.all_input_nodes if source not in self._parameters]
                self._call(node, tuple(dict.fromkeys(number for each in read for number in self._sources[each])))
            elif node.op == "placeholder":
                self._sources[node] = () if node in self._parameters else (-1,)
            elif node.op != "output":
                self._sources[node] = tuple(
                    dict.fromkeys(number for each in node.all_input_nodes for number in self._sources[each])
                )
        return tuple(self._calls)

    def _call(self, node: fx.Node, inputs: tuple[int, ...]) -> None:
        """Append the operators of a node."""
        self._sources[node] = inputs
        if isinstance(node.args[0] if node.args else None, Opaque):
            return
        made = translate(node, lambda source: source.meta["val"]) or []
        if not made:
            return
        smaller = [translate(node, partial(self._at, point=point)) or [] for point in range(len(self._points))]
        # at some widths nothing may have to be moved
        alike = [(point, each) for point, each in zip(self._points, smaller, strict=True) if len(each) == len(made)]
        candidates = self._candidates(node)
        weight = self._weight(node)
        for number, operator in enumerate(made):
            self._calls.append(
                OperatorCall(
                    self._modules.get(node, ""),
                    operator,
                    _follow(operator, [(point, each[number]) for point, each in alike], candidates),
                    inputs if number == 0 else (len(self._calls) - 1,),
                    weight,
                    _padding(node, operator),
                    *(
                        _pair(node, operator, name, 1) if operator.kind in CONVOLUTIONS else (1, 1)
                        for name in ("stride", "dilation")
                    ),
                )
            )
        self._sources[node] = (len(self._calls) - 1,)

    def _weight(self, node: fx.Node) -> str:
        """Name of the parameter that a node multiplies by, views of it looked through; empty where there is none."""
        for source in node.all_input_nodes:
            while source.op == "call_function" and len(source.all_input_nodes) == 1 and self._is_view(source):
                source = source.all_input_nodes[0]
            if source in self._parameters and source.meta["val"].ndim > 1:
                return self._parameters[source]
        return ""

    def _is_view(self, node: fx.Node) -> bool:
        return not is_item(node) and translate(node, lambda source: source.meta["val"]) == []

    def _at(self, node: fx.Node, point: int) -> Any:
        """What a node gives at a point, without values."""
        known = self._slim[point]
        if node not in known:
            value = self._values.get(node)
            known[node] = _smaller(node.meta["val"], value, lambda each: self._sizes(each, point))
        return known[node]

    def _sizes(self, value: Value, point: int) -> list[int]:
        relative = self._points[point]
        return [
            max(1, round(size * side.fraction(relative)))
            for size, side in zip(value.shape, self._sides(value), strict=True)
        ]

    def _sides(self, value: Value) -> list[Side]:
        return [self._side_of(axis.labels) for axis in value.axes]

    def _candidates(self, node: fx.Node) -> list[Side]:
        """Sides that the operator's numbers may follow: those of its tensors' axes, then products of two."""
        tensors = [self._values.get(each) for each in (node, *node.all_input_nodes)]
        found = [side for value in values_in(tensors) for side in self._sides(value)]
        single = [side for side in dict.fromkeys(found) if side.groups]
        return [*single, *(_product(first, second) for first, second in itertools.combinations(single, 2))]


def _points(groups: Sequence[WidthGroup]) -> list[dict[str, float]]:
    """Relative widths drawn at random; each group has most of its units at none of them alike."""
    generator = np.random.default_rng(0)
    prunable = [group for group in groups if group.prunable]
    return [
        {group.name: int(generator.integers(1, group.units + 1)) / group.units for group in prunable}
        for _ in range(_POINTS)
    ]


def _follow(
    dense: Operator, smaller: Sequence[tuple[Mapping[str, float], Operator]], candidates: Sequence[Side]
) -> tuple[tuple[str, Side], ...]:
    """The columns of an operator that follow the widths, each with its side; ``smaller`` is it at relative widths."""
    sides = []
    for column in COLUMNS:
        size, others = getattr(dense, column), [getattr(operator, column) for _, operator in smaller]
        if any(other != size for other in others):
            for side in candidates:
                if [max(1, round(size * side.fraction(point))) for point, _ in smaller] == others:
                    sides.append((column, side))
                    break
    return tuple(sides)


def _smaller(dense: Any, value: Any, sizes: Callable[[Value], list[int]]) -> Any:
    """Tensors in nested lists at other sizes, their axes in memory in the same order."""
    if isinstance(dense, list | tuple):
        given = value if isinstance(value, list) else [value] * len(dense)
        return [_smaller(each, inner, sizes) for each, inner in zip(dense, given, strict=True)]
    if not isinstance(dense, Tensor) or not isinstance(value, Value) or dense.ndim != len(value.shape):
        return dense
    shape = sizes(value)
    strides, stride = [0] * dense.ndim, 1
    for i in sorted(range(dense.ndim), key=lambda axis: dense.stride()[axis]):
        if dense.stride()[i]:  # an expanded axis has none
            strides[i] = stride
            stride *= shape[i]
    return torch.empty_strided(shape, strides, dtype=dense.dtype, device="meta")


def _product(first: Side, second: Side) -> Side:
    return Side(
        tuple((share * other, (*names, *others)) for share, names in first.parts for other, others in second.parts)
    )


def _padding(node: fx.Node, operator: Operator) -> tuple[int, int]:
    """Zeros before the first row and column of a convolution's or a pooling's input."""
    if _argument(node, "padding") == "same":
        rows, columns = (
            dilation * (side - 1) // 2
            for dilation, side in zip(
                _pair(node, operator, "dilation", 1), (operator.kernel_h, operator.kernel_w), strict=True
            )
        )
        return (rows, columns)
    return _pair(node, operator, "padding", 0)


def _pair(node: fx.Node, operator: Operator, name: str, usual: int) -> tuple[int, int]:
    """An argument of a convolution or a pooling that has a number for each spatial axis, in rows and columns."""
    given = _argument(node, name)
    sizes = given if isinstance(given, list | tuple) else [given]
    if not sizes or not all(isinstance(size, int) for size in sizes):
        return (usual, usual)
    flat = operator.height == operator.kernel_h == 1  # a signal has columns only
    return (sizes[0] if len(sizes) > 1 else usual if flat else sizes[0], sizes[-1])


def _argument(node: fx.Node, name: str) -> Any:
    """An argument of an operator by its name in the schema; None where there is none."""
    schema = node.target._schema.arguments if isinstance(node.target, torch._ops.OpOverload) else ()
    for number, argument in enumerate(schema):
        if argument.name == name:
            return node.args[number] if number < len(node.args) else node.kwargs.get(name, argument.default_value)
    return None
