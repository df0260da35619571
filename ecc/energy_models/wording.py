"""Wording: what a fitted model holds beside the parts of its cost, in words with units."""

from __future__ import annotations

import math

from ecc.energy_models.additive import AdditiveCost
from ecc.energy_models.factored import Factor, FactoredCost
from ecc.energy_models.fitted import FittedCost
from ecc.energy_models.mlp import MlpCost
from ecc.energy_models.staircase import StaircaseCost

__all__ = ["words_of"]

_MOST = 6  # factors that are told one by one, tiles likewise


def words_of(cost: FittedCost) -> dict[str, str]:
    """Name → what it is, in words; empty for a form whose parts say all."""
    if isinstance(cost, StaircaseCost):
        return _tiles(cost)
    if isinstance(cost, FactoredCost):
        return _factors(cost)
    if isinstance(cost, AdditiveCost):
        return _operators(cost)
    if isinstance(cost, MlpCost):
        used = cost.correction is not None
        return {"networks": f"{len(cost.rivals)} small ones correct the sum" if used else "none: they did not help"}
    return {}


def _tiles(cost: StaircaseCost) -> dict[str, str]:
    """Positions per tile along what a kind of layer reads and writes."""
    words = {}
    for kind, (read, written, even) in sorted(cost.steps.items())[:_MOST]:
        tile = [f"{each} positions {verb}" for each, verb in ((read, "read"), (written, "written")) if each > 1]
        ragged = [f"a surcharge off multiples of {even}"] if even > 1 else []
        words[f"tiles of {kind}"] = ", ".join(tile + ragged) or "none: it costs in proportion"
    return words


def _factors(cost: FactoredCost) -> dict[str, str]:
    """The factor at dense widths, and those of groups, the strongest first."""
    strongest = sorted(cost.factors, key=lambda each: -abs(each.value))
    told = "; ".join(_factor(each) for each in strongest[:_MOST])
    more = f"; and {len(strongest) - _MOST} weaker ones" if len(strongest) > _MOST else ""
    return {
        "factor at dense widths": f"× {math.exp(cost.level):.4g} on the {cost.base.form} sum; the parts include it",
        "factors of groups": f"{told}{more}" if told else "none: no group departs from the sum",
    }


def _factor(factor: Factor) -> str:
    if factor.kind == "log-width":
        return f"{factor.group} × (share kept)^{factor.value:.3g}"
    if factor.kind == "width":
        return f"{factor.group} × exp({factor.value:.3g} · (share kept − 1))"
    if factor.kind == "below":
        return f"{factor.group} × exp({factor.value:.3g}) below {factor.step}"
    return f"{factor.group} × exp({factor.value:.3g} · share kept) off multiples of {factor.step}"


def _operators(cost: AdditiveCost) -> dict[str, str]:
    """What calls are priced by."""
    unit = cost.unit
    return {
        "runtime": f"{cost.runtime}, whose merging of calls is assumed",
        "reference operator": f"{cost.unit_cost:.4g} {unit}, which prices of operators are multiples of",
        "beside the calls": f"{cost.overhead:.4g} {unit}",
        "fetching of weights": f"{cost.per_weight:.4g} {unit} per number",
        "all calls of the device": f"× {cost.correction.scale:.4g}",
    }
