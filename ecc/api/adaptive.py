"""Adaptive profiling: batches of rows where the fit is least certain, until the held-out error falls no more.

Half of each batch goes on with the plan, so that the rows that are held out stay random and become more; the other half
is chosen by the leverage of the fit. The choice depends on the rows in the store and on the seed alone, so that an
interrupted profile goes on as if nothing had happened.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from ecc.api.measuring import measure_widths
from ecc.core.errors import InputError
from ecc.core.table import ProfileTable
from ecc.core.widths import WidthSpace
from ecc.energy_models.judging import Fit, judge
from ecc.energy_models.leverage import choose_rows
from ecc.energy_models.samples import Samples
from ecc.network.graph import WidthGraph
from ecc.profiler.design import Point, plan, sample
from ecc.profiler.devices import current_device
from ecc.profiler.protocol import ProfileResult

__all__ = ["Adaptation", "Batch", "Chooser", "measure", "measure_adaptively"]

_FORM = "bilinear"  # whose leverage says where to measure; and quick to judge after each batch
_START = 50  # rows of the plan that come first
_DRAWN, _CHOSEN = 10, 10  # of each further batch
_CANDIDATES = 1000
_FEWEST = 20  # samples with which there is anything to judge by
_SEEDS_APART = 7919  # so that candidates of one batch are not those of another, nor the plan's


@dataclass(frozen=True, slots=True)
class Batch:
    """What was known when a batch was measured.

    Attributes:
        rows: Configurations so far.
        mape: Held-out error of a bilinear model, over the random rows alone.
        noise_floor: What a perfect model would show; NaN where that is unknown.
        chosen_by: ``plan``, or ``plan and leverage``.
    """

    rows: int
    mape: float
    noise_floor: float
    chosen_by: str

    def to_json(self) -> dict[str, Any]:
        """One entry of ``batches``; a floor that is unknown is null."""
        floor = None if math.isnan(self.noise_floor) else self.noise_floor
        return {"rows": self.rows, "mape": self.mape, "noise_floor": floor, "chosen_by": self.chosen_by}


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """An adaptive profile.

    Attributes:
        result: The profile.
        batches: One per batch, in order.
        stopped: Why no further batch was measured, in words.
    """

    result: ProfileResult
    batches: tuple[Batch, ...]
    stopped: str

    def to_json(self) -> dict[str, Any]:
        """The member ``adaptive`` of ``ecc profile --json``."""
        return {"batches": [batch.to_json() for batch in self.batches], "stopped": self.stopped}


def measure(
    model: nn.Module, graph: WidthGraph, inputs: Any, *, adaptive: bool, max_seconds: float | None, **options: Any
) -> tuple[ProfileResult, Adaptation | None]:
    """``measure_adaptively`` or ``measure_widths``, as asked.

    Raises:
        InputError: As of these two, or if there is a limit of seconds for a profile that is not adaptive.
    """
    if adaptive:
        found = measure_adaptively(model, graph, inputs, max_seconds=max_seconds, **options)
        return found.result, found
    if max_seconds is not None:
        raise InputError("only an adaptive profile has a limit of seconds; ask for an adaptive one, or leave it out")
    return measure_widths(model, graph, inputs, **options), None


def measure_adaptively(
    model: nn.Module,
    graph: WidthGraph,
    inputs: Any,
    *,
    metrics: Sequence[str] = ("latency",),
    samples: int = 200,
    max_seconds: float | None = None,
    device: str = "cpu",
    seed: int = 0,
    **options: Any,
) -> Adaptation:
    """Measure batches of widths until more of them no longer lower the held-out error of the first metric.

    Args:
        samples: Width vectors at most.
        max_seconds: No further batch that would, if it takes as long as the last one, end after this time; and none
            that is in work goes on then, its rows being kept.
        options: As of ``measure_widths``.

    Raises:
        InputError: As of ``measure_widths``, or if samples are fewer than 20 or max_seconds is not positive.
    """
    if max_seconds is not None and not max_seconds > 0:
        raise InputError(f"the seconds that an adaptive profile may take must be positive, got {max_seconds:g}")
    if samples < _FEWEST:
        raise InputError(f"an adaptive profile needs at least {_FEWEST} samples, got {samples}")
    first = next(iter(metrics), "")
    chooser = Chooser(first, samples, seed, current_device(device).channel_step, max_seconds)
    result = measure_widths(
        model,
        graph,
        inputs,
        metrics=metrics,
        samples=min(samples, _START),
        device=device,
        seed=seed,
        more=chooser,
        over=chooser.over,
        **options,
    )
    return Adaptation(result, tuple(chooser.batches), chooser.stopped)


@dataclass(eq=False)
class Chooser:
    """Says which rows to measure next, told those measured so far; called until it gives none.

    A store that holds more than the first batch is gone through batch by batch, each with the rows that it had then.

    Attributes:
        metric: Whose held-out error counts.
        samples: Rows at most.
        seed: Of the plan, the candidates and the folds.
        around: Step that the device presumably has, in channels, as in ``plan``.
        max_seconds: From the making of this object; no limit when None.
        clock: Gives seconds.
        batches: What has become of each batch.
        stopped: Why there is no further one; empty before.
    """

    metric: str
    samples: int
    seed: int = 0
    around: int = 1
    max_seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    batches: list[Batch] = field(init=False, default_factory=list)
    stopped: str = field(init=False, default="")
    _errors: list[pd.Series[float]] = field(init=False, default_factory=list)
    _cut: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._times = [self.clock()]

    def __call__(self, table: ProfileTable) -> list[Point]:
        """The next batch: what the store holds of it already, and what is left to measure."""
        if self._cut:
            self.stopped = f"{self.max_seconds:g} s were over before its batch was complete; the same call goes on"
            return []
        self._times.append(self.clock())
        batch = len(self.batches)
        planned = plan(table.space, self.samples, layers=table.layers, seed=self.seed, around=self.around)
        rows = _rows_of(table, planned[: _START + batch * _DRAWN], batch * _CHOSEN)
        known = replace(table, widths=table.widths[rows], rows=table.rows.iloc[rows].reset_index(drop=True))
        fit = judge(known, self.metric, form=_FORM, seed=self.seed)
        chosen_by = "plan and leverage" if batch else "plan"
        self.batches.append(Batch(len(rows), fit.holdout["mape"], fit.noise_floor, chosen_by))
        errors = fit.residuals["relative_error"].abs()
        self._errors.append(errors.set_axis(rows[errors.index]))
        self.stopped = self._reason(fit)
        return [] if self.stopped else self._next(table, known, planned[_START + batch * _DRAWN :][:_DRAWN])

    def over(self) -> bool:
        """Whether the time is over, and with it the batch in work, which is then not judged."""
        self._cut = self.max_seconds is not None and self.clock() > self._times[0] + self.max_seconds
        return self._cut

    def _reason(self, fit: Fit) -> str:
        now = self.batches[-1]
        if now.rows >= self.samples:
            return f"{self.samples} samples were measured"
        if now.mape <= fit.noise_floor:
            return "the held-out error is at the noise floor"
        if len(self.batches) > 2 and not _falls(self._errors[-3], self._errors[-1]):
            return "the held-out error no longer falls"
        if self.max_seconds is not None:
            last = self._times[-1] - self._times[-2]
            if self._times[-1] + last > self._times[0] + self.max_seconds:
                return f"the next batch would end after {self.max_seconds:g} s"
        return ""

    def _next(self, table: ProfileTable, known: ProfileTable, drawn: Sequence[Point]) -> list[Point]:
        batch, space = len(self.batches), table.space
        left = self.samples - len(known)
        drawn = drawn[: (left + 1) // 2]
        stored = _chosen(table)[(batch - 1) * _CHOSEN :][:_CHOSEN]
        before = set(map(tuple, known.widths.tolist()))
        keys = (tuple(space.vector(point.widths).tolist()) for point in drawn)
        points = {key: point for key, point in zip(keys, drawn, strict=True) if key not in before}
        points |= {tuple(table.widths[row].tolist()): _adaptive(space, table.widths[row]) for row in stored}
        taken = set(points) | before
        drawn_anew = sample(space, _CANDIDATES, seed=self.seed + _SEEDS_APART * batch)
        vectors = [tuple(space.vector(widths).tolist()) for widths in drawn_anew]
        candidates = np.array([each for each in vectors if each not in taken - _keys(table, stored)], dtype=np.int64)
        wanted = min(_CHOSEN, left - len(drawn))
        if wanted and len(candidates):
            for number in choose_rows(Samples.of(known, self.metric), candidates, wanted):
                if sum(point.purpose == "adaptive" for point in points.values()) < wanted:
                    points[tuple(candidates[number].tolist())] = _adaptive(space, candidates[number])
        if not points:
            self.stopped = "all widths were measured"
        return list(points.values())


def _rows_of(table: ProfileTable, planned: Sequence[Point], chosen: int) -> NDArray[np.int64]:
    """Numbers of the rows of the plan's beginning and of the first so many chosen ones, in the order of their widths.

    The order in which a batch was measured differs after an interrupt, and would decide on the folds.
    """
    drawn = {tuple(table.space.vector(point.widths).tolist()) for point in planned}
    numbers = {row for row, widths in enumerate(map(tuple, table.widths.tolist())) if widths in drawn}
    everything = numbers | set(_chosen(table)[:chosen])
    return np.array(sorted(everything, key=lambda row: table.widths[row].tolist()), dtype=np.int64)


def _chosen(table: ProfileTable) -> list[int]:
    """Rows that a fit chose, in the order of first measurement, so batch by batch."""
    return np.flatnonzero(table.rows["purpose"] == "adaptive").tolist()


def _keys(table: ProfileTable, rows: Sequence[int]) -> set[tuple[int, ...]]:
    return {tuple(table.widths[row].tolist()) for row in rows}


def _adaptive(space: WidthSpace, vector: NDArray[np.int64]) -> Point:
    return Point(space.widths(vector), "adaptive")


def _falls(before: pd.Series[float], now: pd.Series[float]) -> bool:
    """Whether the errors of the rows in both have fallen by more than the standard error of that fall."""
    gain = (before - now).dropna()
    return bool(gain.mean() > gain.std() / math.sqrt(len(gain)))
