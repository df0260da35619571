"""Mixed precision: the type in which torch's autocast makes products, for layers that make theirs another way."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["mixed_type", "unmixed"]


def mixed_type(x: Tensor) -> torch.dtype | None:
    """What a dense layer's result for an input would be in; None where autocast is off or leaves the input alone."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def unmixed(x: Tensor) -> AbstractContextManager[None]:
    """Autocast switched off for what runs on the device of a tensor."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)
