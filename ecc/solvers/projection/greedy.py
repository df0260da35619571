"""The greedy choice of a knapsack of weights: the densest first, as long as the budgets last.

No sort of all weights: a sample tells between which two densities the choice ends, one pass counts the items above and
collects those between, and so on with these until they are few. What a guess is worth shows in the counts; a wrong
guess costs another pass and never changes the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ecc.core.weights import Price
from ecc.solvers.projection.items import Floats, Group, Ranked
from ecc.solvers.projection.priced_items import Priced

__all__ = ["Greedy", "Items", "Window"]

Items: TypeAlias = Ranked | Priced

_FEW = 4096  # items that are sorted
_SAMPLE = (1024, 16384)  # least and most items that a guess is made from, a sixteenth of all between
_LEAST = 32  # of one tensor, however small it is beside the others
_SIGMAS = 3.0  # of the guess
_WIDER = 8  # times, after each guess that missed


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Keys of a tensor that were looked at: ``above`` items have ``ceiling`` or more, and these come next.

    Attributes:
        keys: Largest first; one that stands for ``count`` where that is more than one.
    """

    above: int
    ceiling: float
    keys: Floats
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """Items of all tensors, the densest first; of equal ones the earlier tensor's, then the earlier in it."""

    tensor: NDArray[np.int64]
    density: Floats
    prices: Floats
    counts: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, tensors: Sequence[int], groups: Sequence[Group]) -> _Candidates:
        density = np.concatenate([group.density for group in groups])
        order = np.argsort(-density, kind="stable")
        return cls(
            np.repeat(np.array(tensors), [len(group.density) for group in groups])[order],
            density[order],
            np.concatenate([group.prices for group in groups], 1)[:, order],
            np.concatenate([group.counts for group in groups])[order],
            np.concatenate([group.places for group in groups])[order],
        )

    def at(self, chosen: NDArray[np.int64] | slice) -> _Candidates:
        return _Candidates(
            self.tensor[chosen],
            self.density[chosen],
            self.prices[:, chosen],
            self.counts[chosen],
            self.places[chosen],
        )

    def __len__(self) -> int:
        return len(self.density)


