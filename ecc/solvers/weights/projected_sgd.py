"""Projected SGD: weights that meet budgets after every projection, and train in between.

Yang, Zhu, Liu: Energy-Constrained Compression for Deep Neural Networks via Weighted Sparse Projection and Layer Input
Masking, ICLR 2019.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ecc.core.problem import Checkpoint, Progress
from ecc.core.rules import demand_rules
from ecc.core.weights import WeightProblem, WeightSolution
from ecc.solvers.distributed import Ranks
from ecc.solvers.projection import project_
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import Step
from ecc.solvers.weights.falls import FALLS, Fall, FallKind, due
from ecc.solvers.weights.limits import WeightLimits
from ecc.solvers.weights.profits import PROFITS, Profit, Profits
from ecc.solvers.weights.runs import prune_in_training

__all__ = ["ProjectedSgd", "Projecting"]


@dataclass(frozen=True, slots=True)
class ProjectedSgd:
    """Gradient steps, and every few of them the projection onto the weights that meet the budgets.

    A projection keeps the weights of most profit per price; the others become zero, and may come back by the gradient
    steps until the next one. It is taken every so many steps, at the end of every epoch, and at the very end, with
    limits that fall from what the network costs at first to the budgets, which every later projection keeps.

    As published it is ``ProjectedSgd(training=TrainConfig(lr=1e-3, optimizer="sgd", weight_decay=1e-4,
    schedule="constant", dropout=False), schedule="exponential", continuation=1.0, profit="magnitude",
    min_fraction=0.0)``. It differs in what weights are worth (``profit``), in how limits fall (``schedule``) and that
    they have fallen early enough to train at the budgets (``continuation``), and in that no layer is emptied
    (``min_fraction``).

    Attributes:
        training: How the weights are trained; ``seed`` is replaced by the problem's. The optimiser keeps its momentum
            and moments of weights that went. A moving average of the weights (``ema``) is projected at the end only.
        every: Steps between two projections; fewer in short runs, so that limits fall in 20 moves at least.
        schedule: How limits fall: ``geometric``, ``exponential`` or ``linear``, see ``Fall``.
        continuation: Part of the steps over which they do.
        profit: What weights are worth: ``magnitude``, or by the loss ``taylor`` or ``fisher``, see ``Profits``.
        min_fraction: Least fraction of each tensor's weights that is kept, those of most profit; halved until that
            takes no more than a tenth of what weights may spend, and one weight always is kept where there is room.

    Raises:
        InputError: If a value makes no sense.
    """

    training: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=10, lr=2e-3, dropout=False))
    every: int = 10
    schedule: FallKind = "geometric"
    continuation: float = 0.5
    profit: Profit = "taylor"
    min_fraction: float = 0.02
    name: str = field(default="projected-sgd", init=False)

    def __post_init__(self) -> None:
        rules = {
            "every": (self.every >= 1, "must be 1 or more"),
            "schedule": (self.schedule in FALLS, f"must be {', '.join(FALLS[:-1])} or {FALLS[-1]}"),
            "continuation": (0 <= self.continuation <= 1, "must be in [0, 1]"),
            "profit": (self.profit in PROFITS, f"must be {', '.join(PROFITS[:-1])} or {PROFITS[-1]}"),
            "min_fraction": (0 <= self.min_fraction <= 1, "must be in [0, 1]"),
        }
        demand_rules(self, rules)

    def solve(
        self, problem: WeightProblem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> WeightSolution:
        """Find weights; the problem's network stays as it is and teaches the copy.

        Raises:
            InputError: If a budget cannot be met, before any training; the message says what can be.
            EccError: If training diverges.
            Interrupted: If the user pressed Ctrl-C; the state is saved.
        """
        return prune_in_training(
            problem,
            self.training,
            self.name,
            self.min_fraction,
            lambda limits, model, ranks: Projecting(self, limits, model, ranks),
            progress,
            checkpoint,
        )


class Projecting:
    """The projections behind optimiser steps; a hook of ``train``.

    Args:
        rules: Settings.
        limits: Of the network in training.
        model: That network, on its device.
        ranks: The processes that train it together; the first one says what weights are.
        constants: What the limits fall towards without weights, one per constraint; the limits' own when None. Less
            where masks of inputs fall beside.
    """

    def __init__(
        self,
        rules: ProjectedSgd,
        limits: WeightLimits,
        model: nn.Module,
        ranks: Ranks | None = None,
        *,
        constants: Sequence[float] | None = None,
    ) -> None:
        self.rules, self.limits, self._ranks = rules, limits, ranks or Ranks()
        parameters = dict(model.named_parameters())
        self._profits = Profits(rules.profit, [parameters[name] for name in limits.tensors], rules.every)
        start = tuple(limits.spent(limits.counts()))
        self.limits_now = list(start)
        left = tuple(limits.constants if constants is None else constants)
        self._fall = Fall(start, tuple(limits.limits), left, rules.schedule, rules.continuation)

    @property
    def key(self) -> str:
        """Settings and constraints."""
        rules = self.rules
        return json.dumps([rules.every, rules.schedule, rules.continuation, rules.profit, self.limits.key])

    def after_step(self, step: Step) -> bool:
        """Look at the gradients, and project if it is time."""
        self._profits.observe(step.index)
        if due(step, self.rules.every, self.rules.training.epochs, self.rules.continuation):
            self.project(self._fall.at(step))
        return False

    @torch.no_grad()
    def project(self, limits: Sequence[float]) -> None:
        """The weights that meet the limits, one per constraint; nothing where weights are not finite.

        The training loop finds these and says so.
        """
        if not self.limits.finite():
            return
        self.limits_now = list(limits)
        tensors = list(self.limits.tensors.values())
        spendable = [limit - constant for limit, constant in zip(limits, self.limits.constants, strict=True)]
        (prices, budget), *others = zip(self.limits.prices, (max(0.0, each) for each in spendable), strict=True)
        project_(
            tensors,
            prices,
            budget,
            second=others[0] if others else None,
            floors=self.limits.least,
            profits=self._profits.of_weights(),
        )
        self._ranks.share(tensors)

    def finish(self) -> None:
        """Project onto the budgets themselves."""
        self.project(self.limits.limits)

    def figures(self) -> dict[str, float]:
        """Relative costs, worst violation and the share of the weights that is not zero."""
        return self.limits.figures(self.limits.counts())

    def state(self) -> dict[str, Any]:
        """Running means of the gradients."""
        return self._profits.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        self._profits.restore(state)
