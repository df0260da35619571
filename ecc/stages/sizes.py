"""Sizes for a budget: how many floats each tensor may take, so that a file is as large as it may be and no larger.

For stages whose tensors can have any size: hashed vectors, factors. Every tensor gets the same share of its elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from ecc.core.errors import InputError, NothingToDo
from ecc.stages.code import PackedCode
from ecc.stages.container import node_bytes

__all__ = ["byte_limit", "demand_need", "demand_target", "shared_out"]

_HALVINGS = 40  # of the share: as fine as one float of a tensor of 10¹²


def demand_target(stage: str, ratio: float, nbytes: int) -> None:
    """Refuse a ratio and a number of bytes that make no sense.

    Args:
        stage: Name of its class.
        ratio: How many times smaller tensors get; in force where ``nbytes`` is 0.
        nbytes: Of the whole file; 0 for none.

    Raises:
        InputError: With what is wrong.
    """
    if not 1 < ratio < math.inf:
        raise InputError(f"{stage}(ratio=...) must be above 1, got {ratio}")
    if nbytes < 0:
        raise InputError(f"{stage}(nbytes=...) must be 0 or more, got {nbytes}")


def demand_need(stage: str, code: PackedCode, nbytes: int) -> None:
    """Leave alone what keeps to a number of bytes already.

    Args:
        stage: Its name.
        code: As it comes in.
        nbytes: Of the whole file; 0 for none.

    Raises:
        NothingToDo: If it does.
    """
    if nbytes and code.nbytes <= nbytes:
        raise NothingToDo(
            f"stage {stage} finds a file of {code.nbytes:,} bytes, which is within {nbytes:,} already; ask for fewer "
            "or leave the stage out"
        )


def byte_limit(code: PackedCode, names: Iterable[str], *, ratio: float, nbytes: int) -> float:
    """Bytes that the whole file may take: ``nbytes``, or where that is 0 the named tensors by ``ratio`` smaller."""
    if nbytes:
        return nbytes
    there = sum(node_bytes(name, code.nodes[name]) for name in names)
    return code.nbytes - there + there / ratio


def shared_out(
    elements: Mapping[str, int], limit: float, spent: Callable[[Mapping[str, int]], float]
) -> dict[str, int]:
    """Floats per tensor, in proportion to its elements: the most that keep to a limit.

    Args:
        elements: Of each tensor.
        limit: Of what ``spent`` gives.
        spent: What given numbers of floats take, at least 1 and at most all elements of each tensor; rising with them.
            Where a tensor cannot be as small as it should, others are to make up for it.

    Raises:
        InputError: If the smallest sizes spend more than the limit.
    """

    def at(share: float) -> dict[str, int]:
        return {name: max(1, min(count, math.floor(share * count))) for name, count in elements.items()}

    if (least := spent(at(0.0))) > limit:
        raise InputError(
            f"{math.floor(limit):,} bytes cannot be reached: the smallest sizes take {math.ceil(least):,}; allow more"
        )
    if spent(at(1.0)) <= limit:
        return at(1.0)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(at(middle)) <= limit else (low, middle)
    return at(low)
