"""Interactions: which groups a cost looks at together, so that it is a sum of functions of few groups each."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from itertools import product

from ecc.core.layers import Side
from ecc.core.widths import WidthSpace

__all__ = ["Interactions", "joint_interactions", "maximal", "product_interactions", "summands"]

Interactions = tuple[tuple[int, ...], ...]
"""Sets of positions in a space, each rising; none lies within another."""

_MOST_SUMMANDS = 4096  # of one product of sums; one of more is taken as a whole


def summands(side: Side) -> list[tuple[str, ...]]:
    """The groups of each part of a side, which is their sum."""
    return [names for _, names in side.parts]


def product_interactions(space: WidthSpace, products: Iterable[Sequence[Sequence[Collection[str]]]]) -> Interactions:
    """The interactions of a sum of products, each factor of which is a sum of functions of some groups.

    Args:
        products: Of each product the factors, of each factor the groups of its summands; other groups are fixed.
    """
    found: set[frozenset[str]] = set()
    for factors in products:
        if math.prod(len(factor) for factor in factors) > _MOST_SUMMANDS:
            found.add(frozenset(name for factor in factors for names in factor for name in names))
        else:
            found |= {frozenset().union(*chosen) for chosen in product(*factors)}
    return joint_interactions(space, found)


def joint_interactions(space: WidthSpace, sets: Iterable[Collection[str]]) -> Interactions:
    """The interactions of a sum of functions of these groups each; groups outside the space are fixed."""
    position = {name: i for i, name in enumerate(space.names)}
    return maximal(tuple(sorted({position[name] for name in names if name in position})) for names in sets)


def maximal(sets: Iterable[tuple[int, ...]]) -> Interactions:
    """The sets that lie within no other, in order; the empty set is left out."""
    holding: dict[int, list[frozenset[int]]] = {}
    kept = []
    for each in sorted({each for each in sets if each}, key=lambda each: (-len(each), each)):
        members = frozenset(each)
        if any(members <= other for other in holding.get(each[0], [])):
            continue
        kept.append(each)
        for member in each:
            holding.setdefault(member, []).append(members)
    return tuple(sorted(kept))
