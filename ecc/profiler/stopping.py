"""Stopping: when a configuration has been visited often enough.

Measured is until the interval is narrow. Where it cannot become so within the visits that are left, because the noise
is known and too large, further visits are not worth their time (nvbench stops when the noise estimate has settled,
whatever remains; here only when what remains would not do either, or when it would be far from doing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecc.profiler.pairing import Pairs, Spread, estimate
from ecc.profiler.window import Window

__all__ = ["enough", "settled"]

_FEWEST = 10  # pairs by which a noise is judged
_HOPELESS = 2.0  # times the width asked for, after all visits, at which the noise need not be known well
_SETTLED = 0.05  # relative standard deviation of the noise estimates over the last half of the pairs


def enough(visits: Sequence[Pairs], window: Window, usual: Spread | None = None) -> bool:
    """Whether the interval is as narrow as asked, or clearly will not be after ``max_blocks`` visits."""
    found = estimate(visits, usual)
    if found.half_width <= window.rel_half_width:
        return True
    if found.n < _FEWEST:
        return False
    most = found.n / len(visits) * window.max_blocks
    reached = found.half_width * math.sqrt(found.n / most) / window.rel_half_width
    return reached > _HOPELESS or (reached > 1 and settled(np.concatenate([pairs.ratios for pairs in visits])))


def settled(ratios: NDArray[np.float64]) -> bool:
    """Whether the spread of these ratios, as it was found while they came in, stands still."""
    logs = np.log(ratios)
    track = [float(np.subtract(*np.quantile(logs[:n], (0.75, 0.25)))) for n in range(len(logs) // 2, len(logs) + 1)]
    return float(np.std(track)) < _SETTLED * float(np.mean(track))
