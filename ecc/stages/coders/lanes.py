"""Lanes: parts of a stream that are coded side by side, so that a step of all lanes is one operation on vectors.

A stream is cut into lanes of consecutive symbols, the first ones longer by one where it does not divide. Step t codes
the t-th symbol of every lane. All lanes share one sequence of 16-bit words and take from it in turn (Giesen 2014,
arXiv 1402.3392), so that a lane costs no more than the bits that it does not fill.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ecc.core.errors import InputError
from ecc.stages.coders.alphabets import Stream

__all__ = ["WORD_BITS", "Words", "check_lanes", "choose_lanes", "from_steps", "lane_blocks", "to_steps"]

WORD_BITS = 16
Words = NDArray[np.uint16]

_MOST_STEPS = 1 << 15  # of more than one lane
_MOST_SCALAR = 1 << 21  # of one lane
_SMALL_BYTES = 1 << 18
_BLOCK_SYMBOLS = 1 << 20
_LANE_SHARE = 2048  # bytes of a stream for each lane, which costs about 3 of them


def choose_lanes(count: int, nbytes: int) -> int:
    """How many lanes a stream gets, as a power of two of which the exponent is returned.

    One, where a loop over the symbols is fast enough; else so many that they cost little and the steps are few.

    Args:
        count: Symbols.
        nbytes: That they are expected to take.
    """
    if count <= _MOST_SCALAR and nbytes < _SMALL_BYTES:
        return 0
    least = max(count - 1, 1) // _MOST_STEPS
    return max(least.bit_length(), (nbytes // _LANE_SHARE).bit_length() - 1, 1)


def check_lanes(exponent: int, count: int) -> int:
    """The lanes of a stream of a file.

    Raises:
        InputError: If there are more lanes than symbols, or too few for so many symbols.
    """
    lanes = 1 << exponent
    if count > (lanes * _MOST_STEPS if exponent else _MOST_SCALAR) or lanes > count:
        raise InputError(f"a stream of {count} symbols cannot be in {lanes} lanes")
    return lanes


def lane_blocks(values: Stream, lanes: int) -> Iterator[tuple[int, Stream]]:
    """Lanes of equal length, some at a time so that little memory is needed.

    Args:
        values: Shape (n,), n ≥ lanes.
        lanes: How many.

    Returns:
        Pairs of the first lane's number and lanes, shape (some, symbols of each).
    """
    full, rest = divmod(len(values), lanes)
    long = rest * (full + 1)
    for first, group in ((0, values[:long].reshape(rest, full + 1)), (rest, values[long:].reshape(-1, full))):
        some = max(_BLOCK_SYMBOLS // group.shape[1], 1)
        for start in range(0, len(group), some):
            yield first + start, group[start : start + some]


def to_steps(values: Stream, lanes: int) -> tuple[Stream, int]:
    """The symbols of each step.

    Args:
        values: Shape (n,), n ≥ lanes.
        lanes: How many.

    Returns:
        The steps, shape (⌈n / lanes⌉, lanes), and how many lanes the last one has; beyond them it is zero.
    """
    full, rest = divmod(len(values), lanes)
    steps = np.zeros((full + bool(rest), lanes), values.dtype)
    long = rest * (full + 1)
    steps[:full, rest:] = values[long:].reshape(lanes - rest, full).T
    if rest:
        steps[:, :rest] = values[:long].reshape(rest, full + 1).T
    return steps, rest or lanes


def from_steps(steps: Stream, count: int) -> Stream:
    """The stream of :func:`to_steps`, shape (count,)."""
    lanes = steps.shape[1]
    full, rest = divmod(count, lanes)
    values = np.empty(count, steps.dtype)
    long = rest * (full + 1)
    values[long:].reshape(lanes - rest, full)[:] = steps[:full, rest:].T
    if rest:
        values[:long].reshape(rest, full + 1)[:] = steps[:, :rest].T
    return values
