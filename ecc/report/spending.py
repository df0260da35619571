"""What a network cost in time: profiling, fitting, training, measuring, packing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ecc.artefact import Manifest
from ecc.core.cost import CostModel
from ecc.energy_models.fitted import FittedCost

__all__ = ["Spent", "times_of"]


@dataclass(frozen=True, slots=True)
class Spent:
    """Time that one part took.

    Attributes:
        name: Of the part.
        seconds: Wall time.
        note: How often, of how many.
    """

    name: str
    seconds: float
    note: str = ""


def times_of(
    manifest: Manifest, history: pd.DataFrame, trials: pd.DataFrame | None, costs: Sequence[CostModel]
) -> tuple[Spent, ...]:
    """The parts of which the time is known, in the order in which they were done.

    What a cost model took is that of the profile it rests on, which other compressions share.
    """
    found = [spent for cost in costs if isinstance(cost, FittedCost) for spent in _of_cost(cost)]
    names = tuple(stage.name for stage in manifest.stages)  # whose epochs are in the time of the stage
    trained = [spent for spent in _of_training(history) if spent.name.partition(":")[0] not in map(_train, names)]
    measured = _of_measuring(trials)
    stages = [Spent(f"stage {stage.name}", stage.seconds) for stage in manifest.stages]
    known = sum(spent.seconds for spent in (*trained, *measured, *stages))
    left = manifest.seconds - known
    found += [*trained, *measured, *stages]
    if manifest.seconds and left >= 0.05:
        found.append(Spent("the rest", left, "choosing widths, cutting, checking, scoring"))
    return tuple(found)


def _of_cost(cost: FittedCost) -> list[Spent]:
    made: Mapping[str, object] = cost.made
    spent = []
    if isinstance(seconds := made.get("measuring_s"), int | float):
        spent.append(Spent(f"profile of {cost.metric}", float(seconds), f"{cost.samples} configurations, done once"))
    if isinstance(seconds := made.get("fit_s"), int | float):
        spent.append(Spent(f"fit of {cost.metric}", float(seconds), f"{cost.form}, judged by cross-validation"))
    return spent


def _of_training(history: pd.DataFrame) -> list[Spent]:
    if not {"phase", "seconds"} <= set(history):
        return []
    spent = []
    for phase, rows in history.groupby("phase", sort=False):
        seconds = float(pd.to_numeric(rows["seconds"], errors="coerce").sum())
        spent.append(Spent(_train(str(phase)), seconds, f"{len(rows)} epoch{'s' if len(rows) != 1 else ''}"))
    return spent


def _train(phase: str) -> str:
    return f"train {phase}"


def _of_measuring(trials: pd.DataFrame | None) -> list[Spent]:
    """On the way, and for the verdict."""
    if trials is None or not {"round", "metric", "seconds"} <= set(trials):
        return []
    one = trials[trials["metric"] == trials["metric"].iloc[0]] if len(trials) else trials
    last = one["round"].astype(str).str.startswith("verify")
    parts = (("measure on the way", one[~last]), ("verify", one[last]))
    return [
        Spent(name, float(rows["seconds"].sum()), f"{len(rows)} network{'s' if len(rows) != 1 else ''}")
        for name, rows in parts
        if len(rows)
    ]
