"""Staged: what secondary stages give back, and what its artefact says of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd
from torch import nn

from ecc.api.describing import Source, environment
from ecc.api.sparsity import nonzeros_of
from ecc.api.stage_limits import StageLimits
from ecc.api.stage_start import Start
from ecc.api.workshop import Training
from ecc.artefact import Manifest, StageRecord
from ecc.core.errors import InputError
from ecc.core.markup import card
from ecc.core.verdict import BudgetCheck
from ecc.stages.code import PackedCode

__all__ = ["Staged", "manifest_of_staged"]


@dataclass(frozen=True, eq=False)
class Staged:
    """A network in fewer bytes.

    Attributes:
        model: The decoded network, in eval mode, on the CPU; where its structure was changed, with the changes.
        code: Its state as it is stored.
        stages: What was applied, with the size and the accuracy after each.
        accuracy_before: Score of the network that came in, on the test data (validation where there are none), in
            [0, 1]; None when it was not computed.
        accuracy: The same of ``model``.
        reason: Why the accuracies are missing; empty when they are not.
        budgets: Of the artefact that came in: those on single weights judged by the weights as they are now.
        seconds: Wall time of this call.
        history: One row per epoch, with those of the artefact that came in.
        notes: A sentence for each stage that found nothing to change.
        training: How stages trained.
        start: What came in.
        limits: That were to be kept; None where there were none.
    """

    model: nn.Module
    code: PackedCode
    stages: tuple[StageRecord, ...]
    accuracy_before: float | None
    accuracy: float | None
    reason: str
    budgets: tuple[BudgetCheck, ...]
    seconds: float
    history: pd.DataFrame
    training: Training
    start: Start
    limits: StageLimits | None = None
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of the file of the weights."""
        return self.code.nbytes

    @property
    def bytes_before(self) -> int:
        """Size of the file that held the weights before."""
        return self.start.nbytes

    @property
    def dense_bytes(self) -> int:
        """Parameters of the dense network as floats of 32 bits."""
        return self.start.dense_bytes

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than it was before."""
        return self.bytes_before / self.nbytes

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ecc stage --json``, without the artefact."""
        return {
            "bytes_before": self.bytes_before,
            "bytes": self.nbytes,
            "ratio": self.ratio,
            "dense_bytes": self.dense_bytes,
            "bytes_limit": None if self.limits is None else self.limits.nbytes,
            "ratio_dense": self.dense_bytes / self.nbytes,
            "accuracy_before": self.accuracy_before,
            "accuracy": self.accuracy,
            "accuracy_reason": self.reason,
            "stages": [stage.to_json() for stage in self.stages],
            "notes": list(self.notes),
            "budgets": [check.to_json() for check in self.budgets],
            "seconds": self.seconds,
        }

    def __repr__(self) -> str:
        names = ", ".join(stage.name for stage in self.stages)
        sizes = f"{self.bytes_before:,} → {self.nbytes:,} bytes ({self.ratio:.1f}×)"
        if self.accuracy is None or self.accuracy_before is None:
            return f"Staged({names}: {sizes})"
        return f"Staged({names}: {sizes}, accuracy {self.accuracy_before:.4f} → {self.accuracy:.4f})"

    def _repr_html_(self) -> str:
        rows: list[list[object]] = [
            [stage.name, stage.bytes, f"{self.bytes_before / stage.bytes:.1f}×", _score(stage.accuracy)]
            for stage in self.stages
        ]
        before = ["as it was", self.bytes_before, "", _score(self.accuracy_before)]
        facts = [("budgets", "; ".join(map(str, self.budgets))), ("notes", "; ".join(self.notes))]
        return card(
            f"Staged: {self.ratio:.1f} times fewer bytes",
            facts,
            ["stage", "bytes", "ratio", "accuracy"],
            [before, *rows],
        )


def _score(accuracy: float | None) -> str:
    return "not computed" if accuracy is None else f"{accuracy:.4f}"


def manifest_of_staged(result: Staged, source: Source | None = None) -> Manifest:
    """What the artefact of a staged network says of it.

    Args:
        source: Where the dense network came from; what is known when None.
    Raises:
        InputError: If none can be written.
    """
    base = result.start.manifest
    if base is None:
        raise InputError(f"the staged network cannot be saved as an artefact: {result.start.reason}")
    sparse = any(stored.entries < stored.size for stored in result.code.stored().values())
    params = nonzeros_of(result.model) if sparse else sum(each.numel() for each in result.model.parameters())
    dense = base.counts.get("params_dense", 0)
    origin: dict[str, Any] = {} if source is None else {name: value for name, value in asdict(source).items() if value}
    return replace(
        base,
        **origin,
        stages=(*base.stages, *result.stages),
        edits=tuple(result.code.edits),
        accuracy_dense=result.accuracy_before if result.start.loaded is None else base.accuracy_dense,
        accuracy=result.accuracy,
        budgets=result.budgets,
        counts={**base.counts, "params": params},
        nonzero_fraction=params / dense if dense else base.nonzero_fraction,
        seconds=base.seconds + result.seconds,
        settings={**base.settings, **result.training.settings},
        environment={**base.environment, **environment()},
        created="",
    )
