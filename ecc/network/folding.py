"""Folding: a scale that the forward takes from the size of a head, made up for in the weights of queries or keys.

Products of queries and keys are divided by the root of the size of a head. Once part of each head is gone a forward
that asks the tensor for its size divides by another number. The slim network then computes the same as the masked one
if the rows that make its queries (or else its keys) are multiplied by what the scale lost. That is possible where the
queries come from one layer, through operators that only move data or multiply it by something else, and nothing else
reads the same rows. Which rows these are, the operators themselves tell: they run on the numbers of the features.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ecc.core.layers import Side
from ecc.network.capture import Capture, is_item, mutates, operator_name
from ecc.network.graph import Rescale

__all__ = ["Fold", "find_folds", "rescaled"]

_ATTENTION = "scaled_dot_product_attention"
_RESHAPES = frozenset(["view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"])
_MOVES = frozenset(
    ["permute", "transpose", "swapaxes", "swapdims", "t", "mT", "movedim", "moveaxis", "unbind", "select", "chunk",
     "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "tensor_split", "slice",
     "narrow", "expand", "repeat", "repeat_interleave", "flip", "roll", "cat", "stack"]
)  # fmt: skip
_COPIES = frozenset(["contiguous", "clone", "alias", "detach", "to", "_to_copy", "type_as", "dropout", "neg"])
_FACTORS = frozenset(["mul", "div"])
_SUMS = frozenset(["add", "sub"])
_THROUGH = _RESHAPES | _MOVES | _COPIES | _FACTORS | _SUMS


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """A scale, and where a factor makes up for it.

    Attributes:
        node: The operator that scales.
        product: The operator whose first operand has the size of a head as its last axis.
        tensors: Name, axis and dense positions of each parameter that the factor goes to.
        certain: Whether the operator always scales by the size; else a number that the forward gives it might follow.
    """

    node: fx.Node
    product: fx.Node
    tensors: tuple[tuple[str, int, NDArray[np.int64]], ...]
    certain: bool

    def power(self, number: object, fraction: float) -> float:
        """The power of the kept fraction that weights need where the slim forward scales by ``number``; 0 for none."""
        dense = self.node.args[1]
        if not isinstance(number, int | float) or not isinstance(dense, int | float) or dense == 0 or fraction == 1:
            return 0.0
        powers = (-1.0, -0.5, -0.25, 0.25, 0.5, 1.0)
        return next((power for power in powers if math.isclose(number, self.follows(fraction, power))), 0.0)

    def follows(self, fraction: float, power: float) -> float:
        """The number that the slim forward must scale by where weights have the fraction's ``power`` as a factor."""
        dense = self.node.args[1]
        sign = 1 if operator_name(self.node) == "div" else -1
        return float(dense) * fraction ** (sign * power) if isinstance(dense, int | float) else math.nan


def find_folds(captured: Capture) -> tuple[Fold, ...]:
    """Every scale of queries and keys that a factor on weights can make up for, in order of execution."""
    finder = _Finder(captured)
    return tuple(fold for node in captured.graph.nodes for fold in finder.folds(node))


