"""Compression: what a constrained job gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from torch import nn

from ecc.api.sparsity import Sparsity, nonzeros_of
from ecc.api.weight_recipe import AnyRecipe
from ecc.core.cost import CostModel
from ecc.core.markup import card
from ecc.core.verdict import BudgetCheck, all_met, joint_confidence, marked
from ecc.core.widths import Kept
from ecc.network.graph import WidthGraph

__all__ = ["Compression"]


@dataclass(frozen=True, eq=False)
class Compression:
    """A network that meets its budgets, and how it came about.

    Attributes:
        network: Name for people.
        dense: The dense network.
        model: The compact network, in eval mode; where inputs are masked, layers hold their masks.
        graph: Width graph of the dense network.
        kept: Unit indices kept per group.
        widths: Channels kept per group.
        recipe: How the job was run.
        budgets: One check per budget.
        costs: The cost models, one per budget.
        accuracy_dense: Score of the dense network on the test batches, in [0, 1] (validation where there are none).
        accuracy: The same of the compact network.
        nonzero_fraction: Parameters left that are not zero, as a fraction of dense.
        rounds: How often widths were chosen; of weights, phases of training.
        seconds: Wall time of this call.
        history: One row per epoch: phase, epoch, loss, score, costs relative to dense, duals.
        inputs: The batch that was timed (or the example that was traced).
        trials: One row per measurement and metric: what the cost model predicted there, and what was found.
        removed: Residual blocks that went whole; ``kept`` and ``widths`` do not name the groups that go with them.
        label: Names it among those of one run; empty where there was one only.
        sparsity: Single weights that are zero and inputs that are masked; None where the method left these alone.
    """

    network: str
    dense: nn.Module
    model: nn.Module
    graph: WidthGraph
    kept: Kept
    widths: Mapping[str, int]
    recipe: AnyRecipe
    budgets: tuple[BudgetCheck, ...]
    costs: tuple[CostModel, ...]
    accuracy_dense: float
    accuracy: float
    nonzero_fraction: float
    rounds: int
    seconds: float
    history: pd.DataFrame
    inputs: Any
    trials: pd.DataFrame = field(default_factory=pd.DataFrame)
    removed: tuple[str, ...] = ()
    label: str = ""
    sparsity: Sparsity | None = None

    @property
    def counts(self) -> dict[str, int]:
        """MACs of one example, parameters and bytes of memory, of the compact and of the dense network.

        Where single weights were pruned, parameters are those that are not zero; MACs and memory are what is run and
        held, zeros and all.
        """
        macs, params, memory = self.graph.macs, self.graph.params, self.graph.memory
        sparse = self.sparsity is not None
        return {
            "macs": macs(self.widths, removed=self.removed),
            "params": nonzeros_of(self.model) if sparse else params(self.widths, removed=self.removed),
            "memory": memory(self.widths, removed=self.removed),
            "macs_dense": macs(),
            "params_dense": params(),
            "memory_dense": memory(),
        }

    @property
    def met(self) -> bool | None:
        """True when every budget holds, False when one does not, None when that could not be measured."""
        return all_met(check.met for check in self.budgets)

    @property
    def confidence(self) -> float | None:
        """Probability that all budgets hold, at least (Bonferroni); None where one of them was not measured."""
        return joint_confidence(self.budgets)

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ecc compress --json``, without the artefact."""
        return {
            "method": self.recipe.method,
            "budgets": [check.to_json() for check in self.budgets],
            "met": self.met,
            "confidence": self.confidence,
            "accuracy_dense": self.accuracy_dense,
            "accuracy": self.accuracy,
            "widths": dict(self.widths),
            "removed": list(self.removed),
            "nonzero_fraction": self.nonzero_fraction,
            "rounds": self.rounds,
            "seconds": self.seconds,
            **({} if self.sparsity is None else self.sparsity.to_json()),
        }

    def __repr__(self) -> str:
        checks = "; ".join(str(check) for check in self.budgets)
        return f"Compression({self.recipe.method}, accuracy {self.accuracy_dense:.4f} → {self.accuracy:.4f}; {checks})"

    def _repr_html_(self) -> str:
        facts = [
            ("accuracy", f"{self.accuracy_dense:.4f} → {self.accuracy:.4f}"),
            ("parameters left", f"{self.nonzero_fraction:.1%}"),
            ("blocks removed", ", ".join(self.removed)),
            ("rounds", self.rounds),
            ("seconds", f"{self.seconds:.0f}"),
        ]
        title = f"{self.network} by {self.recipe.method}" + (f", {self.label}" if self.label else "")
        return card(title, facts, ["", "budget"], marked(self.budgets))
