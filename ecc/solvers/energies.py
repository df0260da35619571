r"""What a dropped unit would cost the loss, estimated in training from what the optimiser has at hand.

Per unit, over the slices of the weights that read it (for the last two: over its gates, see ``Sparsity``), with w the
weight and g the gradient of the last mini-batch:

- ``energy``: :math:`\sum D w^2 / 2\alpha`, the distance in the metric of the optimiser's step (ECC): D = sqrt(v) + eps
  of Adam's second moment v without its bias, 1 for an optimiser without one, α the step size;
- ``taylor``: running mean of :math:`(\sum w g)^2`: the squared first-order change of the loss (Molchanov et al., CVPR
  2019);
- ``fisher``: running mean of :math:`\sum (w g)^2`: twice the second-order change with the diagonal empirical Fisher
  matrix for a Hessian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ecc.solvers.sparsity import Slices, Sparsity

__all__ = ["CRITERIA", "Criterion", "Energies"]

Criterion = Literal["energy", "taylor", "fisher"]
CRITERIA: tuple[Criterion, ...] = ("energy", "taylor", "fisher")
_HORIZON = 0.98  # weight of the past in a running mean: it spans 50 mini-batches


class Energies:
    """Unit energies after each step of the optimiser.

    Args:
        sparsity: Says where the units lie.
        criterion: One of CRITERIA.
    """

    def __init__(self, sparsity: Sparsity, criterion: Criterion) -> None:
        self._slices = sparsity.readers if criterion == "energy" else sparsity.gated
        self._criterion = criterion
        self._units = sparsity.units
        self._owner = torch.cat([part.owner.cpu() for part in self._slices]) if self._slices else torch.zeros(0).long()
        self._mean = torch.zeros(sum(self._units), dtype=torch.float64)
        self._weight = 0.0

    @torch.no_grad()
    def __call__(self, optimizer: torch.optim.Optimizer, rate: float) -> list[Tensor]:
        """One float64 tensor of shape (units,) per group, on the CPU.

        Args:
            optimizer: Has just taken a step; gradients are still there.
            rate: Its step size α.
        """
        if self._criterion == "energy":
            curvature = _Curvature(optimizer)
            values = self._sum(curvature.energy) / (2 * rate)
        else:
            now = self._sum(_first_order).square() if self._criterion == "taylor" else self._sum(_second_order)
            self._mean = _HORIZON * self._mean + (1 - _HORIZON) * now
            self._weight = _HORIZON * self._weight + (1 - _HORIZON)
            values = self._mean / self._weight
        return list(values.split_with_sizes(list(self._units)))

    def _sum(self, reduce: Callable[[Slices], Tensor]) -> Tensor:
        """Over the slices of each unit, in a fixed order on every device, shape (all units,)."""
        values = torch.cat([reduce(part).reshape(-1) for part in self._slices]) if self._slices else torch.zeros(0)
        total = torch.zeros(len(self._mean) + 1, dtype=torch.float64)  # the last: what nobody owns
        return total.index_add_(0, self._owner, values.to("cpu", torch.float64))[:-1]

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"mean": self._mean, "weight": self._weight}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        self._mean, self._weight = state["mean"], state["weight"]


class _Curvature:
    """D of an optimiser's parameters, one at a time: no copy of all of them is made."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._state = optimizer.state
        self._group = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}

    def energy(self, part: Slices) -> Tensor:
        """Σ D·w² of each position."""
        weights = _wide(part.tensor)
        state = self._state.get(part.tensor, {})
        if "exp_avg_sq" not in state:
            return _reduce(weights.square(), part)
        group = self._group[part.tensor]
        unbiased = math.sqrt(1 - group["betas"][1] ** float(state["step"]))  # of a sqrt, and applied to the sums
        scale = _wide(state["exp_avg_sq"]).sqrt().add_(group["eps"] * unbiased)
        return _reduce(scale.mul_(weights).mul_(weights), part) / unbiased


def _first_order(part: Slices) -> Tensor:
    return _reduce(_change(part), part)


def _second_order(part: Slices) -> Tensor:
    return _reduce(_change(part).square_(), part)


def _change(part: Slices) -> Tensor:
    """w·g; zero for a tensor without a gradient."""
    gradient = part.tensor.grad
    return torch.zeros_like(_wide(part.tensor)) if gradient is None else _wide(part.tensor) * _wide(gradient)


def _reduce(values: Tensor, part: Slices) -> Tensor:
    others = part.others()
    return values.sum(others) if others else values


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: half precision would overflow in sums of squares."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
