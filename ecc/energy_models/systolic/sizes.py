"""Sizes: whole numbers of a network, such as the channels that a layer reads, as functions of the widths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.layers import Side, SumOfProducts
from ecc.core.widths import WidthSpace
from ecc.energy_models.cost_files import as_side

__all__ = ["Size", "Sizes", "folds", "whole_up_to"]

_LARGEST = 1 << 40  # of any size: products of three are still far from overflow
_MOST_SIDES = 8
_NEAR = 1e-9  # relative distance from a whole number that is an error of floating-point numbers


@dataclass(frozen=True, slots=True)
class Size:
    """A whole number that follows the widths: its dense value × the kept fractions of sides ÷ those of others.

    Attributes:
        dense: Its value at dense widths.
        over: Sides that it is proportional to.
        under: Sides that it is inversely proportional to, as the channels of a group are to the number of groups.
    """

    dense: int
    over: tuple[Side, ...] = ()
    under: tuple[Side, ...] = ()

    @classmethod
    def of(cls, space: WidthSpace, dense: int, over: Sequence[Side | None], under: Sequence[Side | None] = ()) -> Size:
        """A size whose sides may be none, fixed, or above and below at once."""
        known = set(space.names)
        above, below = (
            Counter(side for side in sides if side is not None and side.groups & known) for sides in (over, under)
        )
        return cls(dense, tuple((above - below).elements()), tuple((below - above).elements()))

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``from_fields`` is the inverse."""
        value: dict[str, Any] = {"dense": self.dense}
        for name, sides in (("over", self.over), ("under", self.under)):
            if sides:
                value[name] = [side.to_json() for side in sides]
        return value

    @classmethod
    def from_fields(cls, fields: Fields, space: WidthSpace) -> Size:
        """Read what ``to_json`` wrote, without trusting it.

        Raises:
            InputError: If a number or a side is impossible.
        """
        given = [fields.items(name) if name in fields else [] for name in ("over", "under")]
        if max(map(len, given)) > _MOST_SIDES:
            raise InputError("cost model: a size follows more sides than any of a network")
        over, under = (tuple(as_side(side, space, foreign=True) for side in sides) for sides in given)
        return cls(whole_up_to(fields, "dense", _LARGEST, 1), over, under)


class Sizes:
    """Evaluates sizes for batches of width vectors, differentiably.

    Args:
        space: The order and the dense values of the width vectors.
        sizes: What to evaluate.
    """

    def __init__(self, space: WidthSpace, sizes: Sequence[Size]) -> None:
        self._dense = torch.tensor([float(size.dense) for size in sizes], dtype=torch.float64)
        self._over = SumOfProducts(space, [size.over for size in sizes])
        divided = any(size.under for size in sizes)
        self._under = SumOfProducts(space, [size.under for size in sizes]) if divided else None

    def columns(self, widths: Tensor, count: int) -> tuple[Tensor, ...]:
        """Values cut into ``count`` equal runs, each of shape (…, n_sizes / count)."""
        return self(widths).chunk(count, -1)

    def __call__(self, widths: Tensor) -> Tensor:
        """Values at widths in channels: shape (…, n_groups) → (…, n_sizes), float64; whole where they should be."""
        found = self._over(widths) * self._dense
        if self._under is not None:
            found = found / self._under(widths)
        with torch.no_grad():
            whole = found.round()
            error = (whole - found).masked_fill_((whole - found).abs() > _NEAR * whole.abs().clamp(min=1.0), 0.0)
        return found + error


def folds(size: Tensor, step: int) -> Tensor:
    """⌈size / step⌉, with the gradient of size / step: what it is on average, and exactly at multiples."""
    parts = size / step
    return parts.ceil().detach() + (parts - parts.detach())


def whole_up_to(fields: Fields, name: str, most: int, least: int = 0) -> int:
    """A whole number between bounds.

    Raises:
        InputError: If it is none.
    """
    value = fields.whole(name, least)
    if value > most:
        raise InputError(f"cost model: {name!r} is larger than any of a network")
    return value
