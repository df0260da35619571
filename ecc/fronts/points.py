"""Points: one network each, what it costs and how accurate it is; the less it costs and the more accurate, the better.

The hypervolume of a set of points is the area that it dominates up to a reference (a cost that nobody would pay, an
accuracy that nobody would accept): one number that grows with every budget at which the set is ahead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ecc.core.errors import InputError

__all__ = ["DENSE", "Point", "hypervolume", "non_dominated"]

DENSE = "dense"
"""The method name of the uncompressed network among the points of a front."""


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
        budget: What was asked for, as text; runs of a method with the same budget differ by their seeds alone. May be
            empty.
    """

    method: str
    x: float
    accuracy: float
    seed: int | None = None
    x_low: float | None = None
    x_high: float | None = None
    label: str = ""
    budget: str = ""

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
