"""Fixed splits: the same examples are held out on every machine, whatever the seed of a run.

A split that moved with the seed would let a network be verified on examples that it was trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["hold_out"]

_SEED = 20190616


def hold_out(labels: NDArray[Any], fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (kept, held out), each sorted; every class gives ``fraction`` of its examples, rounded.

    Every class keeps at least one example, and gives at least one where it has two.
    """
    random = np.random.default_rng(_SEED)
    held: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held.append(random.permutation(members)[:count])
    out = np.sort(np.concatenate(held)).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels)), out), out