class Greedy:
    """Keeps items, the densest first: all before the first that a budget has no room for, then each that still fits.

    Args:
        items: Of all tensors, in their order.
        prices: Per tensor what its items cost by rank, per budget; None where each has a price.
        forced: Per tensor, how many of the largest are kept first, that ``items`` begin behind.
        budgets: In the units of the prices.
        multipliers: Of the budgets in the combined price, which densities are of.

    Attributes:
        items: As given.
        kept: How many items, per tensor.
        windows: Per tensor, the keys that tell which ones, where items are ranked.
        picked: Per tensor whose items have prices, those that are kept beside all above ``ceilings``.
        ceilings: See ``picked``.
        density: Of the first item without room; zero if there was none.
        gap: Upper bound on the profit that is lost against the best choice, zero if there was room for all.
        slack: Share of each budget that was left at the first item without room.
        item: The combined price of that item.
    """

    def __init__(
        self,
        items: Sequence[Items],
        prices: Sequence[tuple[Price, ...] | None],
        forced: Sequence[int],
        budgets: Sequence[float],
        multipliers: Sequence[float],
    ) -> None:
        self.items, self._prices = items, prices
        self._budgets, self._multipliers = np.array(budgets), np.array(multipliers)
        self._forced = np.array(forced, np.int64)
        self._priced = np.array([price is None for price in prices], bool)
        self._blocked = np.zeros(len(prices), bool)
        self._costs = np.zeros((len(budgets), len(prices)))  # of tensors whose items each have a price
        self._rejected = False
        self.kept = self._forced.copy()
        self.windows: dict[int, list[Window]] = {}
        self.picked: dict[int, list[NDArray[np.int64]]] = {}
        self.ceilings: dict[int, float] = {}
        self.density = self.gap = self.item = 0.0
        self.slack = np.zeros(len(budgets))
        if items:
            self._run()

    def spent(self) -> tuple[float, ...]:
        """Per budget."""
        return self._spent(self.kept, self._costs)

    def _run(self) -> None:
        found, low = self._locate()
        self.kept, self._costs = self._above(found)
        self.ceilings = {item.tensor: item.ceiling for item in found if isinstance(item, Priced)}
        self._walk(found)
        reach = _WIDER
        while low > 0 and (items := self._affordable()):
            high, low = low, self._below(items, low, reach)
            self._walk([item.scan(low, high, collect=True) for item in items])
            reach *= _WIDER

    def _spent(self, kept: NDArray[np.int64], costs: Floats) -> tuple[float, ...]:
        ranked = [(prices, int(count)) for prices, count in zip(self._prices, kept, strict=True) if prices is not None]
        return tuple(
            math.fsum([*(prices[budget].of(count) for prices, count in ranked), *own])
            for budget, own in enumerate(costs[:, self._priced].tolist())
        )

    def _fit(self, kept: NDArray[np.int64], costs: Floats) -> bool:
        return all(spent <= budget for spent, budget in zip(self._spent(kept, costs), self._budgets, strict=True))

    def _above(self, items: Sequence[Items], window: bool = False) -> tuple[NDArray[np.int64], Floats]:
        """What is kept and what it costs if all above the items is, or the items too."""
        kept, costs = self._forced.copy(), np.zeros_like(self._costs)
        for item in items:
            larger = item.above + (len(item) if window else 0)
            if isinstance(item, Ranked):
                kept[item.tensor] += item.taken(larger)
                continue
            kept[item.tensor] = larger
            costs[:, item.tensor] = item.spent or 0.0
            if window:
                costs[:, item.tensor] += [float(each.sum()) for each in item.each]
        return kept, costs

    def _locate(self) -> tuple[list[Items], float]:
        """Few items among which the first without room is, if there is one; and the density that they go down to."""
        items: Sequence[Items] = self.items
        low, high, sigmas = 0.0, math.inf, _SIGMAS
        while True:
            below, above = self._guess(items, sigmas, low, high)
            same = above <= np.nextafter(below, math.inf)
            found: list[Items] = [item.scan(below, above, collect=not same) for item in items]
            sigmas *= _WIDER
            if not self._fit(*self._above(found)):
                low = above
            elif below > low and self._fit(*self._above(found, window=True)):
                high = below
            else:
                left = sum(map(len, found))
                if same or left <= _FEW or left > sum(map(len, items)) / 2:
                    return found, below
                items, low, high, sigmas = found, below, above, _SIGMAS

    def _guess(self, items: Sequence[Items], sigmas: float, low: float, high: float) -> tuple[float, float]:
        """Two densities in [low, high] between which the first item without room may well be."""
        if sum(map(len, items)) <= _FEW:
            return low, high
        density, costs = self._sample(items)
        start = np.array(self._spent(*self._above(items)))
        totals = start[:, None] + np.cumsum(costs, 1)
        ends = [int(np.searchsorted(*pair, side="right")) for pair in zip(totals, self._budgets, strict=True)]
        budget = int(np.argmin(ends))
        end, cost = ends[budget], costs[budget]
        near = float(cost[max(0, end - 16) : end + 16].mean()) if len(cost) else 1.0
        error = int(sigmas * (math.sqrt(float(np.square(cost[:end]).sum())) / near + 1))
        above = min(density[end - error - 1], high) if end > error else high
        below = max(density[end + error], low) if end + error < len(density) else low
        above = above if above > low else high
        below = below if below < high else low
        return float(below), float(max(above, np.nextafter(below, math.inf)))

    def _sample(self, items: Sequence[Items]) -> tuple[Floats, Floats]:
        """Density (n,) and what they stand for costs (budgets, n), the densest first.

        Each stands for about as much cost, so that dear tensors add no more to the error than cheap ones.
        """
        count = min(max(sum(map(len, items)) // 16, _SAMPLE[0]), _SAMPLE[1])
        cost = math.fsum(item.price * len(item) for item in items) / count
        # Odd steps: the sizes of layers are not.
        steps = [max(1, min(int(cost / item.price), len(item) // _LEAST)) | 1 for item in items]
        samples = [item.sampled(step) for item, step in zip(items, steps, strict=True)]
        host = torch.cat([sample.flatten() for sample in samples]).cpu().numpy()  # one copy from an accelerator
        parts = np.split(host, np.cumsum([sample.numel() for sample in samples])[:-1])
        found = [
            (density, costs * step)
            for item, part, sample, step in zip(items, parts, samples, steps, strict=True)
            for density, costs in [item.densities(part.reshape(tuple(sample.shape)), step)]
        ]
        density, costs = np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found], 1)
        order = np.argsort(-density)
        return density[order], costs[:, order]

    def _walk(self, items: Sequence[Items]) -> None:
        """Keep what there is room for, in order."""
        groups = []
        for item in items:
            if isinstance(item, Ranked):
                group, keys = item.group()
                self.windows.setdefault(item.tensor, []).append(Window(item.above, item.ceiling, keys, item.count))
            else:
                group = item.group()
            groups.append(group)
        rest = _Candidates.of([item.tensor for item in items], groups)
        while len(rest):
            if self._rejected:
                left = self._left()[:, None]
                rest = rest.at(np.flatnonzero(~self._blocked[rest.tensor] & (rest.prices <= left).all(0)))
            end = self._prefix(rest)
            self._keep(rest.at(slice(end)))
            if end < len(rest):
                self._part(rest.at(slice(end, end + 1)))
            rest = rest.at(slice(end + 1, None))

    def _with(self, chosen: _Candidates) -> tuple[NDArray[np.int64], Floats]:
        """What is kept and what it costs with some more."""
        tensors = len(self.kept)
        more = np.bincount(chosen.tensor, chosen.counts, tensors).astype(np.int64)
        own = [np.bincount(chosen.tensor, price, tensors) * self._priced for price in chosen.prices]
        return self.kept + more, self._costs + np.array(own)

    def _prefix(self, rest: _Candidates) -> int:
        """How many of the first candidates there is room for."""
        totals = np.cumsum(rest.prices * rest.counts, 1)
        end = min(
            int(np.searchsorted(total, left, side="right")) for total, left in zip(totals, self._left(), strict=True)
        )
        while end > 0 and not self._fit(*self._with(rest.at(slice(end)))):  # sums in another order round differently
            end -= 1
        while end < len(rest) and self._fit(*self._with(rest.at(slice(end + 1)))):
            end += 1
        return end

    def _part(self, first: _Candidates) -> None:
        """As much of the first candidate that does not fit whole as does; its tensor ends here if it is ranked."""
        room = min(float(left // price) for left, price in zip(self._left(), first.prices[:, 0], strict=True))
        count = int(min(max(room, 0), first.counts[0] - 1))
        if count and not self._fit(*self._with(replace(first, counts=np.array([count])))):
            count -= 1
        elif count + 1 < first.counts[0] and self._fit(*self._with(replace(first, counts=np.array([count + 1])))):
            count += 1
        if count:
            self._keep(replace(first, counts=np.array([count])))
        tensor = int(first.tensor[0])
        self._blocked[tensor] = not self._priced[tensor]
        if not self._rejected:
            left = self._left()
            self._rejected, self.density = True, float(first.density[0])
            self.gap = self.density * float(self._multipliers @ left)
            self.slack = left / self._budgets
            self.item = float(self._multipliers @ first.prices[:, 0])

    def _keep(self, chosen: _Candidates) -> None:
        if self._rejected:  # the bound is that of the items before; what comes on top takes from it
            worth = chosen.density * chosen.counts * (self._multipliers @ chosen.prices)
            self.gap = max(0.0, self.gap - float(worth.sum()))
        self.kept, self._costs = self._with(chosen)
        for tensor in np.unique(chosen.tensor[chosen.places >= 0]).tolist():
            self.picked.setdefault(tensor, []).append(chosen.places[chosen.tensor == tensor])

    def _left(self) -> Floats:
        left: Floats = self._budgets - np.array(self.spent())
        return left

    def _affordable(self) -> list[Items]:
        """All items of tensors that may have one more for which there is room."""
        left = self._left()
        found: list[Items] = []
        for item in self.items:
            if isinstance(item, Priced):
                if all(np.array(item.least) <= left):
                    most = tuple(float(min(pair)) for pair in zip(item.most, left, strict=True))
                    found.append(replace(item, most=most))
            elif (
                not self._blocked[item.tensor]
                and self.kept[item.tensor] < item.last
                and all(np.array(item.prices) <= left)
            ):
                found.append(item)
        return found

    def _below(self, items: Sequence[Items], high: float, reach: int) -> float:
        """A density below which the sample says that so many times more items are than are sorted at once."""
        if sum(map(len, items)) <= _FEW:
            return 0.0
        density, _ = self._sample(items)
        density = density[density < high]
        return float(density[reach]) if reach < len(density) else 0.0
