"""Minimising: the least of a sum of tables, exactly where that is affordable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecc.solvers.allocation.elimination import Elimination
from ecc.solvers.allocation.messages import Messages

__all__ = ["MOST_WORK", "Minimiser", "minimiser_for"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Scope = tuple[int, ...]

MOST_WORK = 3e7
"""Entries that an elimination may sum."""


class Minimiser(Protocol):
    """Finds the least of sums of tables over the same sets of variables."""

    def minimise(self, singles: Sequence[Floats], joint: Mapping[Scope, Floats]) -> tuple[float, Whole]:
        """A value that no sum is below, and a place of each variable where the sum is small."""

    def marginals(self, singles: Sequence[Floats], joint: Mapping[Scope, Floats]) -> list[Floats]:
        """For each value of each variable, a value that no sum with it is below."""


def minimiser_for(sizes: Sequence[int], scopes: Sequence[Scope]) -> Minimiser:
    """Elimination where its tables stay small, otherwise messages."""
    exact = Elimination(sizes, scopes)
    if exact.work <= MOST_WORK:
        return exact
    return Messages(sizes, scopes)
