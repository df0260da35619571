"""Kernels: loops that leave out rows of a matrix, compiled where numba is installed (the extra ``kernels``).

They run in one thread, on the CPU, on tensors of 32 or 64 bits that lie in memory row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.network.recording import recorded

__all__ = ["Kernels", "fill_asked", "fill_fan_out", "kernels", "suit"]

Array = NDArray[Any]

_INPUTS = 128  # rows of a matrix that a batch uses while they are in cache
_OUTPUTS = 4096  # elements of a result that stay in the first level of cache
# Sums may be reordered; infinities and NaN are what they are.
_ARITHMETIC = frozenset({"contract", "reassoc", "nsz", "arcp"})


@dataclass(frozen=True, slots=True)
class Kernels:
    """The compiled loops.

    Attributes:
        fan_out: As ``fill_fan_out``.
        asked: As ``fill_asked``.
    """

    fan_out: Callable[[Array, Array, Array, Array], None]
    asked: Callable[[Array, Array, Array, Array, Array], bool]


@cache
def kernels() -> Kernels | None:
    """The compiled loops; None without numba. Each is compiled at its first call, which takes about a second."""
    try:
        numba = import_module("numba")
    except ImportError:
        return None
    compiled = numba.njit(nogil=True, fastmath=set(_ARITHMETIC))
    return Kernels(compiled(fill_fan_out), compiled(fill_asked))


def suit(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels take such an input and weight."""
    dtype = weight.dtype
    return (
        (dtype is torch.float32 or dtype is torch.float64)
        and x.dtype is dtype
        and x.is_cpu
        and weight.is_cpu
        and x.is_contiguous()
        and weight.is_contiguous()
        and not recorded()
    )


def fill_fan_out(x: Array, weight: Array, bias: Array, found: Array) -> None:
    """x · weight + bias, in which each input that is not zero adds its row of the weight to the outputs.

    Four rows are added at a time, so that an output is read and written once for four. A batch uses some rows while
    they are in cache; the outputs of wide layers are taken in pieces.

    Args:
        x: Shape (batch, inputs).
        weight: Shape (inputs, outputs).
        bias: Shape (outputs,), or (0,) for none.
        found: Shape (batch, outputs); the result.
    """
    for row in range(x.shape[0]):
        sums = found[row]
        if bias.size:
            sums[:] = bias
        else:
            sums[:] = 0
    places = np.empty(_INPUTS, np.int64)
    for left in range(0, weight.shape[1], _OUTPUTS):
        right = min(left + _OUTPUTS, weight.shape[1])
        for top in range(0, x.shape[1], _INPUTS):
            for row in range(x.shape[0]):
                values, sums, count = x[row], found[row, left:right], 0
                for j in range(top, min(top + _INPUTS, x.shape[1])):  # no branch, which would be guessed wrong
                    places[count] = j
                    count += values[j] != 0
                whole = count - count % 4
                for k in range(0, whole, 4):
                    e, f, g, h = places[k], places[k + 1], places[k + 2], places[k + 3]
                    a, b, c, d = values[e], values[f], values[g], values[h]
                    p, q, r, s = (
                        weight[e, left:right],
                        weight[f, left:right],
                        weight[g, left:right],
                        weight[h, left:right],
                    )
                    for i in range(sums.size):
                        sums[i] += a * p[i] + b * q[i] + c * r[i] + d * s[i]
                for k in range(whole, count):
                    a, p = values[places[k]], weight[places[k], left:right]
                    for i in range(sums.size):
                        sums[i] += a * p[i]


def fill_asked(x: Array, weight: Array, bias: Array, rows: Array, found: Array) -> bool:
    """x · weightᵀ + bias for some rows of the weight, eight at a time so that an input is read once for eight.

    False, with nothing filled, if the weight has not all of these rows or shapes do not fit.

    Args:
        x: Shape (batch, inputs).
        weight: Shape (outputs, inputs).
        bias: Shape (outputs,), or (0,) for none.
        rows: Of the weight, int64, shape (n,).
        found: Shape (batch, n); the result.
    """
    if x.shape[1] != weight.shape[1] or (bias.size and bias.size != weight.shape[0]):
        return False
    for k in range(rows.size):
        if rows[k] < 0 or rows[k] >= weight.shape[0]:
            return False
    whole = rows.size - rows.size % 8
    for k in range(0, whole, 8):
        p, q, r, s = weight[rows[k]], weight[rows[k + 1]], weight[rows[k + 2]], weight[rows[k + 3]]
        t, u, v, w = weight[rows[k + 4]], weight[rows[k + 5]], weight[rows[k + 6]], weight[rows[k + 7]]
        for row in range(x.shape[0]):
            values, sums = x[row], found[row, k : k + 8]
            a = b = c = d = e = f = g = h = found.dtype.type(0)
            for j in range(values.size):
                a += values[j] * p[j]
                b += values[j] * q[j]
                c += values[j] * r[j]
                d += values[j] * s[j]
                e += values[j] * t[j]
                f += values[j] * u[j]
                g += values[j] * v[j]
                h += values[j] * w[j]
            sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6], sums[7] = a, b, c, d, e, f, g, h
    for k in range(whole, rows.size):
        p = weight[rows[k]]
        for row in range(x.shape[0]):
            values, a = x[row], found.dtype.type(0)
            for j in range(values.size):
                a += values[j] * p[j]
            found[row, k] = a
    if bias.size:
        for row in range(x.shape[0]):
            for k in range(rows.size):
                found[row, k] += bias[rows[k]]
    return True
