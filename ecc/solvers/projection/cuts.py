"""Which weights of a tensor are its so many largest, as a threshold; and zeroing the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ecc.core.weights import Price
from ecc.solvers.projection.greedy import Greedy, Window
from ecc.solvers.projection.items import BITS, Ranked, buffer_for, native, spans, zero_others

__all__ = ["Cut", "clear", "cut_of", "marks"]


@dataclass(frozen=True, slots=True)
class Cut:
    """All weights with a larger key than ``key``, and the first ``ties`` with that key in memory; None is all."""

    key: float
    ties: int | None = None


def cut_of(count: int, keys: Tensor, values: Tensor | None = None, windows: Sequence[Window] = ()) -> Cut:
    """The cut that leaves the ``count`` weights with the largest keys.

    Args:
        count: Not above the number of weights that are not zero.
        keys: Flat; magnitudes count.
        values: Flat; where they are zero there is no weight, whatever its key.
        windows: Keys that were looked at, which may tell.
    """
    if count == 0:
        return Cut(math.inf)
    for window in windows:
        if (cut := _within(window, count, keys.dtype)) is not None:
            return cut
    each = Price(1.0, 1.0)
    items = Ranked(0, keys, values, (1.0,), 1.0, 0, keys.numel(), square=False)
    found = Greedy([items], [(each,)], [0], [float(count)], [1.0])
    cuts = (_within(window, count, keys.dtype) for window in found.windows[0])
    return next(cut for cut in cuts if cut is not None)


def clear(values: Tensor, cut: Cut, profits: Tensor | None = None) -> None:
    """Zero the flat ``values`` that the cut leaves out; keys are their magnitudes, or ``profits``."""
    if math.isinf(cut.key):
        values.zero_()
        return
    items = Ranked(0, values if profits is None else profits, None if profits is None else values, (), 1.0, 0, 0)
    if profits is None:
        torch.ops.aten.hardshrink.out(values, _below(cut.key, values.dtype), out=values)  # zeroes up to its argument
        if cut.ties is None:
            return
    left = cut.ties
    buffer = buffer_for(items.keys)
    for span in spans(values):
        keys = native(items.read(span, buffer))
        if profits is not None:
            zero_others(values[span], keys >= cut.key)
        if left is not None:
            tied = torch.as_tensor(keys == cut.key).nonzero().flatten()
            values[span][tied[left:]] = 0
            left = max(0, left - len(tied))


def marks(values: Tensor, cut: Cut, profits: Tensor | None = None) -> Tensor:
    """Which weights the cut leaves, flat."""
    kept = values.clone()
    clear(kept, cut, profits)
    return kept != 0


def _below(key: float, dtype: torch.dtype) -> float:
    """The largest number of a type that is smaller than a positive one."""
    near = torch.tensor(key, dtype=torch.float64).to(dtype)
    bits = near.view(BITS[near.element_size()])
    return float((bits - 1).view(dtype) if float(near) >= key else near)


def _within(window: Window, count: int, dtype: torch.dtype) -> Cut | None:
    """The cut, if the last of so many weights is among keys that were looked at."""
    if count == window.above:
        return Cut(window.ceiling)
    behind = count - window.above
    if window.count:
        kind = np.float64 if dtype == torch.float64 else np.float32
        alone = kind(window.ceiling) == np.nextafter(kind(window.keys[0]), kind(math.inf))
        if not alone or not 0 < behind <= window.count:
            return None
        return Cut(float(window.keys[0]), behind if behind < window.count else None)
    if not 0 < behind <= len(window.keys):
        return None
    key = float(window.keys[behind - 1])
    larger, tied = int((window.keys > key).sum()), int((window.keys == key).sum())
    return Cut(key, behind - larger if behind < larger + tied else None)
