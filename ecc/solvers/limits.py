"""The constraints of a problem without units, and the greedy moves that keep them.

Costs are divided by their dense values, so that no solver depends on joules or milliseconds. Widths are in units.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.problem import Problem, Solution, Status
from ecc.core.widths import Kept
from ecc.solvers.sparsity import Sparsity

__all__ = ["Limits", "Ranking", "kept_of", "solution"]


_ROUNDING = 1 + 1e-12  # a sum of products differs by that much with the shape of the batch it is computed in


class Limits:
    """The constraints of a problem, for vectors of units kept per group.

    Whether any widths meet them is for ``demand_reachable`` to say.

    Args:
        problem: Its constraints and groups, and the fewest channels that it allows.
        min_fraction: Least fraction of each group's units; at least one unit is always kept.

    Attributes:
        constraints: Those of the problem.
        names: One per constraint: its metric, numbered from the second of the same metric on.
        limits: Of the relative costs, shape (n_constraints,).
        dense: Units of each group, shape (n_groups,).
        lowest: Fewest units of each group, shape (n_groups,).

    Raises:
        InputError: If a cost model has no positive dense value.
    """

    def __init__(self, problem: Problem, min_fraction: float = 0.0) -> None:
        space = problem.space
        self.constraints = problem.constraints
        self._step = torch.tensor(space.step, dtype=torch.float64)
        self.dense = torch.tensor(space.dense, dtype=torch.float64) / self._step
        least = torch.from_numpy(space.vector({**space.smallest, **problem.least})).to(torch.float64) / self._step
        self.lowest = torch.maximum((self.dense * min_fraction - 1e-9).ceil().clamp(min=1), least)
        seen: list[str] = []
        self.names: list[str] = []
        for constraint in problem.constraints:
            metric = constraint.cost.metric
            seen.append(metric)
            self.names.append(metric if seen.count(metric) == 1 else f"{metric}@{seen.count(metric)}")
            if not 0 < constraint.cost.dense < float("inf"):
                raise InputError(
                    f"the {metric} cost model gives the dense network {constraint.cost.dense}; fit it on sound data"
                )
        self._scale = torch.tensor([c.cost.dense for c in problem.constraints], dtype=torch.float64)
        self._absolute = torch.tensor([c.limit for c in problem.constraints], dtype=torch.float64)
        self.limits = self._absolute / self._scale

    def __len__(self) -> int:
        return len(self.constraints)

    def at(self, relative: Tensor, lowest: Tensor | None = None) -> Limits:
        """The same costs under other limits, shape (n_constraints,), relative to dense; not checked.

        Args:
            lowest: Another floor, in units, shape (n_groups,); the present one when None.
        """
        other = copy.copy(self)
        other.limits, other._absolute = relative, relative * self._scale
        other.lowest = self.lowest if lowest is None else lowest
        return other

    def values(self, units: Tensor) -> Tensor:
        """Each cost in its metric's unit: units kept, shape (…, n_groups) → (…, n_constraints)."""
        widths = units.to(torch.float64) * self._step
        costs = [constraint.cost(widths).to(torch.float64) for constraint in self.constraints]
        return torch.stack(costs, -1) if costs else torch.zeros((*units.shape[:-1], 0), dtype=torch.float64)

    def costs(self, units: Tensor) -> Tensor:
        """Each cost relative to dense, at units that may be fractions: shape (…, n_groups) → (…, n_constraints)."""
        return self.values(units) / self._scale

    def slopes(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Relative costs, shape (n_constraints,), and derivatives by relative widths, (n_constraints, n_groups)."""
        with torch.enable_grad():
            variable = units.detach().clone().requires_grad_()
            costs = self.costs(variable)
            rows = [torch.autograd.grad(cost, variable, retain_graph=True, allow_unused=True)[0] for cost in costs]
        slopes = [torch.zeros_like(self.dense) if row is None else row * self.dense for row in rows]
        return costs.detach(), torch.stack(slopes) if slopes else torch.zeros((0, len(self.dense)), dtype=torch.float64)

    def met(self, units: Tensor) -> Tensor:
        """Whether every constraint holds: units kept, shape (…, n_groups) → (…), bool. A NaN cost does not hold."""
        return self.met_each(units).all(-1)

    @torch.no_grad()
    def met_each(self, units: Tensor) -> Tensor:
        """Whether each constraint holds: units kept, shape (…, n_groups) → (…, n_constraints), bool."""
        return self.values(units) <= self._absolute * _ROUNDING

    @torch.no_grad()
    def figures(self, units: Tensor) -> dict[str, float]:
        """Columns of a history: each cost relative to dense, and the worst violation relative to its limit."""
        costs = self.costs(units)
        excess = ((costs - self.limits) / self.limits).clamp(min=0)
        return dict(zip(self.names, costs.tolist(), strict=True)) | {"violation": max(excess.tolist(), default=0.0)}


class Ranking:
    """The units of each group by importance; a width keeps a prefix of it.

    Args:
        importance: One tensor (units,) per group; equal values rank by index.
    """

    def __init__(self, importance: Sequence[Tensor]) -> None:
        together = torch.cat(list(importance)).cpu().double()  # one copy from an accelerator, not one per group
        split = together.split_with_sizes([len(values) for values in importance])
        self.importance: list[Tensor] = list(split)
        orders = [torch.sort(values, descending=True, stable=True) for values in split]
        self._order = [order.indices for order in orders]
        self.sorted: Tensor = nn.utils.rnn.pad_sequence([order.values for order in orders], batch_first=True)
        """Importances in falling order, padded with 0, shape (n_groups, most units)."""

    def kept(self, units: Tensor) -> list[Tensor]:
        """The kept unit indices of each group, sorted."""
        return [order[: int(count)].sort().values for order, count in zip(self._order, units.tolist(), strict=True)]

    def masks(self, units: Tensor) -> list[Tensor]:
        """The same as bool masks of shape (units,)."""
        masks = [torch.zeros(len(order), dtype=torch.bool) for order in self._order]
        for mask, chosen in zip(masks, self.kept(units), strict=True):
            mask[chosen] = True
        return masks

    def flags(self, units: Tensor) -> Tensor:
        """The same as one bool mask over the units of all groups, one group after another."""
        chosen = [
            torch.zeros(len(order), dtype=torch.bool).index_fill_(0, order[: int(count)], True)
            for order, count in zip(self._order, units.tolist(), strict=True)
        ]
        return torch.cat(chosen)

    def curves(self) -> list[Tensor]:
        """Importance of the units that are dropped at each number of kept ones, shape (units + 1,) per group."""
        lost = self.sorted.flip(1).cumsum(1).flip(1)
        return [nn.functional.pad(row[: len(order)], (0, 1)) for row, order in zip(lost, self._order, strict=True)]

    def shrink(self, units: Tensor, limits: Limits) -> Tensor:
        """Drop units, each time the one that loses least importance per relative cost saved, until all limits hold.

        Raises:
            InputError: If they do not even hold at the lowest widths.
        """
        units = units.clone()
        ones = torch.eye(len(units), dtype=torch.float64)
        while not limits.met(units):
            groups = (units > limits.lowest).nonzero().flatten()
            if not len(groups):  # costs that rise as widths fall
                raise InputError("dropping one unit after another leads to no widths that meet all limits; loosen them")
            now = limits.costs(units)
            over = (now - limits.limits).clamp(min=0)
            saved = torch.minimum((now - limits.costs(units - ones[groups])).clamp(min=0), over)
            relief = (saved / over.clamp(min=1e-300)).sum(-1)
            loss = self.sorted[groups, units[groups].long() - 1]
            # A step of a stepped cost may save nothing: then the least important unit goes.
            best = torch.argmax(relief / (loss + 1e-300)) if bool((relief > 0).any()) else torch.argmin(loss)
            units[groups[best]] -= 1
        return units

    def grow(self, units: Tensor, limits: Limits) -> Tensor:
        """Add units while a limit allows one, each time the one of most importance per relative cost."""
        units = units.clone()
        ones = torch.eye(len(units), dtype=torch.float64)
        while True:
            groups = (units < limits.dense).nonzero().flatten()
            groups = groups[limits.met(units + ones[groups])]
            if not len(groups):
                return units
            added = (limits.costs(units + ones[groups]) - limits.costs(units)).clamp(min=0).sum(-1)
            gain = self.sorted[groups, units[groups].long()]
            units[groups[torch.argmax(gain / (added + 1e-12))]] += 1


def kept_of(problem: Problem, ranking: Ranking, units: Tensor) -> Kept:
    """The units of each group that so many keep, by the group's name."""
    return {
        name: np.asarray(indices.numpy(), dtype=np.int64)
        for name, indices in zip(problem.space.names, ranking.kept(units), strict=True)
    }


def solution(
    problem: Problem, model: nn.Module, limits: Limits, ranking: Ranking, units: Tensor, history: pd.DataFrame
) -> Solution:
    """Zero the dropped units of ``model``, a copy of the problem's network, and say what it costs."""
    kept = kept_of(problem, ranking, units)
    Sparsity(model, problem.groups).zero(kept)
    widths = {name: len(kept[name]) * step for name, step in zip(problem.space.names, problem.space.step, strict=True)}
    predicted = dict(zip(limits.names, limits.values(units).tolist(), strict=True))
    status = Status.MET if bool(limits.met(units)) else Status.INFEASIBLE
    return Solution(model, kept, widths, predicted, status, history)
