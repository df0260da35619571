"""Derived: what a cost that is made of another one says as that one does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ecc.core.cost import CostModel
from ecc.core.table import Provenance

__all__ = ["Derived"]


@dataclass(frozen=True, eq=False)
class Derived:
    """A cost made of another one, whose dense value, unit and file stay those of that one.

    Attributes:
        cost: What it is made of.
    """

    cost: CostModel

    @property
    def metric(self) -> str:
        """As of the cost."""
        return self.cost.metric

    @property
    def dense(self) -> float:
        """As of the cost: budgets relative to dense are relative to what is expected of the dense network."""
        return self.cost.dense

    @property
    def unit(self) -> str:
        """As of the cost."""
        return self.cost.unit

    @property
    def exact(self) -> bool:
        """As of the cost."""
        return self.cost.exact

    @property
    def source(self) -> str:
        """As of the cost."""
        return self.cost.source

    @property
    def provenance(self) -> Provenance | None:
        """As of the cost."""
        return self.cost.provenance

    def save(self, path: str | Path) -> None:
        """Write the cost, without what was made of it."""
        self.cost.save(path)
