"""A small convolutional network on digits with its energy and counts, for tests of pruning single weights."""

from __future__ import annotations

from functools import cache

import torch
from solver_toy import digits_task
from torch import nn

from ecc.core.weights import WeightConstraint, WeightProblem
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.weights import WeightEnergy
from ecc.energy_models.weight_counts import NonzeroCost
from ecc.network.graph import WidthGraph
from ecc.network.tracing import trace

ARRAY = SystolicArray(name="small", rows=4, columns=3, weight_cache=100)
"""Holds a part of the weights of each layer."""


def network(seed: int = 0) -> nn.Module:
    """1×8×8 → two convolutions with a batch norm, two linear layers; 3,360 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, 12),
        nn.ReLU(),
        nn.Linear(12, 10),
    )


@cache
def graph() -> WidthGraph:
    return trace(network(), torch.zeros(1, 1, 8, 8))


def energy(model: nn.Module) -> WeightEnergy:
    return WeightEnergy.of(model, graph(), ARRAY)


def posed(energy_limit: float | None = 0.4, count_limit: float | None = None, *, model=None, task=None, seed=0):
    """A problem with limits relative to dense."""
    model = network() if model is None else model
    constraints = []
    if energy_limit is not None:
        cost = energy(model)
        constraints.append(WeightConstraint(cost, energy_limit * cost.dense))
    if count_limit is not None:
        count = NonzeroCost.of(model, graph())
        constraints.append(WeightConstraint(count, count_limit * count.dense))
    return WeightProblem(model, task or digits_task(flat=False), tuple(constraints), seed)


def supports(model: nn.Module) -> dict[str, torch.Tensor]:
    """Which weights are not zero."""
    return {name: parameter != 0 for name, parameter in model.named_parameters() if parameter.ndim > 1}
