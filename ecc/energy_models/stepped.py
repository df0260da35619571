r"""Products of stepped sides: a side rounded up to whole tiles of the hardware.

A side of X positions of which x are kept costs a device that works in tiles of g positions

.. math:: \lceil x / g \rceil \,/\, \lceil X / g \rceil

of the dense side. Between the multiples of g the smooth stand-in runs along the chords of that staircase, from tile
edge to tile edge, so that it is continuous, rises wherever a further tile is needed, and agrees with the value at every
multiple of g and at the dense side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.layers import Layer, Side, SumOfProducts
from ecc.core.widths import WidthSpace
from ecc.energy_models.terms import distinct, name_of, simplest_sides, without_groups_outside

__all__ = [
    "SteppedProducts",
    "SteppedSide",
    "SteppedTerm",
    "SteppedTerms",
    "Steps",
    "products_of",
    "stepped_sides",
    "stepped_terms",
]

Steps = Mapping[str, tuple[int, int]]
"""Per kind of layer: positions per tile along what it reads and along what it writes; 1 where there are no tiles."""

_ROUNDING = 1e-6  # positions by which a side may exceed whole tiles, because fractions are rounded


@dataclass(frozen=True, slots=True)
class SteppedSide:
    """A side in tiles.

    Attributes:
        side: The kept fraction.
        positions: Along the axis when dense; 0 for a side without steps.
        step: Positions per tile; 1 for a side without steps.
    """

    side: Side
    positions: int = 0
    step: int = 1


Factors = tuple[SteppedSide, ...]


@dataclass(frozen=True, slots=True)
class SteppedTerm:
    """A product of stepped sides with its coefficient.

    Attributes:
        name: For people, unique in a model: ``conv1 × ⌈conv2/32⌉``.
        sides: The factors; their product is 1 at dense widths.
        value: What the term costs at dense widths, in the unit of the model.
    """

    name: str
    sides: Factors
    value: float


def products_of(space: WidthSpace, layer: Layer, steps: Steps) -> list[tuple[Factors, float]]:
    """The products that a layer's cost is a sum of, each with its dense multiply-accumulates.

    They are reads × writes where MACs are spent, and each side alone. A side in tiles stands alone in double tiles too:
    processors that take tiles in turns (the waves of a GPU) leave some of them idle in the last turn.
    """
    reads, writes = stepped_sides(space, layer, steps)
    alone = [reads, writes]
    for side in (*reads, *writes):
        if side.step > 1 and 2 * side.step < side.positions:
            alone.append((SteppedSide(side.side, side.positions, 2 * side.step),))
    products: list[tuple[Factors, float]] = [(each, 0.0) for each in alone]
    if layer.macs:
        products.append((tuple(sorted(reads + writes, key=_order)), float(layer.macs)))
    return products


def stepped_sides(space: WidthSpace, layer: Layer, steps: Steps) -> tuple[Factors, Factors]:
    """What the layer reads and what it writes, each as a product of stepped sides; none where it is constant.

    A side without steps falls into its simplest factors, as in a bilinear model. One with steps is rounded as a whole,
    in positions of its axis; it is constant where its axis is one tile.
    """
    of_reads, of_writes = steps.get(layer.kind, (1, 1))
    return (
        _stepped(space, layer.reads, layer.channels_in, of_reads),
        _stepped(space, layer.writes, layer.channels_out, of_writes),
    )


def _stepped(space: WidthSpace, side: Side, positions: int, step: int) -> Factors:
    simplest = simplest_sides(space, side)
    if step == 1 or not positions or not simplest:
        return tuple(SteppedSide(each) for each in simplest)
    return (SteppedSide(without_groups_outside(space, side), positions, step),) if step < positions else ()


@dataclass(frozen=True, eq=False)
class SteppedTerms:
    """The distinct products of a network under given steps, before they have coefficients.

    Attributes:
        names: One per product, distinct.
        factors: The sides of each product, same order.
        macs: Dense multiply-accumulates of each product, shape (n_terms,).
        fixed_macs: Dense multiply-accumulates of layers that no width changes.
    """

    names: tuple[str, ...]
    factors: tuple[Factors, ...]
    macs: NDArray[np.float64]
    fixed_macs: float

    def with_values(self, values: NDArray[np.float64]) -> tuple[SteppedTerm, ...]:
        """The products with coefficients, same order."""
        return tuple(
            SteppedTerm(name, factors, float(value))
            for name, factors, value in zip(self.names, self.factors, values, strict=True)
        )


def stepped_terms(space: WidthSpace, layers: Sequence[Layer], steps: Steps) -> SteppedTerms:
    """The distinct products of layers: reads × writes where MACs are spent, and each side alone, in tiles.

    Without steps they are those of ``terms.terms_of``.
    """
    macs: dict[Factors, float] = {}
    for layer in layers:
        for factors, value in products_of(space, layer, steps):
            macs[factors] = macs.get(factors, 0.0) + value
    fixed = macs.pop((), 0.0)
    names = distinct(" × ".join(_name_of(side) for side in factors) for factors in macs)
    return SteppedTerms(names, tuple(macs), np.array(list(macs.values()), dtype=np.float64), fixed)


def _order(side: SteppedSide) -> tuple[tuple[tuple[float, tuple[str, ...]], ...], int, int]:
    return side.side.parts, side.positions, side.step


def _name_of(side: SteppedSide) -> str:
    return name_of(side.side) if side.step == 1 else f"⌈{name_of(side.side)}/{side.step}⌉"


class SteppedProducts:
    """Evaluates products of stepped sides for batches of width vectors.

    Args:
        space: The order and the dense values of the width vectors.
        terms: The factors of each product.
    """

    def __init__(self, space: WidthSpace, terms: Sequence[Sequence[SteppedSide]]) -> None:
        factors = list(dict.fromkeys(side for term in terms for side in term))
        number = {side: i for i, side in enumerate(factors)}
        self._sides = SumOfProducts(space, [(each.side,) for each in factors])
        most = max((len(term) for term in terms), default=1) or 1
        chosen = np.full((most, len(terms)), len(factors), dtype=np.int64)  # behind the sides stands the factor 1
        for t, term in enumerate(terms):
            chosen[: len(term), t] = [number[side] for side in term]
        self._chosen = [torch.from_numpy(row) for row in chosen]
        stepped = [i for i, each in enumerate(factors) if each.step > 1]
        self._stepped = torch.tensor(stepped, dtype=torch.int64)
        self._positions = torch.tensor([factors[i].positions for i in stepped], dtype=torch.float64)
        self._step = torch.tensor([factors[i].step for i in stepped], dtype=torch.float64)
        self._tiles = torch.ceil(self._positions / self._step)
        self._last = (self._tiles - 1) * self._step  # where the last tile begins

    def exact(self, widths: Tensor) -> Tensor:
        """Values at channels of shape (…, n_groups): shape (…, n_terms); constant between steps."""
        sides = self._sides(widths)
        if len(self._stepped):
            kept = sides[..., self._stepped] * self._positions
            tiles = torch.ceil((kept - _ROUNDING) / self._step).clamp_min(1)
            sides = sides.index_copy(-1, self._stepped, tiles / self._tiles)
        return self._products(sides)

    def smooth(self, widths: Tensor) -> Tensor:
        """The stand-in at channels of shape (…, n_groups): shape (…, n_terms); continuous, differentiable."""
        sides = self._sides(widths)
        if len(self._stepped):
            kept = sides[..., self._stepped] * self._positions
            inner = (kept / self._step).clamp_min(1)
            outer = (kept - self._last) / (self._positions - self._last) + (self._tiles - 1)
            tiles = torch.where(kept > self._last, outer, inner)
            sides = sides.index_copy(-1, self._stepped, tiles / self._tiles)
        return self._products(sides)

    def _products(self, sides: Tensor) -> Tensor:
        padded = torch.cat([sides, torch.ones_like(sides[..., :1])], -1) if sides.shape[-1] else None
        if padded is None:
            return torch.ones((*sides.shape[:-1], len(self._chosen[0])), dtype=torch.float64)
        product = padded[..., self._chosen[0]]
        for row in self._chosen[1:]:
            product = product * padded[..., row]
        return product
