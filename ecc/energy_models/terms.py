"""Terms: the products of group widths that a network's cost is a sum of, each product once.

A layer that computes contributes reads × writes; every layer also contributes each of its sides alone, because moving
its activations, a depthwise filter or a norm costs in proportion to one side. Terms belong to the real graph (which
group a layer reads and which it writes), never to neighbours in a list of widths, so that residual adds and
concatenations are represented exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecc.core.layers import Layer, Side
from ecc.core.widths import WidthSpace

__all__ = [
    "Term",
    "TermSet",
    "distinct",
    "name_of",
    "products_of",
    "shares_left",
    "simplest_sides",
    "terms_of",
    "without_groups_outside",
]

Factors = tuple[Side, ...]

F = TypeVar("F")
"""What a product is made of: plain sides, or sides in tiles (``stepped``)."""


@dataclass(frozen=True, slots=True)
class Term(Generic[F]):
    """A product of sides with its coefficient.

    Attributes:
        name: For people, unique in a model: ``conv1 × conv2``, ``conv1 × ⌈conv2/32⌉``.
        sides: The factors; their product is 1 at dense widths.
        value: What the term costs at dense widths, in the unit of the model.
    """

    name: str
    sides: tuple[F, ...]
    value: float


@dataclass(frozen=True, eq=False)
class TermSet(Generic[F]):
    """The distinct products of a network, before they have coefficients.

    Attributes:
        names: One per product, distinct.
        factors: The sides of each product, same order.
        macs: Dense multiply-accumulates of each product, shape (n_terms,).
        fixed_macs: Dense multiply-accumulates of layers that no width changes.
    """

    names: tuple[str, ...]
    factors: tuple[tuple[F, ...], ...]
    macs: NDArray[np.float64]
    fixed_macs: float

    @classmethod
    def of(cls, macs: Mapping[tuple[F, ...], float], name_of: Callable[[F], str]) -> TermSet[F]:
        """The products by their dense multiply-accumulates; the empty product is what no width changes."""
        products = {factors: value for factors, value in macs.items() if factors}
        names = distinct(" × ".join(name_of(side) for side in factors) for factors in products)
        values = np.array(list(products.values()), dtype=np.float64)
        return cls(names, tuple(products), values, macs.get((), 0.0))

    def with_values(self, values: Sequence[float] | NDArray[np.float64]) -> tuple[Term[F], ...]:
        """The products with coefficients, same order."""
        return tuple(
            Term(name, factors, float(value))
            for name, factors, value in zip(self.names, self.factors, values, strict=True)
        )


def terms_of(space: WidthSpace, layers: Sequence[Layer]) -> TermSet[Side]:
    """The distinct products of layers: reads × writes where MACs are spent, and each side alone.

    Products that are equal for all widths are one term; groups outside ``space`` count as dense.
    """
    macs: dict[Factors, float] = {}
    for layer in layers:
        for factors, value in products_of(space, layer):
            macs[factors] = macs.get(factors, 0.0) + value
    return TermSet.of(macs, name_of)


def products_of(space: WidthSpace, layer: Layer) -> list[tuple[Factors, float]]:
    """The products that a layer contributes, each with its dense multiply-accumulates."""
    reads, writes = (simplest_sides(space, side) for side in (layer.reads, layer.writes))
    alone: list[tuple[Factors, float]] = [(reads, 0.0), (writes, 0.0)]
    if not layer.macs:
        return alone
    return [(tuple(sorted(reads + writes, key=_order)), float(layer.macs)), *alone]


def shares_left(
    products: Callable[[Layer], Iterable[tuple[tuple[F, ...], float]]], layers: Iterable[Layer], left: Collection[str]
) -> dict[tuple[F, ...], float]:
    """Which share of each product's cost is of the layers that are left, in [0, 1].

    Layers share a product by the multiply-accumulates that they spend on it; in equal parts where none are spent.

    Args:
        products: Of a layer, each with its dense multiply-accumulates.
        left: Names of layers.
    """
    spent: dict[tuple[F, ...], list[tuple[float, bool]]] = {}
    for layer in layers:
        for factors, macs in products(layer):
            spent.setdefault(factors, []).append((macs, layer.name in left))
    shares = {}
    for factors, parts in spent.items():
        total = math.fsum(macs for macs, _ in parts)
        weights = [(macs if total else 1.0, stays) for macs, stays in parts]
        shares[factors] = math.fsum(w for w, stays in weights if stays) / math.fsum(w for w, _ in weights)
    return shares


def simplest_sides(space: WidthSpace, side: Side) -> Factors:
    """The side as a sorted product of simplest sides: one per group, or one sum; none when it is constant."""
    whole = without_groups_outside(space, side)
    if len(whole.parts) == 1:
        return tuple(Side(((1.0, (name,)),)) for name in whole.parts[0][1])
    return (whole,)


def without_groups_outside(space: WidthSpace, side: Side) -> Side:
    """The side with each distinct product of groups once, in order; groups outside ``space`` count as dense."""
    shares: dict[tuple[str, ...], list[float]] = {}
    for share, groups in side.parts:
        shares.setdefault(tuple(sorted(name for name in groups if name in space.names)), []).append(share)
    return Side(tuple(sorted((round(math.fsum(values), 12), groups) for groups, values in shares.items())))


def _order(side: Side) -> tuple[tuple[float, tuple[str, ...]], ...]:
    return side.parts


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """The names, equal ones (sums that differ only in shares) numbered."""
    found: list[str] = []
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return tuple(found)


def name_of(side: Side) -> str:
    """A readable name of a side."""
    parts = ["·".join(groups) or "fixed" for _, groups in side.parts]
    if len(parts) == 1:
        return parts[0]
    return f"({' + '.join(parts)})" if len(parts) <= 3 else f"({parts[0]} + … + {parts[-1]}, {len(parts)} parts)"
