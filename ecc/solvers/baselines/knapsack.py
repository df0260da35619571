"""Knapsack: the widths that keep most importance within the budgets, chosen for all groups together."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.problem import Checkpoint, Problem, Progress, Solution
from ecc.solvers.allocation import allocate
from ecc.solvers.baselines.one_shot import demand_floor, one_shot
from ecc.solvers.floors import floored_limits
from ecc.solvers.importance import CRITERIA, Criterion, curves_of, rate
from ecc.solvers.limits import Limits, Ranking

__all__ = ["Knapsack"]


@dataclass(frozen=True, slots=True)
class Knapsack:
    """One rating of all units, then the widths that lose least of it, by ``allocate``; nothing is trained.

    As HALP (Shen et al., NeurIPS 2022) poses it: importances add up, and what is dropped must be worth least among all
    widths that the cost models allow. HALP takes the cost of a layer at the width that its input has at the moment;
    here it follows both sides.

    Attributes:
        importance: A name of CRITERIA. Norms of different groups are not alike, so what they lose means little.
        batches: Most training batches that gradients are taken of.
        seconds: When the search stops, with the best widths found.
        min_fraction: Least fraction of every group's units that is kept, as far as the budgets allow.

    Raises:
        InputError: If a value makes no sense.
    """

    importance: Criterion = "taylor"
    batches: int = 8
    seconds: float = 5.0
    min_fraction: float = 0.1
    name: str = field(default="knapsack", init=False)

    def __post_init__(self) -> None:
        rules = {
            "importance": (self.importance in CRITERIA, f"must be one of {', '.join(CRITERIA)}"),
            "batches": (self.batches >= 1, "must be at least 1"),
            "seconds": (0 < self.seconds < float("inf"), "must be positive"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise InputError(f"Knapsack({name}=...) {rule}, got {getattr(self, name)!r}")
        demand_floor("Knapsack", self.min_fraction)

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Choose widths; no training, so there is nothing to resume.

        Raises:
            InputError: If no admissible widths meet the constraints, or the loss has no gradient by a group's weights.
        """
        limits = floored_limits(problem, self.min_fraction)

        def importance() -> list[Tensor]:
            model, groups, task = problem.model, problem.groups, problem.task
            return rate(self.importance, model, groups, task, batches=self.batches, seed=problem.seed)

        def choose(ranking: Ranking, limits: Limits) -> Tensor:
            return allocate(curves_of(ranking.importance), limits, seconds=self.seconds).units

        return one_shot(problem, limits, self.name, importance, choose, progress)
