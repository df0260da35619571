"""Design: which width vectors to measure.

A scrambled Sobol sequence spreads the points evenly over every projection of the legal grid, so that a cost model with
one coefficient per layer sees all of its groups vary independently already at a few dozen rows.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from ecc.core.errors import InputError
from ecc.core.widths import WidthSpace

__all__ = ["sample"]

_CROWDED = 4  # below this many legal points per point wanted, list all of them instead of drawing until distinct
_CHUNK_BITS = 6


def sample(space: WidthSpace, n: int, *, seed: int = 0, low: float | None = None) -> list[dict[str, int]]:
    """Distinct widths to measure: dense, the smallest corner, then a scrambled Sobol sequence over the legal grid.

    A longer design of the same seed begins with the shorter one, so that a store that holds the one can be extended to
    the other (unless n comes near the number of legal points).

    Args:
        n: Points wanted; fewer come back only when the space holds fewer.
        seed: Of the scrambling.
        low: Smallest width as a fraction of dense, in (0, 1]; one unit per group when None.
    Raises:
        InputError: If n < 1 or low is not in (0, 1].
    """
    if n < 1:
        raise InputError(f"samples must be at least 1, got {n}")
    if low is not None and not 0 < low <= 1:
        raise InputError(f"the lower end of the widths must be a fraction of dense in (0, 1], got {low}")
    most = np.array(space.dense, dtype=np.int64) // np.array(space.step, dtype=np.int64)
    least = np.ones_like(most) if low is None else np.maximum(1, np.ceil(low * most - 1e-9).astype(np.int64))
    points = dict.fromkeys([tuple(most.tolist()), tuple(least.tolist())])
    legal = math.prod(int(count) for count in most - least + 1)
    rng = np.random.default_rng(seed)
    if legal <= n * _CROWDED:
        ranges = (range(a, b + 1) for a, b in zip(least.tolist(), most.tolist(), strict=True))
        everything = list(itertools.product(*ranges))
        points.update(dict.fromkeys(everything[i] for i in rng.permutation(legal)))
    else:
        _draw(points, n, least, most, rng)
    step = np.array(space.step)
    return [space.widths(np.array(units, dtype=np.int64) * step) for units in list(points)[:n]]


def _draw(
    points: dict[tuple[int, ...], None],
    n: int,
    least: NDArray[np.int64],
    most: NDArray[np.int64],
    rng: np.random.Generator,
) -> None:
    """Add Sobol points in [least, most] until there are n distinct ones."""
    sequence = qmc.Sobol(len(most), scramble=True, seed=rng)
    while len(points) < n:
        units = least + np.floor(sequence.random(2**_CHUNK_BITS) * (most - least + 1)).astype(np.int64)
        points.update(dict.fromkeys(map(tuple, np.minimum(units, most).tolist())))
