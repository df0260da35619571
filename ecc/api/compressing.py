"""compress: a trained network to its budgets, measured where their cost models were measured."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ecc.api.bench import Keeper, keeper_in
from ecc.api.chance import upper
from ecc.api.constraints import constraints_of, graph_of_costs
from ecc.api.job import Job
from ecc.api.recipe import Recipe
from ecc.api.result import Compression
from ecc.api.ruler import Meters
from ecc.api.targets import Target, labels_of
from ecc.api.weight_costs import channel_sets, on_weights, weight_targets
from ecc.api.weight_job import WeightJob
from ecc.api.weight_recipe import AnyRecipe, JointRecipe, WeightRecipe
from ecc.core.budget import Budget
from ecc.core.cost import CostModel
from ecc.core.problem import Batches, Constraint, Progress, Task
from ecc.network.graph import WidthGraph
from ecc.profiler.devices import current_device
from ecc.solvers.distributed import Ranks, join
from ecc.solvers.evaluation import demand_fitting, device_of

__all__ = ["Compression", "compress", "compress_path", "job_of"]


def compress(
    model: nn.Module,
    graph: WidthGraph,
    task: Task,
    budgets: Sequence[Budget],
    costs: Sequence[CostModel],
    inputs: Any,
    **options: Any,
) -> Compression:
    """Compress a trained network to its budgets; the model is left as it is.

    Args:
        options: As of ``job_of``.
    Raises:
        InputError: If the input makes no sense, or the budgets cannot be reached together.
        UnavailableError: If the device to train on is not here.
        Interrupted: If the user pressed Ctrl-C; the state is in ``folder``.
    """
    (result,) = job_of(model, graph, task, [tuple(budgets)], costs, inputs, **options).run()
    return result


def compress_path(
    model: nn.Module,
    graph: WidthGraph,
    task: Task,
    sets: Sequence[tuple[Budget, ...]],
    costs: Sequence[CostModel],
    inputs: Any,
    **options: Any,
) -> Iterator[Compression]:
    """One network for each set of budgets, from loose to tight, each begun where the one before ended.

    Args:
        sets: As of ``sets_of``.
        options: As of ``job_of``.
    Raises:
        InputError: As of ``compress``, at once, whichever set is at fault.
    """
    return job_of(model, graph, task, sets, costs, inputs, **options).run()


def job_of(
    model: nn.Module,
    graph: WidthGraph,
    task: Task,
    sets: Sequence[tuple[Budget, ...]],
    costs: Sequence[CostModel],
    inputs: Any,
    *,
    recipe: AnyRecipe | None = None,
    test: Batches | None = None,
    network: str = "",
    folder: str | Path | None = None,
    meters: Meters = (),
    progress: Progress | None = None,
) -> Job | WeightJob:
    """The job, refused where it cannot be done; nothing is trained or measured yet.

    Under torchrun every process makes the same call and gets the same results; the weights of the first process count.

    Args:
        graph: Width graph of the model; where a cost model was fitted to longer steps, those widths are used.
        sets: Budgets of each network, from loose to tight.
        inputs: The batch that is timed.
        recipe: How to run the job.
        test: Where the accuracies are computed; the task's validation batches when None.
        network: Name for people; the class's by default.
        folder: Where the job's state is kept, so that the same call goes on after an interrupt; removed by the caller.
        meters: One or several of the user's own, for their metrics instead of the device's.
        progress: Told how far each stage is.
    Raises:
        InputError: If the input makes no sense, or the budgets cannot be reached together.
        UnavailableError: If the device to train on is not here.
    """
    plan = recipe or Recipe()
    if plan.device is not None:
        current_device(plan.device)  # refuse one that is not here before any work
    ranks, device = join(plan.device, device_of(model))
    if ranks.world > 1:
        plan = plan.on(device)
        model = copy.deepcopy(model)
        ranks.share(list(model.state_dict().values()))
        progress = progress if ranks.first else None
    call = _Call(
        model, graph, task, inputs, test, network or type(model).__name__, keeper_in(folder), progress, meters, ranks
    )
    job = call.of_channels(plan, sets, costs) if isinstance(plan, Recipe) else call.of_weights(plan, sets, costs)
    demand_fitting(model, task)
    return job


@dataclass(frozen=True, eq=False)
class _Call:
    """What jobs of every kind get of one call."""

    model: nn.Module
    graph: WidthGraph
    task: Task
    inputs: Any
    test: Batches | None
    network: str
    keeper: Keeper
    progress: Progress | None
    meters: Meters
    ranks: Ranks

    def of_channels(self, plan: Recipe, sets: Sequence[tuple[Budget, ...]], costs: Sequence[CostModel]) -> Job:
        """A job that removes channels."""
        blocks = graph_of_costs(self.graph, self.model, costs)
        targets = _targets(sets, constraints_of(blocks, sets[0], costs), plan)
        return Job(graph=blocks, base=self.graph, targets=targets, recipe=plan, **self._common)

    def of_weights(
        self, plan: WeightRecipe | JointRecipe, sets: Sequence[tuple[Budget, ...]], costs: Sequence[CostModel]
    ) -> WeightJob:
        """A job that prunes weights, behind one that removes channels where both are asked for."""
        labels, channels, method = labels_of(sets), None, plan.method
        own, known = list(sets), list(costs)
        if isinstance(plan, JointRecipe):
            method = plan.weights.method
            own = [tuple(each for each in budgets if on_weights(each.metric, costs)) for budgets in sets]
            known = [cost for cost in costs if on_weights(cost.metric, costs)]
        targets = weight_targets(self.model, self.graph, own, labels, known, method)
        if isinstance(plan, JointRecipe):
            before = channel_sets(sets, targets, plan.share)
            needed = [cost for cost in costs if cost.metric in {budget.metric for budget in before[0]}]
            channels = self.of_channels(plan.channels, before, needed)
        return WeightJob(
            graph=self.graph, targets=targets, costs=tuple(costs), recipe=plan, channels=channels, **self._common
        )

    @property
    def _common(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "task": self.task,
            "inputs": self.inputs,
            "test": self.test,
            "network": self.network,
            "keeper": self.keeper,
            "progress": self.progress,
            "meters": self.meters,
            "ranks": self.ranks,
        }


def _targets(sets: Sequence[tuple[Budget, ...]], first: Sequence[Constraint], plan: Recipe) -> tuple[Target, ...]:
    """The targets on the cost models of the first, which methods that go from one to the next want to be the same."""
    costs = [limit.cost for limit in first]
    uppers = [upper(cost, plan.chance) for cost in costs]
    targets = []
    for label, budgets in zip(labels_of(sets), sets, strict=True):
        limits = [budget.absolute(cost.dense, cost.unit) for budget, cost in zip(budgets, costs, strict=True)]
        own, above = (tuple(map(Constraint, kinds, limits)) for kinds in (costs, uppers))
        targets.append(Target(label, budgets, own, above))
    return tuple(targets)
