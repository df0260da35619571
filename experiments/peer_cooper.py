"""An augmented Lagrangian with the library cooper, as a method of a job: gates on units under constraints on costs.

Gates are hard concrete (Louizos et al., ICLR 2018), the constraint is on the cost at the expected widths, as in
Gallego-Posada et al.: Controlled Sparsity via Constrained Optimization, NeurIPS 2022, by the authors of cooper.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cooper
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ecc.core.problem import Checkpoint, Problem, Progress, Solution
from ecc.solvers.distillation import distance
from ecc.solvers.evaluation import switch_off_dropout
from ecc.solvers.floors import floored_limits
from ecc.solvers.limits import Limits, Ranking, solution
from ecc.solvers.settings import TrainConfig
from ecc.solvers.sparsity import Slices, Sparsity

__all__ = ["Cooper"]

_STRETCH = (-0.1, 1.1)
_TEMPERATURE = 2 / 3
_OPEN = 2.0  # log-odds at the start: gates are open with probability 0.97
_TRAVEL = 12.0  # log-odds that a gate can move in the whole run, in steps of Adam
_ASCENT = 24.0  # what a multiplier gains in the whole run of a relative excess of 1


@dataclass(frozen=True, slots=True)
class Cooper:
    """Weights and gates by Adam, multipliers by gradient ascent, all at once.

    Attributes:
        training: Epochs, step size of the weights, distillation.
        rho: Coefficient of the quadratic penalty, on relative costs.
        min_fraction: Least fraction of every group's units, the floor of the other methods.
    """

    training: TrainConfig
    rho: float = 10.0
    min_fraction: float = 0.1
    name: str = field(default="cooper", init=False)

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Train with gates; what is expected to stay, within the limits, is kept with its gate's value."""
        limits = floored_limits(problem, self.min_fraction)
        model = copy.deepcopy(problem.model)
        gated = _Gated(model, problem, limits)
        rows = _train(gated, problem, self.training, self.rho)
        chance = gated.chance.detach()
        ranking = Ranking(list((chance + 1e-9 * gated.odds.detach()).split(list(gated.sizes))))
        expected = torch.maximum(gated.widths().detach().round(), limits.lowest)
        units = ranking.grow(ranking.shrink(expected, limits), limits)
        gated.merge(ranking.masks(units))
        return solution(problem, model, limits, ranking, units, pd.DataFrame(rows))


class _Gated:
    """A network with one gate per unit, on the weights that read it."""

    def __init__(self, model: nn.Module, problem: Problem, limits: Limits) -> None:
        self.model, self.limits = model, limits
        sparsity = Sparsity(model, problem.groups)
        self.sizes = sparsity.units
        self.odds = torch.full((sum(self.sizes),), _OPEN, dtype=torch.float64, requires_grad=True)
        names = {id(tensor): name for name, tensor in model.named_parameters()}
        self._slices = [(names[id(part.tensor)], part) for part in sparsity.gated if id(part.tensor) in names]

    @property
    def chance(self) -> Tensor:
        """That each gate is open."""
        low, high = _STRETCH
        return torch.sigmoid(self.odds - _TEMPERATURE * math.log(-low / high))

    def widths(self) -> Tensor:
        """Units that are expected to stay, per group."""
        return torch.stack([part.sum() for part in self.chance.split(list(self.sizes))])

    def excess(self) -> Tensor:
        """Relative costs above their limits."""
        return self.limits.costs(self.widths()) - self.limits.limits

    def __call__(self, inputs: Any) -> Tensor:
        noise = torch.rand_like(self.odds).clamp(1e-6, 1 - 1e-6)
        gates = _stretched(torch.sigmoid((self.odds + noise.log() - (1 - noise).log()) / _TEMPERATURE))
        weights = dict(self.model.named_parameters())
        outputs: Tensor = functional_call(self.model, _times(weights, self._slices, gates), (inputs,))
        return outputs

    @torch.no_grad()
    def merge(self, kept: Sequence[Tensor]) -> None:
        """Multiply the weights with the median gates; those kept are not closed."""
        gates = _stretched(torch.sigmoid(self.odds)).clamp(min=0.05)
        gates = torch.where(torch.cat(list(kept)), gates, 0.0)
        weights = dict(self.model.named_parameters())
        for name, weight in _times(weights, self._slices, gates).items():
            weights[name].copy_(weight)


