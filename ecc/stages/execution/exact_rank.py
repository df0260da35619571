"""Exact rank: whether a weight is a product of two thin matrices, up to rounding, as after the stage ``svd``."""

from __future__ import annotations

import torch
from torch import Tensor

from ecc.stages.low_rank import decompose

__all__ = ["exact_factors"]

_MOST_WORK = 0.8  # multiplications by the factors, beside those by the weight, for which they are worth a try
_SPARE = 8  # columns of a sketch beyond the rank in question


def exact_factors(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Factors (m, r) and (r, n) of a matrix (m, n), balanced; None where their rank is not known to save work.

    A random sketch of a few more columns than the rank spans a matrix of that rank (Halko, Martinsson, Tropp 2011), so
    that singular values are sought in a small matrix alone. The product differs from the weight by rounding: in norm
    by 1e-5 of it, and by 1e-12 in float64.
    """
    if weight.dtype not in (torch.float32, torch.float64):
        return None
    matrix = weight.detach()
    m, n = matrix.shape
    most = int(_MOST_WORK * m * n / (m + n))
    norm, limit = float(matrix.norm()), 1e-12 if matrix.dtype == torch.float64 else 1e-5
    if most < 1 or not 0 < norm < float("inf"):
        return None
    generator = torch.Generator().manual_seed(0)
    sketch = torch.randn(n, min(most + _SPARE, m, n), generator=generator, dtype=matrix.dtype).to(matrix.device)
    basis, upper = torch.linalg.qr(matrix @ sketch)
    pivots = upper.diagonal().abs()
    found = int((pivots > limit * pivots.max()).sum())  # columns beyond the rank add nothing but rounding
    if found > most + _SPARE // 2:  # a small pivot makes the next one larger than it is
        return None
    basis = basis[:, : found + _SPARE]
    inner = basis.mT @ matrix
    if float((matrix - basis @ inner).norm()) > limit * norm:
        return None
    spectrum = decompose(inner)
    ranks = (spectrum.s.double().square().flip(0).cumsum(0).sqrt().flip(0) > limit * norm).sum()
    if not 1 <= (rank := int(ranks)) <= most:
        return None
    left, right = (each.to(matrix.dtype) for each in spectrum.factors(rank))
    return (basis @ left).contiguous(), right.contiguous()
