r"""Non-negative least squares of positive costs: in relative error, in logarithms, drawn towards MACs, robust.

A reading of a cost errs by a factor, so errors are relative. Dividing by what was *measured* is the simplest way and is
biased: a row that reads low by chance counts more than one that reads high, and the fit comes out low by about 1.5 σ².
The fits below start there and then minimise the error of the *logarithm*, which has no such bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ecc.core.errors import InputError
from ecc.energy_models.ridge import RidgeNnls

__all__ = [
    "ANCHOR",
    "check_strengths",
    "macs_line",
    "prior_from",
    "prior_of",
    "relative_nnls",
    "robust_weights",
    "row_weights",
    "shrunken_nnls",
]

Floats = NDArray[np.float64]

ANCHOR = 3.0
"""Weight of the dense row, which is known without noise, against a measured row."""

_ITERATIONS = 30
_SETTLED = 1e-10  # relative change of predictions at which iterations end
_TUKEY = 4.685  # standard deviations from which a row counts nothing: 95 % efficient where no row is an outlier
_HUBER = 1.345  # standard deviations from which a row counts less, same efficiency
_MAD = 1.4826  # standard deviations of a normal distribution in its median absolute deviation


def check_strengths(noise: float, ridge: float) -> None:
    """Refuse an expected noise or a strength of the prior that is negative or not finite.

    Raises:
        InputError: If one of them is.
    """
    for name, value in (("noise", noise), ("ridge", ridge)):
        if not 0 <= value < math.inf:
            raise InputError(f"fit({name}=...) must be a finite number ≥ 0, got {value}")


def row_weights(spread: Floats, noise: float) -> Floats:
    """Weight of each row: 1 where its own noise is unknown or none, less the more of it there is; shape (n,).

    Args:
        spread: Standard deviation of the logarithm of each row's ratio, NaN where unknown, shape (n,).
        noise: Relative error that is expected even of a row without noise; 0 makes all rows equal.
    """
    total = np.hypot(noise, np.nan_to_num(spread))  # what the form cannot express, and what the row cannot know
    return noise / total if noise else np.ones(len(spread))


def relative_nnls(features: Floats, target: Floats) -> Floats:
    """Non-negative a that minimises Σ (features a / target − 1)²; shapes (n, p) and (n,) → (p,)."""
    return _nnls(features / target[:, None], np.ones(len(target)))


def shrunken_nnls(
    features: Floats,
    target: Floats,
    weights: Floats,
    macs: Floats,
    *,
    noise: float,
    ridge: float = 1.0,
    robust: bool = False,
    dense: Floats | None = None,
) -> Floats:
    r"""Coefficients of relative cost, drawn towards what MACs alone would predict.

    Minimises, over a ≥ 0, :math:`\sum_i w_i^2 \log^2(x_i a / y_i) + \lambda \sigma^2 \sum_j ((a_j - p_j) / \tau_j)^2`
    with one more row for the dense network, whose ratio is 1 by definition. The prior p is the fit of constant + MACs;
    each coefficient may leave it by about its own size or a mean share, whichever is more. With many rows the data
    decide; with fewer rows than terms the model is never worse than MACs by much.

    Args:
        features: Products at the rows' widths, 1 when dense; the first column is the constant. Shape (n, p).
        target: Ratios to dense, shape (n,).
        weights: 1 for a row without noise of its own, less for others, shape (n,).
        macs: Dense MACs of each column, shape (p,).
        noise: σ, the relative error expected of a row of weight 1; 0 leaves the prior out.
        ridge: λ, the strength of the pull towards the prior; 1 is what σ says, 0 leaves it out.
        robust: Whether rows far from the others' fit count less, and nothing from 4.685 standard deviations on; see
            ``robust_weights``.
        dense: Products at dense widths, shape (p,); 1 if None.
    """
    if robust:
        weights = weights * robust_weights(features, target, weights, macs, noise=noise, ridge=ridge, dense=dense)
    return _settle(features, target, weights, _penalty(features, target, weights, macs, noise, ridge, dense))


def robust_weights(
    features: Floats,
    target: Floats,
    weights: Floats,
    macs: Floats,
    *,
    noise: float,
    ridge: float = 1.0,
    dense: Floats | None = None,
) -> Floats:
    """What each row may count beside its own weight so that outliers do not move the fit: shape (n,), in [0, 1].

    An M-estimate of the logarithm: rows are weighed by Huber's function of their residual until the fit settles, then
    by Tukey's, which leaves outliers out altogether. The scale is the residuals' median absolute deviation, and at
    least the noise that is expected of a row, below which nothing can be an outlier. Squares of what is returned are
    the weights of the iteration.

    Args: as of ``shrunken_nnls``.
    """
    trusted = np.ones(len(target))
    macs_only = np.column_stack([features[:, 0], features @ _shares(macs)])
    for columns, judge in ((macs_only, _huber), (features, _huber), (features, _tukey)):
        found: Floats | None = None
        for _ in range(_ITERATIONS):
            current = weights * np.sqrt(trusted)
            penalty = _penalty(features, target, current, macs, noise, ridge, dense) if columns is features else None
            found = _settle(columns, target, current, penalty, found)
            residual = weights * np.log(target / (columns @ found))
            scale = max(_MAD * float(np.median(np.abs(residual))), noise, 1e-9)
            judged = judge(residual / scale)
            change, trusted = float(np.abs(judged - trusted).max()), judged
            if change < 1e-3:
                break
    return np.asarray(np.sqrt(trusted))


def _huber(residual: Floats) -> Floats:
    return np.asarray(_HUBER / np.maximum(np.abs(residual), _HUBER))


def _tukey(residual: Floats) -> Floats:
    return np.asarray(np.maximum(1 - (residual / _TUKEY) ** 2, 0.0) ** 2)


def prior_of(
    features: Floats, target: Floats, macs: Floats, *, noise: float, ridge: float = 1.0, weights: Floats | None = None
) -> tuple[Floats, Floats]:
    r"""What MACs alone would predict, p, and the weight of each coefficient's pull towards it, σ √λ / τ; shape (p,).

    Args: as of ``shrunken_nnls``; without weights all rows count the same.
    """
    trust = np.ones(len(target)) if weights is None else weights
    return prior_from(macs_line(features, target, macs, trust), macs, noise=noise, ridge=ridge)


def macs_line(features: Floats, target: Floats, macs: Floats, weights: Floats) -> tuple[float, float]:
    """Constant and slope of the fit of constant + MACs; arguments as of ``shrunken_nnls``."""
    columns = np.column_stack([features[:, 0], features @ _shares(macs)])
    base, slope = _settle(columns, target, weights, None)
    return float(base), float(slope)


def prior_from(line: tuple[float, float], macs: Floats, *, noise: float, ridge: float) -> tuple[Floats, Floats]:
    """As of ``prior_of``, from the constant and the slope of the fit of constant + MACs."""
    base, slope = line
    prior = slope * _shares(macs)
    prior[0] += base
    return prior, math.sqrt(ridge) * noise / np.maximum(prior, 1 / len(prior))


def _shares(macs: Floats) -> Floats:
    return macs / macs.sum() if macs.sum() else macs


@dataclass(frozen=True, slots=True, eq=False)
class _Penalty:
    """What coefficients are drawn towards beside the rows.

    Attributes:
        dense: A row that aims at the dense ratio, shape (p,).
        prior: What each coefficient is drawn to, shape (p,).
        tightness: How strongly, shape (p,); all 0 without a prior.
    """

    dense: Floats
    prior: Floats
    tightness: Floats

    def value(self, a: Floats) -> float:
        """What it adds to the sum of squares."""
        return float((self.dense @ a - ANCHOR) ** 2 + ((self.tightness * (a - self.prior)) ** 2).sum())


def _penalty(
    features: Floats,
    target: Floats,
    weights: Floats,
    macs: Floats,
    noise: float,
    ridge: float,
    dense: Floats | None,
) -> _Penalty:
    width = features.shape[1]
    row = ANCHOR * (np.ones(width) if dense is None else dense)
    if noise == 0 or ridge == 0:
        return _Penalty(row, np.zeros(width), np.zeros(width))
    return _Penalty(row, *prior_of(features, target, macs, noise=noise, ridge=ridge, weights=weights))


def _settle(
    features: Floats, target: Floats, weights: Floats, penalty: _Penalty | None, start: Floats | None = None
) -> Floats:
    """Non-negative a that minimises Σ w² log²(features a / target) and the penalty: Gauss-Newton with halved steps."""

    def objective(a: Floats) -> float:
        predicted = features @ a
        if not (predicted[weights > 0] > 0).all():
            return math.inf
        errors = weights * np.log(np.where(weights > 0, predicted, target) / target)
        return float(errors @ errors) + (penalty.value(a) if penalty is not None else 0.0)

    def nearest(scale: Floats, goal: Floats, near: Floats | None) -> Floats:
        rows, aim = features * (weights / scale)[:, None], weights * goal
        if penalty is None:
            return _nnls(rows, aim)
        rows, aim = np.vstack([rows, penalty.dense]), np.append(aim, ANCHOR)
        if not penalty.tightness.all():
            return _nnls(rows, aim)
        return RidgeNnls(rows, aim, penalty.prior, penalty.tightness).solve(None if near is None else near > 0)

    found = nearest(target, np.ones(len(target)), None) if start is None else start
    value = objective(found)
    towards = found
    for _ in range(_ITERATIONS if math.isfinite(value) else 0):
        predicted = features @ found
        predicted[weights == 0] = target[weights == 0]
        goal = nearest(predicted, 1 + np.log(target / predicted), towards)
        step, change = 1.0, goal - found
        while step > 1e-6 and objective(found + step * change) > value:
            step /= 2
        if step <= 1e-6:
            break
        found, towards = np.maximum(found + step * change, 0.0), goal
        value = objective(found)
        if np.abs(features @ (step * change)).max() < _SETTLED * predicted.max():
            break
    return found


def _nnls(matrix: Floats, aim: Floats) -> Floats:
    """Non-negative least squares."""
    if len(aim) > matrix.shape[1]:  # the same problem in p rows: only R and Qᵀ aim matter
        triangle = np.asarray(np.linalg.qr(np.column_stack([matrix, aim]), mode="r"))
        matrix, aim = triangle[:-1, :-1], triangle[:-1, -1]
    solution, _ = optimize.nnls(matrix, aim, maxiter=30 * matrix.shape[1])
    return np.asarray(solution, dtype=np.float64)
