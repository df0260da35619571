"""compress: a trained network to its budgets, measured where their cost models were measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ecc.api.constraints import constraints_of, graph_of_costs
from ecc.api.job import Job, keeper_in
from ecc.api.recipe import Recipe
from ecc.api.result import Compression
from ecc.core.budget import Budget
from ecc.core.cost import CostModel
from ecc.core.problem import Batches, Progress, Task
from ecc.network.graph import WidthGraph
from ecc.profiler.devices import current_device

__all__ = ["Compression", "compress"]


def compress(
    model: nn.Module,
    graph: WidthGraph,
    task: Task,
    budgets: Sequence[Budget],
    costs: Sequence[CostModel],
    inputs: Any,
    *,
    recipe: Recipe | None = None,
    test: Batches | None = None,
    network: str = "",
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Compression:
    """Compress a trained network to its budgets; the model is left as it is.

    Args:
        graph: Width graph of the model; where a cost model was fitted to longer steps, those widths are used.
        inputs: The batch that is timed.
        recipe: How to run the job.
        test: Where the two accuracies are computed; the task's validation batches when None.
        network: Name for people; the class's by default.
        folder: Where the job's state is kept, so that the same call goes on after an interrupt; removed by the caller.
        progress: Told how far each stage is.
    Raises:
        InputError: If the input makes no sense, or a budget cannot be reached.
        UnavailableError: If the device to train on is not here.
        Interrupted: If the user pressed Ctrl-C; the state is in ``folder``.
    """
    plan = recipe or Recipe()
    if plan.device is not None:
        current_device(plan.device)  # refuse one that is not here before any work
    blocks = graph_of_costs(graph, model, costs)
    limits = constraints_of(blocks, budgets, costs)
    name = network or type(model).__name__
    job = Job(model, graph, blocks, task, tuple(budgets), limits, inputs, plan, test, name, keeper_in(folder), progress)
    return job.run()
