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

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ecc.core.layers import SumOfProducts
from ecc.energy_models.choice import surprise
from ecc.energy_models.least_squares import (
    ANCHOR,
    gram_nnls,
    macs_line,
    prior_from,
    robust_weights,
    row_weights,
    shrunken_nnls,
)
from ecc.energy_models.samples import Samples
from ecc.energy_models.stepped import NO_STEPS, SteppedProducts, SteppedSide, Steps, products_of
from ecc.energy_models.terms import terms_of

__all__ = ["STEPS", "choose_steps"]

Floats = NDArray[np.float64]
Key = tuple[int, ...]
Triple = tuple[int, int, int]

STEPS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
"""Positions per tile that are tried; 1 is no tiles. Kernels of three registers by eight or sixteen lanes work in 24s
and 48s."""

_CHANGED = ((True, False, False), (False, True, False), (True, True, False), (False, False, True))
_CERTAIN = 4.0  # units of log-likelihood by which a change must win
_MOST_ROWS = 700  # that steps are chosen on; more take time and hardly change a choice
_FEWEST_ROWS = 10  # drawn at random, below which the errors of all rows decide
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
    least = surprise(search.errors(best))
    while True:
        candidates = list(search.changes(best))
        tried = [surprise(search.errors(candidate)) for candidate in candidates]
        if not tried or least - min(tried) <= _CERTAIN:
            return best
        winner = int(np.argmin(tried))
        best, least = candidates[winner], tried[winner]


class _Search:
    """What all choices of steps share: the rows, their weights, and each column once."""

    def __init__(self, samples: Samples, noise: float, ridge: float, robust: bool) -> None:
        if len(samples) > _MOST_ROWS:
            samples = samples.take(np.linspace(0, len(samples) - 1, _MOST_ROWS).astype(np.int64))
        self._samples, self._noise, self._ridge = samples, noise, ridge
        self._kinds = sorted({layer.kind for layer in samples.layers})
        self._widths = torch.tensor(samples.widths)
        self._numbers: dict[SteppedSide, int] = {}
        self._alike: dict[bytes, int] = {}
        self._columns: list[Floats] = []
        self._dense: list[float] = []  # what each column is at dense widths
        self._products: dict[tuple[str, Triple], dict[Key, float]] = {}
        self._judged = samples.random if samples.random.sum() >= _FEWEST_ROWS else np.ones(len(samples), dtype=bool)
        terms = terms_of(samples.space, samples.layers)
        values = SumOfProducts(samples.space, terms.factors)(self._widths).numpy()
        features = np.column_stack([np.ones(len(samples)), values])
        macs = np.concatenate([[terms.fixed_macs], terms.macs])
        self._weights = row_weights(samples.noise, noise)
        if robust:
            self._weights = self._weights * robust_weights(
                features, samples.ratio, self._weights, macs, noise=noise, ridge=ridge
            )
        plain = shrunken_nnls(features, samples.ratio, self._weights, macs, noise=noise, ridge=ridge)
        self._scale = self._weights / (features @ plain)  # predicted, not measured: a row's chance weighs nothing
        self._line = macs_line(features, samples.ratio, macs, self._weights)
        self._positive: dict[Key, bool] = {}  # what each column was in the last fit that had it

    def changes(self, steps: Steps) -> Iterator[dict[str, Triple]]:
        """Other steps of a side, both or ragged ones, of one kind or of all; those that rows cannot tell apart once."""
        seen = {self._signature(steps)}
        for kinds in (self._kinds, *([kind] for kind in self._kinds)):
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
                    signature = self._signature(candidate)
                    if signature not in seen:
                        seen.add(signature)
                        yield candidate

    def errors(self, steps: Steps) -> Floats:
        """Error of each judged row, relative to its prediction, in a fit without it; shape (n,)."""
        macs = self._terms(steps)
        features = np.column_stack([self._column(key) for key in macs])
        counted = np.array(list(macs.values()))
        rows, aim = features * self._scale[:, None], self._samples.ratio * self._scale
        prior, tightness = prior_from(self._line, counted, noise=self._noise, ridge=self._ridge)
        pull = tightness**2 + 1e-9  # positive definite without a prior too
        dense = np.array([float(np.prod([self._dense[number] for number in key])) for key in macs])
        gram = rows.T @ rows + ANCHOR**2 * np.outer(dense, dense) + np.diag(pull)
        moment = rows.T @ aim + ANCHOR**2 * dense + pull * prior
        start = np.array([self._positive.get(key, False) for key in macs]) if self._positive else None
        solution = gram_nnls(gram, moment, start)
        on = solution > 0
        self._positive.update(zip(macs, on.tolist(), strict=True))
        active = rows[:, on]
        leverage = (active * np.linalg.solve(gram[np.ix_(on, on)], active.T).T).sum(1)
        error = (aim - rows @ solution) / (1 - np.minimum(leverage, _LEVER))
        return np.asarray(error[self._judged])

    def _signature(self, steps: Steps) -> frozenset[Key]:
        return frozenset(self._terms(steps))

    def _terms(self, steps: Steps) -> dict[Key, float]:
        """Dense MACs per product of columns."""
        macs: dict[Key, float] = {(): 0.0}
        for kind in self._kinds:
            for key, value in self._terms_of_kind(kind, steps.get(kind, NO_STEPS)).items():
                macs[key] = macs.get(key, 0.0) + value
        return macs

    def _terms_of_kind(self, kind: str, triple: Triple) -> dict[Key, float]:
        if (kind, triple) not in self._products:
            macs: dict[Key, float] = {}
            for layer in self._samples.layers:
                if layer.kind != kind:
                    continue
                for factors, value in products_of(self._samples.space, layer, {kind: triple}):
                    key = tuple(sorted(self._number(side) for side in factors))
                    macs[key] = macs.get(key, 0.0) + value
            self._products[kind, triple] = macs
        return self._products[kind, triple]

    def _number(self, side: SteppedSide) -> int:
        """Of the side's column; sides that are equal at all rows share one."""
        if side not in self._numbers:
            products = SteppedProducts(self._samples.space, [(side,)])
            column, dense = products.exact(self._widths)[:, 0].numpy(), float(products.dense)
            number = self._alike.setdefault(np.round(np.append(column, dense), 9).tobytes(), len(self._columns))
            if number == len(self._columns):
                self._columns.append(column)
                self._dense.append(dense)
            self._numbers[side] = number
        return self._numbers[side]

    def _column(self, key: Key) -> Floats:
        product = np.ones(len(self._samples))
        for number in key:
            product = product * self._columns[number]
        return product
