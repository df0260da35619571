"""The constraints of a weight problem, on the tensors of the network in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.problem import Status
from ecc.core.weights import Masks, WeightConstraint, WeightProblem, WeightSolution

__all__ = ["WeightLimits", "weight_solution"]

_ROUNDING = 1 + 1e-12  # sums in another order differ by that much
_FLOORS = 0.1  # most of what weights may spend that floors lay down; the method needs a choice


class WeightLimits:
    """The constraints of a problem, for the numbers of weights that each tensor keeps.

    Tensors are pruned that every cost has a price for; those that only some have one for count as they are.

    Args:
        problem: Its constraints and masks.
        model: The network in training, a copy of the problem's.
        min_fraction: Least fraction of each tensor that is kept; halved until that takes no more than a tenth of what
            the weights may spend; one weight of each tensor then, or none where even that is too much.

    Attributes:
        names: One per constraint: its metric, numbered from the second of the same metric on.
        tensors: The tensors that are pruned, by name, in the order of the network.
        prices: Per constraint, those of ``tensors``.
        constants: Per constraint, what is spent with all of ``tensors`` zero.
        limits: Per constraint.
        dense: Per constraint, what budgets are fractions of.
        least: Fewest weights of each tensor.

    Raises:
        InputError: If a cost is of another network, weights are not finite, there is nothing to prune, or a limit is
            below what is left without any weight; the message then says what can be reached.
    """

    def __init__(self, problem: WeightProblem, model: nn.Module, min_fraction: float = 0.0) -> None:
        constraints = problem.constraints
        if not constraints:
            raise InputError("WeightProblem(constraints=...) needs at least one constraint")
        every = [constraint.cost.prices(problem.masks) for constraint in constraints]
        shared = [name for name in every[0].tensors if all(name in prices.tensors for prices in every)]
        parameters = dict(model.named_parameters())
        for name in {name: None for prices in every for name in prices.tensors}:
            if name not in parameters:
                raise InputError(f"the cost of the weights is of another network: this one has no parameter {name!r}")
        if not shared:
            raise InputError("the costs have no tensor in common whose weights could be pruned")
        self.tensors: dict[str, Tensor] = {name: parameters[name].detach() for name in shared}
        for name, tensor in self.tensors.items():
            if not bool(tensor.sum(dtype=torch.float64).isfinite()):
                raise InputError(f"the weights of {name} hold NaN or infinity; give a network that was trained")
        self.names = _names(constraints)
        self._costs = [constraint.cost for constraint in constraints]
        self._sizes = {name: parameter.numel() for name, parameter in parameters.items()}
        self.reprice(problem.masks)
        self.limits = [constraint.limit for constraint in constraints]
        self.dense = [constraint.cost.dense for constraint in constraints]
        self.sizes = [tensor.numel() for tensor in self.tensors.values()]
        self._demand_reachable(problem)
        self.least = self._floors(min_fraction)

    def reprice(self, masks: Masks) -> None:
        """Take prices and constants with these masks from now on."""
        every = [cost.prices(masks) for cost in self._costs]
        self.prices = [[prices.tensors[name] for name in self.tensors] for prices in every]
        self.constants = [
            prices.of({name: 0 if name in self.tensors else self._sizes[name] for name in prices.tensors})
            for prices in every
        ]

    def spent(self, counts: Sequence[int]) -> list[float]:
        """Each cost in its unit, with so many weights of each tensor."""
        return [
            constant + math.fsum(price.of(count) for price, count in zip(prices, counts, strict=True))
            for constant, prices in zip(self.constants, self.prices, strict=True)
        ]

    def met(self, counts: Sequence[int], limits: Sequence[float] | None = None) -> bool:
        """Whether every limit holds: those of the problem, or others."""
        limits = self.limits if limits is None else limits
        return all(spent <= limit * _ROUNDING for spent, limit in zip(self.spent(counts), limits, strict=True))

    def counts(self) -> list[int]:
        """Weights of each tensor that are not zero."""
        found = torch.stack([torch.count_nonzero(tensor) for tensor in self.tensors.values()])
        return [int(count) for count in found.tolist()]  # one copy from an accelerator

    @property
    def key(self) -> list[Any]:
        """JSON values that tell these constraints from others."""
        prices = [[[price.first, price.rest, price.held] for price in each] for each in self.prices]
        return [self.names, self.limits, self.constants, list(self.tensors), prices, self.least]

    def finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        sums = [tensor.sum(dtype=torch.float64) for tensor in self.tensors.values()]  # no copy of the weights
        return bool(torch.stack(sums).isfinite().all())

    def figures(self, counts: Sequence[int]) -> dict[str, float]:
        """Columns of a history: each cost relative to dense, worst violation, and the share of weights not zero."""
        spent = self.spent(counts)
        costs = {name: value / dense for name, value, dense in zip(self.names, spent, self.dense, strict=True)}
        excess = [max(0.0, value / limit - 1) for value, limit in zip(spent, self.limits, strict=True)]
        return costs | {"violation": max(excess), "nonzeros": sum(counts) / sum(self.sizes)}

    def _demand_reachable(self, problem: WeightProblem) -> None:
        for index, constraint in enumerate(problem.constraints):
            cost, limit, constant = constraint.cost, constraint.limit, self.constants[index]
            if not constant <= limit * _ROUNDING:  # NaN is refused too
                raise InputError(
                    f"{cost.metric} ≤ {limit:.5g} {cost.unit} ({limit / cost.dense:.4f} of dense) cannot be met by "
                    f"pruning weights: with all of them zero {constant:.5g} ({constant / cost.dense:.4f}) are left"
                    f"{_what_masks_allow(constraint, constant)}"
                )

    def _floors(self, fraction: float) -> list[int]:
        """The fewest weights of each tensor."""
        while True:
            least = [min(size, max(1, math.ceil(fraction * size))) for size in self.sizes]
            most = [
                constant + _FLOORS * (limit - constant)
                for constant, limit in zip(self.constants, self.limits, strict=True)
            ]
            if self.met(least, most):
                return least
            if max(least) == 1:
                return least if self.met(least) else [0] * len(least)
            fraction /= 2


def _names(constraints: Sequence[WeightConstraint]) -> list[str]:
    seen: list[str] = []
    names = []
    for constraint in constraints:
        seen.append(constraint.cost.metric)
        count = seen.count(constraint.cost.metric)
        names.append(constraint.cost.metric if count == 1 else f"{constraint.cost.metric}@{count}")
    return names


def _what_masks_allow(constraint: WeightConstraint, constant: float) -> str:
    """A clause on how far masks of the inputs would bring the cost down beside."""
    cost = constraint.cost
    if not cost.inputs:
        return "; raise the budget"
    everything = {name: torch.zeros(shape) for name, shape in cost.inputs.items()}
    saved = cost.prices({}).constant - cost.prices(everything).constant
    if saved <= 0:
        return "; raise the budget"
    left = constant - saved
    return f"; masks of the inputs could bring that down towards {left:.5g} ({left / cost.dense:.4f})"


def weight_solution(
    problem: WeightProblem, model: nn.Module, limits: WeightLimits, history: pd.DataFrame
) -> WeightSolution:
    """What a network costs whose weights have gone."""
    counts = limits.counts()
    status = Status.MET if limits.met(counts) else Status.INFEASIBLE
    spent = dict(zip(limits.names, limits.spent(counts), strict=True))
    return WeightSolution(model, dict(problem.masks), spent, status, history)
