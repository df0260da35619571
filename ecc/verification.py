"""Verification: what was found about a compressed network, all budgets together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ecc.core.markup import card
from ecc.core.verdict import BudgetCheck, all_met, joint_confidence, marked

__all__ = ["Verification"]


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found about a compressed network.

    Attributes:
        checks: One per budget.
        accuracy: Of the compressed network on the data it was judged on; None when there was none.
    """

    checks: tuple[BudgetCheck, ...]
    accuracy: float | None = None

    @property
    def met(self) -> bool | None:
        """True when every budget holds, False when one does not, None when that is open."""
        return all_met(check.met for check in self.checks)

    @property
    def confidence(self) -> float | None:
        """Probability that all budgets hold, at least (Bonferroni); None where one of them was not measured."""
        return joint_confidence(self.checks)

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ecc verify --json``."""
        return {
            "budgets": [check.to_json() for check in self.checks],
            "met": self.met,
            "confidence": self.confidence,
            "accuracy": self.accuracy,
        }

    def __str__(self) -> str:
        return "\n".join(str(check) for check in self.checks)

    def _repr_html_(self) -> str:
        accuracy = None if self.accuracy is None else f"{self.accuracy:.4f}"
        return card("Verification", [("accuracy", accuracy)], ["", "budget"], marked(self.checks))