def rescaled(fold: Fold, side: Side, power: float = 0.5) -> tuple[Rescale, ...]:
    """The factors of a fold: the kept fraction of ``side``, the size of a head, to the ``power``."""
    return tuple(Rescale(name, axis, positions, side, power) for name, axis, positions in fold.tensors)


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A layer whose parameters nothing else uses: (name, axis of the output features), features, their axis."""

    parameters: tuple[tuple[str, int], ...]
    features: int
    axis: int


_Reads = Mapping[tuple[fx.Node, int], NDArray[np.bool_]]


class _Finder:
    def __init__(self, captured: Capture) -> None:
        self._order = {node: i for i, node in enumerate(captured.graph.nodes)}
        placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
        self._names = dict(zip(placeholders, captured.tensors, strict=False))
        self._reads: dict[fx.Node, _Reads] = {}

    def folds(self, node: fx.Node) -> Iterator[Fold]:
        """The fold of a node, if it is a scale that has one."""
        name = operator_name(node) if node.op == "call_function" else ""
        if name == _ATTENTION and node.kwargs.get("scale") is None:
            yield from self._fold(node, node, ((node, 0), (node, 1)), certain=True)
        elif name in _FACTORS and len(node.args) > 1 and type(node.args[1]) in (int, float) and not mutates(node):
            product = _behind(node.args[0])
            if product is None:
                yield from self._fold(node, node, ((node, 0),), certain=False)
            else:
                yield from self._fold(node, product, ((product, 0), (product, 1)), certain=False)

    def _fold(
        self, node: fx.Node, product: fx.Node, readers: Sequence[tuple[fx.Node, int]], *, certain: bool
    ) -> Iterator[Fold]:
        for reader in readers:
            operand = reader[0].args[reader[1]]
            for source in self._sources(operand) if isinstance(operand, fx.Node) else ():
                layer = self._layer(source)
                rows = None if layer is None else self._rows(source, layer, reader)
                if layer is not None and rows is not None:
                    yield Fold(node, product, tuple((*parameter, rows) for parameter in layer.parameters), certain)
                    return

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        """Layers that a tensor comes from through operators that may be passed."""
        found, seen, pending = [], {node}, [node]
        while pending:
            here = pending.pop()
            if self._layer(here) is not None:
                found.append(here)
            elif is_item(here) or (here.op == "call_function" and operator_name(here) in _THROUGH):
                new = [before for before in here.all_input_nodes if before not in seen]
                seen.update(new)
                pending.extend(new)
        return found

    def _layer(self, node: fx.Node) -> _Layer | None:
        name = operator_name(node) if node.op == "call_function" else ""
        if name not in ("linear", "addmm", "matmul", "mm", "conv1d", "conv2d", "conv3d"):
            return None
        weight_at, bias_at = {"addmm": (2, 0), "matmul": (1, 9), "mm": (1, 9)}.get(name, (1, 2))
        axis = 1 if name in ("addmm", "matmul", "mm") else 0
        parameters = []
        for at, along in ((weight_at, axis), (bias_at, 0)):
            parameter = node.args[at] if at < len(node.args) else None
            if parameter is None:
                continue
            if not isinstance(parameter, fx.Node) or parameter not in self._names or len(parameter.users) > 1:
                return None
            if node.all_input_nodes.count(parameter) > 1 or not parameter.meta["val"].is_floating_point():
                return None
            if along >= parameter.meta["val"].ndim or (along == 0 and at == bias_at and parameter.meta["val"].ndim > 1):
                return None
            parameters.append((self._names[parameter], along))
        weight = node.args[weight_at]
        features = int(weight.meta["val"].shape[axis]) if isinstance(weight, fx.Node) else 0
        spatial = int(name[4]) if name.startswith("conv") else 0
        return _Layer(tuple(parameters), features, -1 - spatial)

    def _rows(self, source: fx.Node, layer: _Layer, reader: tuple[fx.Node, int]) -> NDArray[np.int64] | None:
        """The features of a layer that ``reader`` and nothing else gets; None where others get some of them too."""
        if source not in self._reads:
            self._reads[source] = _spread(source, layer, self._order)
        reads = self._reads[source]
        if reader not in reads:
            return None
        mine = reads[reader]
        if any((mine & other).any() for key, other in reads.items() if key != reader):
            return None
        return np.flatnonzero(mine)


def _behind(node: Any) -> fx.Node | None:
    """The product of two tensors that a tensor is, seen through reshapes."""
    while isinstance(node, fx.Node) and node.op == "call_function" and not is_item(node):
        name = operator_name(node)
        if name in ("matmul", "bmm"):
            return node
        if name not in _RESHAPES:
            return None
        node = node.args[0]
    return None


def _spread(source: fx.Node, layer: _Layer, order: Mapping[fx.Node, int]) -> _Reads:
    """Which features of a layer each operator reads that is not passed, per argument; those it mixes count together."""
    shape = source.meta["val"].shape
    numbers = torch.arange(layer.features)
    carried: dict[fx.Node, Any] = {source: numbers.view(-1, *[1] * (-layer.axis - 1)).expand(shape)}
    reads: dict[tuple[fx.Node, int], NDArray[np.bool_]] = {}
    together = np.arange(layer.features)
    pending = [(order[user], user) for user in source.users]
    heapq.heapify(pending)
    done: set[fx.Node] = set()
    while pending:
        _, node = heapq.heappop(pending)
        if node in done:
            continue
        done.add(node)
        result = _carry(node, carried, together)
        if result is None:
            for before in (before for before in node.all_input_nodes if before in carried):
                for slot in _slots(node, before):
                    reads[node, slot] = reads.get((node, slot), False) | _seen(carried[before], layer.features)
            continue
        carried[node] = result
        for user in node.users:
            heapq.heappush(pending, (order[user], user))
    return {key: np.isin(together, together[mask]) for key, mask in reads.items()}


def _carry(node: fx.Node, carried: Mapping[fx.Node, Any], together: NDArray[np.int64]) -> Any:
    """The numbers of the features that a node's results hold; None if it is not to be passed."""
    if is_item(node):
        (source,) = node.all_input_nodes
        return carried[source][node.args[1]]
    if node.op != "call_function" or mutates(node):
        return None
    name, first = operator_name(node), node.args[0] if node.args else None
    mine = [before for before in node.all_input_nodes if before in carried]
    whole = len(mine) == len(node.all_input_nodes)
    if name in _MOVES and whole:
        return node.target(*fx.map_arg(node.args, carried.__getitem__), **node.kwargs)  # type: ignore[operator]
    if mine == [first] and (name in _COPIES or (name in _RESHAPES and whole)):
        return carried[mine[0]].reshape(node.meta["val"].shape)
    if name in _FACTORS and len(mine) == 1 and len(node.all_input_nodes) == 2 and (name == "mul" or mine == [first]):
        return carried[mine[0]].expand(node.meta["val"].shape)
    if name in _SUMS and whole and len(mine) == 2:
        one, other = (carried[before].expand(node.meta["val"].shape) for before in mine)
        pairs = np.stack([one.reshape(-1).numpy(), other.reshape(-1).numpy()], axis=1)
        for a, b in np.unique(pairs, axis=0):
            together[together == together[b]] = together[a]
        return one
    return None


def _slots(node: fx.Node, before: fx.Node) -> list[int]:
    """The positions at which a node gets a tensor; −1 for a list of tensors or a keyword."""
    return [i for i, argument in enumerate(node.args) if argument is before] or [-1]


def _seen(numbers: Any, features: int) -> NDArray[np.bool_]:
    mask = np.zeros(features, dtype=np.bool_)
    for tensor in numbers if isinstance(numbers, list | tuple) else [numbers]:
        small: Tensor = tensor
        for dim, stride in enumerate(tensor.stride()):
            small = small.narrow(dim, 0, 1) if stride == 0 and small.shape[dim] else small
        mask[small.reshape(-1).numpy()] = True
    return mask
