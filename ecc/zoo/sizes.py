"""Refuses sizes that no network can have, naming the option."""

from __future__ import annotations

import math

from ecc.core.errors import InputError

__all__ = ["positive_ints", "positive_number"]


def positive_ints(network: str, **sizes: int) -> None:
    """Check options that count something.

    Raises:
        InputError: If one is not an integer of at least 1.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"{network}: option {name} must be an integer of at least 1, got {size!r}")


def positive_number(network: str, **numbers: float) -> None:
    """Check options that scale something.

    Raises:
        InputError: If one is not a finite number above 0.
    """
    for name, number in numbers.items():
        valid = isinstance(number, int | float) and not isinstance(number, bool)
        if not valid or not math.isfinite(number) or number <= 0:
            raise InputError(f"{network}: option {name} must be a number above 0, got {number!r}")
