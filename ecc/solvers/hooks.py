"""Hooks: what a solver, or somebody who watches, does between the steps and epochs of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

__all__ = ["EpochObserver", "Hook", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """An optimiser step that was just taken.

    Attributes:
        optimizer: Holds Adam's moments.
        rate: Its step size.
        index: From 0.
        total: Steps of the whole run.
    """

    optimizer: torch.optim.Optimizer
    rate: float
    index: int
    total: int


class Hook(Protocol):
    """What a solver does between the steps of training; in a run of several processes, the same in each of them."""

    @property
    def key(self) -> str:
        """Text that identifies the hook's settings; a checkpoint of other settings is not resumed."""

    def after_step(self, step: Step) -> bool:
        """Act on the weights; True ends training."""

    def figures(self) -> Mapping[str, float]:
        """Columns of the epoch's row of the history."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold; asked for only where there is one."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""


@runtime_checkable
class EpochObserver(Protocol):
    """Somebody who wants the rows of the history as soon as they are there; a ``Progress`` may be one too."""

    def after_epoch(self, row: Mapping[str, Any]) -> None:
        """One row of the history; never raises."""
