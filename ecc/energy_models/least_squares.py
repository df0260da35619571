"""Non-negative least squares in relative error, and its shrunken form for few rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

__all__ = ["ANCHOR", "prior_of", "relative_nnls", "shrunken_nnls"]

Floats = NDArray[np.float64]

ANCHOR = 3.0
"""Weight of the dense row, which is known without noise, against a measured row."""


def relative_nnls(features: Floats, target: Floats) -> Floats:
    """Non-negative a that minimises Σ (features a / target − 1)²; shapes (n, p) and (n,) → (p,)."""
    return _nnls(features / target[:, None], np.ones(len(target)))


def shrunken_nnls(features: Floats, target: Floats, weights: Floats, macs: Floats, *, noise: float) -> Floats:
    r"""Coefficients of relative cost, drawn towards what MACs alone would predict.

    Minimises, over a ≥ 0, :math:`\sum_i w_i^2 (x_i a / y_i - 1)^2 + \sigma^2 \sum_j ((a_j - p_j) / \tau_j)^2` with one
    more row for the dense network, whose ratio is 1 by definition. The prior p is the fit of constant + MACs; each
    coefficient may leave it by about its own size or a mean share, whichever is more. With many rows the data decide;
    with fewer rows than terms the model is never worse than MACs by much.

    Args:
        features: Products at the rows' widths, 1 when dense; the first column is the constant. Shape (n, p).
        target: Ratios to dense, shape (n,).
        weights: 1 for a row without noise of its own, less for others, shape (n,).
        macs: Dense MACs of each column, shape (p,).
        noise: σ, the relative error expected of a row of weight 1; 0 leaves the prior out.
    """
    rows = np.vstack([features * (weights / target)[:, None], np.full((1, features.shape[1]), ANCHOR)])
    aim = np.append(weights, ANCHOR)
    if noise == 0:
        return _nnls(rows, aim)
    prior, tightness = prior_of(features, target, macs, noise=noise)
    return _nnls(np.vstack([rows, np.diag(tightness)]), np.append(aim, tightness * prior))


def prior_of(features: Floats, target: Floats, macs: Floats, *, noise: float) -> tuple[Floats, Floats]:
    r"""What MACs alone would predict, p, and the weight of each coefficient's pull towards it, σ / τ; both shape (p,).

    Args: as of ``shrunken_nnls``.
    """
    share = macs / macs.sum() if macs.sum() else macs
    base, slope = relative_nnls(np.column_stack([features[:, 0], features @ share]), target)
    prior = slope * share
    prior[0] += base
    return prior, noise / np.maximum(prior, 1 / len(prior))


def _nnls(matrix: Floats, aim: Floats) -> Floats:
    """Non-negative least squares."""
    if len(aim) > matrix.shape[1]:  # the same problem in p rows: only R and Qᵀ aim matter
        q, matrix = np.linalg.qr(matrix)
        aim = q.T @ aim
    solution, _ = optimize.nnls(matrix, aim, maxiter=30 * matrix.shape[1])
    return np.asarray(solution, dtype=np.float64)
