"""What a projection is by definition, for few weights, and bounds on it for many."""

import itertools
import math

import numpy as np

from ecc.core.weights import Price


def flat(tensors):
    return [tensor.detach().double().flatten().numpy() for tensor in tensors]


def worth(values, profits=None):
    """Profit of each weight, per tensor."""
    return [value**2 for value in flat(values)] if profits is None else flat(profits)


def cost(prices, chosen, numbers):
    """What the chosen weights of each tensor cost: by rank, or each its own price."""
    return math.fsum(
        price.of(int(keep.sum())) if isinstance(price, Price) else float(math.fsum(number[keep]))
        for price, keep, number in zip(prices, chosen, numbers, strict=True)
    )


def numbers_of(prices, values):
    """Prices of each weight as arrays; empty where they go by rank."""
    return [
        np.empty(0) if isinstance(price, Price) else price.double().flatten().numpy()
        for price, _ in zip(prices, values, strict=True)
    ]


def best(values, offers, floors=None, profits=None):
    """The most profit of any subset that keeps every budget and floor, over all subsets."""
    values_, profit = flat(values), worth(values, profits)
    sizes = [len(value) for value in values_]
    floors = [0] * len(sizes) if floors is None else floors
    ends = np.cumsum([0, *sizes])
    there = np.concatenate(values_) != 0
    lists = [(prices, numbers_of(prices, values), budget) for prices, budget in offers]
    most = -math.inf
    for bits in itertools.product((False, True), repeat=sum(sizes)):
        every = np.array(bits, bool)
        if (every & ~there).any():
            continue
        chosen = [every[a:b] for a, b in itertools.pairwise(ends)]
        if any(
            keep.sum() < min(floor, np.count_nonzero(v)) for keep, floor, v in zip(chosen, floors, values_, strict=True)
        ):
            continue
        if all(cost(prices, chosen, numbers) <= budget * (1 + 1e-12) for prices, numbers, budget in lists):
            most = max(most, math.fsum(p[keep].sum() for p, keep in zip(profit, chosen, strict=True)))
    return most


def fractional(values, prices, budget):
    """The most profit if parts of weights could be kept, which no choice exceeds; by a sort of all."""
    density, costs = [], []
    for value, price in zip(values, prices, strict=True):
        square = np.sort(value.double().flatten().numpy() ** 2)[::-1]
        own = np.full(len(square), price.rest)
        own[: price.held] = price.first
        density.append(square / own)
        costs.append(own)
    density, costs = np.concatenate(density), np.concatenate(costs)
    order = np.argsort(-density)
    total = np.minimum(np.cumsum(costs[order]), budget)
    return float((np.diff(total, prepend=0.0) * density[order]).sum())


def greedy(values, prices, budget):
    """The choice by a full sort: all before the first weight without room, then each that still fits, one by one."""
    rows = []
    for tensor, (value, price) in enumerate(zip(flat(values), prices, strict=True)):
        if isinstance(price, Price):
            own = np.empty(len(value))
            own[np.argsort(-np.abs(value), kind="stable")] = np.where(
                np.arange(len(value)) < price.held, price.first, price.rest
            )
        else:
            own = price.double().flatten().numpy()
        rows += [
            (-(v * v / p), tensor, i, p) for i, (v, p) in enumerate(zip(value, own, strict=True)) if v and p <= budget
        ]
    kept = [np.zeros(value.numel(), bool) for value in values]
    blocked, spent = set(), 0.0
    for _, tensor, place, own in sorted(rows):
        if tensor not in blocked and spent + own <= budget:
            kept[tensor][place] = True
            spent += own
        elif isinstance(prices[tensor], Price):
            blocked.add(tensor)
    return kept
