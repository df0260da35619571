"""Depth: costs over widths and residual blocks together, so that both can be chosen in one go."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ecc.core.cost import CostModel, Decomposable, as_vector
from ecc.core.errors import InputError
from ecc.core.interactions import Interactions, maximal
from ecc.core.layers import Side
from ecc.core.problem import Constraint, Depth
from ecc.core.widths import Widths, WidthSpace
from ecc.energy_models.derived import Derived
from ecc.network.graph import WidthGraph, holder

__all__ = ["DepthCost", "Shortenable", "cost_without", "depth_of"]


@runtime_checkable
class Shortenable(Protocol):
    """A cost that can say what the network costs without some of its residual blocks."""

    def without(self, graph: WidthGraph, blocks: Collection[str]) -> CostModel:
        """The cost over the same space without these blocks; groups that go with them play no part any more."""


def cost_without(cost: CostModel, graph: WidthGraph, blocks: Collection[str]) -> CostModel:
    """The cost of the network without some residual blocks, over the same space; the cost itself if none is named.

    Args:
        graph: Of the network with them, with the groups of the cost.

    Raises:
        InputError: If the cost cannot say, or a block is not removable.
    """
    if not blocks:
        return cost
    if not isinstance(cost, Shortenable):
        raise InputError(
            f"the {cost.metric} cost model cannot say what single blocks cost, so none can be removed by it; keep all "
            "blocks, or give a count, a systolic array or a fitted model"
        )
    return cost.without(graph, blocks)


def depth_of(graph: WidthGraph, constraints: Sequence[Constraint]) -> Depth:
    """The removable blocks of a network as variables behind its widths.

    Args:
        graph: With the groups of the constraints' costs.

    Raises:
        InputError: If there are none, or a cost cannot say what the network costs without them.
    """
    blocks = {block.name: block.groups for block in graph.blocks if block.removable}
    if not blocks:
        reasons = "; ".join(f"{block.name}: {block.reason}" for block in graph.blocks[:3]) or "it has none"
        raise InputError(f"the network has no residual block that can be removed ({reasons}); choose widths only")
    for constraint in constraints:
        cost_without(constraint.cost, graph, blocks)
    own = graph.space
    space = WidthSpace(
        (*own.names, *(f"block {name}" for name in blocks)),
        own.dense + (2,) * len(blocks),
        own.step + (1,) * len(blocks),
    )
    deep = (Constraint(DepthCost(each.cost, graph, tuple(blocks), space), each.limit) for each in constraints)
    return Depth(blocks, space, tuple(deep))


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Width vectors with the same blocks: their cost, their widths without blocks, and their numbers."""

    cost: CostModel
    widths: Tensor
    rows: Tensor


@dataclass(frozen=True, eq=False)
class DepthCost(Derived):
    """A cost over widths and blocks: behind the groups one more per block, 2 where it stays and 1 where it goes.

    Attributes:
        cost: Of the network with all blocks.
        graph: Of that network.
        blocks: Names of removable blocks.
        space: The cost's groups, then one group per block.
    """

    graph: WidthGraph
    blocks: tuple[str, ...]
    space: WidthSpace
    _shorter: dict[tuple[str, ...], CostModel] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, widths: Widths | Tensor) -> Tensor:
        """The cost at widths (a mapping, or channels of shape (…, n_groups)): shape (…), differentiable by widths."""
        given = as_vector(self.space, widths)
        pieces = self._pieces(given)
        return _joined(given, pieces, [piece.cost(piece.widths) for piece in pieces])

    def interval(self, widths: Widths | Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """As of the cost without the blocks that go."""
        given = as_vector(self.space, widths)
        pieces = self._pieces(given)
        lows, highs = zip(*(piece.cost.interval(piece.widths, level) for piece in pieces), strict=True)
        return _joined(given, pieces, lows), _joined(given, pieces, highs)

    def _pieces(self, given: Tensor) -> list[_Piece]:
        """The width vectors by the blocks that stay in them."""
        groups = len(self.cost.space)
        flat = given.reshape(-1, len(self.space))
        patterns, number = torch.unique(flat[:, groups:] > 1.5, dim=0, return_inverse=True)
        pieces = []
        for place, pattern in enumerate(patterns.tolist()):
            rows = (number == place).nonzero().flatten()
            gone = tuple(name for name, stays in zip(self.blocks, pattern, strict=True) if not stays)
            pieces.append(_Piece(self._without(gone), flat[rows, :groups], rows))
        return pieces

    def _without(self, gone: tuple[str, ...]) -> CostModel:
        if gone not in self._shorter:
            self._shorter[gone] = cost_without(self.cost, self.graph, gone)
        return self._shorter[gone]

    @cached_property
    def interactions(self) -> Interactions:
        """Those of the cost, and each block with what of them it touches; all groups together of a cost without any.

        What is common to all of them, as factors of the whole are, goes into each, and the blocks with its groups.
        """
        groups = len(self.cost.space)
        own = self.cost.interactions if isinstance(self.cost, Decomposable) else ()
        if not own:
            return (tuple(range(len(self.space))),)
        common = set(own[0]).intersection(*own)
        touched = [_touched(self.graph, name, self.space) for name in self.blocks]
        position = {name: place for place, name in enumerate(self.space.names)}
        gone = {
            block.name: {position[name] for name in block.groups if name in position}
            for block in self.graph.removable(self.blocks)
        }
        also = {groups + number for number, name in enumerate(self.blocks) if common & gone[name]}
        sets = [tuple(sorted({*each, *also})) for each in own]
        for number, mine in enumerate(touched):
            sets += [tuple(sorted({groups + number, *also, *(set(each) & (mine | common))})) for each in own]
        return maximal(sets)


def _touched(graph: WidthGraph, block: str, space: WidthSpace) -> set[int]:
    """Positions of the groups that anything inside a block looks at."""
    sides: list[Side] = []
    for layer in graph.layers:
        if holder(layer.name, [block]):
            sides += (layer.reads, layer.writes)
    for tensors in (graph.parameters, graph.buffers):
        for name, axes in tensors.items():
            if holder(name, [block]):
                sides += axes.sides
    for call in graph.calls:
        if holder(call.module, [block]):
            sides += (side for _, side in call.sides)
    position = {name: place for place, name in enumerate(space.names)}
    return {position[name] for side in sides for name in side.groups if name in position}


def _joined(given: Tensor, pieces: Sequence[_Piece], values: Sequence[Tensor]) -> Tensor:
    """Values of pieces in the order of the width vectors that they are of."""
    rows = torch.cat([piece.rows for piece in pieces])
    return torch.cat([each.to(torch.float64) for each in values])[torch.argsort(rows)].reshape(given.shape[:-1])
