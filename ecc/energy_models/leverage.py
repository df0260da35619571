r"""Leverage: where a fit to the rows so far is least certain, before anything is measured there.

The bilinear fit is least squares with a prior, so its coefficients have the covariance :math:`\sigma^2 A^{-1}` with
:math:`A = \sum_i w_i^2 x_i x_i^T + \mathrm{diag}(\sigma / \tau)^2`, x being the products at a row's widths divided by
its ratio. The relative variance of the prediction at other widths is :math:`\sigma^2\, x^T A^{-1} x`, its *leverage*
times that of a row. A row there takes it off the determinant of :math:`A^{-1}` (D-optimal design).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ecc.core.layers import SumOfProducts
from ecc.energy_models.least_squares import ANCHOR, prior_of, shrunken_nnls
from ecc.energy_models.samples import Samples
from ecc.energy_models.terms import terms_of

__all__ = ["choose_rows", "leverage"]

Floats = NDArray[np.float64]


def leverage(samples: Samples, widths: NDArray[np.int64], *, noise: float = 0.03) -> Floats:
    """Relative variance of the fit's prediction at each of the widths, in units of a clean row's own; shape (m,).

    Args:
        widths: Channels, shape (m, n_groups).
        noise: Relative error expected of a clean row, as in ``bilinear.fit``.
    """
    spread, rows = _normalised(samples, widths, noise)
    return np.asarray(((rows @ spread) * rows).sum(1), dtype=np.float64)


def choose_rows(samples: Samples, candidates: NDArray[np.int64], n: int, *, noise: float = 0.03) -> list[int]:
    """Numbers of n candidates, each where the fit would be least certain once those before it were measured.

    Choosing fewer gives the first of choosing more.

    Args:
        candidates: Widths that may be measured, drawn as those that matter are, shape (m, n_groups): among all widths
            the extreme ones would win, where a form that is not exact is furthest off.
    """
    spread, rows = _normalised(samples, candidates, noise)
    chosen: list[int] = []
    for _ in range(min(n, len(rows))):
        towards = rows @ spread
        uncertain = (towards * rows).sum(1)
        uncertain[chosen] = -1.0
        best = int(np.argmax(uncertain))
        chosen.append(best)
        spread = spread - np.outer(towards[best], towards[best]) / (1 + uncertain[best])
    return chosen


def _normalised(samples: Samples, widths: NDArray[np.int64], noise: float) -> tuple[Floats, Floats]:
    """A⁻¹ of the rows, shape (p, p), and the products at the widths over their predicted ratio, shape (m, p)."""
    products = terms_of(samples.space, samples.layers)
    evaluate = SumOfProducts(samples.space, products.factors)

    def features(where: NDArray[np.float64]) -> Floats:
        return np.column_stack([np.ones(len(where)), evaluate(torch.tensor(where)).numpy()])

    rows, others = features(samples.widths), features(np.asarray(widths, dtype=np.float64))
    macs = np.concatenate([[products.fixed_macs], products.macs])
    weights = noise / np.hypot(noise, np.nan_to_num(samples.noise))
    _, tightness = prior_of(rows, samples.ratio, macs, noise=noise)
    shares = shrunken_nnls(rows, samples.ratio, weights, macs, noise=noise)
    scaled = rows * (weights / (rows @ shares))[:, None]  # predicted, not measured: chance makes no row better known
    dense = np.full(rows.shape[1], ANCHOR)
    precision = scaled.T @ scaled + np.outer(dense, dense) + np.diag(tightness**2)
    return np.asarray(np.linalg.inv(precision), dtype=np.float64), others / (others @ shares)[:, None]
