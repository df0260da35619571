r"""Laying a product anew (DeepThin): sizes, ranks, and the least-squares fit.

The rows of A = left·right, of n elements, are poured one after the other into rows of Q elements, those of the weight W
(R, Q). Where n and Q have a common divisor g the pattern of cuts repeats, and

.. math:: \mathrm{rank}\, W \le \min(Q, R, r\,((Q + n)/g - 1)),

so n is chosen coprime to Q: n = Q is a plain product of rank r, and a round number is nearly as bad. Since every
element of W is one element of A, the nearest product in the squared error is a truncated singular value decomposition
of W laid out in rows of n, but for the elements of A's last row that no weight fills.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ecc.stages.low_rank import balanced, decompose

__all__ = ["Relayout", "drawn_factors", "fitted_factors", "fitting_relayout"]

_SWEEPS = 4  # of alternating least squares, for the unfilled elements


@dataclass(frozen=True, slots=True)
class Relayout:
    """Sizes of two factors whose product is poured into a matrix.

    Attributes:
        outputs: Rows of the weight, R.
        inputs: Its columns, Q.
        columns: Of the product, n.
        rank: Of the product, r.
    """

    outputs: int
    inputs: int
    columns: int
    rank: int

    @property
    def rows(self) -> int:
        """Of the product, m: as many as the weight fills."""
        return -(-self.outputs * self.inputs // self.columns)

    @property
    def floats(self) -> int:
        """That are stored."""
        return self.rank * (self.rows + self.columns)

    @property
    def largest_rank(self) -> int:
        """That the weight can have."""
        cuts = (self.inputs + self.columns) // math.gcd(self.inputs, self.columns) - 1
        return min(self.outputs, self.inputs, self.rank * cuts)


def fitting_relayout(outputs: int, inputs: int, floats: int) -> Relayout:
    """The largest rank for so many floats, columns coprime to the inputs; the smallest there is where they are too few.

    Args:
        outputs: Rows of the weight.
        inputs: Its columns.
        floats: That may be stored.
    """
    numel = outputs * inputs
    root = math.isqrt(numel)
    for rank in range(min(floats // (2 * root), root), 0, -1):
        most = floats // rank  # rows and columns together
        spread = math.sqrt(max(most * most - 4 * numel, 0))
        for columns in range(max(rank, math.ceil((most - spread) / 2)), math.floor((most + spread) / 2) + 1):
            found = Relayout(outputs, inputs, columns, rank)
            if math.gcd(columns, inputs) == 1 and found.floats <= floats and found.rows >= rank:
                return found
    nearest = (root + step * sign for step in range(numel) for sign in (1, -1))
    return next(
        Relayout(outputs, inputs, columns, 1)
        for columns in nearest
        if 1 <= columns <= numel and math.gcd(columns, inputs) == 1
    )


def drawn_factors(layout: Relayout, variance: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Normal random factors, shapes (m, r) and (r, n), whose product has the given variance."""
    deviation = (variance / layout.rank) ** 0.25
    left = torch.randn(layout.rows, layout.rank, generator=generator)
    right = torch.randn(layout.rank, layout.columns, generator=generator)
    return deviation * left, deviation * right


def fitted_factors(values: Tensor, layout: Relayout) -> tuple[Tensor, Tensor]:
    """The factors with the least squared error, shapes (m, r) and (r, n), float64 or float32 as of ``decompose``.

    Args:
        values: R·Q elements, finite.
    """
    flat = values.detach().flatten()
    filled = len(flat) - (layout.rows - 1) * layout.columns  # elements of the last row
    whole = torch.cat([flat, flat.new_zeros(layout.columns - filled)]).reshape(layout.rows, layout.columns)
    left, right = decompose(whole).factors(layout.rank)
    if filled == layout.columns:
        return left, right
    whole = whole.to(left.dtype)
    for _ in range(_SWEEPS):
        left = torch.cat([_solved(right.T, whole[:-1].T).T, _solved(right[:, :filled].T, whole[-1:, :filled].T).T])
        right = torch.cat([_solved(left, whole[:, :filled]), _solved(left[:-1], whole[:-1, filled:])], 1)
    return balanced(left, right)


def _solved(a: Tensor, b: Tensor) -> Tensor:
    """The smallest x with the least |a x - b|², also where a lacks rank or rows."""
    solved: Tensor = torch.linalg.pinv(a) @ b
    return solved
