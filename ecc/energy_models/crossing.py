"""Cross-validation: every row predicted by fits that have not seen it, and the same again within the other rows.

The rows are cut in folds. A fit without one fold predicts that fold; a fit without two folds predicts each of them for
the sake of the other: what could have been known of a form before the other fold was looked at. Each pair is left out
once, so that the nested errors of k folds take k (k − 1) / 2 fits and not k².
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ecc.energy_models.fitted import FittedCost
from ecc.energy_models.samples import Samples

__all__ = ["Crossed", "Folds", "cross", "held_out", "predictor"]

Floats = NDArray[np.float64]
Predictor = Callable[[Samples], Floats]
"""Rows → their ratios to dense."""


@dataclass(frozen=True, slots=True, eq=False)
class Folds:
    """Rows in parts, each of which is held out in turn.

    Attributes:
        samples: All rows.
        parts: Numbers of the rows of each part; together those that were drawn at random.
        orders: Numbers of the rows that a fit without that part may see, shuffled.
    """

    samples: Samples
    parts: tuple[NDArray[np.int64], ...]
    orders: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, samples: Samples, folds: int, generator: np.random.Generator) -> Folds:
        """Random parts of nearly equal size; rows of the same widths are in the same part."""
        drawn = np.flatnonzero(samples.random)
        _, same = np.unique(samples.widths[drawn], axis=0, return_inverse=True)
        kinds = generator.permutation(int(same.max()) + 1)
        parts = tuple(drawn[np.isin(same.reshape(-1), part)] for part in np.array_split(kinds, min(folds, len(kinds))))
        everything = np.arange(len(samples))
        orders = tuple(generator.permutation(np.setdiff1d(everything, part)) for part in parts)
        return cls(samples, parts, orders)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def drawn(self) -> NDArray[np.int64]:
        """Numbers of the rows that are ever held out, sorted."""
        return np.sort(np.concatenate(self.parts))


@dataclass(frozen=True, slots=True, eq=False)
class Crossed:
    """What fits of one form predict for rows that they have not seen, as ratios to dense.

    Attributes:
        outer: By the fit without the row's own fold, shape (n_rows,); NaN where a row is never held out.
        inner: By the fit without the row's fold and another one, shape (n_folds, n_rows); NaN in the other fold itself.
    """

    outer: Floats
    inner: Floats


def cross(folds: Folds, fit: Callable[[Samples], FittedCost], report: Callable[[], None]) -> Crossed:
    """Fit without each fold and without each pair of folds.

    Args:
        report: Called after each fit.
    """
    samples, k = folds.samples, len(folds)
    inner = np.full((k, len(samples)), np.nan)

    def fitted(rows: Samples) -> Predictor:
        cost = fit(rows)
        report()
        return predictor(cost)

    outer = held_out(folds, fitted)
    for one, other in itertools.combinations(range(k), 2):
        rows = np.setdiff1d(folds.orders[one], folds.parts[other])
        predict = fitted(samples.take(rows))
        for seen, hidden in ((one, other), (other, one)):
            inner[hidden, folds.parts[seen]] = predict(samples.take(folds.parts[seen]))
    return Crossed(outer, inner)


def held_out(folds: Folds, fit: Callable[[Samples], Predictor], *, most: int | None = None) -> Floats:
    """Each row's ratio by the fit without its fold, shape (n_rows,); NaN where a row is never held out.

    Args:
        most: Rows that each fit may see, the first of its order; all when None.
    """
    samples = folds.samples
    predicted = np.full(len(samples), np.nan)
    for order, part in zip(folds.orders, folds.parts, strict=True):
        predicted[part] = fit(samples.take(order[:most]))(samples.take(part))
    return predicted


def predictor(cost: FittedCost) -> Predictor:
    """A fitted cost as a function of rows."""
    return lambda rows: np.asarray(cost(torch.tensor(rows.widths)).detach().numpy() / cost.dense, dtype=np.float64)
