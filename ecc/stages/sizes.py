"""Sizes for a budget: how many floats each tensor may take, so that a file is as large as it may be and no larger.

For stages whose tensors can have any size: hashed vectors, factors. Every tensor gets the same share of its elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ecc.core.errors import InputError, NothingToDo
from ecc.stages.code import PackedCode
from ecc.stages.container import node_bytes

__all__ = ["ByteLimit", "byte_limit", "demand_need", "demand_target", "shared_out"]

_HALVINGS = 40  # of the share: as fine as one float of a tensor of 10¹²


@dataclass(frozen=True, slots=True)
class ByteLimit:
    """What the whole file may take, and what was asked for.

    Attributes:
        stage: Its name.
        nbytes: That the file may take.
        asked: The option and its value, as they are typed.
        there: Bytes that the tensors take that the stage encodes.
        rest: Bytes of all else.
    """

    stage: str
    nbytes: float
    asked: str
    there: int
    rest: int

    def demand(self, least: float) -> None:
        """Refuse a limit below what the smallest sizes take.

        Args:
            least: Bytes of the whole file.

        Raises:
            InputError: With the least number of bytes that works, or the largest ratio.
        """
        if least <= self.nbytes:
            return
        if self.asked.startswith(f"{self.stage}.nbytes"):
            mend = f"give {math.ceil(least):,} or more"
        elif least - self.rest >= self.there:
            mend = "no ratio works; leave the stage out"
        else:
            most = self.there / (least - self.rest)
            digit = 10.0 ** (math.floor(math.log10(most)) - 3)
            mend = f"the largest ratio that works is {math.floor(most / digit) * digit:.4g}"
        raise InputError(
            f"{self.asked} cannot be reached: at the smallest sizes the file takes {math.ceil(least):,} bytes; {mend}"
        )


def demand_target(stage: str, ratio: object, nbytes: object, layers: object = ()) -> None:
    """Refuse a ratio, a number of bytes and layers that make no sense.

    Args:
        stage: Name of its class.
        ratio: How many times smaller the tensors get that the stage encodes; in force where there is no ``nbytes``.
        nbytes: Of the whole file; None for none.
        layers: Names or patterns.

    Raises:
        InputError: With what is wrong.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1 < ratio < math.inf:
        raise InputError(f"{stage}(ratio=...) must be a number above 1, got {ratio!r}")
    if nbytes is not None and (isinstance(nbytes, bool) or not isinstance(nbytes, int) or nbytes < 1):
        raise InputError(f"{stage}(nbytes=...) must be positive, a whole number of bytes, or None; got {nbytes!r}")
    if not isinstance(layers, tuple | list) or not all(isinstance(each, str) for each in layers):
        raise InputError(f"{stage}(layers=...) must be a tuple of names or patterns of weights, got {layers!r}")


def demand_need(stage: str, code: PackedCode, nbytes: int | None) -> None:
    """Leave alone what keeps to a number of bytes already.

    Args:
        stage: Its name.
        code: As it comes in.
        nbytes: Of the whole file; None for none.

    Raises:
        NothingToDo: If it does.
    """
    if nbytes is not None and code.nbytes <= nbytes:
        raise NothingToDo(
            f"stage {stage} finds a file of {code.nbytes:,} bytes, which is within {nbytes:,} already; ask for fewer "
            "or leave the stage out"
        )


def byte_limit(stage: str, code: PackedCode, names: Iterable[str], *, ratio: float, nbytes: int | None) -> ByteLimit:
    """Bytes that the whole file may take: ``nbytes``, or where there are none the named tensors by ``ratio`` smaller.

    Args:
        stage: Its name.
        code: As it comes in.
        names: Of the tensors that the stage encodes.
        ratio: As ``nbytes``, of ``demand_target``.
    """
    there = sum(node_bytes(name, code.nodes[name]) for name in names)
    rest = code.nbytes - there
    if nbytes is not None:
        return ByteLimit(stage, nbytes, f"{stage}.nbytes={nbytes}", there, rest)
    return ByteLimit(stage, rest + there / ratio, f"{stage}.ratio={ratio:g}", there, rest)


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
