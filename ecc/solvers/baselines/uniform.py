"""Uniform scaling: every group keeps the same fraction of its units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ecc.core.problem import Checkpoint, Problem, Progress, Solution
from ecc.solvers.baselines.one_shot import one_shot
from ecc.solvers.floors import floored_limits
from ecc.solvers.limits import Limits, Ranking
from ecc.solvers.sparsity import Sparsity

__all__ = ["Uniform"]


@dataclass(frozen=True, slots=True)
class Uniform:
    """One common width fraction, the largest that meets every constraint; the units of largest L2 norm stay.

    Widths are whole units, so the fraction alone would leave part of the budget unused in narrow networks: what is left
    goes to the groups that rounding set back most, one unit more each, where it fits.
    """

    name: str = "uniform"

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Choose widths; no training, so there is nothing to resume.

        Raises:
            InputError: If no admissible widths meet a constraint.
        """
        limits, rate = floored_limits(problem, 0), Sparsity(problem.model, problem.groups).energies
        return one_shot(problem, limits, self.name, rate, _choose, progress)


def _choose(ranking: Ranking, limits: Limits) -> Tensor:
    return _fill_up(_largest_fraction(limits), limits)


def _largest_fraction(limits: Limits) -> Tensor:
    """Units at the largest common fraction that is feasible, by bisection over those at which a width changes."""
    fractions = torch.cat([torch.arange(1, int(n) + 1, dtype=torch.float64) / n for n in limits.dense])
    fractions = torch.unique(torch.cat([torch.zeros(1, dtype=torch.float64), fractions]))

    def units(index: int) -> Tensor:
        return torch.maximum((limits.dense * fractions[index] + 1e-9).floor(), limits.lowest)

    low, high = 0, len(fractions)  # feasible at low (one unit each was checked), not known to be feasible at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if limits.met(units(middle)) else (low, middle)
    return units(low)


def _fill_up(units: Tensor, limits: Limits) -> Tensor:
    for group in (units / limits.dense).argsort(stable=True).tolist():
        more = units.clone()
        more[group] += 1
        if more[group] <= limits.dense[group] and limits.met(more):
            units = more
    return units
