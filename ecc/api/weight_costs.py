"""Budgets on single weights → constraints, refused before any long work where single weights cannot keep them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ecc.api.weight_recipe import MASKING
from ecc.core.budget import Budget
from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.weights import WeightConstraint, WeightCost
from ecc.energy_models.systolic.cost import SystolicCost
from ecc.energy_models.systolic.weights import WeightEnergy
from ecc.energy_models.weight_counts import NonzeroCost
from ecc.network.graph import WidthGraph

__all__ = [
    "WEIGHT_METRICS",
    "WeightTarget",
    "channel_sets",
    "demand_above_floor",
    "demand_weight_metrics",
    "on_weights",
    "weight_costs",
    "weight_targets",
]

WEIGHT_METRICS = ("energy", "params")
"""What weights that are zero save: energy on a systolic array, and parameters to store."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightTarget:
    """Budgets that the weights of one network are to hold.

    Attributes:
        label: Names its states and its artefact; empty where there is but one target.
        budgets: As the user gave them.
        limits: One per budget, with the cost of the dense network.
    """

    label: str
    budgets: tuple[Budget, ...]
    limits: tuple[WeightConstraint, ...]


def on_weights(metric: str, costs: Sequence[CostModel]) -> bool:
    """Whether weights that are zero change a metric, with these cost models."""
    if metric == "energy":
        return all(isinstance(cost, SystolicCost) for cost in costs if cost.metric == metric)
    return metric in WEIGHT_METRICS


def weight_targets(
    model: nn.Module,
    graph: WidthGraph,
    sets: Sequence[Sequence[Budget]],
    labels: Sequence[str],
    costs: Sequence[CostModel],
    method: str,
) -> tuple[WeightTarget, ...]:
    """One target per set of budgets.

    Args:
        graph: Of the dense model.
        costs: One SystolicCost of the energy where there is a budget on it; its array alone counts.
        method: Named in messages.
    Raises:
        InputError: If a budget is on what single weights do not change, has no cost model, is above dense, or a cost
            model has no budget. Whether the limits can be reached is not looked at here.
    """
    _demand_weight_budgets(sets[0], costs, method)
    dense = weight_costs(model, graph, sets[0], costs)
    return tuple(
        WeightTarget(
            label,
            tuple(budgets),
            tuple(
                WeightConstraint(cost, budget.absolute(cost.dense, cost.unit))
                for budget, cost in zip(budgets, dense, strict=True)
            ),
        )
        for label, budgets in zip(labels, sets, strict=True)
    )


def channel_sets(
    sets: Sequence[Sequence[Budget]], targets: Sequence[WeightTarget], share: float
) -> list[tuple[Budget, ...]]:
    """The budgets of the channels that go before the weights, one set per target.

    Budgets that weights cannot keep are the channels' own; of those that weights finish, channels go part of the way.

    Args:
        share: Of the way, on a logarithmic scale.
    Raises:
        InputError: If nothing is left for the channels.
    """
    found = []
    for budgets, target in zip(sets, targets, strict=True):
        finished = {one.cost.metric: one.limit / one.cost.dense for one in target.limits}
        own = [budget for budget in budgets if budget.metric not in finished]
        partly = [Budget(metric, limit**share) for metric, limit in finished.items()] if share else []
        if not own and not partly:
            raise InputError(
                "then.share=0 leaves all budgets to the weights, and none is left for the channels; give a larger "
                "share, or a budget that channels hold, such as macs=0.5"
            )
        found.append((*own, *partly))
    return found


def weight_costs(
    model: nn.Module, graph: WidthGraph, budgets: Sequence[Budget], costs: Sequence[CostModel]
) -> tuple[WeightCost, ...]:
    """The cost of the weights of a network, whole or without channels, for each budget."""
    arrays = [cost.array for cost in costs if isinstance(cost, SystolicCost) and cost.metric == "energy"]

    def cost_of(metric: str) -> WeightCost:
        return WeightEnergy.of(model, graph, arrays[0]) if metric == "energy" else NonzeroCost.of(model, graph)

    return tuple(cost_of(budget.metric) for budget in budgets)


