"""Memory: what a forward takes beside the weights, from when to when, and the most that it holds at a time.

Every piece is taken at the step that makes it and free after the last step that needs it: the least that any way of
running these operators one after the other can do with, if none is fused and none computed twice.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ecc.core.layers import Side

__all__ = ["Activation", "Peak", "activations_without"]


@dataclass(frozen=True, slots=True)
class Activation:
    """A piece of memory that a forward takes for a while; views, and what is worked on in place, share one.

    Attributes:
        nbytes: At dense widths, for the batch that was traced.
        sides: Whose fractions its size is multiplied by.
        uses: Steps of the forward at which it is made, read or changed, rising. Steps are all operators that run, those
            that are no calls among them, counted from 0; −1 is when the inputs are given, and the number of steps when
            the outputs are taken.
    """

    nbytes: int
    sides: tuple[Side, ...]
    uses: tuple[int, ...]

    @property
    def first(self) -> int:
        """The step that makes it."""
        return self.uses[0]

    @property
    def last(self) -> int:
        """The last step that needs it."""
        return self.uses[-1]

    def at(self, relative: Mapping[str, float]) -> int:
        """Its bytes at relative widths in (0, 1]; a group that is not named counts as dense."""
        return round(self.nbytes * math.prod(side.fraction(relative) for side in self.sides))


class Peak:
    """The most that pieces of memory take at a time, for batches of their sizes, differentiably.

    Args:
        activations: The pieces; of steps that take none, only the order counts.
    """

    def __init__(self, activations: Sequence[Activation]) -> None:
        bounds = [(each.first, each.last + 1) for each in activations]
        instants = sorted({instant for pair in bounds for instant in pair})
        place = {instant: i for i, instant in enumerate(instants)}
        ends = np.array([[place[first], place[after]] for first, after in bounds], dtype=np.int64).reshape(-1, 2)
        self._first, self._after = torch.from_numpy(ends[:, 0].copy()), torch.from_numpy(ends[:, 1].copy())
        self._instants = max(len(instants), 1)

    def __call__(self, sizes: Tensor) -> Tensor:
        """Sizes in bytes, shape (…, n), to the peak, shape (…); of several instants alike, each has a share of it."""
        change = sizes.new_zeros((*sizes.shape[:-1], self._instants))
        change = change.index_add(-1, self._first, sizes).index_add(-1, self._after, -sizes)
        peak: Tensor = change.cumsum(-1).amax(-1)
        return peak


def activations_without(
    activations: Sequence[Activation], gone: Sequence[bool], same: Collection[tuple[int, int]]
) -> tuple[tuple[Activation, ...], tuple[int, ...]]:
    """The memory that is left when steps go, and of each activation its number among those left; −1 if it goes too.

    Args:
        gone: Whether each step goes.
        same: Pairs of activations that become one, the one that is made earlier first.
    """
    home = list(range(len(activations)))
    for first, second in sorted(same):
        home[second] = home[first]
    stays = [-1, *(step for step, goes in enumerate(gone) if not goes), len(gone)]
    kept = set(stays)
    uses: dict[int, set[int]] = {}
    for i, each in enumerate(activations):
        mine = {bisect_left(stays, step) - 1 for step in each.uses if step in kept}
        uses.setdefault(home[i], set()).update(mine)
    left = [i for i, steps in uses.items() if steps]
    number = {i: n for n, i in enumerate(left)}
    found = tuple(replace(activations[i], uses=tuple(sorted(uses[i]))) for i in left)
    return found, tuple(number.get(home[i], -1) for i in range(len(activations)))
