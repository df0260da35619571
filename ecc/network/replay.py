"""Replay: does the slim network do, operator for operator, what the labels predict?

A forward computes sizes, slices and scales in Python, out of sight of the operators. So the slim network is recorded
too and compared with the dense record: same operators on the same operands, every size the number of positions that are
left, every other number unchanged. Then the rules that made the groups prove that the outputs are equal, whatever the
weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ecc.core.layers import Side
from ecc.core.widths import Kept
from ecc.network.axes import Propagation, shapes_of
from ecc.network.capture import Capture, is_item, operator_name
from ecc.network.folding import Fold, rescaled
from ecc.network.graph import Rescale
from ecc.network.opaque import Opaque
from ecc.network.values import Axis

__all__ = ["Replay", "named_arguments", "same_argument", "same_constant"]

_SIZES = frozenset(
    ["size", "shape", "sizes", "split_size", "split_sizes", "length", "repeats"]
)  # outputs show what they do
_CUTS = frozenset(["slice", "narrow"])  # here ``start`` is a position that follows the widths, and ``end`` a size


class Replay:
    """The dense record with its labels, to hold slim ones against.

    Args:
        captured: Record of the dense network.
        propagation: Its labels.
        units: Resolved channel ids of each group's units, in order.
        folds: Scales that may follow a width, and the side that they would depend on.
    """

    def __init__(
        self,
        captured: Capture,
        propagation: Propagation,
        units: Mapping[str, NDArray[np.int64]],
        folds: Sequence[tuple[Fold, Side]] = (),
    ) -> None:
        self._captured = captured
        self._propagation = propagation
        self._channels = propagation.ledger.channels
        self._units = units
        self._folds = {fold.node: (fold, side) for fold, side in folds if not fold.certain}

    @property
    def on_meta(self) -> bool:
        """Whether the dense network was recorded on the meta device."""
        return self._captured.on_meta

    @property
    def opaque(self) -> tuple[Opaque, ...]:
        """Modules that a slim record must not follow inside either."""
        return self._captured.opaque

    @property
    def scaling(self) -> frozenset[str]:
        """Groups whose width a scale may follow."""
        return frozenset(name for _, side in self._folds.values() for name in side.groups)

    def rescales(self, slim: Capture, kept: Kept) -> tuple[Rescale, ...]:
        """Factors on weights that make up for the scales which the slim record takes from a width."""
        gone, found = self._gone(kept), list[Rescale]()
        for node, twin in zip(self._captured.graph.nodes, slim.graph.nodes, strict=False):
            if node in self._folds and node.target == twin.target:
                fold, side = self._folds[node]
                power = fold.power(twin.args[1], self._fraction(fold, gone))
                found += rescaled(fold, side, power) if power else ()
        return tuple(found)

    def mismatch(self, slim: Capture, kept: Kept, rescales: Sequence[Rescale] = ()) -> str:
        """What the slim record does otherwise than predicted; empty if nothing.

        Args:
            rescales: Factors in the slim weights.
        """
        gone = self._gone(kept)
        powers = {id(rescale.positions): rescale.power for rescale in rescales}
        dense, other = list(self._captured.graph.nodes), list(slim.graph.nodes)
        if [node.target for node in dense if node.op == "call_function"] != [
            node.target for node in other if node.op == "call_function"
        ]:
            return "the forward runs other operators once its size changes"
        partner = dict(zip(dense, other, strict=False))
        if len(dense) != len(other):
            return "the forward uses other constants once its size changes"
        for node, twin in partner.items():
            problem = self._compare(slim, node, twin, partner, gone, powers)
            if problem:
                place = self._captured.modules.get(node, "")
                return f"{problem} in {place}" if place else problem
        return ""

    def _compare(
        self,
        slim: Capture,
        node: fx.Node,
        twin: fx.Node,
        partner: Mapping[fx.Node, fx.Node],
        gone: NDArray[np.bool_],
        powers: Mapping[int, float],
    ) -> str:
        if node.op == "get_attr":
            same = same_constant(self._captured.constants[node], slim.constants[twin])
            return "" if same else "the forward makes another constant once its size changes"
        made = self._propagation.made.get(node)
        if made is None and not is_item(node):
            return ""  # nothing depends on it
        name = operator_name(node)
        if made is not None:
            predicted = [tuple(self._left(axis, size, gone) for axis, size in zip(axes, shape, strict=True))
                         for axes, shape in zip(made, shapes_of(node.meta.get("val")), strict=True)]  # fmt: skip
            found = list(shapes_of(twin.meta.get("val")))
            if predicted != found:
                return f"{name} gives size {_shown(found)} where {_shown(predicted)} is left"
        names = named_arguments(node)
        for (argument, mine), (_, theirs) in zip(names, named_arguments(twin), strict=True):
            if argument in _SIZES or (argument == "end" and name in _CUTS):
                continue
            if argument == "normalized_shape" and theirs == self._normalised(node, mine, gone):
                continue
            if argument in ("groups", "num_groups") or (argument == "start" and name in _CUTS):
                expected = self._expected(node, argument, mine, gone)
                used = _start(twin) if argument == "start" else theirs
                if expected != used:
                    return f"{name} uses {argument} {theirs} where {expected} is right"
            elif argument == "other" and node in self._folds:
                fold, _ = self._folds[node]
                number = fold.follows(self._fraction(fold, gone), powers.get(id(fold.tensors[0][2]), 0.0))
                if not math.isclose(theirs, number, rel_tol=1e-9):
                    return f"{name} computes with {theirs} where {number} is right"
            elif not same_argument(mine, theirs, partner):
                return f"{name} computes with {theirs} where the dense network has {mine}"
        return ""

    def _normalised(self, node: fx.Node, shape: Sequence[int], gone: NDArray[np.bool_]) -> list[int]:
        """The sizes of the last axes that are left."""
        axes = self._propagation.inputs[node].axes[-len(shape) :]
        return [self._left(axis, size, gone) for axis, size in zip(axes, shape, strict=True)]

    def _gone(self, kept: Kept) -> NDArray[np.bool_]:
        """Which channel ids are removed."""
        gone = np.zeros(self._channels.size, dtype=bool)
        for name, units in kept.items():
            gone[np.delete(self._units[name], units)] = True
        return gone

    def _fraction(self, fold: Fold, gone: NDArray[np.bool_]) -> float:
        """What is left of the axis whose size a scale may follow."""
        value = self._propagation.inputs[fold.product]
        return self._left(value.axes[-1], value.shape[-1], gone) / value.shape[-1]

    def _left(self, axis: Axis, size: int, gone: NDArray[np.bool_]) -> int:
        if axis.labels is None:
            return size
        return int((~gone[self._channels.resolve(axis.labels)].any(axis=1)).sum())

    def _expected(self, node: fx.Node, argument: str, value: Any, gone: NDArray[np.bool_]) -> int:
        """The position or number of groups that corresponds to the dense one."""
        arguments = dict(named_arguments(node))
        source = self._propagation.inputs[node]
        if argument == "start":
            dim, start = (arguments.get("dim") or 0) % len(source.axes), _start(node)
            labels = source.axes[dim].labels
            before = Axis(None if labels is None else labels[:start])
            return self._left(before, start, gone)
        axis = self._propagation.made[node][0][_channel_dim(node)]
        size = int(node.meta["val"].shape[_channel_dim(node)])
        per_in = source.shape[_channel_dim(node)] // value
        whole = (argument == "num_groups" and value > 1) or (value > 1 and (per_in == 1 or size == value))
        return self._left(axis, size, gone) * value // size if whole else int(value)


def _start(node: fx.Node) -> int:
    """Where a slice starts, counted from the front."""
    arguments = dict(named_arguments(node))
    source = next(argument for argument in arguments.values() if isinstance(argument, fx.Node))
    size = int(source.meta["val"].shape[arguments.get("dim") or 0])
    return slice(arguments["start"], None).indices(size)[0]


def _channel_dim(node: fx.Node) -> int:
    """The channel axis of a convolution's or group norm's tensors, counted from the end."""
    arguments = dict(named_arguments(node))
    weight = arguments.get("weight")
    if "num_groups" in arguments or not isinstance(weight, fx.Node):
        return 1 - int(node.meta["val"].ndim)
    return 1 - int(weight.meta["val"].ndim)


def named_arguments(node: fx.Node) -> list[tuple[str, Any]]:
    """Arguments with the names of the operator's schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return [(str(i), argument) for i, argument in enumerate([*node.args, *node.kwargs.values()])]
    return [
        (a.name, node.args[i] if i < len(node.args) else node.kwargs.get(a.name, a.default_value))
        for i, a in enumerate(node.target._schema.arguments)
    ]


def same_argument(mine: Any, theirs: Any, partner: Mapping[fx.Node, fx.Node]) -> bool:
    """Whether two arguments, which may hold nodes, are the same once nodes are replaced by their partners."""
    if isinstance(mine, fx.Node):
        return partner.get(mine) is theirs
    if isinstance(mine, list | tuple):
        return (
            isinstance(theirs, list | tuple)
            and len(mine) == len(theirs)
            and all(same_argument(a, b, partner) for a, b in zip(mine, theirs, strict=True))
        )
    return bool(mine == theirs) or (mine != mine and theirs != theirs)


def same_constant(mine: Tensor, theirs: Tensor) -> bool:
    """Whether two constants are equal as far as they have values."""
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return False
    return mine.is_meta or theirs.is_meta or torch.equal(mine, theirs)


def _shown(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in shapes[:2])
