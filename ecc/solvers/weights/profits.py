"""Profits: what keeping each weight is worth to a projection, from its value and from the gradients of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["PROFITS", "Profit", "Profits"]

Profit = Literal["magnitude", "taylor", "fisher"]
"""Names of profits."""

PROFITS: tuple[str, ...] = get_args(Profit)
"""The same as a tuple."""

_DECAY = 0.99  # per step, of the running means
_LOOKS = 3  # at gradients, from one projection to the next; each takes a pass over all weights
_PRIOR = 30.0  # looks that the mean of a tensor counts for in that of each weight


class Profits:
    """The profits of a network's weights.

    - ``magnitude``: w², the squared distance that dropping the weight adds (Yang et al., ICLR 2019);
    - ``fisher``: w²·E[g²] with g the gradient of a batch: up to a factor that all weights share, what the
      loss rises by without the weight if its Hessian is its Fisher information (LeCun et al., NIPS 1989, with that);
    - ``taylor``: the root of the same, abs(w)·E[g²]^½: how far the loss of a batch moves to first order.

    The mean of g² runs over the steps of training, of which three are looked at between two projections. A few looks
    say little of a single weight, so each mean is drawn towards that of its tensor, which counts for 30 looks (ours).
    Until there was one, every profit is the magnitude's.

    Args:
        parameters: Whose weights are rated.
        every: Steps between two projections.
    """

    def __init__(self, kind: Profit, parameters: Sequence[nn.Parameter], every: int = 1) -> None:
        self._kind, self._parameters = kind, parameters
        self._stride = max(1, every // _LOOKS)
        self._decay = _DECAY**self._stride
        self._squares: list[Tensor] = []
        self._looks = 0

    @torch.no_grad()
    def observe(self, index: int) -> None:
        """Look at the gradients behind a step, counted from 0; one that is missing is zero."""
        if self._kind == "magnitude" or (index + 1) % self._stride:
            return
        if not self._squares:
            self._squares = [torch.zeros(p.shape, dtype=_wide(p), device=p.device) for p in self._parameters]
        self._looks += 1
        for mean, parameter in zip(self._squares, self._parameters, strict=True):
            mean.mul_(self._decay)
            if parameter.grad is not None:
                gradient = parameter.grad.to(mean.dtype)
                mean.addcmul_(gradient, gradient, value=1 - self._decay)

    @torch.no_grad()
    def of_weights(self) -> list[Tensor] | None:
        """What each weight is worth, of the shapes of the parameters; None for the squares of the weights."""
        if not self._squares:
            return None
        found = []
        for parameter, mean in zip(self._parameters, self._squares, strict=True):
            _make_finite(mean)  # where a scaled loss overflowed, the mean begins anew
            profit = mean.mul(self._trust).add_(mean.mean(), alpha=1 - self._trust)
            if self._kind == "taylor":
                profit.sqrt_().mul_(parameter).abs_()
            else:
                profit.mul_(parameter).mul_(parameter)
            _make_finite(profit)  # squares overflow while training diverges, of which its loop tells
            found.append(profit)
        return found

    @property
    def _trust(self) -> float:
        """In the mean of a weight, by the number of equal looks that would be as certain as the running mean."""
        left = self._decay**self._looks
        looks = (1 - left) / (1 + left) * (1 + self._decay) / (1 - self._decay)
        return looks / (looks + _PRIOR)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"squares": self._squares, "looks": self._looks}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        self._looks = state["looks"]
        pairs = zip(state["squares"], self._parameters, strict=False)  # none before the first step
        self._squares = [mean.to(parameter.device, copy=True) for mean, parameter in pairs]


def _wide(parameter: nn.Parameter) -> torch.dtype:
    """At least float32: squares would underflow in half precision."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def _make_finite(tensor: Tensor) -> None:
    """Zeros for NaN and infinity, which are rare: one pass that only reads finds whether there are any."""
    if not bool(tensor.sum(dtype=torch.float64).isfinite()):
        tensor.nan_to_num_(0.0, 0.0, 0.0)
