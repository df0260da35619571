"""Branch and bound over the choices of groups, with the Lagrangian dual as the bound (Fisher, 1981).

What makes it fast is not branching but leaving out: a choice whose bound is above the best widths known is left out for
good, which shrinks all tables, so that a gap of some per cent at the root mostly closes within a few nodes.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ecc.solvers.allocation.dual import Cut, Dual, within
from ecc.solvers.allocation.tables import Tables

__all__ = ["Search"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Improve = Callable[[Tensor], tuple[Tensor, float] | None]

_FEW = 512  # combinations that are all looked at
_ROOT_STEPS, _STEPS = 60, 8  # of the dual
_EXACT = 1e-9  # of the losses' range: what is not told apart
_LOOSE = 1e-9  # of a limit, by which tables may be off; widths are taken only if the costs themselves meet it


@dataclass(order=True, slots=True)
class _Node:
    """Choices that are left, and a bound below their losses."""

    bound: float
    number: int
    kept: tuple[Whole, ...] = field(compare=False)
    cuts: list[Cut] = field(compare=False)
    multipliers: Floats = field(compare=False)


@dataclass(eq=False)
class Search:
    """A search for the widths of least loss among the choices of tables.

    Attributes:
        tables: Losses, and costs less their limits.
        met: Whether the costs themselves meet the limits, of units of shape (n, n_groups).
        gap: Relative to the loss beyond ``floor``, at which the best widths known are good enough.
        deadline: Of ``time.monotonic``.
        units: The best widths known, or None.
        loss: Theirs; before any are known, more than any widths have.
        bound: No choices that meet the limits lose less, once ``run`` is through.
        nodes: Looked at.
    """

    tables: Tables
    met: Callable[[Tensor], Tensor]
    gap: float
    deadline: float
    units: Tensor | None = None
    loss: float = np.inf
    bound: float = -np.inf
    nodes: int = 0

    def __post_init__(self) -> None:
        losses = self.tables.losses
        self.floor = self.tables.loss + sum(float(each.min()) for each in losses)
        most = self.tables.loss + sum(float(each.max()) for each in losses)
        self._scale = most - self.floor if most > self.floor else 1.0
        self.loss = most + 1e-3 * self._scale
        self._left_out = np.inf

    def offer(self, units: Tensor, loss: float) -> None:
        """Take widths if they lose less than the best known and meet the limits."""
        if loss < self.loss and bool(self.met(units[None])[0]):
            self.units, self.loss = units, loss

    def run(self, improve: Improve | None = None, most: int = 1 << 30) -> bool:
        """Search; whether it came to an end, so that ``bound`` holds and, without any units, there are none.

        Args:
            improve: Of a cut's units, which may exceed limits, better ones near them that meet all, and their loss.
            most: Nodes to look at.
        """
        everything = tuple(np.arange(size) for size in self.tables.sizes)
        root = _Node(-np.inf, 0, everything, [], np.zeros(len(self.tables.excess)))
        open_nodes = [root]
        number = 0
        while open_nodes:
            node = heapq.heappop(open_nodes)
            if node.bound >= self._target:
                self._left_out = min(self._left_out, node.bound)
                continue
            if self.nodes >= most or (self.nodes and time.monotonic() > self.deadline):
                heapq.heappush(open_nodes, node)
                break
            self.nodes += 1
            for child in self._look(node, improve if self.nodes == 1 else None):
                number += 1
                child.number = number
                heapq.heappush(open_nodes, child)
        known = [self._left_out, *(node.bound for node in open_nodes)]
        self.bound = min([*known, self.loss] if self.units is not None else known)
        return not open_nodes

    @property
    def _target(self) -> float:
        """Where a bound is high enough."""
        if self.units is None:
            return self.loss
        return self.loss - max(self.gap * (self.loss - self.floor), _EXACT * self._scale)

    def _look(self, node: _Node, improve: Improve | None) -> list[_Node]:
        """Bound a node; what is left to look at of it."""
        if float(np.prod([float(len(each)) for each in node.kept])) <= _FEW:
            self._look_at_all(node.kept)
            return []
        dual = Dual(self.tables, node.kept, self._scale, list(node.cuts), node.multipliers)
        found = dual.ascend(self._target, _ROOT_STEPS if not node.cuts else _STEPS)
        for cut in found:
            if cut.loss < self.loss and bool((cut.excess <= _LOOSE).all()):
                self.offer(self.tables.units(cut.places), cut.loss)
        if improve is not None:
            self._improve(dual.cuts, improve)
        bound = max(dual.bound, node.bound)
        if bound >= self._target:
            self._left_out = min(self._left_out, bound)
            return []
        kept = self._filtered(dual, node.kept)
        if any(not len(each) for each in kept):
            return []
        cuts = within(dual.cuts, kept)
        if float(np.prod([float(len(each)) for each in kept])) <= _FEW:
            self._look_at_all(kept)
            return []
        active = within(dual.active(), kept) or cuts
        return [
            _Node(bound, 0, part, within(cuts, part), dual.multipliers) for part in _halves(kept, active, self.tables)
        ]

    def _improve(self, cuts: list[Cut], improve: Improve) -> None:
        """Look near the best cuts for widths that meet all limits."""
        over = [float(cut.excess.clip(min=0).sum()) for cut in cuts]
        inside = [cut for cut, much in zip(cuts, over, strict=True) if much <= _LOOSE]
        outside = sorted((cut for cut in cuts if float(cut.excess.max(initial=0.0)) > _LOOSE), key=lambda c: -c.loss)
        for cut in [*sorted(inside, key=lambda each: each.loss)[:1], *outside[:2]]:
            better = improve(self.tables.units(cut.places))
            if better is not None:
                self.offer(*better)

    def _filtered(self, dual: Dual, kept: tuple[Whole, ...]) -> tuple[Whole, ...]:
        """The choices whose bound is not above the target."""
        target = self._target
        left = []
        for own, least in zip(kept, dual.marginals(), strict=True):
            stays = least < target
            if not stays.all():
                self._left_out = min(self._left_out, float(least[~stays].min()))
            left.append(own[stays])
        return tuple(left)

    def _look_at_all(self, kept: tuple[Whole, ...]) -> None:
        """Take the best of few combinations."""
        here = self.tables.restricted(kept)
        # An axis for each group with a choice left: a network may have more groups than an array may have axes.
        choosing = [group for group, size in enumerate(here.sizes) if size > 1]
        sizes = tuple(here.sizes[group] for group in choosing)
        loss = np.full(sizes, here.loss)
        excess = np.broadcast_to(
            here.excess.reshape(len(here.excess), *(1 for _ in sizes)), (len(here.excess), *sizes)
        ).copy()
        for group, (own, single) in enumerate(zip(here.losses, here.singles, strict=True)):
            shape = [len(own) if each == group else 1 for each in choosing]
            loss += own.reshape(shape)
            excess += single.reshape(len(single), *shape)
        for scope, table in here.joint.items():
            excess += table.reshape(len(table), *(here.sizes[each] if each in scope else 1 for each in choosing))
        within_limits = (excess <= _LOOSE).all(0).reshape(-1)
        flat = loss.reshape(-1)
        for place in np.argsort(flat, kind="stable").tolist():
            if flat[place] >= self.loss:
                break
            if not within_limits[place]:
                continue
            chosen = np.zeros(len(here.sizes), dtype=np.int64)
            chosen[choosing] = np.unravel_index(place, sizes) if sizes else ()
            self.offer(here.units(chosen), float(flat[place]))


def _halves(kept: tuple[Whole, ...], active: list[Cut], tables: Tables) -> list[tuple[Whole, ...]]:
    """Two parts of the choices: cut where the widths on which the dual rests differ most in loss."""
    sizes = np.array([len(each) for each in kept])
    if len(active) > 1:
        places = np.stack([cut.places for cut in active])
        losses = np.stack([own[column] for own, column in zip(tables.losses, places.T, strict=True)])
        spread = np.ptp(losses, axis=1) * (np.ptp(places, axis=0) > 0) + 1e-30 * np.ptp(places, axis=0)
        group = int(np.argmax(spread)) if spread.max() > 0 else int(np.argmax(sizes))
        middle = int(np.floor((places[:, group].min() + places[:, group].max()) / 2))
    else:
        group = int(np.argmax(sizes))
        middle = int(kept[group][(len(kept[group]) - 1) // 2])
    low = kept[group][kept[group] <= middle]
    high = kept[group][kept[group] > middle]
    if not len(low) or not len(high):
        half = len(kept[group]) // 2
        low, high = kept[group][:half], kept[group][half:]
    return [(*kept[:group], part, *kept[group + 1 :]) for part in (low, high) if len(part)]
