r"""Pooling: many small coefficients of several kinds, those of a kind about equally large, how large the rows say.

.. math:: y_i = l + \sum_k \sum_{j \in k} z_{ij} b_j + e_i, \qquad b_j \sim N(0, v_k), \quad
          e_i \sim N(0, (\sigma_i^2 + u) / t_i)

The variances v of the kinds and u of what the inputs cannot say maximise the marginal likelihood (Rasmussen & Williams,
Gaussian Processes for Machine Learning, 2006, ch. 5; variance components); the coefficients are their posterior mean. A
kind that explains nothing is left out. Against the lasso, which has one strength for all inputs and finds it by holding
rows out, a kind whose inputs all matter a little is kept, and one that is noise is not paid for by the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

__all__ = ["pooled"]

Floats = NDArray[np.float64]

_MOST_LEARNING = 300  # rows that variances are learnt from; all rows are fitted to
_STEPS = 60  # of the search for them
_LEVEL = 1.0  # prior variance of l: wide, for logarithms of ratios to a fit
_START, _START_REST = 1e-3, 4e-4
_TYPICAL, _HOLD = 1e-3, 0.01  # a prior on the logarithms of variances so weak that it only ends the search
_LEAST, _MOST = 1e-7, 10.0
_IDLE = 1e-6  # variance, in y, below which a kind explains nothing


def pooled(
    inputs: Floats, kinds: NDArray[np.int64], target: Floats, noise: Floats, trust: Floats
) -> tuple[float, Floats]:
    """Level and coefficients: a number and shape (p,).

    Args:
        inputs: z, shape (n, p).
        kinds: Number of the kind of each input, shape (p,).
        target: y, shape (n,).
        noise: σ, NaN where unknown, shape (n,).
        trust: t, what each row counts, shape (n,).
    """
    known = np.nan_to_num(noise) ** 2
    size = np.zeros(int(kinds.max(initial=-1)) + 1)
    np.add.at(size, kinds, (inputs**2).mean(axis=0))
    some = np.flatnonzero(size > 1e-12)
    size = np.where(size > 1e-12, size, 1.0)  # so that a kind's variance is that of its share of y
    scaled = inputs / np.sqrt(size)[kinds]
    rows = np.linspace(0, len(target) - 1, min(len(target), _MOST_LEARNING)).astype(np.int64)
    grams = np.array([_gram(scaled[rows][:, kinds == kind]) for kind in some]).reshape(-1, len(rows), len(rows))
    found, rest = _variances(grams, target[rows], known[rows], trust[rows])
    variance = np.zeros(len(size))
    variance[some] = np.where(found > _IDLE, found, 0.0)
    used = np.flatnonzero(variance[kinds] > 0)
    spread = np.append(np.sqrt(variance[kinds[used]]), np.sqrt(_LEVEL))
    columns = np.column_stack([scaled[:, used], np.ones(len(target))]) * spread
    mean = _posterior(columns, target, (known + rest) / trust) * spread
    coefficients = np.zeros(inputs.shape[1])
    coefficients[used] = mean[:-1] / np.sqrt(size)[kinds[used]]
    return float(mean[-1]), coefficients


def _gram(columns: Floats) -> Floats:
    return np.asarray(columns @ columns.T)


def _variances(grams: Floats, target: Floats, known: Floats, trust: Floats) -> tuple[Floats, float]:
    """Of each kind, shape (n_kinds,), and of the rest: the maximum of the marginal likelihood.

    Args:
        grams: Covariance of the rows under each kind of variance 1, shape (n_kinds, n, n).
    """
    flat = grams.reshape(len(grams), len(target) ** 2)
    bounds = np.log([_LEAST, _MOST])

    def surprise(logs: Floats) -> tuple[float, Floats]:
        values = np.exp(logs)
        covariance = (values[:-1] @ flat).reshape(len(target), len(target)) + _LEVEL
        covariance[np.diag_indices(len(target))] += (known + values[-1]) / trust
        factor = linalg.cholesky(covariance, lower=True)
        inverse, _ = linalg.lapack.dpotri(factor, lower=True)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        weights = inverse @ target
        slope = inverse - np.outer(weights, weights)
        gradient = values / 2 * np.append(flat @ slope.ravel(), (np.diag(slope) / trust).sum())
        far = logs - np.log(_TYPICAL)
        value = float(target @ weights) / 2 + float(np.log(np.diag(factor)).sum()) + _HOLD * float(far @ far)
        return value, gradient + 2 * _HOLD * far

    start = np.log(np.append(np.full(len(grams), _START), _START_REST))
    found = optimize.minimize(
        surprise, start, jac=True, method="L-BFGS-B", bounds=[tuple(bounds)] * len(start), options={"maxiter": _STEPS}
    )
    values = np.exp(found.x)
    return values[:-1], float(values[-1])


def _posterior(columns: Floats, target: Floats, variance: Floats) -> Floats:
    """Mean of coefficients of prior variance 1, shape (p,), in as many unknowns as there are columns or rows."""
    if columns.shape[1] > len(target):
        covariance = columns @ columns.T
        covariance[np.diag_indices(len(target))] += variance
        return np.asarray(columns.T @ linalg.solve(covariance, target, assume_a="pos"))
    weighted = columns / variance[:, None]
    precision = columns.T @ weighted
    precision[np.diag_indices(len(precision))] += 1.0
    return np.asarray(linalg.solve(precision, weighted.T @ target, assume_a="pos"))
