r"""The choice of steps: how many positions make a tile, for each kind of layer and each side, from held-out error.

Steps are taken one change at a time, each the one that makes rows that were not fitted to likeliest, as long as it
makes them 50 times as likely as the steps so far (four units of log-likelihood). The choice starts at no steps, so a
device without tiles, or one whose tiles the rows cannot show, keeps the bilinear form. A standard error of the
difference would be the wrong yardstick: it asks whether one model would be better on other rows, each having its own
noise, and so misses tiles that the rows together leave no doubt of.

Every row is held out once. That costs one fit per choice instead of one per row: with the active set held, the fit is
linear in the readings, and the error of row i when it is left out is :math:`e_i / (1 - h_i)`, with its residual
:math:`e_i` and its leverage :math:`h_i` in the fit to all rows (PRESS: Allen, Technometrics 1974).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ecc.energy_models.choice import surprise
from ecc.energy_models.least_squares import (
    ANCHOR,
    macs_line,
    prior_from,
    robust_weights,
    row_weights,
    shrunken_nnls,
)
from ecc.energy_models.ridge import RidgeNnls
from ecc.energy_models.samples import Samples
from ecc.energy_models.step_columns import Key, StepColumns
from ecc.energy_models.stepped import NO_STEPS, Steps

__all__ = ["STEPS", "choose_steps"]

Floats = NDArray[np.float64]
Triple = tuple[int, int, int]

STEPS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
"""Positions per tile that are tried; 1 is no tiles. Kernels of three registers by eight or sixteen lanes work in 24s
and 48s."""

_CHANGED = ((True, False, False), (False, True, False), (True, True, False), (False, False, True))
_CERTAIN = 4.0  # units of log-likelihood by which a change must win
_MOST_ROWS = 700  # that steps are chosen on; more take time and hardly change a choice
_FEWEST_ROWS = 10  # drawn at random, below which the errors of all rows decide
_LEAST_PULL = 3e-5  # towards the prior, so that coefficients are determined without one too
_SLACK = 0.5  # units of log-likelihood by which errors may seem less surprising than smaller ones, by rounding
_LEVER = 0.999  # above it a row decides its own prediction, and leaving it out says nothing


def choose_steps(
    samples: Samples, *, noise: float = 0.03, ridge: float = 1.0, robust: bool = False
) -> dict[str, Triple]:
    """Per kind of layer, positions per tile along what it reads and what it writes, and those whose multiples are not
    ragged; kinds without any are left out.

    Args: as of ``staircase.fit``.
    """
    search = _Search(samples, noise, ridge, robust)
    best: dict[str, Triple] = {}
    least = search.surprise_of(search.products(best))
    while True:
        winner, bound = None, least - _CERTAIN
        for candidate, products in search.changes(best):
            found = search.surprise_of(products, bound)
            if found < bound:
                winner, bound = candidate, found
        if winner is None:
            return best
        best, least = winner, bound


class _Search:
    """What all choices of steps share: the rows, their weights, and each column once."""

    def __init__(self, samples: Samples, noise: float, ridge: float, robust: bool) -> None:
        if len(samples) > _MOST_ROWS:
            samples = samples.take(np.linspace(0, len(samples) - 1, _MOST_ROWS).astype(np.int64))
        self._noise, self._ridge = noise, ridge
        self._judged = samples.random if samples.random.sum() >= _FEWEST_ROWS else np.ones(len(samples), dtype=bool)
        self._columns = StepColumns(samples.space, samples.layers, samples.widths, STEPS)
        products = self.products({})
        features, macs = self._columns.values(list(products))[:, :-1].T, np.array(list(products.values()))
        weights = row_weights(samples.noise, noise)
        if robust:
            weights = weights * robust_weights(features, samples.ratio, weights, macs, noise=noise, ridge=ridge)
        plain = shrunken_nnls(features, samples.ratio, weights, macs, noise=noise, ridge=ridge)
        scale = weights / (features @ plain)  # predicted, not measured: a row's chance weighs nothing
        self._line = macs_line(features, samples.ratio, macs, weights)
        self._scale = np.append(scale, ANCHOR)  # the last row is the dense network
        self._aim = np.append(samples.ratio, 1.0) * self._scale
        self._positive: dict[Key, bool] = {}  # what each column was in the last fit that had it

    def products(self, steps: Steps) -> dict[Key, float]:
        """The products under those steps with their dense MACs."""
        return self._columns.products(steps)

    def changes(self, steps: Steps) -> Iterator[tuple[dict[str, Triple], dict[Key, float]]]:
        """Other steps of a side, both or ragged ones, of one kind or of all, and their products.

        Those that rows cannot tell apart come once.
        """
        seen = {frozenset(self.products(steps))}
        for kinds in (self._columns.kinds, *([kind] for kind in self._columns.kinds)):
            for step in STEPS:
                for changed in _CHANGED:
                    candidate = dict(steps)
                    for kind in kinds:
                        reads, writes, whole = (
                            step if change else old
                            for change, old in zip(changed, steps.get(kind, NO_STEPS), strict=True)
                        )
                        candidate[kind] = (reads, writes, whole)
                    candidate = {kind: triple for kind, triple in candidate.items() if max(triple) > 1}
                    products = self.products(candidate)
                    if (names := frozenset(products)) not in seen:
                        seen.add(names)
                        yield candidate, products

    def surprise_of(self, macs: Mapping[Key, float], bound: float = math.inf) -> float:
        """Of the errors of judged rows, each relative to its prediction in a fit without it; some number > bound if so.

        A row's error is at least its residual in the fit to all rows, and larger errors are more surprising, so where
        the residuals are too surprising the errors need not be known.
        """
        rows = self._columns.values(list(macs)).T * self._scale[:, None]
        prior, tightness = prior_from(self._line, np.array(list(macs.values())), noise=self._noise, ridge=self._ridge)
        problem = RidgeNnls(rows, self._aim, prior, np.hypot(tightness, _LEAST_PULL))
        start = np.array([self._positive.get(key, False) for key in macs]) if self._positive else None
        solution = problem.solve(start)
        on = solution > 0
        self._positive.update(zip(macs, on.tolist(), strict=True))
        residual = self._aim - rows @ solution
        least = surprise(residual[:-1][self._judged])
        if least > bound + _SLACK:
            return least
        error = residual / (1 - np.minimum(problem.leverage(on), _LEVER))
        return surprise(error[:-1][self._judged])
