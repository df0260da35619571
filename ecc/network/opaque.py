"""Opaque modules: parts of a network that a record does not follow inside, and what one real run tells of them.

In the record each call of such a module is one operator, which takes all tensors that it got and all of its parameters
and buffers. What it touches cannot be pruned, except along the axes that the user declared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_unflatten

from ecc.network.values import PLAIN, Axes, Axis, Call, values_in

__all__ = ["OPAQUE", "InnerCost", "Opaque", "OpaqueCall", "TensorSpec", "leaves_in", "opaque"]

ParameterAxis = tuple[str, int]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What an output of an opaque module looks like."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """The description of a tensor."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def empty(self, device: torch.device | None) -> Tensor:
        """A tensor of this description without set values, on another device if one is given."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=device or self.device)


@dataclass(frozen=True, slots=True)
class InnerCost:
    """What an operator inside an opaque module computes.

    Attributes:
        name: Of the layer.
        kind: As in ``core.layers.Layer``.
        macs: Of the whole batch.
        reads: Parameter axes that it sums over.
        writes: Parameter axes that it produces channels with.
    """

    name: str
    kind: str
    macs: int
    reads: tuple[ParameterAxis, ...]
    writes: tuple[ParameterAxis, ...]


@dataclass(frozen=True, slots=True, eq=False)
class OpaqueCall:
    """One call of an opaque module.

    Attributes:
        structure: Of what it returns.
        leaves: In order: a description for each tensor, other values (None, text) as they are.
        costs: What it computes.
    """

    structure: TreeSpec
    leaves: tuple[Any, ...]
    costs: tuple[InnerCost, ...]

    def output(self, tensors: list[Tensor]) -> Any:
        """What the call returns, with these tensors in it."""
        given = iter(tensors)
        return tree_unflatten(
            [next(given) if isinstance(leaf, TensorSpec) else leaf for leaf in self.leaves], self.structure
        )


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A module that is not followed inside.

    Attributes:
        path: Of the module; empty for the whole network.
        reason: Which module it is and why it is not followed, in one sentence.
        calls: In order.
        reads: Names of parameters and buffers that it uses besides its own.
        free: Parameter axes that the user declared.
    """

    path: str
    reason: str
    calls: tuple[OpaqueCall, ...]
    reads: tuple[str, ...]
    free: frozenset[ParameterAxis]


def opaque(module: Opaque, call: int, given: list[Any], held: list[Any]) -> None:
    """The operator that stands for call number ``call`` of a module in a record; it is never run."""
    raise NotImplementedError(f"{module.path} is only recorded")


def leaves_in(value: Any) -> Iterator[Any]:
    """Tensors, numbers and text in nested containers and dataclasses, in order; other objects are passed over."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from leaves_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves_in(item)
    elif isinstance(value, Tensor | int | float | str):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for entry in fields(value):
            yield from leaves_in(getattr(value, entry.name))


def _opaque(call: Call) -> list[Axes]:
    """All axes that it touches are fixed, but those that the user declared."""
    module: Opaque = call.arguments["0"]
    number: int = call.arguments["1"]
    declared: dict[ParameterAxis, Axis] = {}
    for value in values_in([call.arguments["2"], call.arguments["3"]]):
        for axis in value.axes:
            if axis.source is not None and axis.source in module.free:
                declared[axis.source] = axis
            else:
                call.fix(axis, module.reason)
    for cost in module.calls[number].costs:
        sides = [next((declared[a].labels for a in axes if a in declared), None) for axes in (cost.reads, cost.writes)]
        call.charge(cost.kind, cost.name, cost.macs, *sides)
    return [[_fixed(call, size, module.reason) for size in shape] for shape in call.shapes]


def _fixed(call: Call, size: int, reason: str) -> Axis:
    """An axis of channels that stay, so that whatever is tied to them learns why."""
    if size < 2:
        return PLAIN
    labels = call.ledger.channels.fresh(size)
    call.ledger.channels.fix(labels, reason)
    return Axis(labels, zero=False)


OPAQUE: Mapping[str, Callable[[Call], list[Axes]]] = MappingProxyType({"opaque": _opaque})
"""The rule of the operator in this file."""
