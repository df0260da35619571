"""Corrections: what a whole network costs beside the sum of its operators, learnt from rows under a prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

from ecc.core.errors import InputError

__all__ = ["COLD", "COMMON", "FAR", "MISFIT", "PER_KIND", "Correction", "correction_of", "posterior"]

Floats = NDArray[np.float64]

COMMON = 0.2
"""Prior spread of a factor common to all calls."""

PER_KIND = 0.15
"""Prior spread of a factor per kind of call."""

FAR = 0.3
"""Prior spread of what fetching weights from afar costs, as a share of the dense network."""

COLD = 0.5
"""Prior spread of the factor of what chains say that calls cost more in a network."""

MISFIT = 0.03
"""Relative error to expect of a row that is measured without noise, as in ``bilinear``."""

_OVERHEAD = 0.1  # prior spread of what there is beside calls, as a share of the dense network
_INDEPENDENT = 10.0  # rows that all rows of a network count as where they speak of the device


@dataclass(frozen=True, slots=True)
class Correction:
    """What the network as a whole adds to its operators, as far as it is the device's doing.

    Attributes:
        scale: Factor common to all calls.
        per_weight: Seconds or joules for each number in the weights.
    """

    scale: float = 1.0
    per_weight: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and 0 <= self.per_weight < math.inf):
            raise InputError("Correction(scale=..., per_weight=...) must be finite, positive and not negative")


def posterior(columns: Floats, ratio: Floats, noise: Floats, prior: Floats, scale: float, per_weight: float) -> Floats:
    r"""Overhead, cost per weight and factors of most posterior density, none negative; shape (2 + p,).

    Minimises :math:`\sum_i (x_i b/y_i - 1)^2/σ_i^2 + (b - m)^T P (b - m)`, P and m the prior's precision and mean.

    Args:
        columns: 1, weights, and what each part costs alone, over the dense network's measured value, shape (n, 2 + p);
            the last row is the dense network.
        ratio: Measured, shape (n,).
        noise: Relative standard deviation, shape (n,).
        prior: Covariance of the factors over their mean, shape (p, p).
        scale: Prior mean of the factors.
        per_weight: Prior mean of the cost per weight.
    """
    p = len(prior)
    far = max(columns[-1, 1], 1e-300)  # weights of the dense network, so that their cost becomes a share
    units = np.concatenate([[1.0, 1 / far], np.full(p, scale)])
    root = linalg.cholesky(prior + 1e-9 * np.eye(p), lower=True)
    pull = linalg.block_diag(1 / _OVERHEAD, 1 / FAR, linalg.solve_triangular(root, np.eye(p), lower=True))
    mean = np.concatenate([[0.0, per_weight * far], np.ones(p)])
    rows = columns * units / (ratio * noise)[:, None]
    matrix, aim = np.vstack([rows, pull]), np.concatenate([1 / noise, pull @ mean])
    q, r = np.linalg.qr(matrix)
    solution, _ = optimize.nnls(r, q.T @ aim, maxiter=100 * len(units))
    return np.asarray(solution * units, dtype=np.float64)


def correction_of(columns: Floats, ratio: Floats) -> Correction:
    """One factor and one cost per weight that explain rows; all rows of a network together count as a few only.

    What they have in common, which is the network, is not drawn anew for each of them.
    """
    weight = math.sqrt(min(1.0, _INDEPENDENT / len(ratio))) / COMMON
    sums = np.column_stack([columns[:, 2:].sum(1), columns[:, 1]])
    far = max(columns[-1, 1], 1e-300)
    rows = sums / ratio[:, None] * weight * np.array([1.0, 1 / far])
    pull = np.diag([1 / COMMON, 0.1 / FAR])
    aim = np.concatenate([np.full(len(ratio), weight), [1 / COMMON, 0.0]])
    solution, _ = optimize.nnls(np.vstack([rows, pull]), aim)
    return Correction(max(float(solution[0]), 1e-3), float(solution[1] / far))
