"""Taylor and Fisher pruning: the units whose going changes the loss least go, wherever they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.problem import Checkpoint, Problem, Progress, Solution
from ecc.solvers.baselines.one_shot import demand_floor, drop_smallest, one_shot
from ecc.solvers.floors import floored_limits
from ecc.solvers.importance import Criterion, rate

__all__ = ["Fisher", "Taylor"]


@dataclass(frozen=True, slots=True)
class Taylor:
    """One ranking of all units by the first-order change of the loss; the least are dropped until all constraints hold.

    Molchanov et al.: Importance Estimation for Neural Network Pruning, CVPR 2019; here in one go, before fine-tuning.

    Attributes:
        batches: Most training batches that gradients are taken of.
        min_fraction: Least fraction of every group's units that is kept, as far as the budgets allow; without it, whole
            layers go for the sake of others.

    Raises:
        InputError: If a value makes no sense.
    """

    batches: int = 8
    min_fraction: float = 0.1
    name: str = field(default="taylor", init=False)

    def __post_init__(self) -> None:
        _demand_batches("Taylor", self.batches)
        demand_floor("Taylor", self.min_fraction)

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Choose widths; no training, so there is nothing to resume.

        Raises:
            InputError: If no admissible widths meet a constraint, or the loss has no gradient by a group's weights.
        """
        return _solve(problem, "taylor", self.batches, self.min_fraction, progress)


@dataclass(frozen=True, slots=True)
class Fisher:
    """One ranking of all units by the second-order change of the loss, from the gradients of single examples.

    Theis et al.: Faster gaze prediction with dense networks and Fisher pruning, 2018; here in one go, before
    fine-tuning.

    Attributes:
        batches: Most training batches that examples are taken of, 256 examples in all.
        min_fraction: Least fraction of every group's units that is kept, as far as the budgets allow; without it, whole
            layers go for the sake of others.

    Raises:
        InputError: If a value makes no sense.
    """

    batches: int = 8
    min_fraction: float = 0.1
    name: str = field(default="fisher", init=False)

    def __post_init__(self) -> None:
        _demand_batches("Fisher", self.batches)
        demand_floor("Fisher", self.min_fraction)

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Choose widths; no training, so there is nothing to resume.

        Raises:
            InputError: If no admissible widths meet a constraint, or the loss has no gradient by a group's weights.
        """
        return _solve(problem, "fisher", self.batches, self.min_fraction, progress)


def _demand_batches(name: str, batches: int) -> None:
    if batches < 1:
        raise InputError(f"{name}(batches=...) must be at least 1, got {batches}")


def _solve(
    problem: Problem, criterion: Criterion, batches: int, min_fraction: float, progress: Progress | None
) -> Solution:
    limits = floored_limits(problem, min_fraction)

    def importance() -> list[Tensor]:
        return rate(criterion, problem.model, problem.groups, problem.task, batches=batches, seed=problem.seed)

    return one_shot(problem, limits, criterion, importance, drop_smallest, progress)
