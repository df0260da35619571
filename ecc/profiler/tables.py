"""Rows → table: what all blocks together say about each configuration, the reference and the device's drift."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ecc.core.layers import Layer
from ecc.core.table import RANDOM, ProfileTable, Provenance
from ecc.core.widths import Widths, WidthSpace
from ecc.profiler.conditions import UNKNOWN, Conditions
from ecc.profiler.flags import condition_flags, host_flags
from ecc.profiler.host import Disturbance
from ecc.profiler.pairing import Pairs, Spread, estimate, median_interval, spread
from ecc.profiler.steadying import Moment, steadied

__all__ = ["NOISY", "UNITS", "Drift", "Visit", "drift", "idle_power", "long_run", "noise", "tabulate"]

UNITS: Mapping[str, str] = {"latency": "s", "energy": "J"}
"""The metrics that are measured, and their units."""

NOISY = 0.02
"""Relative half-width of the 95 % interval above which a row is flagged ``noisy``."""

_BATCHES = 20  # neighbouring readings of the reference are alike; that many batches of them are nearly independent


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """One configuration measured by one meter in one block.

    Attributes:
        widths: The configuration.
        block: Number of the block, from 0.
        position: Place in the block's order.
        metric: A key of UNITS.
        pairs: The readings.
        started: Unix time at which it began.
        seconds: How long it took, warm-up excluded.
        disturbance: Counters of the host over that time.
        conditions: State of the device over that time.
        run: Number of the measurement run that it belongs to; None where no store has numbered it.
        purpose: Why the configuration is measured, one of PURPOSES.
    """

    widths: Widths
    block: int
    position: int
    metric: str
    pairs: Pairs
    started: float
    seconds: float
    disturbance: Disturbance
    conditions: Conditions = UNKNOWN
    run: int | None = None
    purpose: str = RANDOM

    @property
    def flags(self) -> tuple[str, ...]:
        """Words on what was wrong with the readings, sorted; ``flags`` explains them."""
        seen = host_flags(self.disturbance, self.seconds) | condition_flags(self.conditions)
        return tuple(sorted(seen | set(self.pairs.flags)))


@dataclass(frozen=True, slots=True)
class Drift:
    """Relative change of the reference from the first to the last reading, with its 95 % interval."""

    change: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def tabulate(
    provenance: Provenance, space: WidthSpace, layers: Sequence[Layer], visits: Sequence[Visit]
) -> ProfileTable:
    """Pool the visits of each configuration, in the order of first measurement.

    Ratios are to the reference as ``steadying`` has it. Beside the columns that ProfileTable names there are, for each
    metric M, ``M_n`` and ``M_block_ratios`` (median ratio per block, a list); ``n`` and ``block_ratios`` repeat those
    of the first metric. Metrics that were not measured are NaN. ``M_block_runs`` names the run of each of these blocks.
    ``cpu_s`` is the process CPU time of one inference; ``steal_s`` and ``switches`` are sums over the visits, and so
    are ``seconds``, how long these took; ``started`` is the Unix time of the first. Where known of any visit there are
    ``clock_hz``, ``temperature_c`` and ``idle_w`` (medians), ``throttled`` (reasons) and ``run`` (in which most visits
    were made); and, of the extras of pairs, ``energy_error`` (standard error, relative to the reading),
    ``energy_delta_j``, ``energy_check_j`` and the like (medians).

    Raises:
        InputError: If a visit's widths do not belong to the space.
    """
    metrics = [metric for metric in UNITS if any(visit.metric == metric for visit in visits)]
    grouped: dict[tuple[int, ...], list[Visit]] = {}
    for visit in _steady(visits):
        grouped.setdefault(tuple(space.vector(visit.widths).tolist()), []).append(visit)
    usual = {
        metric: spread(
            mine for group in grouped.values() if (mine := [visit.pairs for visit in group if visit.metric == metric])
        )
        for metric in metrics
    }
    rows = pd.DataFrame([_row(group, usual) for group in grouped.values()])
    found = [_state(group) | _extras(group) for group in grouped.values()]
    states = pd.DataFrame(found, index=rows.index).dropna(axis=1, how="all")
    rows[list(states.columns)] = states
    widths: NDArray[np.int64] = np.array(list(grouped), dtype=np.int64).reshape(len(grouped), len(space))
    reference = {metric: long_run([visit for visit in visits if visit.metric == metric]) for metric in metrics}
    return ProfileTable(provenance, space, tuple(layers), widths, rows, reference)


def _steady(visits: Sequence[Visit]) -> list[Visit]:
    """The visits with references to divide by, in their order."""
    found = list(visits)
    for metric in dict.fromkeys(visit.metric for visit in visits):
        mine = {place: visit for place, visit in enumerate(visits) if visit.metric == metric}
        moments = [
            Moment(tuple(sorted(visit.widths.items())), (visit.run, visit.block), visit.pairs)
            for visit in mine.values()
        ]
        for (place, visit), references in zip(mine.items(), steadied(moments), strict=True):
            found[place] = replace(visit, pairs=replace(visit.pairs, references=references))
    return found


def _row(visits: Sequence[Visit], usual: Mapping[str, Spread | None]) -> dict[str, Any]:
    metrics = tuple(usual)
    row: dict[str, Any] = {}
    flags = {flag for visit in visits for flag in visit.flags}
    for metric in metrics:
        mine = [visit for visit in visits if visit.metric == metric]
        columns = (
            f"{metric}_ratio",
            f"{metric}_ratio_low",
            f"{metric}_ratio_high",
            f"{metric}_{UNITS[metric].lower()}",
        )
        if not mine:
            row |= dict.fromkeys(columns, float("nan")) | {f"{metric}_n": 0, f"{metric}_block_ratios": []}
            row[f"{metric}_block_runs"] = []
            continue
        pooled = estimate([visit.pairs for visit in mine], usual[metric])
        row |= dict(zip(columns, (pooled.ratio, pooled.low, pooled.high, pooled.value), strict=True))
        row[f"{metric}_n"] = pooled.n
        row[f"{metric}_block_ratios"] = [float(np.median(visit.pairs.ratios)) for visit in mine]
        row[f"{metric}_block_runs"] = [visit.run for visit in mine]
        if pooled.half_width > NOISY:
            flags.add("noisy")
    steals = [visit.disturbance.steal_s for visit in visits if visit.disturbance.steal_s is not None]
    switches = [visit.disturbance.switches for visit in visits if visit.disturbance.switches is not None]
    row["n"] = row[f"{metrics[0]}_n"]
    row["block_ratios"] = row[f"{metrics[0]}_block_ratios"]
    row["cpu_s"] = float(np.median(np.concatenate([visit.pairs.cpu_s for visit in visits])))
    row["steal_s"] = sum(steals) if steals else float("nan")
    row["switches"] = sum(switches) if switches else float("nan")
    row["started"] = min(visit.started for visit in visits)
    row["seconds"] = sum(visit.seconds for visit in visits)
    row["flags"] = " ".join(sorted(flags))
    row["purpose"] = visits[0].purpose
    return row


def _state(visits: Sequence[Visit]) -> dict[str, Any]:
    """In what state the device was; None where that is not known."""
    state: dict[str, Any] = {}
    for name in ("clock_hz", "temperature_c", "idle_w"):
        known = [value for visit in visits if (value := asdict(visit.conditions)[name]) is not None]
        state[name] = float(np.median(known)) if known else None
    reasons = [visit.conditions.throttled for visit in visits if visit.conditions.throttled is not None]
    state["throttled"] = " ".join(sorted({word for words in reasons for word in words})) if reasons else None
    runs = Counter(visit.run for visit in visits if visit.run is not None)
    state["run"] = runs.most_common(1)[0][0] if runs else None
    return state


def _extras(visits: Sequence[Visit]) -> dict[str, float]:
    """Medians over the configuration's own readings of what the meters told beside them."""
    told: dict[str, list[NDArray[np.float64]]] = {}
    for visit in visits:
        for name, values in visit.pairs.extras.items():
            if name == "error":
                told.setdefault(f"{visit.metric}_error", []).append(values[:, 0] / visit.pairs.values)
            else:
                told.setdefault(f"{visit.metric}_{name}_{UNITS[visit.metric].lower()}", []).append(values[:, 0])
    known = {name: (every := np.concatenate(values))[np.isfinite(every)] for name, values in told.items()}
    return {name: float(np.median(values)) for name, values in known.items() if len(values)}


