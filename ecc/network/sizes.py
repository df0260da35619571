"""Sizes: axes whose numbers of positions a forward takes from one attribute, so that they can only change together.

``view(n, t, self.heads, self.head_dim)`` cuts queries, keys and values alike. The operators alone would let the heads
of the values be smaller than those of the queries; a module with one number for both cannot.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from torch import nn

from ecc.core.layers import Side
from ecc.network.channels import Labels
from ecc.network.values import Ledger

__all__ = ["Shared", "shared_sizes", "tie_sizes"]

Shared = tuple[str, int, bool]
"""A module's path, a size, and whether the first axis of that size is counted by an attribute of its own."""


def shared_sizes(
    model: nn.Module, candidates: Sequence[tuple[str, int, Side]], refused: Collection[str]
) -> frozenset[Shared]:
    """Sizes that an attribute holds for several axes, of which some had to stay dense.

    Args:
        candidates: Module path, dense value and side of each axis that a forward cuts out.
        refused: Names of the groups that did.
    """
    sides: dict[tuple[str, int], list[Side]] = {}
    for path, value, side in candidates:
        sides.setdefault((path, value), []).append(side)
    found = set[Shared]()
    for (path, value), several in sides.items():
        module = model.get_submodule(path)
        counting = [name for name, held in vars(module).items() if type(held) is int and held == value]
        first_apart = len(counting) > 1
        own = not type(module).__module__.startswith("torch.nn.")
        stay = any(not side.groups.isdisjoint(refused) for side in several)
        if own and counting and stay and len(set(several)) > 1 + first_apart:
            found.add((path, value, first_apart))
    return frozenset(found)


def tie_sizes(ledger: Ledger, shared: Collection[Shared]) -> None:
    """Let equal positions of axes that share a size go together."""
    channels = ledger.channels
    for path, value, first_apart in shared:
        axes = [labels for place, size, labels in ledger.sizes if (place, size) == (path, value)]
        others = [labels for labels in axes if not (first_apart and _equal(ledger, labels, axes[0]))]
        reason = f"{path or 'the network'} has one number for it and for an axis of fixed size"
        for labels in others[1:]:
            channels.tie(others[0], labels, reason)


def _equal(ledger: Ledger, a: Labels, b: Labels) -> bool:
    return np.array_equal(ledger.channels.resolve(a), ledger.channels.resolve(b))
