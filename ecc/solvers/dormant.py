"""Dormant weights: what the slices of dropped units would weigh, so that a unit can come back as more than a zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ecc.solvers.sparsity import Slices, Sparsity

__all__ = ["Dormant"]


class Dormant:
    """Units that are dropped for now.

    The forward pass sees zeros where a unit is dropped, and the gradient there says where its weights would go: the
    optimiser's step from zero is added to the weights that the unit was dropped with. So a unit that the loss pulls at
    gains energy, outranks others and comes back with those weights.

    Holds one copy of the weights that are silenced, from the first dropped unit on.

    Args:
        sparsity: Says where the units lie.
        memory: What is left of dormant weights after each step, in [0, 1].
    """

    def __init__(self, sparsity: Sparsity, memory: float) -> None:
        parts: dict[Tensor, list[Slices]] = {}
        for part in sparsity.silenced:
            parts.setdefault(part.tensor, []).append(part)
        self._parts = parts
        self._memory = memory
        self._weights: list[Tensor] = []

    @torch.no_grad()
    def wake(self) -> None:
        """Give every unit its weights, as they are after the optimiser's step."""
        if self._weights:
            for tensor, weights in zip(self._parts, self._weights, strict=True):
                tensor.add_(weights, alpha=self._memory)

    @torch.no_grad()
    def silence(self, keep: Tensor) -> None:
        """Zero the slices of dropped units in the network; after ``wake``.

        Args:
            keep: bool, over the units of all groups one after another, shape (all units,).
        """
        if not self._weights:
            if bool(keep.all()):
                return
            self._weights = [torch.empty_like(tensor) for tensor in self._parts]
        extended = torch.nn.functional.pad(keep, (0, 1), value=True)  # what nobody owns stays
        by_device = {tensor.device: extended.to(tensor.device) for tensor in self._parts}
        for (tensor, parts), weights in zip(self._parts.items(), self._weights, strict=True):
            stays = parts[0].spread(by_device[tensor.device])
            for part in parts[1:]:
                stays = stays & part.spread(by_device[tensor.device])
            torch.mul(tensor, ~stays, out=weights)
            tensor.mul_(stays)

    def state(self) -> list[Tensor]:
        """What a checkpoint must hold; empty while no unit was dropped."""
        return list(self._weights)

    def restore(self, state: Sequence[Tensor]) -> None:
        """The inverse of ``state``."""
        self._weights = (
            [weights.to(tensor) for tensor, weights in zip(self._parts, state, strict=True)] if state else []
        )
