"""Composing the additive cost of a network from an operator profile of the device that it will run on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

import torch
from scipy import stats

from ecc.core.calls import OperatorCall
from ecc.core.errors import InputError
from ecc.core.table import OperatorTable, Provenance
from ecc.core.widths import WidthSpace
from ecc.energy_models.additive import AdditiveCost, demand_like
from ecc.energy_models.call_parts import parts_of
from ecc.energy_models.cold import Cold
from ecc.energy_models.corrections import Correction
from ecc.energy_models.fitted import FITTED
from ecc.energy_models.operator_costs import OperatorCosts
from ecc.energy_models.samples import Samples
from ecc.network.graph import WidthGraph

__all__ = ["Composable", "compose", "demand_composable", "fit_samples"]


class Composable(Protocol):
    """What a cost is composed of: a WidthGraph, or a ProfileTable with calls."""

    @property
    def space(self) -> WidthSpace:
        """The order of width vectors."""

    @property
    def calls(self) -> tuple[OperatorCall, ...]:
        """The operators that the network runs."""


def compose(
    network: Composable,
    operators: OperatorTable,
    metric: str = "latency",
    *,
    provenance: Provenance | None = None,
    runtime: str | None = None,
    name: str = "composed",
    like: AdditiveCost | None = None,
    learnt: OperatorCosts | None = None,
) -> AdditiveCost:
    """The cost of a network that was never profiled, from an operator profile of the device.

    Args:
        network: A WidthGraph, or a ProfileTable whose calls were recorded.
        metric: One that was measured of the operators.
        provenance: Of the network's own measurements where there are any; must be of the operators' device.
        runtime: Whose merging of calls is assumed; that of the operator profile by default. A profile made with
            another runtime says little of absolute costs until the model is calibrated.
        name: Of the network, for people, where there is no provenance.
        like: Calibrated cost of another network on the same device and runtime, whose correction is taken over.
        learnt: ``OperatorCosts.of(operators, metric)``, where it is there already: learning takes seconds.

    Raises:
        InputError: If no calls are known, operators of some kind were not profiled, or measurements do not go together.
    """
    if metric not in FITTED:
        raise InputError(f"compose(metric=...) must be one of {', '.join(FITTED)}, got {metric!r}")
    chosen = runtime or operators.provenance.runtime
    demand_composable(network, operators, provenance, chosen)
    parts = parts_of(network.calls, chosen)
    known = OperatorCosts.of(operators, metric) if learnt is None else learnt
    mine = provenance or _provenance(operators.provenance, network, name, chosen)
    if like is not None and like.provenance is not None:
        demand_like(mine, like.provenance, chosen)
    unit, fixed = operators.reference[metric][0], Correction() if like is None else like.correction
    cost = AdditiveCost(
        metric=metric,
        space=network.space,
        reference=(unit, unit, unit),
        provenance=mine,
        runtime=chosen,
        unit_cost=unit,
        operators=known.of_kinds([part.operator.kind for part in parts]),
        parts=tuple(replace(part, factor=fixed.scale) for part in parts),
        per_weight=fixed.per_weight,
        cold=Cold.of(operators, metric, known),
        cold_factor=fixed.scale,
        correction=fixed,
    )
    full = torch.tensor([cost.space.dense], dtype=torch.float64)
    with torch.no_grad():
        dense = float(cost.evaluate(full)[0])
        reach = float(stats.norm.ppf(0.975) * cost.spread(full))
    return replace(cost, reference=(dense, dense * math.exp(-reach), dense * math.exp(reach)))


def demand_composable(
    network: Composable, operators: OperatorTable, provenance: Provenance | None = None, runtime: str | None = None
) -> None:
    """Refuse what no cost can be composed of, before anything is learnt; arguments as of ``compose``.

    Raises:
        InputError: If no calls are known, or measurements do not go together.
    """
    if not network.calls:
        raise InputError(
            "the operators that the network runs are not known: its store was made by an older ecc, or nothing in it "
            "could be followed; profile it again, or compose the cost without its rows: "
            "`ecc fit OPS.db --model MODEL --input SHAPE` (ecc.trace and compose in Python)"
        )
    if provenance is not None:
        demand_like(operators.provenance, provenance, runtime or operators.provenance.runtime)


def fit_samples(samples: Samples, operators: OperatorTable | None, learnt: OperatorCosts | None = None) -> AdditiveCost:
    """Compose the cost of a profiled network and correct it by its rows, which are already checked.

    Raises:
        InputError: As of ``compose``, or if there is no operator profile.
    """
    if operators is None:
        raise InputError("an additive cost is composed of what operators cost; give an operator profile")
    composed = compose(samples, operators, samples.metric, provenance=samples.provenance, learnt=learnt)
    return composed.calibrate_samples(samples)


def _provenance(operators: Provenance, network: Composable, name: str, runtime: str) -> Provenance:
    """Of a network that was not measured: its own, on the operators' device."""
    if isinstance(network, WidthGraph):
        shape = next(iter(network.input_shapes), (1,))
        return replace(operators, network=name, fingerprint=network.fingerprint, input_shape=shape, runtime=runtime)
    return replace(operators, network=name, fingerprint="", runtime=runtime)
