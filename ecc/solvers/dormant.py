"""Dormant weights: what the slices of dropped units would weigh, so that a unit can come back as more than a zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ecc.solvers.sparsity import Sparsity

__all__ = ["Dormant"]


class Dormant:
    """Units that are dropped for now.

    The forward pass sees zeros where a unit is dropped, and the gradient there says where its weights would go: the
    optimiser's step from zero is added to the weights that the unit was dropped with. So a unit that the loss pulls at
    gains energy, outranks others and comes back with those weights.

    Holds the weights of dropped units only.

    Args:
        sparsity: Says where the units lie.
        memory: What is left of dormant weights after each step, in [0, 1].
    """

    def __init__(self, sparsity: Sparsity, memory: float) -> None:
        self._parts = sparsity.silenced
        self._owners = [part.owner.cpu() for part in self._parts]
        self._memory = memory
        self._keep = torch.ones(sum(sparsity.units), dtype=torch.bool)
        self._weights: list[Tensor] = []

    @torch.no_grad()
    def wake(self) -> None:
        """Give every unit its weights, as they are after the optimiser's step."""
        dropped = self._dropped() if self._weights else []
        for part, rows, weights in zip(self._parts, dropped, self._weights, strict=False):
            part.tensor.index_add_(part.axis, rows, weights, alpha=self._memory)

    @torch.no_grad()
    def silence(self, keep: Tensor) -> None:
        """Zero the slices of dropped units in the network; after ``wake``.

        Args:
            keep: bool, over the units of all groups one after another, shape (all units,).
        """
        self._keep, self._weights = keep.cpu(), []
        if bool(self._keep.all()):
            return
        for part, rows in zip(self._parts, self._dropped(), strict=True):
            self._weights.append(part.tensor.index_select(part.axis, rows))
            part.tensor.index_fill_(part.axis, rows, 0)  # where two parts meet, the second finds zeros

    def _dropped(self) -> list[Tensor]:
        """Per part, the positions of dropped units."""
        extended = torch.nn.functional.pad(self._keep, (0, 1), value=True)  # what nobody owns stays
        rows = ((~extended[owner]).nonzero().flatten() for owner in self._owners)
        return [each.to(part.tensor.device) for part, each in zip(self._parts, rows, strict=True)]

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold; no weights while no unit is dropped."""
        return {"keep": self._keep, "weights": list(self._weights)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        self._keep = state["keep"].cpu()
        self._weights = [weights.to(part.tensor) for part, weights in zip(self._parts, state["weights"], strict=False)]
