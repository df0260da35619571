r"""Levels for buckets of rows: the least summed distortion for so many bits, by a Lagrangian.

A level has a price per row and a fixed one, of its codebook, that is paid once where any bucket takes it. For a
multiplier λ each tensor minimises

.. math:: \sum_g \min_{l \in S} (D_{gl} + λ b_{gl}) + λ \sum_{l \in S} f_l

over sets S of levels; these minimisers are the lower convex hull of (bits, distortion), along which λ is bisected. What
the budget leaves then goes to single buckets, the largest gain per bit first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecc.core.errors import InputError

__all__ = ["Offer", "allocate", "at_price", "cheapest", "spent"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

_BISECTIONS = 60


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """What the levels do to the buckets of one tensor.

    Attributes:
        distortion: Shape (buckets, levels), not negative.
        bits: Shape (buckets, levels), not negative.
        fixed: Bits of each level that some bucket takes, shape (levels,).
    """

    distortion: Floats
    bits: Floats
    fixed: Floats


def allocate(offers: Sequence[Offer], budget: float) -> list[Whole]:
    """A level for each bucket of each tensor: least distortion that the multiplier finds within ``budget`` bits.

    Returns:
        Per tensor the levels' numbers, shape (buckets,).

    Raises:
        InputError: If the cheapest levels take more than the budget.
    """
    least = cheapest(offers)
    if (need := spent(offers, least)) > budget:
        raise InputError(f"the levels take at least {need / 8:,.0f} bytes, which is more than {budget / 8:,.0f}")
    best, low, high = least, 0.0, 1.0
    while spent(offers, at_price(offers, high)) > budget and high < 1e300:
        high *= 16
    for _ in range(_BISECTIONS):
        price = (low * high) ** 0.5 if low else high / 16
        if price < 1e-300:
            break
        found = at_price(offers, price)
        if spent(offers, found) <= budget:
            best, high = found, price
        else:
            low = price
        if low and high / low < 1.001:
            break
    return _filled(offers, best, budget)


def at_price(offers: Sequence[Offer], price: float) -> list[Whole]:
    """The levels that minimise distortion + price · bits, per tensor: sets of levels grow one by one while it falls."""
    return [_chosen(offer, price) for offer in offers]


def cheapest(offers: Sequence[Offer]) -> list[Whole]:
    """The levels that take fewest bits, per tensor."""
    free = [Offer(np.zeros_like(offer.distortion), offer.bits, offer.fixed) for offer in offers]
    return at_price(free, 1.0)


def spent(offers: Sequence[Offer], levels: Sequence[Whole]) -> float:
    """Bits of a choice, the fixed ones of every level that is taken included."""
    total = 0.0
    for offer, chosen in zip(offers, levels, strict=True):
        total += float(offer.bits[np.arange(len(chosen)), chosen].sum() + offer.fixed[np.unique(chosen)].sum())
    return total


def _chosen(offer: Offer, price: float) -> Whole:
    cost = offer.distortion + price * offer.bits
    fixed = price * offer.fixed
    alone = cost.sum(0) + fixed
    taken = [int(np.argmin(alone))]
    current = cost[:, taken[0]]
    while True:
        gains = np.maximum(current[:, None] - cost, 0).sum(0) - fixed
        gains[taken] = 0
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            break
        taken.append(best)
        current = np.minimum(current, cost[:, best])
    index = np.array(taken)
    chosen: Whole = index[np.argmin(cost[:, index], axis=1)]
    return chosen


def _filled(offers: Sequence[Offer], levels: Sequence[Whole], budget: float) -> list[Whole]:
    """Buckets moved to better levels that their tensor has already, while the budget lasts."""
    filled = [chosen.copy() for chosen in levels]
    left = budget - spent(offers, filled)
    while True:
        best: tuple[float, int, int, int, float] | None = None
        for i, (offer, chosen) in enumerate(zip(offers, filled, strict=True)):
            rows, there = np.arange(len(chosen)), np.unique(chosen)
            gain = offer.distortion[rows, chosen][:, None] - offer.distortion[:, there]
            price = offer.bits[:, there] - offer.bits[rows, chosen][:, None]
            worth = np.where((gain > 0) & (price <= left), gain / np.maximum(price, 1e-9), 0)
            row, place = divmod(int(np.argmax(worth)), len(there))
            if worth[row, place] > 0 and (best is None or worth[row, place] > best[0]):
                best = float(worth[row, place]), i, row, int(there[place]), float(price[row, place])
        if best is None:
            return filled
        _, i, row, level, price_of = best
        filled[i][row] = level
        left -= price_of
