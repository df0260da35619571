"""Items of a knapsack that each have a price: the densities of the weights of a tensor, computed in chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecc.solvers.projection.items import Floats, Group, Native, count_of, joined, native, spans

__all__ = ["Priced"]


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """Items of a tensor that each have a price; as ``Ranked``, with densities as keys.

    Attributes:
        tensor: Number of the tensor.
        values: Flat; where they are zero there is no item. Densities where ``places`` are given.
        each: Prices per budget, flat, of the shape of ``values``.
        multipliers: Of the budgets; the combined price is the sum of the prices times these.
        most: Per budget; items that cost more are left out.
        least: Per budget, the lowest price.
        profits: Flat; None where they are the squares of the values.
        forced: Marks items that are kept whatever they cost, of infinite density, flat; None where there are none.
        places: In the tensor, of items that were collected.
        above: Items of the tensor that are denser than all of these.
        spent: Their prices, per budget.
        ceiling: Those above are the ones of this density or a larger one.
    """

    tensor: int
    values: Tensor
    each: tuple[Tensor, ...]
    multipliers: tuple[float, ...]
    most: tuple[float, ...]
    least: tuple[float, ...]
    profits: Tensor | None = None
    forced: Tensor | None = None
    places: Tensor | None = None
    above: int = 0
    spent: tuple[float, ...] = ()
    ceiling: float = math.inf

    def __len__(self) -> int:
        return self.values.numel()

    @property
    def price(self) -> float:
        """Of the cheapest, combined."""
        return math.fsum(price * multiplier for price, multiplier in zip(self.least, self.multipliers, strict=True))

    def read(self, span: slice) -> tuple[Tensor, list[Tensor]]:
        """Density and, per budget, price of a chunk, float64; the density is -1 where there is no item."""
        values, prices = self.values[span], [each[span].double() for each in self.each]
        if self.places is not None:
            return values, prices
        combined = prices[0] * self.multipliers[0]
        for price, multiplier in zip(prices[1:], self.multipliers[1:], strict=True):
            combined += price * multiplier
        profit = values.double().square() if self.profits is None else self.profits[span].double()
        density = profit.div_(combined) if self.profits is None else profit / combined
        for price, most in zip(prices, self.most, strict=True):
            density.masked_fill_(price > most, -1.0)
        if self.forced is not None:
            density.masked_fill_(self.forced[span], math.inf)
        return density.masked_fill_(values == 0, -1.0), prices

    def sampled(self, step: int) -> Tensor:
        """Density and prices of every ``step``-th element, float64, shape (1 + budgets, n)."""
        density, prices = self.read(slice(step // 2, None, step))
        return torch.stack([density, *prices])

    def densities(self, sample: Floats, step: int) -> tuple[Floats, Floats]:
        """Of a sample: density (n,) and prices (budgets, n) of its items."""
        there = sample[0] >= 0
        return sample[0, there], sample[1:, there]

    def scan(self, low: float, high: float, collect: bool = True) -> Priced:
        """The items with densities in [low, high), collected in any case: what is the same in density may cost more."""
        above: Any = 0
        spent: list[list[Any]] = [[0.0] for _ in self.each]
        found: list[list[Native]] = [[] for _ in range(2 + len(self.each))]
        for span in spans(self.values):
            density, prices = self.read(span)
            keys = native(density)
            dense = keys >= high
            inside = (keys >= low) ^ dense
            above += count_of(dense)
            places = inside.nonzero()[0] if isinstance(inside, np.ndarray) else inside.nonzero().flatten()
            found[0].append(places + span.start if self.places is None else native(self.places[span])[places])
            found[1].append(keys[places])
            for total, part, price in zip(spent, found[2:], prices, strict=True):
                total.append((native(price) * dense).sum())
                part.append(native(price)[places])
        none = torch.empty(0, dtype=torch.float64, device=self.values.device)
        places = joined(found[0], none.long())
        values, *each = (joined(part, none) for part in found[1:])
        before = self.spent or (0.0,) * len(each)
        return replace(
            self,
            values=values,
            each=tuple(each),
            places=places,
            profits=None,
            forced=None,
            above=self.above + int(above),
            spent=tuple(start + math.fsum(map(float, total)) for start, total in zip(before, spent, strict=True)),
            ceiling=high,
        )

    def group(self) -> Group:
        """Of collected items, in order of density and place."""
        density = self.values.cpu().numpy()
        order = np.argsort(-density, kind="stable")
        prices = np.stack([each.cpu().numpy() for each in self.each])
        places = (self.places if self.places is not None else torch.arange(len(density))).cpu().numpy()
        return Group(density[order], prices[:, order], np.ones(len(order), np.int64), places[order])
