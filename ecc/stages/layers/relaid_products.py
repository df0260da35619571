r"""Products with a weight that is a product laid anew (DeepThin), of which only blocks or nothing at all is ever made.

Row i of the weight is A's elements from iQ on, A = left·right of rows of n. Two ways for an input x of Q elements:

- *blocks*: some rows of A at a time are made in a buffer that stays in cache, and multiplied. Weights come from cache
  and not from memory, but there are (r + 1) times as many multiplications at batch 1.
- *correlation*: a row of A reaches row i shifted by d = an - iQ, so that all it adds is left's entry times the
  correlation :math:`\sum_c right_{kc}\, x_{c + d}`. All correlations come from Fourier transforms of length Q + n, and
  :math:`y_i = \sum_{a,k} left_{ak}\, corr_k(an - iQ)` has as many terms as there are cuts: about r (m + R) instead of
  r·Q·R multiplications.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.network.mixed_precision import mixed_type
from ecc.network.recording import traced
from ecc.stages.layers.products import Product, check_sizes
from ecc.stages.relayout import Relayout, drawn_factors, fitting_relayout

__all__ = ["RelaidProduct"]

_BLOCK = 1 << 16  # elements of W that are made at once: 256 KiB of floats
_TRANSFORM = 4.0  # what an operation of a Fourier transform takes, in multiplications of a product of matrices
_MOST_CORRELATIONS = 1 << 18  # elements that are in memory at once


class RelaidProduct(Product):
    """W = left · right with its elements poured into rows of another length.

    Where gradients are wanted W is made whole, as training needs it, and so it is under autocast and in a trace. What
    correlations need of the factors is kept with a copy of these, and made anew when they are not what they were,
    however they were changed.

    Args:
        left: Shape (m, r).
        right: Shape (r, n).
        shape: Of W.
        way: ``blocks``, ``correlation``, or ``auto``, that of the fewest operations for the batch at hand.
    """

    def __init__(
        self,
        left: Tensor,
        right: Tensor,
        shape: tuple[int, ...],
        *,
        way: Literal["auto", "blocks", "correlation"] = "auto",
    ) -> None:
        super().__init__(shape)
        self.layout = Relayout(self.outputs, self.inputs, right.shape[-1], right.shape[0])
        if left.shape != (self.layout.rows, self.layout.rank):
            raise InputError(
                f"factors of shapes {tuple(left.shape)} and {tuple(right.shape)} do not fill shape {shape}"
            )
        if way not in ("auto", "blocks", "correlation"):
            raise InputError(f"RelaidProduct(way=...) must be auto, blocks or correlation, got {way!r}")
        self.left, self.right, self.way = nn.Parameter(left), nn.Parameter(right), way
        self._plan: _Correlation | None = None

    @classmethod
    def drawn(
        cls, outputs: int, inputs: int, floats: int, *, generator: torch.Generator | None = None
    ) -> RelaidProduct:
        """Random factors of at most so many floats for training, with the variance of a linear layer's init.

        Raises:
            InputError: If there are none of so few.
        """
        check_sizes("RelaidProduct.drawn", outputs=outputs, inputs=inputs, floats=floats)
        layout = fitting_relayout(outputs, inputs, floats)
        if layout.floats > floats:
            least = layout.floats
            while (other := fitting_relayout(outputs, inputs, least - 1).floats) < least:
                least = other
            raise InputError(
                f"a weight of {outputs} × {inputs} laid anew takes {least} floats at least, and {floats} are allowed"
            )
        own = torch.Generator().manual_seed(int(torch.randint(1 << 62, ()))) if generator is None else generator
        return cls(*drawn_factors(layout, 1 / (3 * inputs), own), (outputs, inputs))

    def weight(self) -> Tensor:
        """The first elements of the product, in the weight's shape."""
        return (self.left @ self.right).flatten()[: self.outputs * self.inputs].reshape(self.shape)

    def applied(self, x: Tensor) -> Tensor:
        """By W whole, by blocks of it, or by correlations."""
        trained = torch.is_grad_enabled() and (x.requires_grad or self.left.requires_grad or self.right.requires_grad)
        if trained or mixed_type(x) is not None or traced():
            return super().applied(x)
        batch = x.reshape(-1, x.shape[-1])
        found = self._correlated(batch) if self._correlates(len(batch)) else self._blockwise(batch)
        return found.reshape(*x.shape[:-1], self.outputs)

    def rows(self, index: Tensor) -> Tensor:
        """Only the elements of these rows are made."""
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.outputs:
            raise InputError(f"rows {int(index.min())} to {int(index.max())} are asked for of {self.outputs}")
        places = index[..., None] * self.inputs + torch.arange(self.inputs, device=index.device)
        n = self.layout.columns
        return torch.einsum("...r,r...->...", self.left[places // n], self.right[:, places % n])

    def _correlates(self, batch: int) -> bool:
        if self.left.dtype not in (torch.float32, torch.float64):  # which transforms do not take everywhere
            return False
        if torch.compiler.is_compiling() or self.left.is_meta:  # where values cannot be compared
            return False
        if self.way != "auto":
            return self.way == "correlation"
        layout, length = self.layout, _length(self.layout)
        transforms = _TRANSFORM * batch * (layout.rank + 1) * length * math.log2(length)
        return transforms < (layout.rank + batch) * layout.inputs * layout.outputs

    def _blockwise(self, x: Tensor) -> Tensor:
        """x (batch, inputs) times blocks of W, each made in the same buffer."""
        q, n, count = self.inputs, self.layout.columns, self.outputs
        step = max(1, _BLOCK // q)
        buffer = self.left.new_empty((step * q - 1) // n + 2, n)
        found = x.new_empty(len(x), count)
        for start in range(0, count, step):
            stop = min(start + step, count)
            first, last = start * q // n, -(-stop * q // n)
            torch.mm(self.left[first:last], self.right, out=buffer[: last - first])
            block = buffer.view(-1)[start * q - first * n : stop * q - first * n].view(-1, q)
            found[:, start:stop] = x @ block.T
        return found

    def _correlated(self, x: Tensor) -> Tensor:
        """x (batch, inputs), a part of the batch at a time where correlations take much memory."""
        plan = self._plan
        if plan is None or not plan.suits(self.left, self.right):
            plan = self._plan = _Correlation.of(self.layout, self.left.detach(), self.right.detach())
        size = max(1, _MOST_CORRELATIONS // (self.layout.rank * plan.length))
        return (
            torch.cat([plan.applied(part) for part in torch.split(x, size)]) if len(x) else x.new_empty(0, self.outputs)
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Correlation:
    """What does not depend on the input.

    Attributes:
        left: A copy of the factor, by which a change is seen.
        right: As ``left``.
        length: Of the transforms.
        spectra: Conjugate transforms of the rows of ``right``, shape (r, length // 2 + 1).
        lags: Of each row of W, those of the rows of A in it, in [0, length), shape (R·cuts,).
        scales: Entries of ``left`` there, zero where a row has fewer cuts, shape (R·cuts, r).
        cuts: Rows of A that a row of W may read.
    """

    left: Tensor
    right: Tensor
    length: int
    spectra: Tensor
    lags: Tensor
    scales: Tensor
    cuts: int

    @classmethod
    def of(cls, layout: Relayout, left: Tensor, right: Tensor) -> _Correlation:
        """For factors of a layout."""
        q, n, length = layout.inputs, layout.columns, _length(layout)
        starts = torch.arange(layout.outputs) * q
        first, last = starts // n, (starts + q - 1) // n
        rows = first[:, None] + torch.arange(int((last - first).max()) + 1)
        there = rows <= last[:, None]
        lags = torch.where(there, (rows * n - starts[:, None]) % length, 0)
        lags, rows, there = (each.flatten().to(left.device) for each in (lags, rows, there))
        scales = left[rows.clamp(max=layout.rows - 1)] * there[:, None]
        spectra = torch.fft.rfft(right, length).conj().resolve_conj()
        return cls(left.clone(), right.clone(), length, spectra, lags, scales, len(rows) // layout.outputs)

    def suits(self, left: Tensor, right: Tensor) -> bool:
        """Whether it is of these factors; to compare them takes about a twentieth of a product."""
        return all(
            ours.dtype == theirs.dtype and ours.device == theirs.device and torch.equal(ours, theirs)
            for ours, theirs in ((self.left, left), (self.right, right))
        )

    def applied(self, x: Tensor) -> Tensor:
        """Shape (batch, Q) → (batch, R)."""
        moved = torch.fft.rfft(x, self.length)[:, None] * self.spectra
        correlations = torch.fft.irfft(moved, self.length).mT.contiguous()  # whole rows are fast to select
        terms: Tensor = correlations.index_select(1, self.lags).mul_(self.scales).sum(-1)
        return terms.reshape(len(x), -1, self.cuts).sum(-1)


def _length(layout: Relayout) -> int:
    """Of transforms in which no shift of a row of A runs into another."""
    return int(next_fast_len(layout.inputs + layout.columns - 1, real=True))
