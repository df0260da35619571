"""What a cost at dense widths is made of, and what a cost model says of itself, whatever its form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ecc.core.cost import METRICS, CostModel
from ecc.energy_models.counting import CountCost
from ecc.energy_models.factored import FactoredCost
from ecc.energy_models.fitted import FittedCost, conformal_quantile
from ecc.energy_models.mlp import MlpCost
from ecc.energy_models.systolic.cost import SystolicCost
from ecc.energy_models.wording import words_of

__all__ = ["describe", "parts_of"]

_ACTIVATIONS = "activations at their peak"
_ALIKE = 1e-6  # of sums that should be the same
_FEW, _SHORT = 32, 8  # entries of a setting that is shown: of a mapping, of a list


def parts_of(cost: CostModel) -> dict[str, float]:
    """The parts whose sum the cost is at dense widths, by name, the largest first; empty where a form has none.

    The parts of a fitted sum are its terms, in s or J; where a sum is corrected by a factor, with that factor at dense
    widths. Those of a count are layers, or tensors and activations; those
    of a systolic array are layers. In the unit of the cost.
    """
    if isinstance(cost, CountCost):
        parts = _counted(cost)
    elif isinstance(cost, SystolicCost):
        parts = cost.shares({})
    elif isinstance(cost, FactoredCost | MlpCost):
        base = cost.base.coefficients
        factor = float(cost({})) / math.fsum(base.values())  # of all terms alike, at dense widths
        parts = {name: value * factor for name, value in base.items()}
    elif isinstance(cost, FittedCost):
        parts = cost.coefficients
        if not math.isclose(math.fsum(parts.values()), float(cost({})), rel_tol=_ALIKE):
            return {}  # numbers that say something else, such as the settings of a network
    else:
        return {}
    return dict(sorted(parts.items(), key=lambda part: -part[1]))


def _counted(cost: CountCost) -> dict[str, float]:
    """Multiply-accumulates by layer, parameters by tensor, or bytes by tensor and of activations."""
    graph = cost.graph
    if cost.metric == "macs":
        return {layer.name: float(layer.macs) for layer in graph.layers if layer.macs}
    if cost.metric == "params":
        return {name: float(math.prod(axes.shape)) for name, axes in graph.parameters.items()}
    held = {**graph.parameters, **graph.buffers}
    parts = {name: float(math.prod(axes.shape) * axes.itemsize) for name, axes in held.items()}
    return {_ACTIVATIONS: cost.dense - math.fsum(parts.values()), **parts}


def describe(form: str, cost: CostModel) -> dict[str, Any]:
    """What a cost model is, whom it belongs to and how good it is, as a JSON value.

    What a form or a file does not tell is absent. Groups say between which widths the model was profiled, and parts
    what each costs at dense widths; words say what there is beside them.

    Args:
        form: As its file names it.
    """
    parts = parts_of(cost)
    value: dict[str, Any] = {
        "kind": "cost model",
        "form": form,
        "metric": cost.metric,
        "unit": cost.unit if isinstance(cost, FittedCost | CountCost | SystolicCost) else METRICS[cost.metric],
        "dense": cost.dense,
        "exact": not isinstance(cost, FittedCost),
    }
    if isinstance(cost, SystolicCost):
        value["array"] = cost.array.to_json()
    if isinstance(cost, FittedCost):
        value |= _fitted(cost)
    if cost.provenance is not None:
        value["provenance"] = cost.provenance.to_json()
    bounds = cost.profiled if isinstance(cost, FittedCost) else None
    value["groups"] = {
        name: {"dense": dense, "step": step} | ({"profiled": list(bounds[i])} if bounds else {})
        for i, (name, dense, step) in enumerate(zip(cost.space.names, cost.space.dense, cost.space.step, strict=True))
    }
    return value | ({"parts": parts} if parts else {})


def _fitted(cost: FittedCost) -> dict[str, Any]:
    """What only a model that comes from a profile has."""
    value: dict[str, Any] = {
        "dense_interval": list(cost.reference[1:]),
        "predicted_dense": float(cost({})),
        "samples": cost.samples,
        "extrapolate": cost.extrapolate,
    }
    if cost.holdout is not None:
        value["holdout"] = dict(cost.holdout)
    if cost.calibration:
        value["interval_95"] = math.expm1(conformal_quantile(cost.calibration, 0.95))
    settings = {name: member for name, member in cost.members().items() if _is_short(member)}
    words = words_of(cost)
    return value | ({"settings": settings} if settings else {}) | ({"words": words} if words else {})


def _is_short(member: Any, depth: int = 2) -> bool:
    """A member of a file that people can read: a number, a text, or a few of them."""
    if isinstance(member, Mapping):
        return depth > 0 and len(member) <= _FEW and all(_is_short(each, depth - 1) for each in member.values())
    if isinstance(member, list | tuple):
        return depth > 0 and len(member) <= _SHORT and all(_is_short(each, 0) for each in member)
    return isinstance(member, bool | int | float | str)
