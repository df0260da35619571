"""Non-negative least squares that is drawn towards a prior, of many columns few of which are needed."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

__all__ = ["RidgeNnls"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FAINT = 1e-6  # squared tightness below which the identity of Woodbury loses too many digits


class RidgeNnls:
    """Minimises ‖rows a − aim‖² + Σ (tightness (a − prior))² over a ≥ 0.

    Systems of as many unknowns as there are columns in use, or rows, are solved, whichever are fewer; products of
    columns that are never used are never formed.

    Args:
        rows: Shape (n, p).
        aim: Shape (n,).
        prior: Shape (p,).
        tightness: Positive, shape (p,).
    """

    def __init__(self, rows: Floats, aim: Floats, prior: Floats, tightness: Floats) -> None:
        self._columns = np.ascontiguousarray(rows.T)
        self._pull = tightness**2
        self._moment = self._columns @ aim + self._pull * prior
        self._place = np.full(len(prior), -1)  # of each column in the Gram matrix so far
        self._used = np.empty((0, len(aim)))
        self._gram = np.empty((0, 0))

    @cached_property
    def _unit(self) -> Floats:
        return np.eye(self._columns.shape[1])

    def solve(self, start: Mask | None = None) -> Floats:
        """The solution, shape (p,), by block principal pivoting.

        All columns on the wrong side of zero change sides at once, one at a time where that goes in circles (Kim and
        Park, SIAM J. Sci. Comput. 2011). Much faster than an active set that grows by one, and faster still from a good
        start.

        Args:
            start: Columns that are thought to be positive, shape (p,); those with a positive moment if None.
        """
        free = (self._moment > 0) if start is None else start.copy()
        tolerance = 1e-10 * float(np.abs(self._moment).max(initial=0.0))  # slopes of columns that are left at 0
        fewest, chances = len(free) + 1, 3
        for _ in range(100 + 10 * len(free)):
            solution = np.zeros(len(free))
            solution[free] = self._unbounded(free)
            slope = self._columns @ (solution @ self._columns) + self._pull * solution - self._moment
            wrong = np.where(free, solution < 0, slope < -tolerance)
            count = int(wrong.sum())
            if not count:
                break
            if count < fewest:
                fewest, chances = count, 3
            elif chances:
                chances -= 1
            else:
                wrong[: np.flatnonzero(wrong)[-1]] = False
            free ^= wrong
        return np.maximum(solution, 0.0)

    def leverage(self, free: Mask) -> Floats:
        """How much each row decides its own prediction while the other columns stay 0: shape (n,), in [0, 1)."""
        columns, pull = self._columns[free], self._pull[free]
        if self._is_primal(pull):
            factor, failed = lapack.dpotrf(self._gram_of(free), lower=1, clean=0)
            if not failed:
                half, _ = lapack.dtrtrs(factor, columns, lower=1)
                return np.asarray(np.einsum("ij,ij->j", half, half), dtype=np.float64)
            return np.asarray((columns * np.linalg.solve(self._gram_of(free), columns)).sum(0))
        inner = self._unit + (columns.T / pull) @ columns
        return np.asarray(1 - np.diag(np.linalg.inv(inner)), dtype=np.float64)

    def _unbounded(self, free: Mask) -> Floats:
        """The free columns' coefficients where the others are 0."""
        pull, moment = self._pull[free], self._moment[free]
        if self._is_primal(pull):
            return np.asarray(np.linalg.solve(self._gram_of(free), moment), dtype=np.float64)
        columns = self._columns[free]
        scaled, alone = columns.T / pull, moment / pull  # the identity of Sherman, Morrison and Woodbury
        inner = np.linalg.solve(self._unit + scaled @ columns, alone @ columns)
        return np.asarray(alone - inner @ scaled, dtype=np.float64)

    def _is_primal(self, pull: Floats) -> bool:
        """Whether to solve for columns and not for rows."""
        return len(pull) <= self._columns.shape[1] or float(pull.min()) < _FAINT

    def _gram_of(self, free: Mask) -> Floats:
        """Products of the free columns with each other, and the pull on the diagonal."""
        new = np.flatnonzero(free & (self._place < 0))
        if len(new):
            columns = self._columns[new]
            beside, own = self._used @ columns.T, columns @ columns.T + np.diag(self._pull[new])
            self._place[new] = len(self._used) + np.arange(len(new))
            self._gram = np.block([[self._gram, beside], [beside.T, own]]) if len(self._used) else own
            self._used = np.vstack([self._used, columns]) if len(self._used) else columns
        at = self._place[free]
        return np.asarray(self._gram[np.ix_(at, at)], dtype=np.float64)
