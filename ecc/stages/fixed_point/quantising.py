"""Quantising: floats as whole numbers times a step, symmetric about zero, one step per row.

Symmetric b-bit codes run from -(2^(b-1) - 1) to 2^(b-1) - 1. The step Δ of a row is the largest magnitude over the
largest code, or, with powers of two, 2^-n with n = floor(log2(largest code / largest magnitude)), so that scaling is
a shift. Fitted clipping looks for the step of least squared error, at which a few numbers are cut off.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["CLIPS", "EXPONENTS", "largest_code", "quantise", "rows_of", "sizes_of", "steps_of"]

CLIPS = ("max", "mse")
"""How the range of a row is found: by its largest magnitude, or by the least squared error."""

EXPONENTS = (-126, 127)
"""Of steps that are powers of two: float32 holds them with full precision, and int8 the exponent."""

_FINER = 2.0 ** (-1 / 8)  # steps that are tried lie that far apart …
_TRIALS = 40  # … down to a thirty-second of the first
_PATIENCE = 10  # trials that bring nothing before the search ends: the error has one valley, or small ripples
_FINER_SHIFTS = 5  # powers of two that are tried


def largest_code(bits: int) -> int:
    """Of a symmetric code."""
    return int(2 ** (bits - 1)) - 1


def rows_of(values: Tensor, *, per_channel: bool) -> Tensor:
    """The numbers as rows that have a step each, in float32 (or float64): shape (channels, n) or (1, n)."""
    wide = values.detach().to(torch.float64 if values.dtype == torch.float64 else torch.float32)
    return wide.reshape(values.shape[0], -1) if per_channel and values.ndim > 1 and len(values) else wide.reshape(1, -1)


def steps_of(rows: Tensor, most: int, *, clip: str, power_of_two: bool, fit: float = 1.0) -> Tensor:
    """The step of each row.

    Args:
        rows: Shape (r, n), finite.
        most: Largest code.
        clip: One of CLIPS.
        power_of_two: Whether steps must be powers of two.
        fit: Share of the numbers of a row that must be within ±``most`` at the step that is tried first.

    Returns:
        Steps in float32, shape (r,); exponents of steps in int8 where these are powers of two.
    """
    reach = rows.abs().amax(dim=1) if fit >= 1 else _reach(rows, fit)
    if power_of_two:
        exponents = _exponents(reach, most)
        if clip == "mse":
            exponents = _search(rows, most, [exponents - k for k in range(_FINER_SHIFTS)])
        return exponents.clamp(*EXPONENTS).to(torch.int8)
    steps = torch.where(reach > 0, reach / most, torch.ones_like(reach)).float()
    steps = steps.clamp_min(torch.finfo(torch.float32).tiny)
    return _search(rows, most, [steps * _FINER**k for k in range(_TRIALS)]) if clip == "mse" else steps


def quantise(rows: Tensor, steps: Tensor, most: int) -> Tensor:
    """The nearest codes from -most to most, of shape (r, n) and the dtype of the rows.

    Args:
        rows: Shape (r, n).
        steps: As ``steps_of`` gives them.
    """
    return (rows / sizes_of(steps).to(rows.dtype)[:, None]).round_().clamp_(-most, most)


def sizes_of(steps: Tensor) -> Tensor:
    """Steps as floats in float32, where they are exponents of two from EXPONENTS."""
    if steps.is_floating_point():
        return steps
    return ((steps.to(torch.int32) + 127) << 23).view(torch.float32)  # written as IEEE floats are: no rounding


def _reach(rows: Tensor, fit: float) -> Tensor:
    """The magnitude below which that share of each row lies."""
    place = min(rows.shape[1], max(1, round(fit * rows.shape[1])))
    return rows.abs().kthvalue(place, dim=1).values


def _exponents(reach: Tensor, most: int) -> Tensor:
    """-n of 2^-n, shape (r,), int32: the finest power of two at which ``most`` steps still reach so far."""
    mantissa, exponent = torch.frexp(reach.double() / most)  # = mantissa · 2^exponent, mantissa in [0.5, 1)
    exponents = exponent - (mantissa == 0.5).to(exponent.dtype)  # a power of two is its own
    return torch.where(reach > 0, exponents, torch.zeros_like(exponents)).clamp(*EXPONENTS).to(torch.int32)


def _search(rows: Tensor, most: int, trials: list[Tensor]) -> Tensor:
    """Of the steps that are tried, the one of least squared error, row by row."""
    best, least, idle = trials[0], torch.full_like(rows[:, 0], torch.inf), 0
    for steps in trials:
        sizes = sizes_of(steps).to(rows.dtype)[:, None]
        gap = (rows / sizes).round_().clamp_(-most, most).mul_(sizes).sub_(rows)
        error = torch.linalg.vector_norm(gap, dim=1)
        better = error < least
        best, least = torch.where(better, steps, best), torch.where(better, error, least)
        idle = 0 if bool(better.any()) else idle + 1
        if idle == _PATIENCE:
            break
    return best
