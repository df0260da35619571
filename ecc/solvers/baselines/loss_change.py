"""Taylor and Fisher pruning: the units whose going changes the loss least go, wherever they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.problem import Checkpoint, Problem, Progress, Solution
from ecc.solvers.baselines.one_shot import demand_floor, drop_smallest, one_shot
from ecc.solvers.floors import floored_limits
from ecc.solvers.importance import Criterion, rate

__all__ = ["Fisher", "LossChange", "Taylor"]


@dataclass(frozen=True, slots=True)
class LossChange:
    """One ranking of all units by an estimate of what the loss does without them; the least are dropped.

    As many go as it takes until all constraints hold, in one go, before fine-tuning.

    Attributes:
        batches: Most training batches that gradients are taken of; 256 examples in all where they are taken one by one.
        min_fraction: Least fraction of every group's units that is kept, as far as the budgets allow; without it, whole
            layers go for the sake of others.

    Raises:
        InputError: If a value makes no sense.
    """

    batches: int = 8
    min_fraction: float = 0.1
    name: Criterion = field(init=False)

    def __post_init__(self) -> None:
        method = type(self).__name__
        if self.batches < 1:
            raise InputError(f"{method}(batches=...) must be at least 1, got {self.batches}")
        demand_floor(method, self.min_fraction)

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Choose widths; no training, so there is nothing to resume.

        Raises:
            InputError: If no admissible widths meet a constraint, or the loss has no gradient by a group's weights.
        """
        limits = floored_limits(problem, self.min_fraction)

        def importance() -> list[Tensor]:
            return rate(self.name, problem.model, problem.groups, problem.task, batches=self.batches, seed=problem.seed)

        return one_shot(problem, limits, self.name, importance, drop_smallest, progress)


@dataclass(frozen=True, slots=True)
class Taylor(LossChange):
    """The first-order change of the loss.

    Molchanov et al.: Importance Estimation for Neural Network Pruning, CVPR 2019; here in one go, before fine-tuning.
    """

    name: Criterion = field(default="taylor", init=False)


@dataclass(frozen=True, slots=True)
class Fisher(LossChange):
    """The second-order change of the loss, from the gradients of single examples.

    Theis et al.: Faster gaze prediction with dense networks and Fisher pruning, 2018; here in one go, before
    fine-tuning.
    """

    name: Criterion = field(default="fisher", init=False)
