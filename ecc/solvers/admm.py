"""ECC: weights and widths together, by ADMM with Adam, under any number of cost constraints.

Yang, Zhu, Liu: ECC: Platform-Independent Energy-Constrained Deep Neural Network Compression via a Bilinear Regression
Model, CVPR 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import torch

from ecc.core.errors import InputError
from ecc.core.problem import Checkpoint, Constraint, Problem, Progress, Solution
from ecc.core.rules import demand_rules
from ecc.solvers.alternation import FORMS, Alternation
from ecc.solvers.distributed import join
from ecc.solvers.energies import CRITERIA, Criterion
from ecc.solvers.evaluation import device_of
from ecc.solvers.floors import floored_limits
from ecc.solvers.limits import Limits, solution
from ecc.solvers.training import TrainConfig, train

__all__ = ["Admm", "Keeper"]

Keeper = Callable[[str], Checkpoint | None]
"""Where the state of each part of a longer run is kept, by the part's name; None where nothing is kept."""


@dataclass(frozen=True, slots=True)
class Admm:
    """ECC's alternating steps, in the order of the paper, after every mini-batch.

    1. a step of the optimiser on the loss, distilled from the dense network;
    2. the proximal step: per group the units of least energy Σ D·w²/(2α) go, D = sqrt(v) + eps of Adam (1 for SGD);
    3. the width step on the bounds s;
    4. ascent of the duals y (φ ≤ s, per group) and z (cost ≤ limit, per constraint).

    It ends as soon as the costs of the units that are left meet every limit, and then spends what is left of the budget
    on the dropped units that matter most. Training the slim network afterwards is the caller's.

    Forms:

    - ``paper``: the augmented Lagrangian as written, with the sum of squared hinges and y along φ - s;
    - ``code``: what the public code does: the square of the sum of hinges, floor(s) in the ascent of y, and its
      stabilisers of the width step: z is lifted until s moves, s only shrinks, a step is clipped.

    In both forms y is capped so that at least floor(s) units stay, as in the public code: without that a dual which has
    grown large empties its group.

    Width steps:

    - ``allocation``: s is the whole-number choice of widths that loses least under the limits of the moment, by the
      curves of ``curves``; z are then its prices;
    - ``gradient``: one step down the gradient of the Lagrangian, as published.

    It differs from the publication where that depends on units or on long runs:

    - costs and widths are relative to dense, energies relative to the network's mean energy of a group at each step, so
      that ``rho`` means the same for every network, device and learning rate; D is without Adam's bias;
    - the step size of s follows from the curvature of the Lagrangian;
    - the limit falls from the dense cost to the budget, at the pace at which nothing would be left after the first part
      of the steps (``continuation``), so that channels go no faster than the run allows and the duals can follow; a
      loose budget is met early, and what is left of the run is for the slim network;
    - dropped units keep the weights they had and go on learning (``memory``), so that they can come back;
    - if the steps are over before the budget is met, the units of least energy per cost go at once.

    With ``form="code", step="gradient", continuation=0, memory=0, min_fraction=0`` only the units of measure differ.

    Attributes:
        training: How the weights are trained; ``seed`` is replaced by the problem's.
        rho: Weight of the quadratic penalties and step of the duals; results hardly depend on it from 1 to 100.
        form: ``paper`` or ``code``.
        step: ``allocation`` or ``gradient``; None: ``allocation`` in the paper's form, ``gradient`` in the code's.
        curves: What an allocation loses: ``measured``, how far the outputs of the dense network move when a group is
            narrowed, or ``importance``, the sum of the energies of the dropped units, which empties narrow groups.
        importance: What unit energies are: ``energy``, or the estimates of the loss ``taylor`` and ``fisher``, running
            means from the gradients of training.
        continuation: Part of the steps over which the limit would fall to nothing; 0 sets the budget from the start.
        memory: What is left of the weights of dropped units after each step: 0 for nothing, 1 for all.
        min_fraction: Least fraction of every group's units that is kept, so that no layer is emptied for the sake of
            others (ECC's energies favour that in narrow layers); halved until the budget can be reached, and one unit
            always is kept.

    Raises:
        InputError: If a value makes no sense.
    """

    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=10, lr=1e-3, schedule="constant", dropout=False)
    )
    rho: float = 10.0
    form: Literal["paper", "code"] = "paper"
    step: Literal["allocation", "gradient"] | None = None
    curves: Literal["measured", "importance"] = "measured"
    importance: Criterion = "energy"
    continuation: float = 0.7
    memory: float = 1.0
    min_fraction: float = 0.1
    name: str = field(default="admm", init=False)

    def __post_init__(self) -> None:
        rules = {
            "rho": (0 < self.rho < float("inf"), "must be positive"),
            "form": (self.form in FORMS, "must be paper or code"),
            "step": (self.step in ("allocation", "gradient", None), "must be allocation or gradient"),
            "curves": (self.curves in ("measured", "importance"), "must be measured or importance"),
            "importance": (self.importance in CRITERIA, f"must be {', '.join(CRITERIA[:-1])} or {CRITERIA[-1]}"),
            "continuation": (0 <= self.continuation <= 1, "must be in [0, 1]"),
            "memory": (0 <= self.memory <= 1, "must be in [0, 1]"),
            "min_fraction": (0 <= self.min_fraction <= 1, "must be in [0, 1]"),
        }
        demand_rules(self, rules)
        if self.form == "code" and self.step == "allocation":
            raise InputError("Admm(form='code') takes the public code's own step: leave step out or give 'gradient'")

    @property
    def allocates(self) -> bool:
        """Whether s is an allocation."""
        return self.form == "paper" and self.step != "gradient"

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Find weights and widths; the problem's network stays as it is and teaches the copy.

        Raises:
            InputError: If no admissible widths meet the limits; the message says what is reachable.
            EccError: If training diverges.
            Interrupted: If the user pressed Ctrl-C; the state is saved.
        """
        (found,) = self.solve_path(problem, [problem.constraints], progress=progress, keeper=lambda _name: checkpoint)
        return found

    def solve_path(
        self,
        problem: Problem,
        budgets: Sequence[Sequence[Constraint]],
        *,
        progress: Progress | None = None,
        keeper: Keeper | None = None,
    ) -> Iterator[Solution]:
        """One run through several budgets, from loose to tight; the epochs are those of the tightest.

        Units, bounds and duals of one budget are where the next one starts, and so are the weights. The epochs are
        shared out by how far the limits fall, one each at least.

        Args:
            problem: Its own constraints play no part.
            budgets: Constraints on the same costs, in the same order, none of them looser than the one before.
            keeper: Where the state of each budget's part is kept: it is asked for ``solve`` where there is one budget,
                and for ``solve-1``, ``solve-2`` … A part that is finished is not done again.

        Yields:
            A solution per budget, in order, as soon as it is found. Each holds its own network.

        Raises:
            InputError: If budgets do not fall, or no admissible widths meet the tightest; before any training.
            EccError: If training diverges.
            Interrupted: If the user pressed Ctrl-C; the state is saved.
        """
        limits = _falling(problem, budgets, self.min_fraction)
        return self._run(problem, limits, progress, keeper or (lambda _name: None))

    def _run(
        self, problem: Problem, path: Sequence[Limits], progress: Progress | None, keeper: Keeper
    ) -> Iterator[Solution]:
        ranks, device = join(self.training.device, device_of(problem.model))
        model = copy.deepcopy(problem.model)
        ranks.share(list(model.state_dict().values()))
        model.to(device)  # before slices are compiled: buffers are other tensors after a move
        hook = Alternation(self, problem, path[0], model, ranks)
        for number, (limits, epochs) in enumerate(zip(path, _shares(path, self.training.epochs), strict=True), 1):
            if number > 1:
                hook.aim(limits)
            history = train(
                model,
                problem.task,
                replace(self.training, epochs=epochs, seed=problem.seed),
                teacher=problem.model,
                hook=hook,
                stage=self.name,
                progress=progress,
                checkpoint=keeper("solve" if len(path) == 1 else f"solve-{number}"),
            )
            units = hook.final()
            masked = model if number == len(path) else copy.deepcopy(model)
            yield solution(problem, masked, limits, hook.ranking, units, history)


def _falling(problem: Problem, budgets: Sequence[Sequence[Constraint]], min_fraction: float) -> list[Limits]:
    """The limits of each budget, all with the floor that the tightest allows.

    Raises:
        InputError: If they do not fall, or cannot be met.
    """
    if not budgets:
        raise InputError("solve_path(budgets=...) needs at least one budget")
    for before, after in pairwise(budgets):
        costs = [constraint.cost for constraint in before]
        if len(after) != len(costs) or any(one.cost is not cost for one, cost in zip(after, costs, strict=True)):
            raise InputError("solve_path(budgets=...) must set limits on the same costs in the same order")
        if any(one.limit > other.limit for one, other in zip(after, before, strict=True)):
            raise InputError("solve_path(budgets=...) must go from loose to tight, and no limit may rise on the way")
    tightest = floored_limits(replace(problem, constraints=tuple(budgets[-1])), min_fraction)
    absolute = torch.tensor([[c.limit / c.cost.dense for c in budget] for budget in budgets], dtype=torch.float64)
    return [tightest.at(relative) for relative in absolute[:-1]] + [tightest]


def _shares(path: Sequence[Limits], epochs: int) -> list[int]:
    """Epochs of each part: by how far the tightest limit falls in it, one each at least where there are any."""
    levels = [1.0] + [min([1.0, *limits.limits.tolist()]) for limits in path]
    whole = max(levels[0] - levels[-1], 1e-12)
    ends = [round(epochs * (levels[0] - level) / whole) for level in levels]
    ends[-1] = epochs
    least = min(epochs, 1)
    return [max(after - before, least) for before, after in pairwise(ends)]
