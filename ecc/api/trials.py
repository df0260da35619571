"""Trials: widths that were measured in turn with the dense network, and what is learnt from them for the next ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from ecc.api.discrepancy import Discrepancy, Reading, distance
from ecc.core.budget import Budget
from ecc.core.cost import CostModel, as_vector
from ecc.core.problem import Constraint, Solution
from ecc.core.verdict import Measured
from ecc.core.widths import Widths
from ecc.energy_models.depth import cost_without
from ecc.network.graph import WidthGraph

__all__ = ["AIM", "SAFE", "USED", "WIDEST", "Trial", "best", "corrected", "table_of"]

AIM = 0.985  # where in the budget a correction aims with the upper end of the interval
SAFE = 0.99  # two measurements of one network differ by up to that much
USED = 0.95  # of a budget: below that, widths are given back
WIDEST = 0.1  # half-width that is kept clear of: a wider interval asks for a quieter device, not for fewer channels

_COLUMNS = ("round", "metric", "dense", "limit", "predicted", "measured", "low", "high", "used", "seconds")


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Widths that were measured.

    Attributes:
        name: When: ``scout``, ``round 1`` …, ``verify``.
        widths: Channels per group.
        measured: Per metric.
        removed: Residual blocks that had gone; ``widths`` does not name the groups that go with them.
        seconds: How long the measurement took; its share of one of several networks.
    """

    name: str
    widths: Widths
    measured: Mapping[str, Measured]
    removed: tuple[str, ...] = ()
    seconds: float = 0.0

    def used(self, budgets: Sequence[Budget]) -> dict[str, float]:
        """Upper end of the interval over the limit, per measured metric of the budgets."""
        return {budget.metric: _used(budget, self.measured[budget.metric]) for budget in _seen(self, budgets)}

    def worst(self, budgets: Sequence[Budget]) -> float:
        """The largest of ``used``; 0 where nothing was measured."""
        return max(self.used(budgets).values(), default=0.0)


def best(trials: Sequence[Trial], budgets: Sequence[Budget]) -> int:
    """Number of the trial that uses most of its budgets and holds them, or comes nearest to that."""
    worst = [trial.worst(budgets) for trial in trials]
    inside = [share for share in worst if share <= SAFE] or [share for share in worst if share <= 1]
    return worst.index(max(inside) if inside else min(worst))


def corrected(
    limit: Constraint,
    budget: Budget,
    trials: Sequence[Trial],
    graph: WidthGraph,
    *,
    deviations: float,
    around: Solution | None = None,
) -> float:
    """The limit of a cost model, in its unit, at which the measured value should be just inside the budget.

    Args:
        limit: The cost model and the budget's limit.
        trials: What was measured, of any widths.
        graph: With the groups of the cost model.
        deviations: Standard deviations of what is not known that are kept clear of the budget.
        around: Whose widths are to be corrected; None before there are any.
    """
    cost = limit.cost
    found = [trial for trial in trials if cost.metric in trial.measured]
    if not found:
        return limit.limit
    here = None if around is None else _relative(cost, around)
    readings = [_reading(cost, budget, trial, graph, here) for trial in found]
    readings.sort(key=lambda reading: reading.apart, reverse=True)
    known = Discrepancy.of(
        limit.limit / cost.dense, _spread(cost_without(cost, graph, found[-1].removed), found[-1].widths), readings
    )
    above = min(sum(reading.above for reading in readings) / len(readings), WIDEST)
    return cost.dense * known.limit(AIM * limit.limit / cost.dense / math.exp(above), deviations)


def table_of(
    trials: Sequence[Trial], budgets: Sequence[Budget], limits: Sequence[Constraint], graph: WidthGraph
) -> pd.DataFrame:
    """One row per trial and measured metric, in the metric's unit: what was predicted, and what was found.

    ``measured``, ``low`` and ``high`` are relative to the dense network of the same run where the budget is; ``used``
    is the upper end over the limit; ``seconds`` is how long the trial took, all metrics together.
    """
    rows = []
    for trial in trials:
        for budget, limit in zip(budgets, limits, strict=True):
            if budget.metric not in trial.measured:
                continue
            found = trial.measured[budget.metric]
            scale = found.dense if budget.relative else limit.cost.dense
            reading = _reading(limit.cost, budget, trial, graph, None)
            ends = (reading.measured * scale, reading.low * scale, reading.high * scale)
            top = budget.limit * found.dense if budget.relative else budget.limit
            predicted = reading.predicted * limit.cost.dense
            used = _used(budget, found)
            rows.append((trial.name, budget.metric, found.dense, top, predicted, *ends, used, trial.seconds))
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _seen(trial: Trial, budgets: Sequence[Budget]) -> list[Budget]:
    return [budget for budget in budgets if budget.metric in trial.measured]


def _used(budget: Budget, measured: Measured) -> float:
    return measured.ratio_high / budget.limit if budget.relative else measured.value_high / budget.limit


def _reading(cost: CostModel, budget: Budget, trial: Trial, graph: WidthGraph, here: torch.Tensor | None) -> Reading:
    found, there = trial.measured[cost.metric], _relative(cost, trial)
    value, low, high = (
        (found.ratio, found.ratio_low, found.ratio_high)
        if budget.relative
        else (end / cost.dense for end in (found.value, found.value_low, found.value_high))
    )
    apart = 1.0 if here is None else distance(here.numpy(), there.numpy())
    with torch.no_grad():
        left = cost_without(cost, graph, trial.removed)
        predicted = float(left(as_vector(cost.space, trial.widths))) / cost.dense
    return Reading(predicted, value, low, high, apart)


def _relative(cost: CostModel, found: Trial | Solution) -> torch.Tensor:
    """Relative widths, 0 of groups that went with a block."""
    widths = as_vector(cost.space, found.widths)
    if found.removed:
        widths = widths * torch.tensor([name in found.widths for name in cost.space.names])
    return widths / torch.tensor(cost.space.dense, dtype=torch.float64)


def _spread(cost: CostModel, widths: Widths) -> float:
    """Standard deviation of log(measured / predicted) that the model promises; infinite where it promises nothing."""
    with torch.no_grad():
        vector = as_vector(cost.space, widths)
        low, high = (float(end) for end in cost.interval(vector, 0.6827))
    return math.log(high / low) / 2 if 0 < low <= high < math.inf else math.inf