def idle_power(visits: Sequence[Visit]) -> tuple[float, float, float] | None:
    """Median idle power in W over the times that it was measured, with its 95 % interval; None if it never was."""
    watts = [visit.conditions.idle_w for visit in sorted(visits, key=lambda visit: visit.started)]
    distinct = np.array([value for value, _ in itertools.groupby(watts) if value is not None])
    if not len(distinct):
        return None
    return float(np.median(distinct)), *median_interval(distinct)


def _batches(visits: Sequence[Visit]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times and medians of the reference in up to 20 batches of neighbouring visits."""
    ordered = sorted(visits, key=lambda visit: visit.started)
    chunks = np.array_split(np.arange(len(ordered)), min(_BATCHES, len(ordered)))
    times = [float(np.mean([ordered[i].started for i in chunk])) for chunk in chunks]
    middles = [float(np.median(np.concatenate([ordered[i].pairs.references for i in chunk]))) for chunk in chunks]
    return np.array(times), np.array(middles)


def long_run(visits: Sequence[Visit]) -> tuple[float, float, float]:
    """Median of the reference over all visits of one metric, with the 95 % interval over batches in time."""
    middle = float(np.median(np.concatenate([visit.pairs.references for visit in visits])))
    if len(visits) == 1:
        low, high = median_interval(visits[0].pairs.references)
    else:
        low, high = median_interval(_batches(visits)[1])
    return middle, min(low, middle), max(high, middle)


def drift(visits: Sequence[Visit]) -> Drift | None:
    """Theil–Sen slope of the reference's logarithm over the visits of one metric, times their span; None if too few."""
    if len(visits) < 3:
        return None
    times, middles = _batches(visits)
    span = times[-1] - times[0]
    if span <= 0:
        return None
    slope, _, low, high = stats.theilslopes(np.log(middles), times)
    change, lowest, highest = (float(np.expm1(value * span)) for value in (slope, low, high))
    return Drift(change, lowest, highest)


def noise(table: ProfileTable, metric: str) -> float:
    """Median relative half-width of the rows' 95 % intervals."""
    rows = table.rows
    half = (rows[f"{metric}_ratio_high"] - rows[f"{metric}_ratio_low"]) / 2 / rows[f"{metric}_ratio"]
    return float(half.median())
