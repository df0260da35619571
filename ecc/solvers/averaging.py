"""Average: an exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ecc.solvers.evaluation import running_statistics

__all__ = ["Average"]


class Average:
    """The moving average of the trainable weights and of the running statistics of batch norms.

    The decay of update n (from 0) is min(decay, (1 + n)/(10 + n)), so that a short run is not held back by its start.
    Weights narrower than float32 are averaged in float32. Everything else is taken as it is.

    Args:
        model: Whose weights are averaged; read at every update.
        decay: In [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._sources: list[Tensor] = [*weights, *running_statistics(model)]
        self._decay = decay
        self._updates = 0
        self._values = [_wide(source).clone() for source in self._sources]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of the moment into the average."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        current = [_wide(source) for source in self._sources]
        get_ema_multi_avg_fn(decay)(self._values, current, self._updates)  # type: ignore[no-untyped-call]
        self._updates += 1

    @torch.no_grad()
    def install(self, values: Sequence[Tensor] | None = None) -> None:
        """Make the average, or the ``values`` of an earlier state, the model's weights."""
        for source, value in zip(self._sources, values or self._values, strict=True):
            source.copy_(value)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The average is in the model within; the weights of before are back at the end."""
        before = [source.detach().clone() for source in self._sources]
        self.install()
        try:
            yield
        finally:
            self.install(before)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"values": list(self._values), "updates": self._updates}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        self._updates = state["updates"]
        for value, kept in zip(self._values, state["values"], strict=True):
            value.copy_(kept)


def _wide(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
