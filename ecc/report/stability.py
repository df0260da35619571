"""Figures of a profile: how steady the device was while it measured, and how well each row is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from ecc.core.table import ProfileTable
from ecc.profiler.inspection import half_widths
from ecc.profiler.operators import Subject
from ecc.profiler.tables import NOISY, UNITS, Visit
from ecc.report.style import COLOURS, INK, MUTED, TRACK, axis_label, canvas, quantity, scale

__all__ = ["drift_figure", "noise_figure", "span"]

_WIDTH_IN = 9.2
_IDLE_S = 60.0  # between two readings: longer than any warm-up, so nobody was measuring
_IN_SECONDS_S = 180.0  # shorter runs have a time axis in seconds
_BATCHES = 24
_OUTSIDE = 0.01  # share of the readings at either end that may lie beyond the axis
_STATES = (("clock_hz", "clock", "GHz", 1e-9), ("temperature_c", "temperature", "°C", 1.0))
_FLAGGED: dict[str, Any] = {"color": COLOURS[1], "marker": "^", "markersize": 5.5, "linestyle": ""}


@dataclass(frozen=True, slots=True)
class _Clock:
    """Readings on a time axis without the time in which nobody measured.

    Attributes:
        times: Of each reading since the first, in ``unit``, shape (n,).
        unit: ``seconds``, or ``minutes`` where there are several.
        breaks: Where something begins anew: (time, what).
        parts: Indices of the readings between breaks.
    """

    times: NDArray[np.float64]
    unit: str
    breaks: Sequence[tuple[float, str]]
    parts: Sequence[NDArray[np.int64]]

    @classmethod
    def of(cls, visits: Sequence[Visit]) -> _Clock:
        """Of readings in the order of time."""
        started = np.array([visit.started for visit in visits])
        ends = started + [visit.seconds for visit in visits]
        gaps = np.maximum(started[1:] - np.maximum.accumulate(ends)[:-1], 0.0)
        idle = np.where(gaps > _IDLE_S, gaps, 0.0)
        seconds = started - started[0] - np.concatenate([[0.0], np.cumsum(idle)])
        times, unit = (seconds, "seconds") if seconds[-1] < _IN_SECONDS_S else (seconds / 60, "minutes")
        breaks, cuts = [(0.0, "" if visits[0].run is None else f"run {visits[0].run}")], []
        for i, gap in enumerate(idle, start=1):
            words = [f"run {visits[i].run}"] if visits[i].run != visits[i - 1].run else []
            words += [f"after {span(gap)} idle"] if gap else []
            if words:
                breaks.append((float(times[i]), ", ".join(words)))
                cuts.append(i)
        return cls(times, unit, breaks if cuts else (), np.split(np.arange(len(visits)), cuts))


def drift_figure(visits: Sequence[Visit], table: ProfileTable, metric: str) -> Figure:
    """The reference at each reading over the time of measuring, with runs, idle times and the device's state.

    Args:
        visits: Of one metric, at least one.
        table: What they amount to.
    """
    ordered = sorted(visits, key=lambda visit: visit.started)
    clock = _Clock.of(ordered)
    states = [(*state, values) for state in _STATES if np.isfinite(values := _states(ordered, state[0])).any()]
    with canvas(_WIDTH_IN, 3.3 + 1.5 * len(states), 1 + len(states), 1) as (figure, axes):
        _reference_panel(axes[0], ordered, clock, table, metric)
        for ax, (_, name, unit, factor, values) in zip(axes[1:], states, strict=True):
            ax.plot(clock.times, values * factor, linestyle="", marker=".", color=COLOURS[2], markersize=4)
            ax.set_ylabel(axis_label(name, unit))
        for i, ax in enumerate(axes):
            _mark(ax, clock, named=i == 0)
            ax.tick_params(labelbottom=i == len(states))
            ax.set_xlim(-0.01 * clock.times[-1], max(1.01 * clock.times[-1], 1e-3))
        cut = ", idle time left out" if any("idle" in words for _, words in clock.breaks) else ""
        axes[-1].set_xlabel(f"{clock.unit} since the first reading{cut}")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _reference_panel(ax: Axes, visits: Sequence[Visit], clock: _Clock, table: ProfileTable, metric: str) -> None:
    """Readings of the reference, flagged ones marked, with their running median and the long-run value."""
    values = np.array([np.median(visit.pairs.references) for visit in visits])
    middle, low, high = table.reference[metric]
    factor, unit = scale(UNITS[metric], [float(np.median(values))])
    values = values * factor
    bottom, top = _room(values)
    if np.isfinite(high):  # one reading has no interval
        ax.axhspan(low * factor, high * factor, color=COLOURS[5], alpha=0.3, linewidth=0, label="long run, 95 %")
    flagged = np.array([bool(visit.flags) for visit in visits])
    _dots(ax, clock.times[~flagged], values[~flagged], bottom, top, "reading")
    if flagged.any():
        shown = np.clip(values[flagged], bottom, top)
        ax.plot(clock.times[flagged], shown, label="flagged reading", alpha=0.85, **_FLAGGED)
    for i, part in enumerate(clock.parts):
        chunks = np.array_split(part, max(min(round(_BATCHES * len(part) / len(values)), len(part) // 4), 1))
        ax.plot(
            [np.mean(clock.times[chunk]) for chunk in chunks],
            [np.median(values[chunk]) for chunk in chunks],
            color=INK,
            linewidth=1.6,
            marker="" if len(chunks) > 1 else "_",
            label="running median" if i == 0 else None,
        )
    ax.set_ylim(bottom, top + 0.13 * (top - bottom))  # a strip for the names of runs
    subject = Subject.of(table.space)
    ax.set_ylabel(axis_label(f"{subject.short} {metric}", unit))
    ax.set_title(f"{subject.reference}, {quantity(middle, UNITS[metric])}, at each reading")


def _dots(ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], bottom: float, top: float, label: str) -> None:
    """Points; those beyond the axis are open and lie on its edge."""
    beyond = (y > top) | (y < bottom)
    look: dict[str, Any] = {"linestyle": "", "color": COLOURS[0], "markersize": 3.5, "alpha": 0.55}
    ax.plot(x[~beyond], y[~beyond], marker="o", label=label, **look)
    if beyond.any():
        ax.plot(x[beyond], np.clip(y[beyond], bottom, top), marker="o", markerfacecolor="none", **look)


def _room(values: NDArray[np.float64]) -> tuple[float, float]:
    """Ends of an axis that shows nearly all of the values, not squeezed by a few."""
    low, high = np.quantile(values, [_OUTSIDE, 1 - _OUTSIDE])
    margin = max(0.15 * (high - low), 0.01 * abs(high), 1e-12)
    return float(max(low - margin, values.min() - margin)), float(min(high + margin, values.max() + margin))


def _mark(ax: Axes, clock: _Clock, *, named: bool) -> None:
    """A dotted line where a run begins or measuring goes on after a pause."""
    for time, words in clock.breaks:
        ax.axvline(time, color=MUTED, linestyle=":", linewidth=1)
        if named:
            ax.annotate(
                words, (time, 1), xycoords=("data", "axes fraction"), xytext=(3, -2), textcoords="offset points",
                va="top", fontsize=8, color=MUTED,
            )  # fmt: skip


def _states(visits: Sequence[Visit], name: str) -> NDArray[np.float64]:
    """One number of the device's state at each reading; NaN where it is not known."""
    values = [visit.conditions.to_json().get(name) for visit in visits]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def noise_figure(visits: Sequence[Visit], table: ProfileTable, metric: str) -> Figure:
    """How well each row is known: half the interval of its ratio, against the ratio, and the share known so well.

    Args:
        visits: Of one metric.
        table: What they amount to.
    """
    measured = table.rows[f"{metric}_ratio"].notna().to_numpy()
    half = 100 * half_widths(table, metric)[measured]
    ratio = table.rows[f"{metric}_ratio"].to_numpy(dtype=float)[measured]
    bearing = {tuple(table.space.vector(visit.widths).tolist()) for visit in visits if visit.flags}
    flagged = np.array([tuple(row) in bearing for row in table.widths.tolist()])[measured] | (half > 100 * NOISY)
    finite = half[np.isfinite(half)]
    top = max(1.1 * float(np.quantile(finite, 0.99)) if len(finite) else 0.0, 130 * NOISY)
    shown = np.minimum(np.where(np.isfinite(half), half, np.inf), top)
    with canvas(_WIDTH_IN, 3.5, 1, 2) as (figure, (left, right)):
        left.axhline(100 * NOISY, color=MUTED, linestyle="--", linewidth=1)
        left.axhspan(100 * NOISY, top * 1.05, color=TRACK, alpha=0.6, linewidth=0)
        left.text(1, 100 * NOISY, "noisy", transform=left.get_yaxis_transform(), ha="right", va="bottom", color=MUTED)
        _dots(left, ratio[~flagged], half[~flagged], -1.0, top, "row")
        if flagged.any():
            left.plot(ratio[flagged], shown[flagged], label="flagged row", alpha=0.85, **_FLAGGED)
        left.set_xlabel(f"{metric}, relative to {Subject.of(table.space).short}")
        left.set_ylabel("half of the 95 % interval, %")
        left.set_title("how well each row is known")
        left.set_ylim(0, top * 1.05)
        left.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        left.legend(loc="best")

        ordered = np.sort(shown)
        right.step([0, *ordered], np.arange(len(ordered) + 1) / max(len(ordered), 1), where="post", color=COLOURS[0])
        right.axvline(100 * NOISY, color=MUTED, linestyle="--", linewidth=1)
        right.set_xlabel("half of the 95 % interval, %")
        right.set_ylabel("share of the rows")
        right.set_title("known at least so well")
        right.set_xlim(0, top * 1.05)
        right.set_ylim(0, 1.02)
        right.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def span(seconds: float) -> str:
    """A length of time for people."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
