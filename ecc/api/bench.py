"""Bench: where the networks of a job are measured, each measurement once, however often the job is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import nn

from ecc.api.ruler import Ruler
from ecc.api.trials import Trial
from ecc.core.problem import Checkpoint, Progress, Solution
from ecc.core.verdict import Measured
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.distributed import Ranks

__all__ = ["Bench", "Keeper", "keeper_in"]

Keeper = Callable[[str], Checkpoint | None]
"""Where the stage of that name keeps its state."""

_Figures = dict[str, list[float]]  # the fields of what was measured, by metric


def keeper_in(folder: str | Path | None) -> Keeper:
    """Where each stage of a job keeps its state: a file of its name in the folder, or nowhere."""
    if folder is None:
        return lambda name: None
    place = Path(folder)
    return lambda name: FileCheckpoint(place / f"{name}.safetensors")


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """Measures networks and remembers what it found.

    Attributes:
        ruler: What measures, or why nothing can; the reason is empty where nothing is of a kind that is measured. None
            in a process that the first one measures for.
        job: What the measurements belong to; those of another job are forgotten.
        keeper: Where they are kept.
        seed: Of the order of runs.
        progress: Told how far each measurement is.
        ranks: The processes of the job; the first one alone measures.
    """

    ruler: Ruler | str | None
    job: str
    keeper: Keeper
    seed: int
    progress: Progress | None
    ranks: Ranks = field(default_factory=Ranks)

    @property
    def reason(self) -> str:
        """Why nothing can be measured; empty where something can, or where nothing is to be."""
        return self.ruler if isinstance(self.ruler, str) else ""

    @property
    def works(self) -> bool:
        """Whether anything can be measured."""
        return not isinstance(self.ruler, str)

    def measure(
        self, name: str, networks: Sequence[Callable[[], nn.Module]], solved: Sequence[Solution], *, seconds: float
    ) -> list[Trial]:
        """One trial per network, each in turn with the dense one; empty measurements where there is no ruler.

        Args:
            name: Of the measurement, unique in the job.
            networks: Make the networks, where they have not been measured yet.
            solved: Widths and blocks of the networks.
            seconds: Longest time.
        """
        if not self.works:
            return [Trial(name, each.widths, {}, each.removed) for each in solved]
        found = self.ranks.told(lambda: self._found(name, networks, solved, seconds))
        took = found["seconds"] / max(len(solved), 1)
        return [
            Trial(name, each.widths, {metric: Measured(*own) for metric, own in measured.items()}, each.removed, took)
            for each, measured in zip(solved, found["measured"], strict=True)
        ]

    def _found(
        self, name: str, networks: Sequence[Callable[[], nn.Module]], solved: Sequence[Solution], seconds: float
    ) -> dict[str, Any]:
        """What was measured earlier, or is measured now and kept: ``measured`` per network, and ``seconds`` of all."""
        widths, removed = [dict(each.widths) for each in solved], [list(each.removed) for each in solved]
        state = {"job": self.job, "widths": widths, "removed": removed}
        keeper = self.keeper(name)
        kept = keeper.load() if keeper is not None else None
        if kept is not None and all(kept.get(key) == value for key, value in state.items()):
            return {"measured": kept["measured"], "seconds": float(kept.get("seconds", 0.0))}
        ruler = cast(Ruler, self.ruler)  # the first process has one
        started = time.monotonic()
        made = [make() for make in networks]
        measured = ruler.measure(made, seconds=seconds, progress=self._named(f"measure {name}"), seed=self.seed)
        figures: list[_Figures] = [
            {metric: [float(value) for value in astuple(values)] for metric, values in each.items()}
            for each in measured
        ]
        found = {"measured": figures, "seconds": time.monotonic() - started}
        if keeper is not None:
            keeper.save(state | found)
        return found

    def _named(self, stage: str) -> Progress | None:
        report = self.progress
        if report is None:
            return None
        return lambda _, done, total, note="": report(stage, done, total, note)
