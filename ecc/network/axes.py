"""Axes: how each operator carries channel labels from its inputs to its outputs.

``RULES`` maps the name of an operator to the function that ties labels and gives the axes of its outputs. An operator
without a rule fixes the channels of everything that it touches. A new operator is one function in one of the family
files that ``RULES`` is put together from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from ecc.network.axes_elementwise import ELEMENTWISE
from ecc.network.axes_indexing import INDEXING
from ecc.network.axes_layers import LAYERS
from ecc.network.axes_movement import MOVEMENT
from ecc.network.axes_products import PRODUCTS
from ecc.network.axes_sequence import SEQUENCE
from ecc.network.axes_weights import WEIGHTS, counted, find_directions
from ecc.network.capture import Capture, is_item, live, mutates, operator_name
from ecc.network.channels import Labels
from ecc.network.directions import Direction
from ecc.network.folding import Fold, find_folds
from ecc.network.opaque import OPAQUE
from ecc.network.values import PLAIN, Axes, Axis, Call, Ledger, Value, values_in

__all__ = ["RULES", "Propagation", "propagate", "shapes_of"]

RULES: Mapping[str, Callable[[Call], list[Axes]]] = MappingProxyType(
    {**ELEMENTWISE, **MOVEMENT, **LAYERS, **SEQUENCE, **WEIGHTS, **INDEXING, **PRODUCTS, **OPAQUE}
)
"""Operator name (without ``aten::`` and the in-place underscore) → rule."""

_LOG = logging.getLogger("ecc")


class Propagation:
    """One run of a captured graph on labels.

    Attributes:
        ledger: Ties, roles and costs that were found.
        order: Parameters and buffers in the order of their first use.
        made: The axes of the outputs of each call, in order of execution.
        inputs: The first tensor that each call gets, as it was then.
        folds: Scales that a factor on weights can make up for, and the labels of the axis whose size they depend on.
        directions: Weights of unit norm with a factor that can make up for what the norm loses.
    """

    def __init__(
        self,
        captured: Capture,
        batch: int,
        divisors: frozenset[tuple[str, int]] = frozenset(),
        folds: tuple[Fold, ...] = (),
        *,
        directions: Mapping[fx.Node, Direction] = MappingProxyType({}),
        renormalise: bool = False,
    ) -> None:
        self.ledger = Ledger(divisors=set(divisors), renormalise=renormalise)
        self.order: dict[str, None] = {}
        self.made: dict[fx.Node, list[Axes]] = {}
        self.inputs: dict[fx.Node, Value] = {}
        self.folds: list[tuple[Fold, Labels]] = []
        self.directions = counted(directions, divisors)
        self._captured = captured
        self._batch = batch
        self._folds = {fold.node: fold for fold in folds}
        self._foldable = self._folds.keys() | directions.keys()
        self._values: dict[fx.Node, Any] = {}
        self._names: dict[fx.Node, str] = {}
        self._parameters: dict[str, Value] = {}
        self._storages = 0

    @property
    def values(self) -> Mapping[fx.Node, Any]:
        """What each node of the record gives: a value or nested lists of them."""
        return self._values

    @property
    def parameters(self) -> Mapping[str, Value]:
        """Every parameter and buffer with the labels of its axes."""
        return self._parameters

    def follow_too(self, captured: Capture) -> None:
        """Carry the same labels through another record of the network, for its ties; what it computes costs nothing."""
        record, values, names, costs = self._captured, self._values, self._names, len(self.ledger.costs)
        self._captured, self._values, self._names = captured, {}, {}
        self.run()
        self._captured, self._values, self._names = record, values, names
        del self.ledger.costs[costs:]

    def fix_reduced(self) -> None:
        """Fix what activations are read with and a weight is computed by a sum over.

        Channels that are zero add nothing to what is read, but the weights that read them count in such a sum.
        """
        for (name, i), place in self.ledger.reduced.items():
            labels = self._parameters[name].axes[i].labels
            if labels is not None and (name, i) in self.ledger.reading:
                reason = f"{place} sums over weights that read these channels, so that removing some changes the rest"
                self.ledger.channels.fix(labels, f"{reason}; trace with renormalise=True to let it run over fewer")

    def run(self) -> None:
        """Carry labels through the graph; the axes of inputs and outputs are fixed."""
        names = iter(self._captured.tensors)
        for node in live(self._captured):
            if node.op == "placeholder":
                self._values[node] = self._placeholder(node, next(names, None))
            elif node.op == "output":
                for value in values_in(self._lookup(node.args[0])):
                    for axis in value.axes:
                        if axis.labels is not None:
                            self.ledger.channels.fix(axis.labels, "it is an output of the network")
            elif is_item(node):
                source, index = node.args
                self._values[node] = self._lookup(source)[index]
            else:
                self._values[node] = self._call(node)

    def _placeholder(self, node: fx.Node, name: str | None) -> Value:
        (shape,) = shapes_of(node.meta["val"])
        if name is None:
            return self._value(shape, [PLAIN] * len(shape))
        self._names[node] = name
        if name in self._parameters:
            return self._parameters[name]
        fresh = self.ledger.channels.fresh
        divisors = self.ledger.divisors
        axes = [
            Axis(fresh(size), (name, i) not in divisors, (name, i)) if size > 1 else PLAIN
            for i, size in enumerate(shape)
        ]
        self._parameters[name] = self._value(shape, axes, constant=True)
        return self._parameters[name]

    def _value(
        self, shape: tuple[int, ...], axes: Axes, storage: int | None = None, *, constant: bool = False
    ) -> Value:
        self._storages += 1
        return Value(shape, axes, self._storages if storage is None else storage, constant)

    def _lookup(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            if argument in self._names:
                self.order.setdefault(self._names[argument])
            return self._values.get(argument)
        if isinstance(argument, list | tuple):
            return [self._lookup(item) for item in argument]
        return argument

    def _call(self, node: fx.Node) -> Any:
        """The values of one call; unknown operators and forms fix all that they touch."""
        outputs = node.meta.get("val")
        shapes = list(shapes_of(outputs))
        arguments = self._arguments(node)
        name = operator_name(node)
        module = self._captured.modules.get(node, "")
        call = Call(name, module, arguments, shapes, self.ledger, self._batch, node in self._foldable)
        axes = self._apply(call)
        first = next(values_in(list(arguments.values())), None)
        if first is not None:
            self.inputs[node] = first
        fold = self._folds.get(node)
        if fold is not None and (labels := self.inputs[fold.product].axes[-1].labels) is not None:
            self.folds.append((fold, labels))
        storage, constant = self._storage(node, call), call.constant
        if not constant:
            axes = [[axis if axis.source is None else replace(axis, source=None) for axis in made] for made in axes]
        self.made[node] = axes
        values = [
            self._value(shape, made, storage, constant=constant) for shape, made in zip(shapes, axes, strict=True)
        ]
        if mutates(node):
            self._mutate(node, values)
        return values[0] if isinstance(outputs, Tensor) else values

    def _arguments(self, node: fx.Node) -> dict[str, Any]:
        if not isinstance(node.target, torch._ops.OpOverload):
            return {str(i): self._lookup(argument) for i, argument in enumerate([*node.args, *node.kwargs.values()])}
        bound = {}
        for i, argument in enumerate(node.target._schema.arguments):
            given = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
            bound[argument.name] = self._lookup(given)
        return bound

    def _apply(self, call: Call) -> list[Axes]:
        rule = RULES.get(call.name)
        touched = list(values_in(list(call.arguments.values())))
        if not any(axis.labels is not None for value in touched for axis in value.axes) and rule is None:
            return [[PLAIN] * len(shape) for shape in call.shapes]
        if rule is not None:
            try:
                axes = rule(call)
                _verify(call, axes)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                _LOG.debug("%s is called in a form without a rule: %r", call.place, error)
            else:
                return axes
        reason = f"the operator {call.place} is not known"
        if rule is not None:
            reason = f"the operator {call.place} is not known in this form"
        for value in touched:
            for axis in value.axes:
                call.fix(axis, reason)
        if call.shapes and any(axis.labels is not None for value in touched for axis in value.axes):
            self.ledger.notes.append(f"{reason}, so the channels that it touches stay dense")
        return [[PLAIN] * len(shape) for shape in call.shapes]

    def _storage(self, node: fx.Node, call: Call) -> int | None:
        """The storage that the outputs share with an input, as far as the schema tells."""
        if isinstance(node.target, torch._ops.OpOverload):
            for argument in node.target._schema.arguments:
                value = call.arguments[argument.name]
                if argument.alias_info is not None and isinstance(value, Value):
                    return value.storage
        return None

    def _mutate(self, node: fx.Node, values: list[Value]) -> None:
        """After an operator in place its first argument is its result; other views keep only what still holds."""
        target = node.args[0]
        if not isinstance(target, fx.Node) or not values:
            return
        self._values[target] = values[0]
        if all(axis.zero for axis in values[0].axes):
            return
        for other in self._values.values():
            for view in values_in(other):
                if view.storage == values[0].storage and view is not values[0]:
                    view.axes = [Axis(axis.labels, False, axis.source) for axis in view.axes]


def propagate(
    captured: Capture, batch: int, *, renormalise: bool = False, training: Capture | None = None
) -> Propagation:
    """Run a captured graph on channel labels.

    Args:
        batch: Examples in the batch, which costs are divided by.
        renormalise: Whether norms may take their statistics over the channels that stay.
        training: Record of the forward in train mode, where that uses parameters that eval mode does not.
    """
    divisors: frozenset[tuple[str, int]] = frozenset()
    folds, directions = find_folds(captured), find_directions([captured, *([training] if training else [])])
    while True:
        propagation = Propagation(captured, batch, divisors, folds, directions=directions, renormalise=renormalise)
        propagation.run()
        if training is not None:
            propagation.follow_too(training)
        ledger = propagation.ledger
        ledger.divisors |= ledger.balanced & ledger.reading
        if ledger.divisors == divisors:
            if not renormalise:
                propagation.fix_reduced()
            return propagation
        divisors = frozenset(ledger.divisors)  # they are not zero where channels go: once more with that


def shapes_of(value: Any) -> Iterator[tuple[int, ...]]:
    """Sizes of all tensors in nested lists, in order."""
    if isinstance(value, Tensor):
        yield tuple(int(size) for size in value.shape)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from shapes_of(item)


def _verify(call: Call, axes: list[Axes]) -> None:
    """A rule must give an axis of the right size for every dimension of every output."""
    if len(axes) != len(call.shapes):
        raise ValueError("outputs")
    for shape, made in zip(call.shapes, axes, strict=True):
        if len(made) != len(shape):
            raise ValueError("dimensions")
        for size, axis in zip(shape, made, strict=True):
            if axis.labels is not None and len(axis.labels) != size:
                raise ValueError("sizes")
