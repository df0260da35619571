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
    "SteppedProducts",
    "SteppedSide",
    "Steps",
    "products_of",
    "stepped_sides",
    "stepped_terms",
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


def products_of(space: WidthSpace, layer: Layer, steps: Steps) -> list[tuple[Factors, float]]:
    """The products that a layer's cost is a sum of, each with its dense multiply-accumulates.

    They are reads × writes where MACs are spent, and each side alone. A side in tiles stands alone in double tiles too:
    processors that take tiles in turns (the waves of a GPU) leave some of them idle in the last turn. Ragged sides
    stand alone only.
    """
    *_, whole = steps.get(layer.kind, NO_STEPS)
    reads, writes = stepped_sides(space, layer, steps)
    alone = [reads, writes]
    for tiled in (*reads, *writes):
        if tiled.step > 1 and 2 * tiled.step < tiled.positions:
            alone.append((SteppedSide(tiled.side, tiled.positions, 2 * tiled.step),))
    for side, positions in ((layer.reads, layer.channels_in), (layer.writes, layer.channels_out)):
        if 1 < whole <= positions and simplest_sides(space, side):
            alone.append((SteppedSide(without_groups_outside(space, side), positions, whole, True),))
    products: list[tuple[Factors, float]] = [(each, 0.0) for each in alone]
    if layer.macs:
        products.append((tuple(sorted(reads + writes, key=_order)), float(layer.macs)))
    return products


def stepped_sides(space: WidthSpace, layer: Layer, steps: Steps) -> tuple[Factors, Factors]:
    """What the layer reads and what it writes, each as a product of stepped sides; none where it is constant.

    A side without steps falls into its simplest factors, as in a bilinear model. One with steps is rounded as a whole,
    in positions of its axis; it is constant where its axis is one tile.
    """
    of_reads, of_writes, _ = steps.get(layer.kind, NO_STEPS)
    return (
        _stepped(space, layer.reads, layer.channels_in, of_reads),
        _stepped(space, layer.writes, layer.channels_out, of_writes),
    )


def _stepped(space: WidthSpace, side: Side, positions: int, step: int) -> Factors:
    simplest = simplest_sides(space, side)
    if step == 1 or not positions or not simplest:
        return tuple(SteppedSide(each) for each in simplest)
    return (SteppedSide(without_groups_outside(space, side), positions, step),) if step < positions else ()


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
            kept = sides[..., tiled.index] * tiled.positions
            tiles = torch.ceil((kept - _ROUNDING) / tiled.step).clamp_min(1)
            sides = sides.index_copy(-1, tiled.index, tiles / tiled.tiles)
        if len(ragged.index):
            fraction = sides[..., ragged.index]
            kept = fraction * ragged.positions
            left = (kept - ragged.step * torch.round(kept / ragged.step)).abs()
            sides = sides.index_copy(-1, ragged.index, torch.where(left > _ROUNDING, fraction, 0.0))
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
