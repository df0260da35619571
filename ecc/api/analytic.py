"""Analytic costs in a job: made for its network, and computed anew for the network that came out."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from torch import nn

from ecc.core.budget import Budget
from ecc.core.cost import CostModel
from ecc.core.errors import EccError, InputError
from ecc.core.verdict import BudgetCheck
from ecc.core.widths import Widths
from ecc.energy_models.depth import cost_without
from ecc.energy_models.systolic.account import layer_energy
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.cost import SYSTOLIC_METRICS, SystolicCost
from ecc.energy_models.systolic.dataflow import execute, latency
from ecc.energy_models.systolic.layers import layers_of
from ecc.network.graph import WidthGraph

__all__ = ["SYSTOLIC_PREFIX", "exact_check", "made_for", "recount", "renewed", "systolic_costs"]

SYSTOLIC_PREFIX = "systolic:"
"""What a cost model of the command line begins with that is a systolic array."""


def systolic_costs(
    graph: WidthGraph, array: SystolicArray, budgets: Sequence[Budget], costs: Sequence[CostModel]
) -> list[SystolicCost]:
    """The costs of a network on an array for the budgets that have no other cost model.

    Args:
        graph: With the steps of the other cost models.
        costs: The other cost models.
    Raises:
        InputError: If no budget is left for it, or the array does not suit.
    """
    known = {cost.metric for cost in costs}
    left = [budget.metric for budget in budgets if budget.metric in SYSTOLIC_METRICS and budget.metric not in known]
    if not left:
        raise InputError(
            f"the systolic array {array.name} has no budget of its own; "
            "give energy=LIMIT (or latency=LIMIT, where its frequency is known), or leave it out"
        )
    return [SystolicCost.of(graph, array, metric) for metric in SYSTOLIC_METRICS if metric in left]


def made_for(graph: WidthGraph, cost: CostModel) -> CostModel:
    """The cost model itself, or an analytic one with the steps of the graph.

    Raises:
        InputError: If an analytic one is of another network or of another input.
    """
    if not isinstance(cost, SystolicCost):
        return cost
    own = cost.on(graph.space)
    fresh = renewed(graph, cost)
    if not math.isclose(own.dense, fresh.dense, rel_tol=1e-9):
        raise InputError(
            f"the {cost.metric} of {cost.source} was made for another network or another input; make it for this one"
        )
    return own


def renewed(graph: WidthGraph, cost: CostModel) -> CostModel:
    """The cost model itself, or an analytic one made anew for a graph, of which it says nothing but the array."""
    return SystolicCost.of(graph, cost.array, cost.metric) if isinstance(cost, SystolicCost) else cost


def exact_check(
    budget: Budget,
    cost: CostModel,
    graph: WidthGraph,
    widths: Widths,
    compact: nn.Module,
    removed: Collection[str] = (),
) -> BudgetCheck:
    """A budget judged by an exact cost: what it says of the widths is predicted, what ``recount`` gives is found.

    Args:
        graph: Of the dense network.
        removed: Residual blocks that the compact network does not have.
    """
    left = cost_without(cost, graph, removed)
    return BudgetCheck.of_count(
        budget,
        dense=cost.dense,
        value=recount(left, graph.without(removed, widths), widths, compact),
        predicted=float(left(widths)),
        unit=cost.unit,
        source=cost.source,
    )


def recount(cost: CostModel, graph: WidthGraph, widths: Widths, compact: nn.Module) -> float:
    """What an exact cost is for the compact network itself, from its operators and its weights one by one.

    Args:
        graph: Of the dense network, without blocks that the compact one does not have.
        widths: Those of the compact network.
    Raises:
        EccError: If the compact network is not the dense one at these widths.
    """
    if not isinstance(cost, SystolicCost):
        return float(cost(widths))
    relative = graph.relative(widths)
    if cost.metric == "latency":
        seconds = latency(execute([call.at(relative) for call in graph.calls], cost.array), cost.array)
        return math.nan if seconds is None else seconds
    layers, weights = layers_of(graph, relative)[0], dict(compact.named_parameters())
    for dense, layer in zip(layers_of(graph)[0], layers, strict=True):
        if layer.weight in weights and math.prod(graph.parameters[layer.weight].shape) == dense.size:
            found = weights[layer.weight].numel()
            if found != layer.size:
                raise EccError(f"layer {layer.name} of the compact network has {found} weights instead of {layer.size}")
    return math.fsum(layer_energy(layer, cost.array).total for layer in layers)
