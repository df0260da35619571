"""Directions: weights g · v / ‖v‖, whose g makes up for what the norm loses with the removed positions of v.

A channel that is zero adds nothing to what a weight-normalised layer computes, but the columns of v that read it count
in the norm of every row. So a masked network leaves those columns as they are, and the slim one, which lacks them,
keeps its weights by a smaller g.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Direction", "balance"]


@dataclass(frozen=True, slots=True)
class Direction:
    """A weight g · v / ‖v‖ that is computed from two parameters.

    Attributes:
        scale: Name of g.
        vector: Name of v.
        dim: The axis of v that the norm is not taken over; −1 for none.
        axes: Axes of v that the norm is taken over and that a masked network leaves as they are.
    """

    scale: str
    vector: str
    dim: int
    axes: tuple[int, ...] = ()


def balance(
    direction: Direction,
    dense: Tensor,
    scale: Tensor,
    vector: Tensor,
    stays: Mapping[int, NDArray[np.int64]],
) -> tuple[Tensor, Tensor]:
    """Slim g and v whose weights are those of the dense v at the positions that stay.

    Where nothing but zeros is left of v, which the norm would divide by, g is zero and v is one.

    Args:
        dense: v as it was.
        scale: g with the rows that stay.
        vector: v at the positions that stay.
        stays: By axis of v, the positions that stay.
    """
    masked = dense
    for axis, positions in stays.items():
        if axis not in direction.axes:  # zero in the masked network, so that the norm does not see the others
            masked = masked.index_select(axis, torch.from_numpy(positions).to(dense.device))
    dims = [i for i in range(dense.ndim) if i != direction.dim]
    dtype = torch.promote_types(dense.dtype, torch.float32)
    before, after = (torch.linalg.vector_norm(v, dim=dims, keepdim=True, dtype=dtype) for v in (masked, vector))
    # A weight of zeros alone would be no number in the dense network either.
    empty = (after == 0) & (before > 0)
    share = (after / before).reshape(scale.shape)
    return (scale * share).to(scale.dtype), torch.where(empty, torch.ones_like(vector), vector)
