"""Curves: a method's accuracy as a function of the budget.

Between two networks of one seed that are not dominated the accuracy is interpolated linearly, and it stays what it was
from the best one to the costliest. Below the cheapest there is none, and beyond the costliest none is claimed. Points
of other seeds never help: what a seed reaches is what one run of the method reaches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecc.fronts.points import Point, non_dominated
from ecc.fronts.seeds import SeedMean, mean_over_seeds

__all__ = ["Curve", "curves_by_seed", "mean_curve"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Curve:
    """Accuracy over the cost, linear between knots.

    Attributes:
        x: Rising costs, shape (n,).
        accuracy: Accuracy at them, never falling, shape (n,).
    """

    x: Floats
    accuracy: Floats

    @classmethod
    def through(cls, points: Iterable[Point]) -> Curve:
        """The curve of one seed's points."""
        points = tuple(points)
        best = non_dominated(points)
        x, first = np.unique([point.x for point in best], return_index=True)
        accuracy = np.array([point.accuracy for point in best])[first]
        costliest = max(point.x for point in points)
        if costliest > x[-1]:  # who may spend that much takes the best of the cheaper ones
            x, accuracy = np.append(x, costliest), np.append(accuracy, accuracy[-1])
        return cls(x, accuracy)

    def at(self, x: float) -> float:
        """Accuracy at a cost; that of the nearer end where x lies beyond."""
        return float(np.interp(x, self.x, self.accuracy))

    def mean(self, start: float, end: float) -> float:
        """Accuracy averaged over the costs from start to end; exact. At one cost, where they are equal, that of it."""
        if not end > start:
            return self.at(start)
        inside = self.x[(self.x > start) & (self.x < end)]
        knots = np.concatenate([[start], inside, [end]])
        values = np.interp(knots, self.x, self.accuracy)
        return float((values[1:] + values[:-1]) @ np.diff(knots)) / (2 * (end - start))


def curves_by_seed(points: Iterable[Point]) -> dict[int | None, Curve]:
    """The curve of each seed of one method."""
    seeds: dict[int | None, list[Point]] = {}
    for point in points:
        seeds.setdefault(point.seed, []).append(point)
    return {seed: Curve.through(mine) for seed, mine in seeds.items()}


def mean_curve(curves: Sequence[Curve], most: int = 200) -> tuple[Floats, tuple[SeedMean, ...]]:
    """The mean of curves of several seeds, at the knots of the range that all of them have: costs and means.

    Args:
        most: Knots to give at most; of more, evenly many are left out.
    """
    start, end = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    knots = np.unique(np.concatenate([np.clip(curve.x, start, max(start, end)) for curve in curves]))
    if len(knots) > most:
        knots = knots[np.linspace(0, len(knots) - 1, most).round().astype(int)]
    values = np.array([np.interp(knots, curve.x, curve.accuracy) for curve in curves])
    return knots, tuple(mean_over_seeds(column.tolist()) for column in values.T)
