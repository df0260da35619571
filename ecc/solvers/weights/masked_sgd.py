"""Masked projected SGD: weights and inputs of layers pruned under one budget.

Yang, Zhu, Liu: Energy-Constrained Compression for Deep Neural Networks via Weighted Sparse Projection and Layer Input
Masking, ICLR 2019.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from ecc.core.problem import Checkpoint, Progress
from ecc.core.rules import demand_rules
from ecc.core.weights import WeightProblem, WeightSolution
from ecc.network.input_masks import masked_inputs
from ecc.solvers.distributed import join
from ecc.solvers.evaluation import device_of
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train
from ecc.solvers.weights.falls import FALLS, FallKind
from ecc.solvers.weights.input_masks import InputMasks, first_inputs, limits_of, masked_layers
from ecc.solvers.weights.joint_projection import JointProjection
from ecc.solvers.weights.limits import weight_solution
from ecc.solvers.weights.mask_rounds import solve_rounds
from ecc.solvers.weights.profits import PROFITS, Profit
from ecc.solvers.weights.projected_sgd import ProjectedSgd

__all__ = ["SEARCHES", "MaskedProjectedSgd", "Search"]

Search = Literal["together", "rounds"]
SEARCHES: tuple[str, ...] = get_args(Search)


@dataclass(frozen=True, slots=True)
class MaskedProjectedSgd:
    """Projected SGD that also masks inputs of layers, so that fetching them is saved and goes to the weights.

    Searches:

    - ``together`` (ECC's): one run, in which inputs and weights go side by side while the budget falls. An input stays
      for the Fisher information of its mask per energy, and can come back until the budget has reached its end. From
      then on weights that meet masked inputs only go, and inputs that no weight reads are masked, which changes no
      output and leaves more for weights that count.
    - ``rounds`` (as published): weights are trained, then masks with the weights frozen, then weights …, until the
      validation score stops improving. Masks are trained by Adam from 1, clamped to [0, 1]; the largest q of all
      entries stay, q = 0.9 in the first round and 0.1 less in each that follows, or less where the budget asks for it;
      they are rounded at the end.

    Attributes:
        training: How the weights are trained, ``epochs`` in all rounds together; ``seed`` is replaced by the problem's.
        search: ``together`` or ``rounds``.
        inputs: Part of what the budget leaves above weightless and inputless layers that inputs may take, in (0, 1).
        every: Steps between projections.
        schedule: Of the budget, as of ``ProjectedSgd``.
        continuation: Part of the steps over which the budget falls.
        profit: What ranks weights, as of ``ProjectedSgd``.
        min_fraction: Least fraction of each tensor that is kept, as of ``ProjectedSgd``.
        rounds: Most rounds of masks.
        mask_epochs: Of training masks in each round.

    Raises:
        InputError: If a value makes no sense.
    """

    training: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=10, lr=2e-3, dropout=False))
    search: Search = "together"
    inputs: float = 0.45
    every: int = 5
    schedule: FallKind = "geometric"
    continuation: float = 0.4
    profit: Profit = "fisher"
    min_fraction: float = 0.01
    rounds: int = 3
    mask_epochs: int = 2
    name: str = field(default="masked-sgd", init=False)

    def __post_init__(self) -> None:
        rules = {
            "search": (self.search in SEARCHES, "must be together or rounds"),
            "inputs": (0 < self.inputs < 1, "must be in (0, 1)"),
            "every": (self.every >= 1, "must be 1 or more"),
            "schedule": (self.schedule in FALLS, f"must be {', '.join(FALLS[:-1])} or {FALLS[-1]}"),
            "continuation": (0 <= self.continuation <= 1, "must be in [0, 1]"),
            "profit": (self.profit in PROFITS, f"must be {', '.join(PROFITS[:-1])} or {PROFITS[-1]}"),
            "min_fraction": (0 <= self.min_fraction <= 1, "must be in [0, 1]"),
            "rounds": (1 <= self.rounds <= 9, "must be from 1 to 9"),
            "mask_epochs": (self.mask_epochs >= 1, "must be 1 or more"),
        }
        demand_rules(self, rules)

    @property
    def weights(self) -> ProjectedSgd:
        """The method for the weights alone."""
        return ProjectedSgd(self.training, self.every, self.schedule, self.continuation, self.profit, self.min_fraction)

    def solve(
        self, problem: WeightProblem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> WeightSolution:
        """Find weights and masks; the problem's network stays as it is and teaches the copy.

        Raises:
            InputError: If the constraints cannot be met with all inputs masked, or nothing can be masked.
            EccError: If training diverges.
            Interrupted: If the user pressed Ctrl-C; the state is saved.
        """
        if self.search == "rounds":
            return solve_rounds(self, problem, progress, checkpoint)
        return self._together(problem, progress, checkpoint)

    def _together(
        self, problem: WeightProblem, progress: Progress | None, checkpoint: Checkpoint | None
    ) -> WeightSolution:
        ranks, device = join(self.training.device, device_of(problem.model))
        start = masked_layers(problem, first_inputs(problem.task.train, problem.seed))
        model = copy.deepcopy(problem.model)
        ranks.share(list(model.state_dict().values()))
        model.to(device)
        limits = limits_of(problem, start, model, part=1 - self.inputs, min_fraction=self.min_fraction)
        inputs = InputMasks(problem.constraints, start, device_of(model))
        hook = JointProjection(self, problem, inputs, limits, model, ranks)
        with masked_inputs(model, inputs.values):
            history = train(
                model,
                problem.task,
                replace(self.training, seed=problem.seed),
                teacher=problem.taught_by,
                hook=hook,
                stage=self.name,
                progress=progress,
                checkpoint=checkpoint,
            )
        hook.tighten()
        return weight_solution(replace(problem, masks=inputs.masks), model, limits, history)
