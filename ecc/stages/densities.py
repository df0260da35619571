"""How many weights each tensor keeps when a network keeps so many in all: rules by name.

A rule sees the weights and the total. Every tensor keeps a floor, so that none is cut through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from ecc.core.errors import InputError

__all__ = ["RULES", "Counts", "Rule", "by_sensitivity", "by_targets", "largest"]

Counts = dict[str, int]
"""By name of a tensor, how many of its weights are kept."""
Rule = Callable[[Mapping[str, Tensor], int, Mapping[str, int]], Counts]
"""(weights, total, floors) → counts that sum up to about the total, and to more where the floors do."""


def largest(weights: Tensor, count: int) -> Tensor:
    """Bool of the weights' shape: True for so many of the largest magnitudes, none of which is zero."""
    marks = torch.zeros(weights.numel(), dtype=torch.bool, device=weights.device)
    marks[weights.detach().abs().flatten().topk(min(count, weights.numel()), sorted=False).indices] = True
    return marks.view(weights.shape) & (weights != 0)


def _uniform(weights: Mapping[str, Tensor], total: int, floors: Mapping[str, int]) -> Counts:
    """The same share of every tensor."""
    size = sum(each.numel() for each in weights.values())
    return {name: max(floors[name], round(total * each.numel() / size)) for name, each in weights.items()}


def _by_score(score: Callable[[Tensor], Tensor]) -> Rule:
    """One threshold for the scores of all weights, which rise with the magnitude in each tensor."""

    def counts(weights: Mapping[str, Tensor], total: int, floors: Mapping[str, int]) -> Counts:
        scores = {name: score(each.detach().flatten().float()) for name, each in weights.items()}
        for name, each in scores.items():  # floors are taken from the total
            each[each.topk(floors[name], sorted=False).indices] = math.inf
        every = torch.cat(list(scores.values()))
        kept = min(max(total, sum(floors.values()), 1), len(every))
        threshold = every.kthvalue(len(every) - kept + 1).values
        return {name: int((each >= threshold).sum()) for name, each in scores.items()}

    return counts


def _per_deviation(weights: Tensor) -> Tensor:
    """Magnitude over the tensor's standard deviation: one threshold is Han's quality factor (NIPS 2015)."""
    return weights.abs() / weights.square().mean().sqrt().clamp_min(torch.finfo(weights.dtype).tiny)


def _lamp(weights: Tensor) -> Tensor:
    """Squared magnitude over the sum of those not below it in the tensor (LAMP; Lee et al., ICLR 2021)."""
    squares, order = weights.square().sort()
    above = squares.double().flip(0).cumsum(0).flip(0).clamp_min(torch.finfo(torch.float32).tiny)
    scores = torch.empty_like(weights)
    scores[order] = (squares / above).float()
    return scores


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "lamp": _by_score(_lamp),
        "deviation": _by_score(_per_deviation),
        "magnitude": _by_score(torch.abs),
        "uniform": _uniform,
    }
)
"""By name; ``magnitude`` is one threshold for all weights as they are."""


def by_sensitivity(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Rule:
    """The least sum of losses, from measured ones.

    Args:
        curves: By tensor, weights kept and the loss of the network when this tensor alone is pruned to them; rising in
            the first. Between two points losses are taken to be linear, and above their convex hull they are ignored.

    Raises:
        InputError: If a curve has no point.
    """
    if bare := [name for name, points in curves.items() if not points]:
        raise InputError(f"the sensitivity of {bare[0]!r} was not measured")
    hulls = {name: _hull(points) for name, points in curves.items()}

    def counts(weights: Mapping[str, Tensor], total: int, floors: Mapping[str, int]) -> Counts:
        found = {name: max(floors[name], hulls[name][0][0]) for name in weights}
        gains = [
            ((low[1] - high[1]) / (high[0] - low[0]), name, high[0])
            for name in weights
            for low, high in zip(hulls[name], hulls[name][1:], strict=False)
        ]
        left = total - sum(found.values())
        for _, name, most in sorted(gains, key=lambda gain: -gain[0]):
            taken = min(max(most - found[name], 0), max(left, 0))
            found[name], left = found[name] + taken, left - taken
        return found

    return counts


def by_targets(targets: Mapping[str, int]) -> Rule:
    """Towards given counts, which it keeps where the total is theirs; on the way there all tensors fall alike.

    Between all weights and its target every tensor has gone the same part of the way, on a logarithmic scale.
    """

    def counts(weights: Mapping[str, Tensor], total: int, floors: Mapping[str, int]) -> Counts:
        def at(share: float) -> Counts:
            return {
                name: min(size, math.ceil(max(targets[name], 1) * (size / max(targets[name], 1)) ** share - 1e-9))
                if share
                else targets[name]
                for name, size in ((name, each.numel()) for name, each in weights.items())
            }

        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if sum(at(middle).values()) <= total else (low, middle)
        return at(low)

    return counts


def _hull(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The lower convex hull from left to right, as far as it falls."""
    hull: list[tuple[int, float]] = []
    for x, y in points:
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) >= (y - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((x, y))
    falling = [hull[0]]
    for point in hull[1:]:
        if point[1] <= falling[-1][1]:
            falling.append(point)
    end = hull[-1][0]
    return falling if falling[-1][0] == end else [*falling, (end, falling[-1][1])]
