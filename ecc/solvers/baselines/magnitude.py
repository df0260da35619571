"""Magnitude pruning: the units of smallest weights go, wherever they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.problem import Checkpoint, Problem, Progress, Solution
from ecc.solvers.baselines.one_shot import demand_floor, drop_smallest, one_shot
from ecc.solvers.floors import floored_limits
from ecc.solvers.importance import rate

__all__ = ["Magnitude"]


@dataclass(frozen=True, slots=True)
class Magnitude:
    """One ranking of all units of all groups; the smallest are dropped until every constraint holds.

    Attributes:
        norm: ``l1`` or ``l2`` of the weights that read a unit.
        relative: Whether a unit's norm is taken over the mean of its group. Plain norms compare layers by their fan-in
            and may empty one of them.
        min_fraction: Least fraction of every group's units that is kept, as far as the budgets allow.

    Raises:
        InputError: If a value makes no sense.
    """

    norm: Literal["l1", "l2"] = "l2"
    relative: bool = True
    min_fraction: float = 0.1
    name: str = field(default="magnitude", init=False)

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2"):
            raise InputError(f"Magnitude(norm=...) must be l1 or l2, got {self.norm!r}")
        demand_floor("Magnitude", self.min_fraction)

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Choose widths; no training, so there is nothing to resume.

        Raises:
            InputError: If no admissible widths meet a constraint.
        """
        limits = floored_limits(problem, self.min_fraction)

        def norms() -> list[Tensor]:
            plain = rate(self.norm, problem.model, problem.groups, problem.task)
            return [_over_mean(norm) for norm in plain] if self.relative else plain

        return one_shot(problem, limits, self.name, norms, drop_smallest, progress)


def _over_mean(norm: Tensor) -> Tensor:
    return norm / norm.mean().clamp(min=torch.finfo(norm.dtype).tiny)
