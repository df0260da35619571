"""Front: the points of several methods on one pair of axes, and what may be said of them; Fronts: several side by side.

Two networks are on one pair of axes when their costs and their accuracies mean the same: one network, one data set, and
one device and runtime where the cost is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from ecc.core.errors import InputError
from ecc.core.markup import card
from ecc.fronts.comparing import Comparison, compare
from ecc.fronts.curves import Curve, curves_by_seed
from ecc.fronts.points import DENSE, Point, hypervolume, non_dominated
from ecc.fronts.seeds import SeedMean, mean_over_seeds

__all__ = ["Front", "Fronts", "LeftOut", "Level", "Standing"]


@dataclass(frozen=True, slots=True)
class Level:
    """The runs of one method with one budget.

    Attributes:
        method: Of all of them.
        budget: What was asked for; empty where that is not known, and each point is then a level of its own.
        x: Mean cost over the seeds.
        accuracy: Mean accuracy over the seeds.
        points: The runs.
        dominated: Whether the means of another level are as good in both and better in one.
    """

    method: str
    budget: str
    x: SeedMean
    accuracy: SeedMean
    points: tuple[Point, ...]
    dominated: bool

    def to_json(self) -> dict[str, Any]:
        """A JSON value, without the points."""
        return {
            "method": self.method,
            "budget": self.budget,
            "x": self.x.to_json(),
            "accuracy": self.accuracy.to_json(),
            "points": len(self.points),
            "dominated": self.dominated,
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """How a method does over all budgets.

    Attributes:
        method: Its name.
        hypervolume: Of each seed's own points, over the seeds.
        points: How many points it has, of all seeds.
        seeds: How many seeds.
        left_out: Seeds that have fewer points than the others, and so no hypervolume that could be compared.
    """

    method: str
    hypervolume: SeedMean
    points: int
    seeds: int
    left_out: tuple[int | None, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON value."""
        return {
            "method": self.method,
            "hypervolume": self.hypervolume.to_json(),
            "points": self.points,
            "seeds": self.seeds,
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True, eq=False)
class Front:
    """Points of several methods on one pair of axes, compared.

    Attributes:
        points: All of them.
        x: What the x axis is: a metric, ``bytes`` or a relative cost.
        unit: Of x.
        source: The analytic model that x is of; empty where it is measured or counted.
        place: What the points have in common, for people: network, data, device …
    """

    points: tuple[Point, ...]
    x: str
    unit: str = ""
    source: str = ""
    place: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.points:
            raise InputError("a front needs at least one point; give the folders of finished compressions")

    @property
    def x_name(self) -> str:
        """What the x axis is, with the model that it is of."""
        return f"{self.x} of {self.source}" if self.source else self.x

    @property
    def name(self) -> str:
        """What the points have in common, in one line."""
        return ", ".join(filter(None, self.place.values()))

    @property
    def reference(self) -> tuple[float, float]:
        """Where the hypervolume ends: the largest x of all points, and accuracy 0."""
        return max(point.x for point in self.points), 0.0

    @cached_property
    def methods(self) -> dict[str, tuple[Point, ...]]:
        """The points of each method, in the order of the first; the dense network is none."""
        found: dict[str, list[Point]] = {}
        for point in self.points:
            if point.method != DENSE:
                found.setdefault(point.method, []).append(point)
        return {method: tuple(points) for method, points in found.items()}

    @cached_property
    def dominated(self) -> tuple[bool, ...]:
        """Per point, whether the mean that it belongs to is dominated by another one; a lucky seed decides nothing."""
        return tuple(self._level_of[key].dominated for key in self._keys)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Means over seeds per method and budget, by rising cost within each method; the dense network's come last."""
        order = {method: i for i, method in enumerate([*self.methods, DENSE])}
        return tuple(sorted(self._level_of.values(), key=lambda level: (order[level.method], level.x.mean)))

    @cached_property
    def _keys(self) -> tuple[tuple[str, str, int], ...]:
        """Of each point, what it has in common with the others of its level: method and budget, or its own number."""
        return tuple((point.method, point.budget, 0 if point.budget else i) for i, point in enumerate(self.points))

    @cached_property
    def _level_of(self) -> dict[tuple[str, str, int], Level]:
        groups: dict[tuple[str, str, int], list[Point]] = {}
        for key, point in zip(self._keys, self.points, strict=True):
            groups.setdefault(key, []).append(point)
        means = {key: _means(points) for key, points in groups.items()}
        spots = {key: Point(key[0], x.mean, accuracy.mean) for key, (x, accuracy) in means.items()}
        best = set(non_dominated(list(spots.values())))
        return {
            key: Level(key[0], key[1], *means[key], tuple(points), spots[key] not in best)
            for key, points in groups.items()
        }

    @cached_property
    def curves(self) -> dict[str, dict[int | None, Curve]]:
        """Each method's accuracy as a function of the budget, by seed."""
        return {method: curves_by_seed(points) for method, points in self.methods.items()}

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """How each method does over all budgets, the best first."""
        found = [self._standing(method, points) for method, points in self.methods.items()]
        return tuple(sorted(found, key=lambda standing: -standing.hypervolume.mean))

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Every pair of methods at equal budgets."""
        return compare(self.curves)

    @cached_property
    def hypervolume(self) -> dict[str, float]:
        """Per method, the mean over seeds of the dominated area over the largest x: its best accuracy, averaged over
        all budgets up to there.

        0 where no point is cheaper than the most expensive one, as for the dense network.
        """
        found = {standing.method: standing.hypervolume.mean for standing in self.standings}
        return {method: found.get(method, 0.0) for method in dict.fromkeys(point.method for point in self.points)}

    def _standing(self, method: str, points: tuple[Point, ...]) -> Standing:
        seeds: dict[int | None, list[Point]] = {}
        for point in points:
            seeds.setdefault(point.seed, []).append(point)
        most = max(len(mine) for mine in seeds.values())
        whole = [mine for mine in seeds.values() if len(mine) == most]
        worst = self.reference[0]
        areas = [hypervolume(mine, self.reference) / worst if worst > 0 else 0.0 for mine in whole]
        short = tuple(seed for seed, mine in seeds.items() if len(mine) < most)
        return Standing(method, mean_over_seeds(areas), len(points), len(seeds), short)

    def __repr__(self) -> str:
        of = f", {self.name}" if self.name else ""
        return f"Front({len(self.points)} points over {self.x_name}, {len(self.methods)} methods{of})"

    def _repr_html_(self) -> str:
        rows = [
            [
                level.method,
                level.budget,
                f"{level.x.mean:.4g} {self.unit}",
                f"{level.accuracy.mean:.4f}",
                len(level.points),
                "dominated" if level.dominated else "",
            ]
            for level in self.levels
        ]
        header = ["method", "budget", self.x_name, "accuracy", "runs", ""]
        volumes = ", ".join(f"{each.method} {each.hypervolume.mean:.4f}" for each in self.standings)
        return card(repr(self), [("hypervolume", volumes)], header, rows)

    def to_json(self) -> dict[str, Any]:
        """A JSON value: axes, points, hypervolumes, means over seeds and comparisons."""
        return {
            "x": self.x,
            "unit": self.unit,
            "source": self.source,
            "place": dict(self.place),
            "points": self.rows(),
            "hypervolume": self.hypervolume,
            "standings": [standing.to_json() for standing in self.standings],
            "levels": [level.to_json() for level in self.levels],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
        }

    def frame(self) -> pd.DataFrame:
        """One row per point: method, x, accuracy, seed, x_low, x_high, label, budget, dominated."""
        return pd.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """The points as JSON values."""
        return [
            {
                "method": point.method,
                "x": point.x,
                "accuracy": point.accuracy,
                "seed": point.seed,
                "x_low": point.x_low,
                "x_high": point.x_high,
                "label": point.label,
                "budget": point.budget,
                "dominated": dominated,
            }
            for point, dominated in zip(self.points, self.dominated, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A folder whose network is on no axes, and why."""

    folder: str
    reason: str


