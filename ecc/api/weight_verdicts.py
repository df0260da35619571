"""Verdicts on stored weights: budgets of an artefact judged by the weights and masks that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ecc.api.weight_costs import on_weights, weight_costs
from ecc.api.weight_job import weight_checks
from ecc.artefact import Manifest
from ecc.core.budget import Budget
from ecc.core.code import Stored
from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.verdict import BudgetCheck
from ecc.core.weights import Masks, WeightCost
from ecc.energy_models.systolic.weights import WeightEnergy
from ecc.network.graph import WidthGraph
from ecc.network.input_masks import stored_masks
from ecc.network.tracing import trace
from ecc.stages.code import PackedCode

__all__ = ["AS_STORED", "stored_check", "stored_of", "weight_verdicts"]

AS_STORED = ", weights as stored"
"""What the source of a budget on energy ends with that is judged by what weights are stored in."""


def weight_verdicts(
    dense: nn.Module,
    model: nn.Module,
    graph: WidthGraph,
    inputs: Any,
    manifest: Manifest,
    costs: Mapping[str, CostModel],
    code: PackedCode | None = None,
) -> dict[str, BudgetCheck]:
    """Budgets on what zeros and few bits save, by metric, from the weights one by one; empty where there are none.

    Args:
        dense: The dense network with any weights.
        model: That of the artefact, with its weights and masks.
        graph: Of the dense network.
        inputs: Of the shapes that were traced.
        costs: The cost models of the artefact, by metric.
        code: What its weights are stored in, where secondary stages have packed them.
    Raises:
        InputError: If a budget is of another accelerator than the artefact's cost model.
    """
    given = list(costs.values())
    stored = [check for check in manifest.budgets if check.source.endswith(AS_STORED)]
    old = [check for check in manifest.budgets if on_weights(check.metric, given) and check not in stored]
    old = old if manifest.weight_method else []
    if not old and not stored:
        return {}
    if any(check.metric == "energy" for check in (*old, *stored)) and "energy" not in costs:
        raise InputError("the artefact has a budget on energy and no cost-energy.json; it was changed or damaged")
    budgets = [check.budget for check in (*old, *stored)]
    whole = weight_costs(dense, graph, budgets, given)
    cut = dict(manifest.widths) != dict(manifest.dense)
    left = weight_costs(model, trace(model, inputs, check=False), budgets, given) if cut else whole
    for check, cost in zip((*old, *stored), whole, strict=True):
        if (cost.source, cost.unit) != (check.source.removesuffix(AS_STORED), check.shown_in):
            raise InputError(
                f"the budget on {check.metric} is in {check.shown_in} of {check.source or 'nothing'}, and the "
                f"artefact's cost model in {cost.unit} of {cost.source}; the artefact was changed or damaged"
            )
    masks = {name: mask for name, mask in stored_masks(model).items() if name in manifest.masked}
    count = len(old)
    checks = [
        *weight_checks(budgets[:count], whole[:count], left[:count], model, masks),
        *(
            _as_stored(each, dense, cost, code, masks)
            for each, dense, cost in zip(budgets[count:], whole[count:], left[count:], strict=True)
        ),
    ]
    return {check.metric: check for check in checks}


def _as_stored(
    budget: Budget, dense: WeightCost, cost: WeightCost, code: PackedCode | None, masks: Masks
) -> BudgetCheck:
    """A budget on energy judged by what weights are stored in."""
    if code is None or not isinstance(cost, WeightEnergy):
        raise InputError(
            "the artefact has a budget on weights as they are stored, and none that are packed; it was changed or "
            "damaged"
        )
    return stored_check(budget, dense.dense, cost, code, masks)


def stored_check(budget: Budget, dense: float, cost: WeightEnergy, code: PackedCode, masks: Masks) -> BudgetCheck:
    """A budget on energy judged by what weights are stored in.

    Args:
        dense: Relaxed energy of the dense network.
        cost: Of the network that the code is of.
    """
    value = cost.of_stored(code.decode(), stored_of(code), masks)
    return BudgetCheck.of_count(budget, dense=dense, value=value, unit=cost.unit, source=f"{cost.source}{AS_STORED}")


def stored_of(code: PackedCode) -> dict[str, Stored]:
    """What tensors are stored in, under all their names."""
    stored = code.stored()
    return stored | {alias: stored[name] for alias, name in code.aliases.items()}
