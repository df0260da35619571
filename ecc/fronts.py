"""Fronts: which of many compressed networks are worth having, and how good each method is over all budgets.

A point is better the less it costs (x) and the higher its accuracy. The hypervolume of a set is the area that it
dominates up to a reference (a cost that nobody would pay, an accuracy that nobody would accept): one number per method
that grows with every budget at which the method is ahead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from ecc.core.errors import InputError

__all__ = ["Front", "Point", "hypervolume", "non_dominated"]


@dataclass(frozen=True, slots=True)
class Point:
    """One network: what it costs and how accurate it is.

    Attributes:
        method: That made it.
        x: Cost; less is better.
        accuracy: More is better.
        seed: Of the run; None for what has none, such as the dense network.
        x_low: Lower end of the 95 % interval of x; None when unknown.
        x_high: Upper end.
        label: For people; may be empty.
    """

    method: str
    x: float
    accuracy: float
    seed: int | None = None
    x_low: float | None = None
    x_high: float | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.x) or not math.isfinite(self.accuracy):
            raise InputError(
                f"a point of method {self.method!r} has x = {self.x} and accuracy {self.accuracy}; both must be numbers"
            )

    def dominates(self, other: Point) -> bool:
        """Whether this one is as good in both and better in one."""
        as_good = self.x <= other.x and self.accuracy >= other.accuracy
        return as_good and (self.x < other.x or self.accuracy > other.accuracy)


def non_dominated(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other dominates, by rising x; equal points stay together."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -point.accuracy)):
        last = front[-1] if front else None
        if last is None or point.accuracy > last.accuracy or (point.x, point.accuracy) == (last.x, last.accuracy):
            front.append(point)
    return tuple(front)


def hypervolume(points: Sequence[Point], reference: tuple[float, float]) -> float:
    """Area that the points dominate within x ≤ reference[0] and accuracy ≥ reference[1]; exact."""
    worst_x, worst_accuracy = reference
    area, reached = 0.0, worst_accuracy
    for point in non_dominated(points):
        if point.x < worst_x and point.accuracy > reached:
            area += (worst_x - point.x) * (point.accuracy - reached)
            reached = point.accuracy
    return area


@dataclass(frozen=True, eq=False)
class Front:
    """Points of several methods, compared.

    Attributes:
        points: All of them.
        x: What the x axis is: a metric, ``bytes`` or a relative cost.
        unit: Of x.
        source: The analytic model that x is of; empty where it is measured or counted.
    """

    points: tuple[Point, ...]
    x: str
    unit: str = ""
    source: str = ""

    @property
    def x_name(self) -> str:
        """What the x axis is, with the model that it is of."""
        return f"{self.x} of {self.source}" if self.source else self.x

    def __post_init__(self) -> None:
        if not self.points:
            raise InputError("a front needs at least one point; give the folders of finished compressions")

    @property
    def reference(self) -> tuple[float, float]:
        """Where the hypervolume ends: the largest x of all points, and accuracy 0."""
        return max(point.x for point in self.points), 0.0

    @cached_property
    def dominated(self) -> tuple[bool, ...]:
        """Per point, whether another one dominates it."""
        best = set(non_dominated(self.points))
        return tuple(point not in best for point in self.points)

    @cached_property
    def hypervolume(self) -> dict[str, float]:
        """Per method, the dominated area over the largest x: its best accuracy, averaged over all budgets up to there.

        0 where no point is cheaper than the most expensive one.
        """
        worst = self.reference[0]
        methods = dict.fromkeys(point.method for point in self.points)
        return {method: self._area(method) / worst if worst > 0 else 0.0 for method in methods}

    def _area(self, method: str) -> float:
        return hypervolume([point for point in self.points if point.method == method], self.reference)

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ecc front --json``, without the figure."""
        return {
            "x": self.x,
            "unit": self.unit,
            "source": self.source,
            "points": self._rows(),
            "hypervolume": self.hypervolume,
        }

    def frame(self) -> pd.DataFrame:
        """One row per point: method, x, accuracy, seed, x_low, x_high, label, dominated."""
        return pd.DataFrame(self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "method": point.method,
                "x": point.x,
                "accuracy": point.accuracy,
                "seed": point.seed,
                "x_low": point.x_low,
                "x_high": point.x_high,
                "label": point.label,
                "dominated": dominated,
            }
            for point, dominated in zip(self.points, self.dominated, strict=True)
        ]
