r"""Multiple choice: one option of each group, so that the summed loss is least and every summed cost within its limit.

The multiple-choice knapsack problem. Options that another one beats in loss and every cost are dropped; the Lagrangian

.. math:: L(λ) = \sum_g \min_o (l_{go} + λ·c_{go}) - λ·b, \qquad λ \ge 0,

is a bound below every admissible loss (with one limit, the bound of the convex hulls: Sinha and Zoltners, 1979). Its
minimisers, repaired and improved, are admissible choices. What an option would have to lose at least, with the other
groups relaxed, drops most options; the rest is searched group by group, states that another one beats or that cannot
end below the best known choice dropped, which is exact (Pisinger, 1995) until there are too many states: then those of
the best bounds are followed, and the gap says what that may have cost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ecc.core.errors import InputError

__all__ = ["Selection", "select"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

_MULTIPLIERS = 48  # that bounds are taken of
_STARTS = 8  # minimisers that are made admissible and better
_CUTS = 60  # multipliers looked at, with several limits
_STATES = 20_000
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Selection:
    """One option of each group.

    Attributes:
        places: Of each group's option.
        loss: Sum of their losses.
        costs: Sums of their costs, one per limit.
        bound: No admissible choice loses less.
        gap: (loss − bound) / (loss − least loss without limits); 0 when optimal.
    """

    places: tuple[int, ...]
    loss: float
    costs: tuple[float, ...]
    bound: float
    gap: float


@dataclass(frozen=True, slots=True)
class _Group:
    """Options that are left: losses (n,), costs (n, limits), and their places among all."""

    losses: Floats
    costs: Floats
    places: Whole

    def only(self, kept: NDArray[np.bool_]) -> _Group:
        return _Group(self.losses[kept], self.costs[kept], self.places[kept])


def select(
    losses: Sequence[Floats], costs: Sequence[Floats], limits: Sequence[float] | Floats, *, states: int = _STATES
) -> Selection | None:
    """The options of least summed loss within all limits; None if no choice is within them.

    Args:
        losses: Per group one of each option, shape (options,).
        costs: Per group, shape (options, limits); additive over groups, 0 or more.
        limits: Of each cost.
        states: Partial choices that are followed at a time; more make gaps smaller.

    Raises:
        InputError: If a group has no option, or losses and costs do not fit or are not finite.
    """
    bounds = np.asarray(limits, dtype=np.float64)
    groups = [_checked(*each, count=len(bounds)) for each in zip(losses, costs, strict=True)]
    least = math.fsum(float(group.losses.min()) for group in groups)
    search = _Search([_undominated(group) for group in groups], bounds * (1 + _TINY), least)
    search.run(states)
    if search.best is None:
        return None
    places = tuple(int(each) for each in search.best)
    return Selection(
        places,
        loss := math.fsum(group.losses[place] for group, place in zip(groups, places, strict=True)),
        tuple(np.sum([group.costs[place] for group, place in zip(groups, places, strict=True)], axis=0).tolist()),
        bound := min(loss, search.bound),
        0.0 if loss - bound <= _TINY * max(search.scale, abs(loss)) else (loss - bound) / (loss - least),
    )


def _checked(losses: Floats, costs: Floats, *, count: int) -> _Group:
    losses, costs = np.asarray(losses, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    if losses.ndim != 1 or not len(losses) or costs.shape != (len(losses), count):
        raise InputError(f"a group needs options with one loss and {count} costs each, got {losses.shape, costs.shape}")
    if not np.isfinite(losses).all() or not np.isfinite(costs).all() or costs.min(initial=0) < 0:
        raise InputError("losses and costs of options must be finite, and costs not negative")
    return _Group(losses, costs, np.arange(len(losses)))


def _undominated(group: _Group) -> _Group:
    """The options that no other one beats in the loss and in every cost."""
    table = np.column_stack([group.losses, group.costs])
    order = np.lexsort(table.T[::-1])
    table = table[order]
    kept: list[int] = []
    for place, row in enumerate(table):  # an earlier one loses no more
        if not kept or not (table[kept] <= row).all(1).any():
            kept.append(place)
    rest = order[kept]
    return _Group(group.losses[rest], group.costs[rest], group.places[rest])


class _Search:
    """One selection: ``best`` are places per group, ``bound`` is below every admissible loss."""

    def __init__(self, groups: list[_Group], limits: Floats, least: float) -> None:
        self._groups, self._limits = groups, limits
        self.scale = max(math.fsum(float(group.losses.max()) for group in groups) - least, 1e-300)
        self.best: Whole | None = None
        self.loss = math.inf
        self.bound = math.inf

    def run(self, states: int) -> None:
        """Bounds, then choices from them, then the search."""
        lowest = np.sum([group.costs.min(0) for group in self._groups], axis=0)
        if (lowest > self._limits).any():
            return
        self._units = np.maximum(self._limits, _TINY)  # costs are seen relative to their limits
        multipliers = self._slopes() if len(self._limits) == 1 else self._cutting_planes()
        values = np.array([self._lagrangian(each)[0] for each in multipliers])
        self._multipliers = multipliers[np.argsort(-values)[:_MULTIPLIERS]]
        for each in self._multipliers[:_STARTS]:
            self._offer(self._improved(self._lagrangian(each)[1]))
        self.bound = min(self.loss, float(values.max(initial=-math.inf)))
        if self._beaten(np.array([self.bound]))[0]:
            return
        self._reduce()
        self._follow(states)

    def _beaten(self, bounds: Floats) -> NDArray[np.bool_]:
        """Whether nothing with such a bound could be better than the best choice."""
        return bounds >= self.loss - _TINY * self.scale

    def _lagrangian(self, multipliers: Floats) -> tuple[float, Whole]:
        """L there, and its minimiser as indices among the options left."""
        value, chosen = -float(multipliers @ self._limits), []
        for group in self._groups:
            reduced = group.losses + group.costs @ multipliers
            chosen.append(int(np.argmin(reduced)))
            value += float(reduced[chosen[-1]])
        return value, np.array(chosen, dtype=np.int64)

    def _excess(self, chosen: Whole) -> Floats:
        total: Floats = np.sum([group.costs[place] for group, place in zip(self._groups, chosen, strict=True)], axis=0)
        return total - self._limits

    def _slopes(self) -> Floats:
        """With one limit: the slopes of all hulls nearest to the best multiplier, which is one of them or 0."""
        slopes = np.unique(np.concatenate([np.zeros(1), *(_hull_slopes(group) for group in self._groups)]))
        low, high = 0, len(slopes) - 1  # the excess falls with the multiplier
        while low < high:
            middle = (low + high) // 2
            if self._excess(self._lagrangian(slopes[middle : middle + 1])[1])[0] > 0:
                low = middle + 1
            else:
                high = middle
        near: Floats = slopes[max(0, low - _MULTIPLIERS // 2) : low + _MULTIPLIERS // 2, None]
        return near

    def _cutting_planes(self) -> Floats:
        """With several limits: the multipliers that Kelley's method looks at on its way to the best."""
        count = len(self._limits)
        box = 1e6 * self.scale / self._units
        multipliers, found = np.zeros(count), []
        rows, values = [], []
        for _ in range(_CUTS):
            found.append(multipliers)
            value, chosen = self._lagrangian(multipliers)
            rows.append(np.append(-self._excess(chosen) / self._units, 1.0))
            values.append(self._loss_of(chosen) / self.scale)
            result = optimize.linprog(
                np.append(np.zeros(count), -1.0),
                A_ub=np.array(rows),
                b_ub=np.array(values),
                bounds=[(0.0, 1e6)] * count + [(None, None)],
                method="highs-ds",
            )
            if result.x is None or result.x[-1] * self.scale - value <= 1e-9 * self.scale:
                break
            multipliers = np.minimum(result.x[:-1] * self.scale / self._units, box)
        return np.array(found)

    def _loss_of(self, chosen: Whole) -> float:
        return math.fsum(group.losses[place] for group, place in zip(self._groups, chosen, strict=True))

    def _offer(self, chosen: Whole | None) -> None:
        if chosen is None:
            return
        loss = self._loss_of(chosen)
        if loss < self.loss:
            self.loss = loss
            self.best = np.array([group.places[each] for group, each in zip(self._groups, chosen, strict=True)])

    def _improved(self, chosen: Whole) -> Whole | None:
        """A choice made admissible, and better, by single changes: those that lose least per cost first."""
        chosen, excess = chosen.copy(), self._excess(chosen)
        while True:
            over = bool((excess > 0).any())
            found: tuple[float, int, int] | None = None
            for place, group in enumerate(self._groups):
                more = group.losses - group.losses[chosen[place]]
                after = excess + group.costs - group.costs[chosen[place]]
                spent = (np.maximum(after, 0) / self._units).sum(1) - (np.maximum(excess, 0) / self._units).sum()
                usable = spent < 0 if over else (after <= 0).all(1) & (more < 0)
                if not usable.any():
                    continue
                rating = np.where(usable, more / np.maximum(-spent, _TINY) if over else more, math.inf)
                each = int(np.argmin(rating))
                if found is None or rating[each] < found[0]:
                    found = float(rating[each]), place, each
            if found is None:
                return None if over else chosen
            _, place, each = found
            group = self._groups[place]
            excess = excess + group.costs[each] - group.costs[chosen[place]]
            chosen[place] = each

    def _reduce(self) -> None:
        """Drop options with which no choice could be better than the best."""
        for multipliers in self._multipliers:
            value, _ = self._lagrangian(multipliers)
            for place, group in enumerate(self._groups):
                reduced = group.losses + group.costs @ multipliers
                kept = ~self._beaten(value + reduced - reduced.min())
                kept[int(np.argmin(reduced))] = True
                if not kept.all():
                    self._groups[place] = group.only(kept)

    def _follow(self, states: int) -> None:
        """All choices of the options left, group by group, the most promising ones where there are too many."""
        order = sorted(range(len(self._groups)), key=lambda place: -len(self._groups[place].losses))
        tails = self._tails(order)
        losses, costs = np.zeros(1), np.zeros((1, len(self._limits)))
        trail: list[tuple[Whole, Whole]] = []
        lost = math.inf  # the best bound of what was not followed
        for step, place in enumerate(order):
            group, (cheapest, rests) = self._groups[place], tails[step + 1]
            count = len(group.losses)
            losses = (losses[:, None] + group.losses).reshape(-1)
            costs = (costs[:, None] + group.costs).reshape(-1, len(self._limits))
            fits = (costs + cheapest <= self._limits).all(1)
            bounds = (losses[:, None] + (costs - self._limits) @ self._multipliers.T + rests).max(1)
            kept = np.flatnonzero(fits & ~self._beaten(bounds))
            kept = kept[_frontier(losses[kept], costs[kept])]
            if len(kept) > states:
                kept = kept[np.argsort(bounds[kept], kind="stable")]
                lost, kept = min(lost, float(bounds[kept[states]])), kept[:states]
            losses, costs = losses[kept], costs[kept]
            trail.append((kept // count, kept % count))
        if len(losses) and losses.min() < self.loss:
            self._take(order, trail, int(np.argmin(losses)))
        self.bound = max(self.bound, min(lost, self.loss))

    def _tails(self, order: Sequence[int]) -> list[tuple[Floats, Floats]]:
        """Of the groups from each step on: their least costs, and the sums of their least reduced losses."""
        tails = [(np.zeros(len(self._limits)), np.zeros(len(self._multipliers)))]
        for place in reversed(order):
            group = self._groups[place]
            reduced = (group.losses[:, None] + group.costs @ self._multipliers.T).min(0)
            tails.append((tails[-1][0] + group.costs.min(0), tails[-1][1] + reduced))
        return tails[::-1]

    def _take(self, order: Sequence[int], trail: Sequence[tuple[Whole, Whole]], state: int) -> None:
        chosen = np.zeros(len(order), dtype=np.int64)
        for place, (parents, options) in zip(reversed(order), reversed(trail), strict=True):
            chosen[place] = options[state]
            state = int(parents[state])
        self._offer(chosen)


def _hull_slopes(group: _Group) -> Floats:
    """Loss per cost along the lower convex hull of the options, with one cost."""
    order = np.argsort(group.costs[:, 0], kind="stable")
    points = list(zip(group.costs[order, 0].tolist(), group.losses[order].tolist(), strict=True))
    hull: list[tuple[float, float]] = []
    for cost, loss in points:  # undominated: costs rise and losses fall
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (cost - hull[-2][0]) >= (loss - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((cost, loss))
    return np.array([(low[1] - high[1]) / (high[0] - low[0]) for low, high in itertools.pairwise(hull)])


def _frontier(losses: Floats, costs: Floats) -> Whole:
    """The states that no other one beats; with several costs only those that are alike are told apart."""
    if costs.shape[1] > 1:
        _, first = np.unique(np.column_stack([costs, losses]), axis=0, return_index=True)
        return np.sort(first).astype(np.int64)
    order = np.lexsort((losses, costs[:, 0]))
    sorted_losses = losses[order]
    best = np.minimum.accumulate(sorted_losses)
    kept: Whole = order[np.concatenate([np.ones(min(1, len(order)), dtype=bool), sorted_losses[1:] < best[:-1]])]
    return kept
