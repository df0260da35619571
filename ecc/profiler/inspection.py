"""What is in a profile store, in figures: for people, for a page, for ``--json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecc.core.table import ProfileTable
from ecc.profiler.conditions import Conditions
from ecc.profiler.records import Network, Run
from ecc.profiler.tables import UNITS, Visit, drift, noise

__all__ = [
    "FLAGS",
    "count_flags",
    "describe",
    "describe_state",
    "half_widths",
    "noisiest",
    "slowest",
    "summarise_conditions",
]

FLAGS: Mapping[str, str] = {
    "noisy": "the 95 % interval of the ratio is wider than ±2 %",
    "steal": "the hypervisor gave more than a tenth of the time to others",
    "switches": "the process was pushed off its core more than a hundred times in a second",
    "loaded": "others took a fifth of the cores before the profile began",
    "foreign": "another process computed on the device",
    "throttled": "heat, a hardware limit or the power brake held the clocks down",
    "power-cap": "the power limit held the clocks down, as it may at full load",
    "clock": "the clock was more than 2 % off what it was before",
    "temperature": "the temperature was more than 5 °C off what it was before",
    "period": "inferences keep the time of a sensor that looks only part of it",
    "retried": "measured twice; the first try, with a passing disturbance, is not kept",
    "delta": "energy by the plain difference of the counter: too few ticks for a slope",
    "power": "energy by sampled power, integrated: there is no counter, or it was not wanted",
    "power-average": "energy by power that is averaged over a second: there is nothing better on this board",
    "counter-suspect": "the energy counter and integrated power differ by a tenth or more; choose by --energy-source",
}
"""What the flags of rows mean; a flag that is not here explains itself."""

_SHOWN = 5
_SHOWN_UNITS: Mapping[str, tuple[float, str]] = {"hz": (1e-9, "GHz"), "c": (1.0, "°C"), "w": (1.0, "W")}

Floats = NDArray[np.float64]


def describe(
    network: Network | None, runs: Sequence[Run], visits: Sequence[Visit], table: ProfileTable | None
) -> dict[str, Any]:
    """A JSON value; figures that do not exist are null."""
    manifest: dict[str, Any] = {
        "runs": [_run(run, visits) for run in runs],
        "rows": 0 if table is None else len(table),
        "readings": len(visits),
    }
    if network is not None:
        manifest["provenance"] = network.provenance.to_json()
        manifest["space"] = network.space.to_json()
    if table is None:
        return manifest
    drifts = {metric: drift([visit for visit in visits if visit.metric == metric]) for metric in table.metrics}
    return manifest | {
        "measuring_s": math.fsum(visit.seconds for visit in visits),
        "reference": {metric: [_finite(end) for end in value] for metric, value in table.reference.items()},
        "noise": {metric: _finite(noise(table, metric)) for metric in table.metrics},
        "drift": {
            metric: None if found is None else [found.change, found.low, found.high] for metric, found in drifts.items()
        },
        "cpu_s": [float(np.quantile(table.rows["cpu_s"], level)) for level in (0, 0.5, 1)],
        "conditions": summarise_conditions(visits),
        "flagged": int((table.rows["flags"] != "").sum()),
        "flags": count_flags(table, visits),
        "slowest": {metric: slowest(table, metric) for metric in table.metrics},
        "noisiest": {metric: noisiest(table, metric) for metric in table.metrics},
    }


def half_widths(table: ProfileTable, metric: str) -> Floats:
    """Half of each row's 95 % interval, relative to its ratio, shape (n_rows,); NaN where not measured."""
    rows = table.rows
    half = (rows[f"{metric}_ratio_high"] - rows[f"{metric}_ratio_low"]) / 2 / rows[f"{metric}_ratio"]
    return half.to_numpy(dtype=np.float64)


def count_flags(table: ProfileTable, visits: Sequence[Visit]) -> dict[str, dict[str, int]]:
    """Per flag, how many readings and how many configurations bear it; the most frequent first.

    ``noisy`` belongs to a configuration as a whole, so that no reading bears it.
    """
    of_rows = [set(str(flags).split()) for flags in table.rows["flags"]]
    of_visits = [set(visit.flags) for visit in visits]
    counted = {
        flag: {
            "readings": sum(flag in flags for flags in of_visits),
            "configurations": sum(flag in flags for flags in of_rows),
        }
        for flag in sorted(set().union(*of_rows, *of_visits))
    }
    return dict(sorted(counted.items(), key=lambda item: -item[1]["configurations"]))


def slowest(table: ProfileTable, metric: str, n: int = _SHOWN) -> list[dict[str, Any]]:
    """The rows of the greatest cost relative to dense, the greatest first."""
    return _rows(table, metric, table.rows[f"{metric}_ratio"].to_numpy(dtype=np.float64), n)


def noisiest(table: ProfileTable, metric: str, n: int = _SHOWN) -> list[dict[str, Any]]:
    """The rows of the widest intervals, the widest first."""
    return _rows(table, metric, half_widths(table, metric), n)


def _rows(table: ProfileTable, metric: str, values: Floats, n: int) -> list[dict[str, Any]]:
    """The n rows of the greatest values."""
    half = half_widths(table, metric)
    known = [index for index in np.argsort(-values, kind="stable").tolist() if not math.isnan(values[index])]
    return [
        {
            "widths": dict(zip(table.space.names, table.widths[index].tolist(), strict=True)),
            **{
                name: _finite(table.rows[f"{metric}_{name}"].iloc[index])
                for name in ("ratio", "ratio_low", "ratio_high", UNITS[metric].lower())
            },
            "noise": _finite(half[index]),
            "flags": str(table.rows["flags"].iloc[index]),
        }
        for index in known[:n]
    ]


def summarise_conditions(visits: Sequence[Visit]) -> dict[str, Any]:
    """Of each number that is known, [least, median, greatest]; of words, how many readings bear each."""
    found: dict[str, Any] = {}
    for name in (field.name for field in fields(Conditions)):
        values = [value for visit in visits if (value := visit.conditions.to_json().get(name)) is not None]
        if values and isinstance(values[0], int | float):
            found[name] = [float(np.min(values)), float(np.median(values)), float(np.max(values))]
        elif values and isinstance(values[0], tuple):
            words = [word for value in values for word in value]
            found[name] = {word: words.count(word) for word in sorted(set(words))}
    return found


def describe_state(item: tuple[str, Any]) -> tuple[str, str]:
    """A member of ``summarise_conditions`` for people: its name, and its range or its words with their readings."""
    name, found = item
    words, _, unit = name.rpartition("_")
    if isinstance(found, Mapping):
        return name, ", ".join(f"{word} in {n} readings" for word, n in found.items()) or "never"
    factor, shown = _SHOWN_UNITS.get(unit, (1.0, ""))
    low, middle, high = (f"{value * factor:.4g}" for value in found)
    spread = middle if low == high else f"{middle} ({low} to {high})"
    return (words if unit in _SHOWN_UNITS else name).replace("_", " "), f"{spread} {shown}".rstrip()


def _run(run: Run, visits: Sequence[Visit]) -> dict[str, Any]:
    mine = [visit for visit in visits if visit.run == run.number]
    return {
        "run": run.number,
        "started": run.started,
        "ended": max((visit.started + visit.seconds for visit in mine), default=None),
        "readings": len(mine),
        "seed": run.seed,
        "protocol": dict(run.protocol),
        "environment": dict(run.environment),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