@dataclass(frozen=True, eq=False)
class Fronts:
    """Fronts side by side: of several networks, data sets or devices, over one metric.

    Attributes:
        panels: The fronts, each on axes of its own.
        left_out: What was found and could not be placed.
    """

    panels: tuple[Front, ...]
    left_out: tuple[LeftOut, ...] = ()

    def __post_init__(self) -> None:
        if not self.panels:
            raise InputError("a front needs at least one point; give the folders of finished compressions")

    def __iter__(self) -> Iterator[Front]:
        return iter(self.panels)

    def __len__(self) -> int:
        return len(self.panels)

    @property
    def x(self) -> str:
        """What the x axes are."""
        return self.panels[0].x

    @property
    def points(self) -> tuple[Point, ...]:
        """Of all panels."""
        return tuple(point for panel in self.panels for point in panel.points)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Of all panels, in their order; the dense network is none."""
        return tuple(dict.fromkeys(method for panel in self.panels for method in panel.methods))

    @cached_property
    def hypervolume(self) -> dict[str, float]:
        """Per method, that of its panel, or the mean of those panels that it has points in."""
        found: dict[str, list[float]] = {}
        for panel in self.panels:
            for method, volume in panel.hypervolume.items():
                found.setdefault(method, []).append(volume)
        return {method: sum(volumes) / len(volumes) for method, volumes in found.items()}

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ecc front --json``, without the files: all points and hypervolumes, then panel by panel."""
        units, sources = ({getattr(panel, name) for panel in self.panels} for name in ("unit", "source"))
        return {
            "x": self.x,
            "unit": units.pop() if len(units) == 1 else None,
            "source": sources.pop() if len(sources) == 1 else None,
            "points": self.rows(),
            "hypervolume": self.hypervolume,
            "panels": [
                {name: value for name, value in panel.to_json().items() if name != "points"} for panel in self.panels
            ],
            "left_out": [{"artefact": one.folder, "reason": one.reason} for one in self.left_out],
        }

    def frame(self) -> pd.DataFrame:
        """One row per point, as of ``Front.frame``, with its panel's number, place, unit and source."""
        return pd.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """The points as JSON values."""
        facts = list(dict.fromkeys(name for panel in self.panels for name in panel.place))
        return [
            {
                **row,
                "panel": number,
                "unit": panel.unit,
                "source": panel.source,
                **{name: panel.place.get(name, "") for name in facts},
            }
            for number, panel in enumerate(self.panels)
            for row in panel.rows()
        ]

    def __repr__(self) -> str:
        panels = f"{len(self)} panel{'' if len(self) == 1 else 's'}"
        return f"Fronts({len(self.points)} points over {self.x}, {len(self.methods)} methods, {panels})"

    def _repr_html_(self) -> str:
        return "".join(panel._repr_html_() for panel in self.panels)


def _means(points: list[Point]) -> tuple[SeedMean, SeedMean]:
    """Cost and accuracy over seeds; runs of one seed count as one."""
    seeds: dict[int | None, list[Point]] = {}
    for point in points:
        seeds.setdefault(point.seed, []).append(point)
    x = [sum(point.x for point in mine) / len(mine) for mine in seeds.values()]
    accuracy = [sum(point.accuracy for point in mine) / len(mine) for mine in seeds.values()]
    return mean_over_seeds(x), mean_over_seeds(accuracy)
