"""Bench: where the networks of a job are measured, each measurement once, however often the job is interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ecc.api.ruler import Ruler
from ecc.api.trials import Trial
from ecc.core.problem import Checkpoint, Progress
from ecc.core.verdict import Measured
from ecc.core.widths import Widths
from ecc.solvers.checkpoints import FileCheckpoint

__all__ = ["Bench", "Keeper", "keeper_in"]

Keeper = Callable[[str], Checkpoint | None]
"""Where the stage of that name keeps its state."""


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
        ruler: What measures, or why nothing can; the reason is empty where nothing is of a kind that is measured.
        job: What the measurements belong to; those of another job are forgotten.
        keeper: Where they are kept.
        seed: Of the order of runs.
        progress: Told how far each measurement is.
    """

    ruler: Ruler | str
    job: str
    keeper: Keeper
    seed: int
    progress: Progress | None

    @property
    def reason(self) -> str:
        """Why nothing can be measured; empty where something can, or where nothing is to be."""
        return self.ruler if isinstance(self.ruler, str) else ""

    @property
    def works(self) -> bool:
        """Whether anything can be measured."""
        return isinstance(self.ruler, Ruler)

    def measure(
        self, name: str, networks: Sequence[Callable[[], nn.Module]], widths: Sequence[Widths], *, seconds: float
    ) -> list[Trial]:
        """One trial per network, each in turn with the dense one; empty measurements where there is no ruler.

        Args:
            name: Of the measurement, unique in the job.
            networks: Make the networks, where they have not been measured yet.
            widths: Of the networks.
            seconds: Longest time.
        """
        if not isinstance(self.ruler, Ruler):
            return [Trial(name, each, {}) for each in widths]
        known = self._known(name, widths)
        if known is None:
            made = [make() for make in networks]
            known = self.ruler.measure(made, seconds=seconds, progress=self._named(f"measure {name}"), seed=self.seed)
            self._keep(name, widths, known)
        return [Trial(name, each, found) for each, found in zip(widths, known, strict=True)]

    def _known(self, name: str, widths: Sequence[Widths]) -> list[dict[str, Measured]] | None:
        keeper = self.keeper(name)
        state = keeper.load() if keeper is not None else None
        if state is None or state.get("job") != self.job or state.get("widths") != [dict(each) for each in widths]:
            return None
        return [{metric: Measured(*values) for metric, values in each.items()} for each in state["measured"]]

    def _keep(self, name: str, widths: Sequence[Widths], found: Sequence[Mapping[str, Measured]]) -> None:
        keeper = self.keeper(name)
        if keeper is None:
            return
        measured: list[dict[str, Any]] = [
            {metric: [float(value) for value in astuple(values)] for metric, values in each.items()} for each in found
        ]
        keeper.save({"job": self.job, "widths": [dict(each) for each in widths], "measured": measured})

    def _named(self, stage: str) -> Progress | None:
        report = self.progress
        if report is None:
            return None
        return lambda _, done, total, note="": report(stage, done, total, note)
