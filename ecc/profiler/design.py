"""Design: which width vectors to measure.

A scrambled Sobol sequence spreads the points evenly over every projection of the legal grid, so that a cost model with
one coefficient per layer sees all of its groups vary independently already at a few dozen rows. ``plan`` mixes in
corners, where one group alone is smallest, and sweeps, where one group alone changes step by step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from ecc.core.errors import InputError
from ecc.core.layers import Layer
from ecc.core.table import PURPOSES, RANDOM
from ecc.core.widths import Widths, WidthSpace

__all__ = ["Point", "plan", "sample", "sweeps", "weigh_groups"]

Units = tuple[int, ...]

_CHUNK = 64
_NEW = 16  # fewer new points than that in a chunk, and what is left of a small space is listed instead of drawn
_CROWDED = 8  # a space of fewer points than so many times those drawn is small
_SWEPT = 2  # groups of the plan that are swept
_SWEEP = 5  # points of each of these sweeps
_CYCLE = (*(RANDOM,) * 9, "corner", *(RANDOM,) * 9, "sweep")  # more of either, and held-out error rises


@dataclass(frozen=True, slots=True)
class Point:
    """A configuration to measure.

    Attributes:
        widths: Channels kept per group.
        purpose: Why, one of PURPOSES; only random points may be held out to judge a model.
    """

    widths: Widths
    purpose: str = RANDOM

    def __post_init__(self) -> None:
        if self.purpose not in PURPOSES:
            raise InputError(f"Point(purpose=...) must be one of {', '.join(PURPOSES)}, got {self.purpose!r}")


def sample(space: WidthSpace, n: int, *, seed: int = 0, low: float | None = None) -> list[dict[str, int]]:
    """Distinct widths to measure: dense, the smallest corner, then a scrambled Sobol sequence over the legal grid.

    A longer design of the same seed begins with the shorter one, so that a store that holds the one can be extended to
    the other.

    Args:
        n: Points wanted; fewer come back only when the space holds fewer.
        seed: Of the scrambling.
        low: Smallest width as a fraction of dense, in (0, 1]; one unit per group when None.
    Raises:
        InputError: If n < 1 or low is not in (0, 1].
    """
    grid = _Grid.of(space, n, low)
    points = dict.fromkeys([grid.most, grid.least])
    for units in grid.random(seed):
        if len(points) >= n:
            break
        points[units] = None
    return [grid.widths(units) for units in list(points)[:n]]


def plan(
    space: WidthSpace,
    n: int,
    *,
    layers: Sequence[Layer] = (),
    seed: int = 0,
    low: float | None = None,
    around: int = 1,
) -> list[Point]:
    """Distinct points to measure: dense, the smallest corner, then 18 random ones per corner and point of a sweep.

    Corners have one group at its smallest and all others dense, the groups that carry most of the cost first: what a
    group alone saves. Sweeps take these groups step by step. As in ``sample``, a longer plan begins with the shorter
    one; where corners or sweeps are used up, random points take their place.

    Args:
        n: Points wanted; fewer come back only when the space holds fewer.
        layers: Tell which groups carry most of the cost; all are alike without them.
        seed: Of the random points.
        low: Smallest width as a fraction of dense, in (0, 1]; one unit per group when None.
        around: Step that the device presumably has, in channels, see ``sweeps``.
    Raises:
        InputError: If n or around < 1 or low is not in (0, 1].
    """
    grid = _Grid.of(space, n, low)
    weights = weigh_groups(space, layers)
    heavy = sorted(space.names, key=lambda name: -weights[name])
    swept = sweeps(space, heavy[:_SWEPT], _SWEEP, around=around)
    sources = {
        RANDOM: grid.random(seed),
        "corner": (grid.corner(space.names.index(name)) for name in heavy),
        "sweep": (units for units in map(grid.units, swept) if grid.holds(units)),
    }
    points = {grid.most: "corner", grid.least: "corner"}
    exhausted = False
    while len(points) < n and not exhausted:
        for purpose in _CYCLE:
            exhausted = not _add(points, sources, purpose) and not _add(points, sources, RANDOM)
            if exhausted:
                break
    return [Point(grid.widths(units), purpose) for units, purpose in list(points.items())[:n]]


def _add(points: dict[Units, str], sources: Mapping[str, Iterator[Units]], purpose: str) -> bool:
    """Add the next point of a source that is not there yet; whether there was one."""
    found = next((units for units in sources[purpose] if units not in points), None)
    if found is not None:
        points[found] = purpose
    return found is not None


def sweeps(space: WidthSpace, names: Sequence[str], points: int, *, around: int = 1) -> list[dict[str, int]]:
    """One-at-a-time sweeps: each named group alone at smaller and smaller admissible widths, all others dense.

    Where the space is finer than the step that the device presumably has, the widths are the multiples of that step
    and the next width above each: a device that has the step takes as long for 49 channels as for 64 and jumps at 48;
    one that has none falls evenly. Otherwise they are neighbours, which show any step that is longer than theirs.

    Args:
        points: At most, per group, from dense downwards; dense itself is not among them.
        around: The device's presumed step in channels.
    Raises:
        InputError: If a group is unknown, or points or around < 1.
    """
    if points < 1 or around < 1:
        raise InputError(f"sweeps(points=..., around=...) must be at least 1, got {min(points, around)}")
    unknown = [name for name in names if name not in space.names]
    if unknown:
        raise InputError(f"sweeps name the unknown group {unknown[0]!r}")
    full, found = space.full, []
    for name in names:
        step = space.step[space.names.index(name)]
        block = max(1, around // step)
        stairs = range((full[name] // step - 1) // block, -1, -1)
        ends = dict.fromkeys(unit for stair in stairs for unit in (stair * block + 1, stair * block))
        found += [{**full, name: unit * step} for unit in ends if 0 < unit < full[name] // step][:points]
    return found


def weigh_groups(space: WidthSpace, layers: Sequence[Layer]) -> dict[str, float]:
    """Share of the dense multiply-accumulates that each group has a hand in, in [0, 1]."""
    total = sum(layer.macs for layer in layers) or 1
    return {
        name: sum(layer.macs for layer in layers if name in layer.reads.groups | layer.writes.groups) / total
        for name in space.names
    }


@dataclass(frozen=True, slots=True)
class _Grid:
    """The legal points, in units per group.

    Attributes:
        step: Channels per unit.
        least: Smallest number of units.
        most: Units when dense.
    """

    names: tuple[str, ...]
    step: Units
    least: Units
    most: Units

    @classmethod
    def of(cls, space: WidthSpace, n: int, low: float | None) -> _Grid:
        if n < 1:
            raise InputError(f"samples must be at least 1, got {n}")
        if low is not None and not 0 < low <= 1:
            raise InputError(f"the lower end of the widths must be a fraction of dense in (0, 1], got {low}")
        most = tuple(dense // step for dense, step in zip(space.dense, space.step, strict=True))
        least = tuple(1 if low is None else max(1, math.ceil(low * units - 1e-9)) for units in most)
        return cls(space.names, space.step, least, most)

    def widths(self, units: Units) -> dict[str, int]:
        return {name: n * step for name, n, step in zip(self.names, units, self.step, strict=True)}

    def units(self, widths: Widths) -> Units:
        return tuple(widths[name] // step for name, step in zip(self.names, self.step, strict=True))

    def holds(self, units: Units) -> bool:
        return all(least <= n for least, n in zip(self.least, units, strict=True))

    def corner(self, group: int) -> Units:
        return (*self.most[:group], self.least[group], *self.most[group + 1 :])

    def random(self, seed: int) -> Iterator[Units]:
        """All legal points, each once, spread evenly from the first on."""
        if not self.names:
            yield ()
            return
        rng = np.random.default_rng(seed)
        sequence = qmc.Sobol(len(self.most), scramble=True, seed=rng)
        least, most = (np.array(units, dtype=np.int64) for units in (self.least, self.most))
        legal = math.prod(int(count) for count in most - least + 1)
        seen: set[Units] = set()
        while True:
            new = [units for units in _scaled(sequence.random(_CHUNK), least, most) if units not in seen]
            yield from dict.fromkeys(new)
            seen.update(new)
            if len(set(new)) < _NEW and legal <= _CROWDED * max(len(seen), _CHUNK):
                break
        ranges = (range(a, b + 1) for a, b in zip(self.least, self.most, strict=True))
        rest = [units for units in itertools.product(*ranges) if units not in seen]
        yield from (rest[i] for i in rng.permutation(len(rest)))


def _scaled(points: NDArray[np.float64], least: NDArray[np.int64], most: NDArray[np.int64]) -> list[Units]:
    """Points of the unit cube as units, each legal number equally often."""
    units = least + np.floor(points * (most - least + 1)).astype(np.int64)
    return list(map(tuple, np.minimum(units, most).tolist()))