def demand_weight_metrics(budgets: Sequence[Budget], method: str) -> None:
    """Refuse budgets that no weights that are zero would keep, whatever the cost models.

    Args:
        method: Named in messages.
    Raises:
        InputError: If there is one.
    """
    for budget in budgets:
        if budget.metric not in WEIGHT_METRICS:
            raise InputError(
                f"method {method} cannot keep a budget on {budget.metric}: zeros leave the shapes of layers as they "
                f"are, and a device runs them like other weights; {_instead(method)}, or give energy=LIMIT with "
                "--cost systolic:eyeriss, or params=LIMIT"
            )


def demand_above_floor(limits: Sequence[WeightConstraint], *, masks: bool, method: str) -> None:
    """Refuse limits below what is spent with all weights zero, and with all inputs masked where a method does that.

    Args:
        masks: Whether the method masks inputs.
        method: Named in messages.
    Raises:
        InputError: If a limit is below; the message says what weights, and what masks beside them, can reach.
    """
    for each in limits:
        floor = each.cost.prices({}).constant
        if each.limit > floor:
            continue
        dense, metric = each.cost.dense, each.cost.metric
        lowest = _masked_floor(each.cost)
        if masks and each.limit > lowest:
            continue
        said = (
            f"budget {metric} ≤ {each.limit / dense:.4g} of dense cannot be reached by method {method}: with all "
            f"weights zero {floor / dense:.4g} of dense is left"
        )
        if lowest < floor and each.limit > lowest:
            raise InputError(
                f"{said}; method {MASKING}, which masks inputs too, has its floor at {lowest / dense:.4g}: choose it, "
                "or a larger budget"
            )
        more = f", and {lowest / dense:.4g} with all inputs masked" if lowest < floor else ""
        raise InputError(f"{said}{more}; give a larger budget")


def _masked_floor(cost: WeightCost) -> float:
    """What is spent with all weights zero and all inputs masked that can be."""
    return cost.prices({name: torch.zeros(shape) for name, shape in cost.inputs.items()}).constant


def _instead(method: str) -> str:
    return f"use a method that removes channels, such as admm, alone or before {method} (then)"


def _demand_weight_budgets(budgets: Sequence[Budget], costs: Sequence[CostModel], method: str) -> None:
    """Refuse budgets and cost models that single weights have nothing to do with."""
    if not budgets:
        raise InputError("there is no budget; give one, for example energy<=20%")
    metrics = [budget.metric for budget in budgets]
    if len(set(metrics)) < len(metrics):
        raise InputError(f"metric {max(metrics, key=metrics.count)!r} has several budgets; give the tightest only")
    if len({cost.metric for cost in costs}) < len(costs):
        raise InputError("there are two cost models of one metric; give one per budget")
    demand_weight_metrics(budgets, method)
    for budget in budgets:
        if not on_weights(budget.metric, costs):
            raise InputError(
                f"method {method} cannot keep a budget on measured {budget.metric}: a device spends on zeros what it "
                f"spends on other weights; {_instead(method)}, or give the energy of an accelerator, "
                "--cost systolic:eyeriss"
            )
    if unused := [cost.metric for cost in costs if cost.metric not in metrics]:
        raise InputError(f"the cost model of {unused[0]} has no budget; give {unused[0]}=LIMIT or leave the model out")
    if "energy" in metrics and not any(cost.metric == "energy" for cost in costs):
        raise InputError(
            "budget energy needs the model of an accelerator on which zeros save energy: give --cost systolic:eyeriss "
            "(costs=[ecc.SystolicCost.of(graph, 'eyeriss')] in Python)"
        )
    if any(cost.metric == "params" for cost in costs):
        raise InputError("parameters that are not zero are counted; leave the cost model of params out")
