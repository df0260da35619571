"""Kernels: loops that leave out rows of a matrix, compiled where numba is installed (the extra ``kernels``).

They run in one thread, on the CPU, on tensors of 32 or 64 bits that lie in memory row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Kernels", "add_asked", "add_fan_out", "kernels", "suit"]

Array = NDArray[Any]

_INPUTS = 64  # rows of a matrix that a batch uses while they are in cache
_OUTPUTS = 4096  # elements of a result that stay in the first level of cache
# Sums may be reordered; infinities and NaN are what they are.
_ARITHMETIC = frozenset({"contract", "reassoc", "nsz", "arcp"})


@dataclass(frozen=True, slots=True)
class Kernels:
    """The compiled loops.

    Attributes:
        fan_out: As ``add_fan_out``.
        asked: As ``add_asked``.
    """

    fan_out: Callable[[Array, Array, Array], None]
    asked: Callable[[Array, Array, Array, Array], None]


@cache
def kernels() -> Kernels | None:
    """The compiled loops; None without numba. Each is compiled at its first call, which takes about a second."""
    try:
        numba = import_module("numba")
    except ImportError:
        return None
    compiled = numba.njit(nogil=True, fastmath=set(_ARITHMETIC))
    return Kernels(compiled(add_fan_out), compiled(add_asked))


def suit(*tensors: Tensor) -> bool:
    """Whether the kernels take such tensors, all alike."""
    dtypes = {each.dtype for each in tensors}
    return (
        len(dtypes) == 1
        and dtypes <= {torch.float32, torch.float64}
        and all(each.device.type == "cpu" and each.is_contiguous() for each in tensors)
    )


def add_fan_out(x: Array, weight: Array, found: Array) -> None:
    """Add x · weight, in which each input that is not zero adds its row of the weight to the outputs.

    Four rows are added at a time, so that an output is read and written once for four. A batch uses some rows while
    they are in cache; the outputs of wide layers are taken in pieces.

    Args:
        x: Shape (batch, inputs).
        weight: Shape (inputs, outputs).
        found: Shape (batch, outputs), changed in place.
    """
    for left in range(0, weight.shape[1], _OUTPUTS):
        right = min(left + _OUTPUTS, weight.shape[1])
        for top in range(0, x.shape[1], _INPUTS):
            bottom = min(top + _INPUTS, x.shape[1])
            for row in range(x.shape[0]):
                values, sums = x[row], found[row, left:right]
                waiting = first = second = third = 0
                for j in range(top, bottom):
                    if values[j] == 0:
                        continue
                    if waiting < 3:
                        first, second, third = second, third, j
                        waiting += 1
                        continue
                    a, b, c, d = values[first], values[second], values[third], values[j]
                    p, q = weight[first, left:right], weight[second, left:right]
                    r, s = weight[third, left:right], weight[j, left:right]
                    for i in range(sums.size):
                        sums[i] += a * p[i] + b * q[i] + c * r[i] + d * s[i]
                    waiting = 0
                for which in range(waiting):
                    j = third if which == 0 else second if which == 1 else first
                    a, p = values[j], weight[j, left:right]
                    for i in range(sums.size):
                        sums[i] += a * p[i]


def add_asked(x: Array, weight: Array, rows: Array, found: Array) -> None:
    """Add x · weightᵀ for some rows of the weight, four at a time so that an input is read once for four.

    Args:
        x: Shape (batch, inputs).
        weight: Shape (outputs, inputs).
        rows: Of the weight, int64, within bounds, shape (n,).
        found: Shape (batch, n), changed in place.
    """
    whole = rows.size - rows.size % 4
    for k in range(0, whole, 4):
        p, q, r, s = weight[rows[k]], weight[rows[k + 1]], weight[rows[k + 2]], weight[rows[k + 3]]
        for row in range(x.shape[0]):
            values = x[row]
            a, b, c, d = found[row, k], found[row, k + 1], found[row, k + 2], found[row, k + 3]
            for j in range(values.size):
                a += values[j] * p[j]
                b += values[j] * q[j]
                c += values[j] * r[j]
                d += values[j] * s[j]
            found[row, k], found[row, k + 1], found[row, k + 2], found[row, k + 3] = a, b, c, d
    for k in range(whole, rows.size):
        p = weight[rows[k]]
        for row in range(x.shape[0]):
            values, a = x[row], found[row, k]
            for j in range(values.size):
                a += values[j] * p[j]
            found[row, k] = a
