"""Budgets and cost models → constraints, refused before any long work where they do not fit each other."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ecc.api.analytic import made_for
from ecc.core.budget import Budget
from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.problem import Constraint
from ecc.core.widths import WidthSpace
from ecc.energy_models.counting import COUNTED, CountCost
from ecc.energy_models.fitted import FittedCost
from ecc.network.blocks import in_blocks
from ecc.network.graph import WidthGraph

__all__ = ["constraints_of", "demand_prunable", "floor_of", "graph_of_costs"]


def demand_prunable(graph: WidthGraph) -> None:
    """Refuse a network of which nothing can be pruned.

    Raises:
        InputError: If there is no prunable group; with the reasons of the first few.
    """
    if not len(graph.space):
        reasons = "; ".join(f"{group.name}: {group.reason}" for group in graph.groups[:3]) or "it has no channels"
        raise InputError(f"the network has no prunable group, so there is nothing to compress ({reasons})")


def constraints_of(graph: WidthGraph, budgets: Sequence[Budget], costs: Sequence[CostModel]) -> tuple[Constraint, ...]:
    """One constraint per budget, with the cost model of its metric; counts need none.

    Raises:
        InputError: If a budget has no cost model, a cost model has no budget or belongs to another network, or a limit
            is above dense. Whether the limits can be reached together is not looked at here.
    """
    demand_prunable(graph)
    if not budgets:
        raise InputError("there is no budget; give one, for example latency<=60%")
    metrics = [budget.metric for budget in budgets]
    if len(set(metrics)) < len(metrics):
        raise InputError(f"metric {max(metrics, key=metrics.count)!r} has several budgets; give the tightest only")
    by_metric = {cost.metric: made_for(graph, cost) for cost in costs}
    if len(by_metric) < len(costs):
        raise InputError("there are two cost models of one metric; give one per budget")
    found = []
    for budget in budgets:
        cost = by_metric.get(budget.metric)
        if cost is None:
            if budget.metric not in COUNTED:
                raise InputError(
                    f"budget {budget.metric} needs a cost model of {budget.metric}: profile that metric with "
                    "ecc profile, fit it with ecc fit, and give the file with --cost (costs=[...] in Python), or give "
                    "an analytic one such as --cost systolic:eyeriss"
                )
            cost = CountCost(budget.metric, graph)
        _refuse_foreign(cost, graph)
        found.append(Constraint(cost, budget.absolute(cost.dense, cost.unit)))
    if unused := [metric for metric in by_metric if metric not in metrics]:
        raise InputError(f"the cost model of {unused[0]} has no budget; give {unused[0]}=LIMIT or leave the model out")
    return tuple(found)


def floor_of(space: WidthSpace, costs: Sequence[CostModel]) -> dict[str, int]:
    """Fewest channels per group at which every cost model says something: one unit, or what was profiled."""
    floors = [space.smallest, *(cost.floor for cost in costs if isinstance(cost, FittedCost))]
    return {name: max(floor[name] for floor in floors) for name in space.names}


def graph_of_costs(graph: WidthGraph, model: nn.Module, costs: Sequence[CostModel]) -> WidthGraph:
    """The graph with the steps that the cost models were made for.

    Raises:
        InputError: If a cost model belongs to another network, or two were made for different steps.
    """
    spaces = {cost.space.step: cost.space for cost in costs if cost.provenance is not None}
    if not spaces:
        return graph
    if len(spaces) > 1:
        raise InputError("the cost models were profiled with different steps; profile all metrics with one --step")
    (space,) = spaces.values()
    full = graph.space.full
    if tuple(full) != space.names or tuple(full.values()) != space.dense:
        _refuse_foreign(next(cost for cost in costs if cost.provenance is not None), graph)
    return in_blocks(graph, model, dict(zip(space.names, space.step, strict=True)))


def _refuse_foreign(cost: CostModel, graph: WidthGraph) -> None:
    place = cost.provenance
    if cost.space != graph.space or (place is not None and place.fingerprint != graph.fingerprint):
        name = f" ({place.network})" if place is not None else ""
        raise InputError(
            f"the {cost.metric} cost model belongs to another network{name}; profile and fit this one, or give the "
            "model and the options that it was made for"
        )
