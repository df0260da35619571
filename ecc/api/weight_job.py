"""WeightJob: single weights, and inputs, of a network pruned under budgets that are computed and not measured.

The network is the dense one, or what a job on channels has left of it. Nothing is corrected afterwards: a solver keeps
the upper bound of each cost within its limit, and the verdict is on the exact value of the weights that came out.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
from torch import nn

from ecc.api.bench import Keeper
from ecc.api.job import Job
from ecc.api.result import Compression
from ecc.api.ruler import Meters, Ruler
from ecc.api.sparsity import Sparsity, compared, nonzeros_of
from ecc.api.weight_costs import WeightTarget, demand_above_floor, weight_costs
from ecc.api.weight_recipe import JointRecipe, WeightRecipe
from ecc.core.budget import Budget
from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.problem import Batches, Progress, Status, Task
from ecc.core.verdict import BudgetCheck
from ecc.core.weights import Masks, WeightConstraint, WeightCost, WeightProblem
from ecc.energy_models.counting import COUNTED, CountCost
from ecc.network.graph import WidthGraph
from ecc.network.input_masks import apply_masks
from ecc.network.nesting import map_tensors
from ecc.network.tracing import trace
from ecc.solvers.distributed import Ranks
from ecc.solvers.evaluation import device_of
from ecc.solvers.training import evaluate

__all__ = ["WeightJob", "weight_checks"]


@dataclass(frozen=True, eq=False)
class WeightJob:
    """One call of ``compress`` with a method that prunes weights.

    Attributes:
        model: The dense, trained network.
        graph: Its width graph.
        targets: What is to be reached; each begins at the dense network, or at that without channels.
        costs: Cost models of all budgets, as the user gave them.
        inputs: The batch that was traced.
        recipe: How weights go, or channels and then weights.
        test: Where the accuracies are computed; the task's validation batches when None.
        network: Name for people.
        keeper: Where each stage keeps its state.
        channels: What removes channels first, with as many targets; None where all stay.
        meters: Of the user's own.
        ranks: The processes that do the job together; all train, the first one alone evaluates and measures.

    Raises:
        InputError: If a target cannot be reached, or the processes were given different jobs.
    """

    model: nn.Module
    graph: WidthGraph
    task: Task
    targets: tuple[WeightTarget, ...]
    costs: tuple[CostModel, ...]
    inputs: Any
    recipe: WeightRecipe | JointRecipe
    test: Batches | None
    network: str
    keeper: Keeper
    progress: Progress | None
    channels: Job | None = None
    meters: Meters = ()
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        settings = {name: value for name, value in self.recipe.settings.items() if name != "device"}
        limits = [(one.cost.metric, f"{one.limit:.9g}") for target in self.targets for one in target.limits]
        if not self.ranks.agree(repr((settings, self.graph.fingerprint, limits))):
            raise InputError(
                "the processes of this job were given different networks, budgets, cost models or settings; give all "
                "of them the same, cost models from one file"
            )
        if self.channels is None:  # else the floor falls with the channels
            for target in self.targets:
                self._demand_reachable(target.limits)

    def run(self) -> Iterator[Compression]:
        """Do what is left of the job: one result per target, in their order."""
        started = time.monotonic()
        for target, start in zip(self.targets, self._starts(), strict=True):
            yield self._pruned(target, start, started)
            started = time.monotonic()

    @property
    def _weights(self) -> WeightRecipe:
        return self.recipe.weights if isinstance(self.recipe, JointRecipe) else self.recipe

    def _demand_reachable(self, limits: Sequence[WeightConstraint]) -> None:
        demand_above_floor(limits, masks=self._weights.masks, method=self._weights.method)

    def _starts(self) -> Iterator[Compression]:
        """What the weights of each target are pruned of."""
        if self.channels is not None:
            yield from self.channels.run()
            return
        dense = copy.deepcopy(self.model).eval()
        if self.recipe.device is not None:
            dense.to(self.recipe.device)
        accuracy = self._accuracy(dense)
        for target in self.targets:
            yield Compression(
                network=self.network,
                dense=dense,
                model=dense,
                graph=self.graph,
                kept={},
                widths=self.graph.space.full,
                recipe=self.recipe,
                budgets=(),
                costs=(),
                accuracy_dense=accuracy,
                accuracy=accuracy,
                nonzero_fraction=1.0,
                rounds=0,
                seconds=0.0,
                history=pd.DataFrame(),
                inputs=self.inputs,
                label=target.label,
            )

    def _pruned(self, target: WeightTarget, start: Compression, started: float) -> Compression:
        """The network of a start with weights, and inputs, that are zero."""
        whole = start.model is start.dense
        device = device_of(start.model)
        graph = start.graph if whole else trace(start.model, map_tensors(lambda each: each.to(device), self.inputs))
        costs = weight_costs(start.model, graph, target.budgets, self.costs)
        limits = tuple(WeightConstraint(cost, one.limit) for cost, one in zip(costs, target.limits, strict=True))
        self._demand_reachable(limits)
        solver = self._weights.solver()
        solved = solver.solve(
            WeightProblem(start.model, self.task, limits, self.recipe.seed, teacher=start.dense),
            progress=self.progress,
            checkpoint=self.keeper("-".join(part for part in (target.label, "weights") if part)),
        )
        if solved.status is not Status.MET:
            raise InputError(f"method {solver.name}: {solved.status.value}")
        pruned, masks = solved.model.eval(), {name: mask.detach() for name, mask in solved.masks.items()}
        model = apply_masks(pruned, masks).eval() if masks else pruned
        dense = [one.cost for one in target.limits]
        checks = weight_checks(target.budgets, dense, costs, pruned, masks)
        return replace(
            start,
            model=model,
            recipe=self.recipe,
            budgets=(*checks, *self._kept_checks(start, checks, model, masks)),
            costs=self._costs_of(target, start),
            accuracy=self._accuracy(model),
            nonzero_fraction=nonzeros_of(pruned) / sum(parameter.numel() for parameter in start.dense.parameters()),
            rounds=start.rounds + max(1, solved.history["phase"].nunique()),
            seconds=time.monotonic() - started,
            history=pd.concat([each for each in (start.history, solved.history) if len(each)], ignore_index=True),
            sparsity=_sparsity(solver.name, start, dense, costs, pruned, masks),
        )

    def _kept_checks(
        self, start: Compression, known: Sequence[BudgetCheck], model: nn.Module, masks: Masks
    ) -> list[BudgetCheck]:
        """Budgets that channels hold; measured again where masked inputs have made layers slower."""
        metrics = {check.metric for check in known}
        left = [check for check in start.budgets if check.metric not in metrics]
        if not masks or all(check.metric in COUNTED or check.source for check in left):
            return left
        told = self.ranks.told(lambda: {"checks": [check.to_json() for check in self._measured(start, left, model)]})
        return [BudgetCheck.from_json(check) for check in told["checks"]]

    def _measured(self, start: Compression, checks: Sequence[BudgetCheck], model: nn.Module) -> list[BudgetCheck]:
        ruler = Ruler.of(start.dense, self.inputs, start.costs, self.meters)
        if isinstance(ruler, str):
            return list(checks)
        seconds = self.recipe.channels.measure_s if isinstance(self.recipe, JointRecipe) else 20.0
        (found,) = ruler.measure([model], seconds=seconds, progress=self.progress, seed=self.recipe.seed)
        return [
            BudgetCheck.of_measurement(check.budget, found[check.metric], predicted=check.predicted)
            if check.metric in found
            else check
            for check in checks
        ]

    def _costs_of(self, target: WeightTarget, start: Compression) -> tuple[CostModel, ...]:
        """One cost model per budget, in the order of the checks."""
        given = {cost.metric: cost for cost in self.costs}
        own = [given.get(one.metric) or CountCost(one.metric, self.graph) for one in target.budgets]
        metrics = [budget.metric for budget in target.budgets]
        return (*own, *(cost for cost in start.costs if cost.metric not in metrics))

    def _accuracy(self, model: nn.Module) -> float:
        batches = self.task.validation if self.test is None else self.test
        return float(self.ranks.told(lambda: {"score": evaluate(model, batches, self.task.score)})["score"])


def weight_checks(
    budgets: Sequence[Budget],
    dense: Sequence[WeightCost],
    costs: Sequence[WeightCost],
    model: nn.Module,
    masks: Masks,
) -> tuple[BudgetCheck, ...]:
    """Budgets judged by the exact costs of weights as they are; what is predicted is the upper bound.

    Args:
        budgets: On what weights that are zero save.
        dense: The cost of the dense network for each.
        costs: That of ``model``, which may have fewer channels.
        model: Without masks; these apart.
    """
    counts = {name: int(parameter.count_nonzero()) for name, parameter in model.named_parameters()}
    return tuple(
        BudgetCheck.of_count(
            budget,
            dense=whole.dense,
            value=cost.exact(model, masks),
            predicted=cost.prices(masks).of(counts),
            unit=cost.unit,
            source=cost.source,
        )
        for budget, whole, cost in zip(budgets, dense, costs, strict=True)
    )


def _sparsity(
    method: str,
    start: Compression,
    dense: Sequence[WeightCost],
    costs: Sequence[WeightCost],
    model: nn.Module,
    masks: Masks,
) -> Sparsity:
    """What is zero, by the layers of the energy where there is a budget on it."""
    first = next((place for place, cost in enumerate(costs) if cost.metric == "energy"), 0)
    before, after = dense[first].table(start.dense, {}), costs[first].table(model, masks)
    unit = costs[first].unit if costs[first].metric == "energy" else ""
    kept = {name: mask.to("cpu") for name, mask in masks.items()}
    return Sparsity(method, kept, compared(before, after), unit)
