"""Layers and the sides that their cost scales with.

Everything that is counted or fitted in ecc is a sum of products of two *sides*. A side is the kept fraction of one axis
of one layer: a sum, over the parts of the axis (a concatenation has several), of the part's share times the product of
the relative widths of the groups that lie on it. With the dense multiply-accumulates of each layer as coefficients the
sum is the exact MAC count; with fitted joules it is the bilinear energy model of ECC (CVPR 2019) on the real graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecc.core.widths import WidthSpace

__all__ = ["Layer", "Side", "SumOfProducts"]


@dataclass(frozen=True, slots=True)
class Side:
    """Kept fraction of one axis: sum over parts of share × product of the relative widths of the part's groups.

    Attributes:
        parts: Pairs (share of the axis, group names); the shares sum to 1, a fixed part names no group.
    """

    parts: tuple[tuple[float, tuple[str, ...]], ...] = ((1.0, ()),)

    def fraction(self, relative: Mapping[str, float]) -> float:
        """The kept fraction at relative widths in (0, 1]; a group that is not named counts as dense."""
        return sum(share * float(np.prod([relative.get(name, 1.0) for name in names])) for share, names in self.parts)

    @property
    def groups(self) -> frozenset[str]:
        """Names of all groups that the side depends on."""
        return frozenset(name for _, names in self.parts for name in names)

    def to_json(self) -> list[Any]:
        """A JSON value; ``from_json`` is the inverse."""
        return [[share, list(names)] for share, names in self.parts]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> Side:
        """The inverse of ``to_json``."""
        return cls(tuple((float(share), tuple(str(name) for name in names)) for share, names in value))


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator that computes: its cost scales with reads × writes.

    Attributes:
        name: Module path, unique in the graph (a module used twice appears twice, as ``name`` and ``name@2``).
        kind: ``conv``, ``depthwise``, ``linear``, ``recurrent``, ``matmul``, ``norm`` or ``embedding``.
        reads: Kept fraction of the input side (the constant 1 for depthwise and norm layers).
        writes: Kept fraction of the output side.
        macs: Multiply-accumulates of one example when dense; 0 where only memory moves.
        channels_in: Positions along the input side when dense; 0 where no group lies on it.
        channels_out: Positions along the output side when dense; 0 where no group lies on it.
    """

    name: str
    kind: str
    reads: Side
    writes: Side
    macs: int
    channels_in: int = 0
    channels_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``from_json`` is the inverse."""
        return {
            "name": self.name,
            "kind": self.kind,
            "reads": self.reads.to_json(),
            "writes": self.writes.to_json(),
            "macs": self.macs,
            "channels_in": self.channels_in,
            "channels_out": self.channels_out,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Layer:
        """The inverse of ``to_json``."""
        reads, writes = Side.from_json(value["reads"]), Side.from_json(value["writes"])
        sizes = (int(value.get(name, 0)) for name in ("channels_in", "channels_out"))
        return cls(str(value["name"]), str(value["kind"]), reads, writes, int(value["macs"]), *sizes)


class SumOfProducts:
    """Evaluates products of sides for batches of width vectors, differentiably.

    Args:
        space: The order and the dense values of the width vectors.
        terms: One or more sides per term; a term's value is the product of their fractions. Groups outside ``space``
            count as dense.
    """

    def __init__(self, space: WidthSpace, terms: Sequence[Sequence[Side]]) -> None:
        self.space = space
        self.n_terms = len(terms)
        position = {name: i for i, name in enumerate(space.names)}
        one = len(space)  # index of the constant 1 behind the relative widths
        sides: list[Side] = []
        row: dict[Side, int] = {}
        for term in terms:
            for side in term:
                if side not in row:
                    row[side] = len(sides)
                    sides.append(side)
        parts = [(i, share, names) for i, side in enumerate(sides) for share, names in side.parts]
        depth = max((len(names) for _, _, names in parts), default=1) or 1
        index = np.full((len(parts), depth), one, dtype=np.int64)
        mix = np.zeros((len(parts), len(sides) + 1))
        for p, (i, share, names) in enumerate(parts):
            index[p, : len(names)] = [position.get(name, one) for name in names]
            mix[p, i] = share
        factors = max((len(term) for term in terms), default=1) or 1
        choice = np.full((len(terms), factors), len(sides), dtype=np.int64)
        for t, term in enumerate(terms):
            choice[t, : len(term)] = [row[side] for side in term]
        constant = np.zeros(len(sides) + 1)
        constant[-1] = 1.0  # the side "nothing": factor 1 for terms with fewer sides than others
        self._index = torch.from_numpy(index)
        self._mix = torch.from_numpy(mix)
        self._constant = torch.from_numpy(constant)
        self._choice = torch.from_numpy(choice)
        self._dense = torch.tensor(space.dense, dtype=torch.float64)

    def __call__(self, widths: Tensor) -> Tensor:
        """Term values at widths in channels: shape (…, n_groups) → (…, n_terms), float64."""
        relative = widths.to(torch.float64) / self._dense
        padded = torch.cat([relative, torch.ones_like(relative[..., :1])], -1) if len(self.space) else None
        if padded is None:
            return torch.ones((*widths.shape[:-1], self.n_terms), dtype=torch.float64)
        sides = padded[..., self._index].prod(-1) @ self._mix + self._constant
        return sides[..., self._choice].prod(-1)
