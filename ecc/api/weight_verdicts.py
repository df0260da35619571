"""Verdicts on stored weights: budgets of an artefact judged by the weights and masks that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ecc.api.weight_costs import on_weights, weight_costs
from ecc.api.weight_job import weight_checks
from ecc.artefact import Manifest
from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.verdict import BudgetCheck
from ecc.network.graph import WidthGraph
from ecc.network.input_masks import stored_masks
from ecc.network.tracing import trace

__all__ = ["weight_verdicts"]


def weight_verdicts(
    dense: nn.Module,
    model: nn.Module,
    graph: WidthGraph,
    inputs: Any,
    manifest: Manifest,
    costs: Mapping[str, CostModel],
) -> dict[str, BudgetCheck]:
    """Budgets on what zeros save, by metric, from the weights one by one; empty where no weights were pruned.

    Args:
        dense: The dense network with any weights.
        model: That of the artefact, with its weights and masks.
        graph: Of the dense network.
        inputs: Of the shapes that were traced.
        costs: The cost models of the artefact, by metric.
    Raises:
        InputError: If a budget is of another accelerator than the artefact's cost model.
    """
    if not manifest.weight_method:
        return {}
    given = list(costs.values())
    old = [check for check in manifest.budgets if on_weights(check.metric, given)]
    if any(check.metric == "energy" for check in old) and "energy" not in costs:
        raise InputError("the artefact has a budget on energy and no cost-energy.json; it was changed or damaged")
    budgets = [check.budget for check in old]
    whole = weight_costs(dense, graph, budgets, given)
    cut = dict(manifest.widths) != dict(manifest.dense)
    left = weight_costs(model, trace(model, inputs, check=False), budgets, given) if cut else whole
    for check, cost in zip(old, whole, strict=True):
        if (cost.source, cost.unit) != (check.source, check.shown_in):
            raise InputError(
                f"the budget on {check.metric} is in {check.shown_in} of {check.source or 'nothing'}, and the "
                f"artefact's cost model in {cost.unit} of {cost.source}; the artefact was changed or damaged"
            )
    masks = {name: mask for name, mask in stored_masks(model).items() if name in manifest.masked}
    return {check.metric: check for check in weight_checks(budgets, whole, left, model, masks)}
