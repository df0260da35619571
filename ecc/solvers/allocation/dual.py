r"""The Lagrangian dual of an allocation: a bound below every admissible loss, and the widths that it looks at.

.. math:: L(λ) = \min_u \; \sum_i f_i(u_i) + λ^T (c(u) - b), \qquad λ \ge 0

L is concave and never above the least admissible loss. Each minimiser is a line (a plane, with several constraints)
above L, so the best λ is found by cutting planes (Kelley, 1960), which with one constraint needs no program to solve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ecc.solvers.allocation.minimising import Minimiser, minimiser_for
from ecc.solvers.allocation.tables import Tables

__all__ = ["Cut", "Dual", "within"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

_FIRST_BOX, _LAST_BOX = 16.0, 1e8  # largest multiplier, in ranges of the losses per cost of the dense network
_STEPS = 60  # of cutting planes
_SHARE = 0.05  # of what is left to the target, that the best λ need not be known better than
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Widths, as places among all choices, with their loss and what their costs exceed the limits by."""

    places: Whole
    loss: float
    excess: Floats


@dataclass(eq=False)
class Dual:
    """The dual over some choices of each group.

    Attributes:
        tables: Of all choices.
        kept: Places that each group may take, rising.
        scale: Of the losses; what is below a billionth of it counts as nothing.
        cuts: Widths within ``kept`` that are known.
        multipliers: The best λ so far, shape (n_constraints,).
        bound: L there.
    """

    tables: Tables
    kept: tuple[Whole, ...]
    scale: float
    cuts: list[Cut] = field(default_factory=list)
    multipliers: Floats = field(default_factory=lambda: np.zeros(0))
    bound: float = -np.inf

    def __post_init__(self) -> None:
        self._here = self.tables.restricted(self.kept)
        self._minimiser: Minimiser | None = None

    @property
    def minimiser(self) -> Minimiser:
        """What finds the least of sums of these tables."""
        if self._minimiser is None:
            self._minimiser = minimiser_for(self._here.sizes, tuple(self._here.joint))
        return self._minimiser

    def ascend(self, target: float, steps: int = _STEPS) -> list[Cut]:
        """Raise the bound to the dual's maximum, or until it is above the target; returns what is new among the cuts.

        Args:
            steps: Values of λ to look at, at most.
        """
        box = _FIRST_BOX * self.scale
        found: list[Cut] = []
        multipliers, model = self.multipliers, np.inf
        seen: set[bytes] = set()
        for _ in range(steps):
            if multipliers.tobytes() in seen:
                break
            seen.add(multipliers.tobytes())
            value, cut = self._at(multipliers)
            found.append(cut)
            self.cuts.append(cut)
            if value > self.bound:
                self.bound, self.multipliers = value, multipliers
            if self.bound > target or len(self.tables.excess) == 0:
                break
            multipliers, model = self._best(box)
            while multipliers.max() >= box and box < _LAST_BOX * self.scale:
                box *= 16
                multipliers, model = self._best(box)
            if model - self.bound <= max(1e-9 * self.scale, _SHARE * (min(target, model) - self.bound)):
                break
        return found

    def marginals(self) -> list[Floats]:
        """For each choice kept of each group a bound below the admissible losses with it, at the best λ."""
        return [each + self._fixed for each in self.minimiser.marginals(*self._weighted(self.multipliers))]

    def active(self) -> list[Cut]:
        """The cuts that the best λ lies on, or nearly."""
        values = np.array([cut.loss + float(self.multipliers @ cut.excess) for cut in self.cuts])
        near = values <= values.min() + 1e-6 * self.scale + 1e-3 * max(0.0, float(np.median(values) - values.min()))
        return [cut for cut, is_near in zip(self.cuts, near, strict=True) if is_near]

    @property
    def _fixed(self) -> float:
        return self._here.loss + float(self.multipliers @ self._here.excess)

    def _weighted(self, multipliers: Floats) -> tuple[list[Floats], dict[tuple[int, ...], Floats]]:
        here = self._here
        singles = [
            loss + np.tensordot(multipliers, table, 1) for loss, table in zip(here.losses, here.singles, strict=True)
        ]
        return singles, {scope: np.tensordot(multipliers, table, 1) for scope, table in here.joint.items()}

    def _at(self, multipliers: Floats) -> tuple[float, Cut]:
        """A bound below L there, L itself where minimisation is exact, and its minimiser."""
        value, chosen = self.minimiser.minimise(*self._weighted(multipliers))
        loss, excess = self._here.at(chosen)
        places = np.array([own[place] for own, place in zip(self.kept, chosen, strict=True)], dtype=np.int64)
        return value + self._here.loss + float(multipliers @ self._here.excess), Cut(places, loss, excess)

    def _best(self, box: float) -> tuple[Floats, float]:
        """The λ in [0, box] where the least of all cuts is highest, and how high."""
        losses = np.array([cut.loss for cut in self.cuts])
        excess = np.stack([cut.excess for cut in self.cuts])
        if excess.shape[1] == 1:
            return _highest(losses, excess[:, 0], box)
        return _highest_of_many(losses / self.scale, excess, box / self.scale, self.scale)


def _highest(losses: Floats, slopes: Floats, box: float) -> tuple[Floats, float]:
    """Where the least of some lines is highest in [0, box]: by Newton's method from both sides."""
    low, high = _lowest(losses, slopes), _lowest(losses + box * slopes, -slopes)
    if slopes[low] <= 0:
        return np.zeros(1), float(losses[low])
    if slopes[high] >= 0:
        return np.array([box]), float(losses[high] + box * slopes[high])
    while True:
        at = (losses[high] - losses[low]) / (slopes[low] - slopes[high])
        values = losses + at * slopes
        least = int(np.argmin(values))
        if values[least] >= values[low] - _ROUNDING * max(1.0, abs(values[low])) or least in (low, high):
            return np.array([at]), float(values[least])
        low, high = (least, high) if slopes[least] > 0 else (low, least)


def _lowest(values: Floats, slopes: Floats) -> int:
    """The lowest line, of several alike that of least slope."""
    alike = np.flatnonzero(values <= values.min() + _ROUNDING * max(1.0, abs(float(values.min()))))
    return int(alike[np.argmin(slopes[alike])])


def _highest_of_many(losses: Floats, slopes: Floats, box: float, scale: float) -> tuple[Floats, float]:
    """The same for planes, by a linear program; losses in ``scale``."""
    count = slopes.shape[1]
    result = optimize.linprog(
        np.append(np.zeros(count), -1.0),
        A_ub=np.column_stack([-slopes, np.ones(len(losses))]),
        b_ub=losses,
        bounds=[(0.0, box)] * count + [(None, None)],
        method="highs-ds",
    )
    if result.x is None:  # numbers too far apart for the program; what is known stays known
        return np.zeros(count), -np.inf
    return np.asarray(result.x[:-1] * scale, dtype=np.float64), float(result.x[-1]) * scale


def within(cuts: Sequence[Cut], kept: Sequence[Whole]) -> list[Cut]:
    """The cuts whose places are all kept."""
    if not cuts:
        return []
    places = np.stack([cut.places for cut in cuts])
    inside = np.ones(len(cuts), dtype=bool)
    for column, own in zip(places.T, kept, strict=True):
        inside &= own[np.searchsorted(own, column).clip(max=len(own) - 1)] == column
    return [cut for cut, is_inside in zip(cuts, inside, strict=True) if is_inside]
