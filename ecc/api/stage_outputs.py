"""Outputs of a network before and behind secondary stages: what was finite has to stay finite."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.network.capture import run
from ecc.network.copying import copy_sharing
from ecc.solvers.evaluation import device_of, moved

__all__ = ["demand_finite"]


def demand_finite(before: nn.Module, after: nn.Module, inputs: tuple[Any, ...], stage: str) -> None:
    """Refuse a decoded network that gives NaN or infinity where the one that came in gave numbers.

    Args:
        before: As it came in; left as it is, and so is ``after``.
        inputs: The arguments of both.
        stage: The last one that was applied.
    Raises:
        InputError: If it does.
    """
    try:
        wanted = _outputs(before, inputs)
    except Exception:  # of whatever kind: a network that fails on its inputs has nothing to be compared with
        return
    found = _outputs(after, inputs)
    if any(_worse(old, new) for old, new in zip(wanted, found, strict=False)):
        raise InputError(
            f"behind {stage}, the last stage, the network gives NaN or infinity on its example inputs, and before it "
            "gave numbers; nothing is kept, so choose milder options, or name by layers which weights are encoded"
        )


def _outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    return [each.cpu() for each in run(copy_sharing(model, {}).eval(), moved(inputs, device_of(model)))]


def _worse(old: Tensor, new: Tensor) -> bool:
    """Whether numbers of ``old`` are none in ``new``; masks of attention may be infinite in both."""
    if old.shape != new.shape:
        return bool(old.isfinite().all()) and not bool(new.isfinite().all())
    return bool((old.isfinite() & ~new.isfinite()).any())
