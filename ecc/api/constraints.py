"""Budgets and cost models → constraints, refused before any long work where they cannot hold."""

from __future__ import annotations

from collections.abc import Sequence

from ecc.core.budget import Budget
from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.problem import Constraint
from ecc.energy_models.counting import COUNTED, CountCost
from ecc.network.graph import WidthGraph

__all__ = ["constraints_of"]


def constraints_of(graph: WidthGraph, budgets: Sequence[Budget], costs: Sequence[CostModel]) -> tuple[Constraint, ...]:
    """One constraint per budget, with the cost model of its metric; counts need none.

    Raises:
        InputError: If a budget has no cost model, a cost model has no budget or belongs to another network, or a limit
            is above dense or below what the smallest admissible network needs.
    """
    if not budgets:
        raise InputError("there is no budget; give one, for example latency<=60%")
    metrics = [budget.metric for budget in budgets]
    if len(set(metrics)) < len(metrics):
        raise InputError(f"metric {max(metrics, key=metrics.count)!r} has several budgets; give the tightest only")
    by_metric = {cost.metric: cost for cost in costs}
    if unused := [metric for metric in by_metric if metric not in metrics]:
        raise InputError(f"the cost model of {unused[0]} has no budget; give {unused[0]}=LIMIT or leave the model out")
    found = []
    for budget in budgets:
        cost = by_metric.get(budget.metric)
        if cost is None:
            if budget.metric not in COUNTED:
                raise InputError(
                    f"budget {budget.metric} needs a cost model; profile the network and fit one, then give it"
                )
            cost = CountCost(budget.metric, graph)
        _refuse_foreign(cost, graph)
        found.append(_reachable(Constraint(cost, budget.absolute(cost.dense))))
    return tuple(found)


def _refuse_foreign(cost: CostModel, graph: WidthGraph) -> None:
    place = cost.provenance
    if cost.space != graph.space or (place is not None and place.fingerprint != graph.fingerprint):
        name = f" ({place.network})" if place is not None else ""
        raise InputError(
            f"the {cost.metric} cost model belongs to another network{name}; profile and fit this one, or give the "
            "model and the options that it was made for"
        )


def _reachable(limit: Constraint) -> Constraint:
    cost = limit.cost
    least = float(cost(cost.space.smallest))
    if least > limit.limit:
        share = f"{least / cost.dense:.3g} of dense"
        raise InputError(
            f"budget {cost.metric} ≤ {limit.limit / cost.dense:.3g} of dense cannot be reached: the smallest "
            f"admissible network, one unit in every group, still needs {share}; give a limit above that"
        )
    return limit
