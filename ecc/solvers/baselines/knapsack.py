"""Knapsack: the widths that keep most importance within the budgets, chosen for all groups together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ecc.core.problem import Checkpoint, Problem, Progress, Solution
from ecc.core.rules import demand_rules
from ecc.solvers.allocation import allocate
from ecc.solvers.baselines.one_shot import demand_floor, one_shot
from ecc.solvers.depth import DepthLimits, block_curves, demand_depth, one_shot_deep
from ecc.solvers.floors import floored_limits
from ecc.solvers.importance import CRITERIA, Criterion, curves_of, rate, rate_blocks
from ecc.solvers.limits import Limits, Ranking
from ecc.solvers.sensitivity import measure_curves

__all__ = ["Knapsack"]

_DEPTH_RULE = "needs importance taylor or fisher, since norms say nothing of the loss without a block"


@dataclass(frozen=True, slots=True)
class Knapsack:
    """One rating of all units, then the widths that lose least of it, by ``allocate``; nothing is trained.

    What widths lose is measured. With ``curves="importance"`` it is as HALP (Shen et al., NeurIPS 2022) poses it:
    importances add up, and what is dropped must be worth least among all widths that the cost models allow. HALP takes
    the cost of a layer at the width that its input has at the moment; here it follows both sides. With ``depth``
    residual blocks may go too, as in MDP (arXiv 2406.12079): whatever is lost inside a block is then lost no more, and
    its layers cost nothing.

    Attributes:
        importance: A name of CRITERIA, by which units of a group are ranked; None for ``l2`` where curves are measured
            and else ``taylor``. Norms of different groups are not alike, so their sums mean little.
        curves: What widths lose: ``measured``, how far the outputs move when a group keeps its most important units
            only (``measure_curves``), or ``importance``, the sum of what is dropped; None for the former, but with
            ``depth``, which needs the latter.
        batches: Most training batches that gradients are taken of.
        seconds: When the search stops, with the best widths found.
        min_fraction: Least fraction of every group's units that is kept, as far as the budgets allow.
        depth: Whether blocks may go whole; wants ``taylor`` or ``fisher``, and ``curves`` of it.

    Raises:
        InputError: If a value makes no sense.
    """

    importance: Criterion | None = None
    curves: Literal["measured", "importance"] | None = None
    batches: int = 8
    seconds: float = 5.0
    min_fraction: float = 0.1
    depth: bool = False
    name: str = field(default="knapsack", init=False)

    def __post_init__(self) -> None:
        rules = {
            "importance": (self.criterion in CRITERIA, f"must be one of {', '.join(CRITERIA)}"),
            "curves": (
                self.curves in (None, "importance") or (self.curves == "measured" and not self.depth),
                "must be importance or, without depth, measured",
            ),
            "batches": (self.batches >= 1, "must be at least 1"),
            "seconds": (0 < self.seconds < float("inf"), "must be positive"),
            "depth": (not self.depth or self.criterion in ("taylor", "fisher"), _DEPTH_RULE),
        }
        demand_rules(self, rules)
        demand_floor("Knapsack", self.min_fraction)

    @property
    def measures(self) -> bool:
        """Whether what widths lose is measured."""
        return self.curves == "measured" or (self.curves is None and not self.depth)

    @property
    def criterion(self) -> Criterion:
        """By which units are ranked."""
        return self.importance or ("l2" if self.measures else "taylor")

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Choose widths, and blocks where these may go; no training, so there is nothing to resume.

        Raises:
            InputError: If no admissible widths meet the constraints, the loss has no gradient by a group's weights, or
                blocks are to go and the problem has none that may.
        """
        if self.depth:
            return self._solve_deep(problem, progress)
        limits = floored_limits(problem, self.min_fraction)

        def importance() -> list[Tensor]:
            model, groups, task = problem.model, problem.groups, problem.task
            return rate(self.criterion, model, groups, task, batches=self.batches, seed=problem.seed)

        def choose(ranking: Ranking, limits: Limits) -> Tensor:
            return allocate(self._curves(problem, ranking, limits), limits, seconds=self.seconds).units

        return one_shot(problem, limits, self.name, importance, choose, progress)

    def _curves(self, problem: Problem, ranking: Ranking, limits: Limits) -> list[Tensor]:
        if not self.measures:
            return curves_of(ranking.importance)
        model, groups, batches = problem.model, problem.groups, problem.task.train
        return measure_curves(model, groups, batches, ranking, limits.lowest, seed=problem.seed)

    def _solve_deep(self, problem: Problem, progress: Progress | None) -> Solution:
        """Choose widths and blocks together."""
        depth = demand_depth(problem)
        limits = floored_limits(problem, self.min_fraction, DepthLimits)
        model, task = problem.model, problem.task

        def importance() -> tuple[list[Tensor], Tensor]:
            units = rate(self.criterion, model, problem.groups, task, batches=self.batches, seed=problem.seed)
            blocks = rate_blocks(
                self.criterion, model, list(depth.blocks), task, batches=self.batches, seed=problem.seed
            )
            return units, blocks

        def choose(ranking: Ranking, blocks: Tensor, limits: Limits) -> Tensor:
            curves = [*curves_of(ranking.importance), *block_curves(blocks)]
            return allocate(curves, limits, seconds=self.seconds).units

        return one_shot_deep(problem, limits, self.name, importance, choose, progress)
