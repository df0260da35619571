"""Operators that compute weights from parameters: weight normalisation and its kin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from torch import fx

from ecc.network.capture import Capture, mutates, operator_name
from ecc.network.directions import Direction
from ecc.network.values import PLAIN, Axes, Axis, Call, computed

__all__ = ["WEIGHTS", "counted", "find_directions"]

_NORMS = ("_weight_norm", "_weight_norm_interface")


def _weight_norm(call: Call) -> list[Axes]:
    """g · v / ‖v‖, the norm taken over all axes but one (over all if ``dim`` is −1).

    Rows go where g is zero; those of v are divided by their norm and must not be. Columns that activations are read
    with stay as they are where g can make up for their share of the norm; other zeros add nothing to it.
    """
    direction, size = call.value("v"), call.value("g")
    dim = call.get("dim")
    axes: Axes = []
    for i, axis in enumerate(direction.axes):
        if i == dim:
            call.avoid_zero(axis)
            call.tie(axis, size.axes[i])
            labels = axis.labels if size.axes[i].labels is not None else None
            axes.append(Axis(labels, size.axes[i].zero, call.relate([size.axes[i], axis])))
        else:
            if call.foldable:
                call.ledger.balanced.update(call.sources(axis))
            else:
                call.reduce(axis)
            if not axis.zero and not call.foldable:
                call.fix(axis, f"{call.place} takes a norm over channels that are not zero once removed")
            axes.append(computed(axis))
    return [axes, *([PLAIN] * len(shape) for shape in call.shapes[1:])]


def find_directions(captures: Sequence[Capture]) -> dict[fx.Node, Direction]:
    """The operators that compute such a weight from a g that has no other use, without ``axes``."""
    found: dict[fx.Node, Direction] = {}
    uses: dict[str, set[Direction | None]] = {}
    for captured in captures:
        placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
        names = dict(zip(placeholders, captured.tensors, strict=False))
        for node, name in names.items():
            for user in node.users:
                direction = _direction(user, names)
                uses.setdefault(name, set()).add(direction)
                if direction is not None:
                    found[user] = direction
    return {node: direction for node, direction in found.items() if uses[direction.scale] == {direction}}


def _direction(node: fx.Node, names: Mapping[fx.Node, str]) -> Direction | None:
    if node.op != "call_function" or operator_name(node) not in _NORMS:
        return None
    vector, scale, dim = (*node.args, node.kwargs.get("dim", 0))[:3]
    if not isinstance(vector, fx.Node) or not isinstance(scale, fx.Node) or not isinstance(dim, int):
        return None
    if vector is scale or vector not in names or scale not in names or any(map(mutates, vector.users)):
        return None
    shape = vector.meta["val"].shape
    one_each = [size if i == dim else 1 for i, size in enumerate(shape)]
    fits = scale.meta["val"].numel() == 1 if dim == -1 else list(scale.meta["val"].shape) == one_each
    return Direction(names[scale], names[vector], dim) if fits else None


def counted(directions: Mapping[fx.Node, Direction], divisors: frozenset[tuple[str, int]]) -> tuple[Direction, ...]:
    """Each once, with those axes that a masked network leaves as they are; without the ones that have none."""
    found = []
    for direction in dict.fromkeys(directions.values()):
        axes = sorted(i for name, i in divisors if name == direction.vector and i != direction.dim)
        found += [replace(direction, axes=tuple(axes))] if axes else []
    return tuple(found)


WEIGHTS: Mapping[str, Callable[[Call], list[Axes]]] = MappingProxyType(
    {
        **dict.fromkeys(_NORMS, _weight_norm),
    }
)
"""Rules of the operators in this file."""