def _stretched(values: Tensor) -> Tensor:
    low, high = _STRETCH
    return (values * (high - low) + low).clamp(0, 1)


def _times(weights: Mapping[str, Tensor], slices: Sequence[tuple[str, Slices]], gates: Tensor) -> dict[str, Tensor]:
    """The weights with each slice times the gate of its unit; what nobody owns as it is."""
    extended = torch.cat([gates, gates.new_ones(1)]).float()
    result = dict(weights)
    for name, part in slices:
        result[name] = result[name] * part.spread(extended)
    return result


class _Budgets(cooper.ConstrainedMinimizationProblem):  # type: ignore[misc]  # cooper is not there for the checks
    """The task's loss under the limits on costs."""

    def __init__(self, gated: _Gated, rho: float) -> None:
        super().__init__()
        count = len(gated.limits)
        self.gated = gated
        self.budgets = cooper.Constraint(
            constraint_type=cooper.ConstraintType.INEQUALITY,
            formulation_type=cooper.formulations.AugmentedLagrangian,
            multiplier=cooper.multipliers.DenseMultiplier(num_constraints=count),
            penalty_coefficient=cooper.penalty_coefficients.DensePenaltyCoefficient(init=torch.full((count,), rho)),
        )

    def compute_cmp_state(self, loss: Tensor) -> Any:
        state = cooper.ConstraintState(violation=self.gated.excess().float())
        return cooper.CMPState(loss=loss, observed_constraints={self.budgets: state})

    @torch.no_grad()
    def restart(self) -> None:
        """Forget the multipliers of limits that are met (dual restarts, as there): else gates keep closing."""
        for multiplier in self.dual_parameters():
            multiplier.masked_fill_(self.gated.excess() <= 0, 0.0)


def _train(gated: _Gated, problem: Problem, config: TrainConfig, rho: float) -> list[dict[str, Any]]:
    budgets = _Budgets(gated, rho)
    steps = config.epochs * sum(1 for _ in problem.task.train)
    optimizer = cooper.optim.SimultaneousOptimizer(
        cmp=budgets,
        primal_optimizers=[
            torch.optim.Adam(gated.model.parameters(), lr=config.lr),
            torch.optim.Adam([gated.odds], lr=_TRAVEL / steps),
        ],
        dual_optimizers=torch.optim.SGD(budgets.dual_parameters(), lr=_ASCENT / steps, maximize=True),
    )
    rows = []
    with switch_off_dropout(gated.model):
        for epoch in range(1, config.epochs + 1):
            started = time.monotonic()
            torch.manual_seed(problem.seed * 1000 + epoch)
            loss = _epoch(gated, problem, config, optimizer, budgets)
            costs = gated.limits.figures(gated.widths().detach())
            rows.append({"phase": "cooper", "epoch": epoch, "loss": loss, **costs})
            rows[-1]["seconds"] = time.monotonic() - started
    return rows


def _epoch(gated: _Gated, problem: Problem, config: TrainConfig, optimizer: Any, budgets: _Budgets) -> float:
    """One pass; the mean loss."""
    total = []
    gated.model.train()
    for inputs, targets in problem.task.train:
        with torch.no_grad():
            wanted = problem.model(inputs)
        outputs = gated(inputs)
        taught = config.distill * distance(outputs, wanted, config.temperature)
        loss = taught + (1 - config.distill) * problem.task.loss(outputs, targets)
        optimizer.roll(compute_cmp_state_kwargs={"loss": loss})
        budgets.restart()
        total.append(float(loss.detach()))
    return sum(total) / len(total)
