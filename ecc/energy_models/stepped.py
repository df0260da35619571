r"""Products of stepped sides: a side rounded up to whole tiles of the hardware.

A side of X positions of which x are kept costs a device that works in tiles of g positions

.. math:: \lceil x / g \rceil \,/\, \lceil X / g \rceil

of the dense side. Between the multiples of g the smooth stand-in runs along the chords of that staircase, from tile
edge to tile edge, so that it is continuous, rises wherever a further tile is needed, and agrees with the value at every
multiple of g and at the dense side.

A side that is not whole tiles may also cost extra in proportion to itself, as where a runtime that computes in blocks
of channels must copy what does not fill them, or falls back to slower code: a *ragged* side is its kept fraction where
x is no multiple of g, else 0. The chords between its tile edges lie at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ecc.core.layers import Layer, Side, SumOfProducts
from ecc.core.widths import WidthSpace
from ecc.energy_models.terms import TermSet, name_of, simplest_sides, without_groups_outside

__all__ = [
    "NO_STEPS",
    "Axis",
    "Factors",
    "SteppedProducts",
    "SteppedSide",
    "Steps",
    "axes_of",
    "in_tiles",
    "products_of",
    "stepped_terms",
    "where_ragged",
]

Steps = Mapping[str, tuple[int, int, int]]
"""Per kind of layer: positions per tile along what it reads, along what it writes, and positions whose multiples are
spared the cost of ragged sides; 1 where there are none."""

NO_STEPS = (1, 1, 1)

_ROUNDING = 1e-6  # positions by which a side may exceed whole tiles, because fractions are rounded


@dataclass(frozen=True, slots=True)
class SteppedSide:
    """A side in tiles.

    Attributes:
        side: The kept fraction.
        positions: Along the axis when dense; 0 for a side without steps.
        step: Positions per tile; 1 for a side without steps.
        ragged: Whether the side counts, without steps, where it is not whole tiles and not at all where it is.
    """

    side: Side
    positions: int = 0
    step: int = 1
    ragged: bool = False


Factors = tuple[SteppedSide, ...]
"""Sides whose product is meant."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a layer, ready to be cut in tiles of any size.

    Attributes:
        simplest: The kept fraction as a product of simplest sides, as in a bilinear model; none where it is constant.
        whole: The kept fraction as one side.
        positions: Along the axis when dense; 0 where no group lies on it.
    """

    simplest: tuple[Side, ...]
    whole: Side
    positions: int

    @classmethod
    def of(cls, space: WidthSpace, side: Side, positions: int) -> Axis:
        """The axis that a side and its dense positions describe."""
        return cls(simplest_sides(space, side), without_groups_outside(space, side), positions)

    def stepped(self, step: int) -> Factors:
        """In tiles, as a product of stepped sides; none where it is constant, or where all of it is one tile.

        Without steps an axis falls into its simplest factors. With steps it is rounded as a whole, in positions.
        """
        if step == 1 or not self.positions or not self.simplest:
            return tuple(SteppedSide(each) for each in self.simplest)
        return (SteppedSide(self.whole, self.positions, step),) if step < self.positions else ()

    def alone(self, step: int) -> tuple[Factors, ...]:
        """The products that it contributes without the layer's other axis.

        An axis in tiles stands alone in double tiles too: processors that take tiles in turns (the waves of a GPU)
        leave some of them idle in the last turn.
        """
        tiled = self.stepped(step)
        if tiled and tiled[0].step > 1 and 2 * step < self.positions:
            return tiled, (SteppedSide(self.whole, self.positions, 2 * step),)
        return (tiled,)

    def ragged(self, whole: int) -> tuple[Factors, ...]:
        """What it contributes where it is not whole tiles of that many positions."""
        if 1 < whole <= self.positions and self.simplest:
            return ((SteppedSide(self.whole, self.positions, whole, True),),)
        return ()


def products_of(space: WidthSpace, layer: Layer, steps: Steps) -> list[tuple[Factors, float]]:
    """The products that a layer's cost is a sum of, each with its dense multiply-accumulates.

    They are reads × writes where MACs are spent, and each side alone (``Axis.alone``). Ragged sides stand alone only.
    """
    of_reads, of_writes, whole = steps.get(layer.kind, NO_STEPS)
    reads, writes = axes_of(space, layer)
    alone = (*reads.alone(of_reads), *writes.alone(of_writes), *reads.ragged(whole), *writes.ragged(whole))
    products: list[tuple[Factors, float]] = [(each, 0.0) for each in alone]
    if layer.macs:
        both = reads.stepped(of_reads) + writes.stepped(of_writes)
        products.append((tuple(sorted(both, key=_order)), float(layer.macs)))
    return products


def axes_of(space: WidthSpace, layer: Layer) -> tuple[Axis, Axis]:
    """What the layer reads and what it writes."""
    return Axis.of(space, layer.reads, layer.channels_in), Axis.of(space, layer.writes, layer.channels_out)


def stepped_terms(space: WidthSpace, layers: Sequence[Layer], steps: Steps) -> TermSet[SteppedSide]:
    """The distinct products of layers: reads × writes where MACs are spent, and each side alone, in tiles.

    Without steps they are those of ``terms.terms_of``.
    """
    macs: dict[Factors, float] = {}
    for layer in layers:
        for factors, value in products_of(space, layer, steps):
            macs[factors] = macs.get(factors, 0.0) + value
    return TermSet.of(macs, _name_of)


def _order(side: SteppedSide) -> tuple[tuple[tuple[float, tuple[str, ...]], ...], int, int]:
    return side.side.parts, side.positions, side.step


def _name_of(side: SteppedSide) -> str:
    name = name_of(side.side)
    if side.ragged:
        return f"{name} not in {side.step}s"
    return name if side.step == 1 else f"⌈{name}/{side.step}⌉"


def in_tiles(fraction: Tensor, positions: Tensor, step: Tensor) -> Tensor:
    """Share of the dense side's tiles that a kept fraction needs, at least one of them; shape (…, n_sides).

    Args:
        fraction: Of the positions, shape (…, n_sides).
        positions: Along each side when dense, shape (n_sides,).
        step: Positions per tile of each side, shape (n_sides,) or ().
    """
    tiles = torch.ceil((fraction * positions - _ROUNDING) / step).clamp_min(1)
    return tiles / torch.ceil(positions / step)


def where_ragged(fraction: Tensor, positions: Tensor, step: Tensor) -> Tensor:
    """The kept fraction where it is not whole tiles, else 0; arguments and shape as of ``in_tiles``."""
    kept = fraction * positions
    left = (kept - step * torch.round(kept / step)).abs()
    return torch.where(left > _ROUNDING, fraction, 0.0)


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
        self._dense = torch.tensor(space.dense, dtype=torch.float64)
        self._tiled = _Tiles(factors, ragged=False)
        self._ragged = _Tiles(factors, ragged=True)

    @property
    def dense(self) -> Tensor:
        """Values at dense widths, shape (n_terms,): 1, but for ragged sides that are whole tiles there, which are 0."""
        return self.exact(self._dense)

    def exact(self, widths: Tensor) -> Tensor:
        """Values at channels of shape (…, n_groups): shape (…, n_terms); constant between steps."""
        sides = self._sides(widths)
        tiled, ragged = self._tiled, self._ragged
        if len(tiled.index):
            found = in_tiles(sides[..., tiled.index], tiled.positions, tiled.step)
            sides = sides.index_copy(-1, tiled.index, found)
        if len(ragged.index):
            found = where_ragged(sides[..., ragged.index], ragged.positions, ragged.step)
            sides = sides.index_copy(-1, ragged.index, found)
        return self._products(sides)

    def smooth(self, widths: Tensor) -> Tensor:
        """The stand-in at channels of shape (…, n_groups): shape (…, n_terms); continuous, differentiable."""
        sides = self._sides(widths)
        tiled, ragged = self._tiled, self._ragged
        if len(tiled.index):
            kept = sides[..., tiled.index] * tiled.positions
            inner = (kept / tiled.step).clamp_min(1)
            outer = (kept - tiled.last) / (tiled.positions - tiled.last) + (tiled.tiles - 1)
            sides = sides.index_copy(-1, tiled.index, torch.where(kept > tiled.last, outer, inner) / tiled.tiles)
        if len(ragged.index):
            kept = sides[..., ragged.index] * ragged.positions
            outer = ((kept - ragged.last) / (ragged.positions - ragged.last)).clamp_min(0)
            dense_is_ragged = (ragged.positions < ragged.tiles * ragged.step).to(torch.float64)
            sides = sides.index_copy(-1, ragged.index, outer * dense_is_ragged)
        return self._products(sides)

    def _products(self, sides: Tensor) -> Tensor:
        padded = torch.cat([sides, torch.ones_like(sides[..., :1])], -1) if sides.shape[-1] else None
        if padded is None:
            return torch.ones((*sides.shape[:-1], len(self._chosen[0])), dtype=torch.float64)
        product = padded[..., self._chosen[0]]
        for row in self._chosen[1:]:
            product = product * padded[..., row]
        return product


class _Tiles:
    """Where the sides in tiles stand among the factors, and their tiles."""

    def __init__(self, factors: Sequence[SteppedSide], *, ragged: bool) -> None:
        numbers = [i for i, each in enumerate(factors) if each.step > 1 and each.ragged == ragged]
        self.index = torch.tensor(numbers, dtype=torch.int64)
        self.positions = torch.tensor([factors[i].positions for i in numbers], dtype=torch.float64)
        self.step = torch.tensor([factors[i].step for i in numbers], dtype=torch.float64)
        self.tiles = torch.ceil(self.positions / self.step)
        self.last = (self.tiles - 1) * self.step  # where the last tile begins
