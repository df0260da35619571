r"""Low rank: the best two factors of a matrix, in its own error or in that of what it gives for known inputs.

Of W = U S Vᵀ the first r singular values make the nearest matrix of rank r (Eckart and Young); what is dropped has the
norm :math:`\sqrt{\sum_{k>r} s_k^2}`. With the second moment of the inputs C = E[x xᵀ] = L Lᵀ the error of the outputs
is :math:`E\|(W - W')x\|^2 = \|(W - W')L\|_F^2`, so the best W' is that of W L times L⁻¹, with the dropped values of
W L.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Spectrum", "balanced", "decompose"]

_DOUBLE = 1 << 22  # elements up to which singular values are found in float64


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """A matrix, or several below each other, as singular vectors and values.

    Attributes:
        u: Shape (…, m, k).
        s: Shape (…, k), falling.
        vh: Shape (…, k, n); of whitened inputs where there is a ``root``.
        root: L of the inputs' second moment, lower triangular, (n, n); None for the identity.
    """

    u: Tensor
    s: Tensor
    vh: Tensor
    root: Tensor | None = None

    @property
    def energies(self) -> Tensor:
        """Squared singular values, summed over several matrices, shape (k,), float64."""
        return self.s.double().square().reshape(-1, self.s.shape[-1]).sum(0)

    def dropped(self, rank: int) -> float:
        """Norm of the error at a rank: of the matrix, or of whitened outputs."""
        return float(self.energies[rank:].sum().sqrt())

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """The best two factors of a rank, balanced: shapes (…, m, rank) and (…, rank, n)."""
        roots = self.s[..., :rank].sqrt()
        left = self.u[..., :rank] * roots[..., None, :]
        right = roots[..., None] * self.vh[..., :rank, :]
        if self.root is None:
            return left, right
        return balanced(left, torch.linalg.solve_triangular(self.root, right, upper=False, left=False))


def decompose(matrix: Tensor, moment: Tensor | None = None) -> Spectrum:
    """The singular values and vectors of a matrix.

    Args:
        matrix: Shape (…, m, n), finite.
        moment: Second moment of the inputs x of W x, shape (n, n), positive definite; of no influence when None.
    """
    values = matrix.detach().to(torch.float64 if matrix.numel() <= _DOUBLE else torch.float32)
    if moment is None:
        u, s, vh = torch.linalg.svd(values, full_matrices=False)
        return Spectrum(u, s, vh)
    root = torch.linalg.cholesky(moment.double()).to(values.dtype)
    u, s, vh = torch.linalg.svd(values @ root, full_matrices=False)
    return Spectrum(u, s, vh, root)


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors of the same product with equal singular values, U √S and √S Vᵀ: good for coding and for training."""
    q, r = torch.linalg.qr(left)
    p, t = torch.linalg.qr(right.mT)
    u, s, vh = torch.linalg.svd(r @ t.mT, full_matrices=False)
    roots = s.sqrt()
    return (q @ u) * roots[..., None, :], roots[..., None] * (vh @ p.mT)
