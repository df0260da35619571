"""Fronts as pictures for print: means over seeds with their intervals, seeds as small points, dominated ones faint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from ecc.core.cost import NORMALISED
from ecc.fronts import DENSE, Front, Fronts, Level, SeedMean, mean_curve
from ecc.report.style import COLOURS, INK, MARKERS, MUTED, axis_label, canvas, plain, scale

__all__ = [
    "FAINT",
    "LOG_RANGE",
    "accuracy_ends",
    "accuracy_interval",
    "axis_scale",
    "cost_ends",
    "fronts_figure",
    "is_wide",
    "look_of",
    "x_interval",
]

FAINT = 0.35
"""Opacity of what is dominated."""

LOG_RANGE = 20.0
"""The x axis is logarithmic where costs differ by more than this factor."""

_WIDTH_IN = 9.2
_MOST_IN_LEGEND = 24
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def is_wide(front: Front) -> bool:
    """Whether the costs of a front need a logarithmic axis."""
    costs = [point.x for point in front.points]
    return min(costs) > 0 and max(costs) / min(costs) > LOG_RANGE


def look_of(number: int) -> tuple[int, int]:
    """Colour and marker of a method by its number: no two of the first 64 methods look alike."""
    return number % len(COLOURS), (number + number // len(COLOURS)) % len(MARKERS)


def axis_scale(front: Front) -> tuple[float, str]:
    """What costs are multiplied by on their axis, and the unit there; units that take no prefix get powers of ten."""
    costs = [point.x for point in front.points]
    largest = max(map(abs, costs))
    power = 3 * math.floor(math.log10(largest) / 3) if largest > 0 else 0
    if front.unit in NORMALISED and power:
        return 10.0**-power, f"10{str(power).translate(_RAISED)} {front.unit}"
    return scale(front.unit, costs)


def cost_ends(front: Front) -> tuple[float, float]:
    """Ends of the x axis, in its unit: they hold all points; an interval may reach beyond, and is then cut."""
    factor, _ = axis_scale(front)
    costs = [point.x * factor for point in front.points]
    low, high = min(costs), max(costs)
    if is_wide(front):
        reach = math.exp(0.04 * math.log(high / low))
        return low / reach, high * reach
    pad = 0.04 * (high - low) or max(0.05 * abs(high), 0.5)
    return (low - pad if low < 0 else max(0.0, low - pad)), high + pad


def accuracy_ends(fronts: Iterable[Front]) -> list[tuple[float, float]]:
    """Ends of the y axis of each front: common to those of one data set, whose accuracies mean the same.

    They hold all points; an interval of few seeds may reach beyond, and is then cut.
    """
    fronts = list(fronts)
    values: dict[str, list[float]] = {}
    for front in fronts:
        values.setdefault(front.place.get("data", ""), []).extend(point.accuracy for point in front.points)
    ends = {}
    for data, found in values.items():
        pad = 0.08 * (max(found) - min(found)) or 0.01
        ends[data] = (min(found) - pad, max(found) + pad)
    return [ends[front.place.get("data", "")] for front in fronts]


def accuracy_interval(accuracy: SeedMean) -> tuple[float, float] | None:
    """Ends of the interval of a mean accuracy, cut where no accuracy can be; None where there is no interval."""
    if accuracy.low is None or accuracy.high is None:
        return None
    return max(accuracy.low, min(0.0, accuracy.mean)), min(accuracy.high, max(1.0, accuracy.mean))


def x_interval(level: Level) -> tuple[float | None, float, float | None]:
    """Cost of a level with the ends of its interval: over the seeds; of a single run, that of its measurement."""
    if len(level.points) == 1:
        (point,) = level.points
        return point.x_low, point.x, point.x_high
    return level.x.low, level.x.mean, level.x.high


def fronts_figure(fronts: Fronts) -> Figure:
    """Accuracy against cost, a panel for each pair of axes; a method looks alike in all of them."""
    columns = min(len(fronts), 2)
    rows = math.ceil(len(fronts) / columns)
    with canvas(_WIDTH_IN, 0.5 + 3.9 * rows, rows, columns) as (figure, axes):
        for ax, front, ends in zip(axes, fronts, accuracy_ends(fronts), strict=False):
            _draw(ax, front, fronts.methods)
            ax.set_ylim(*ends)
            if len(fronts) > 1:
                ax.set_title(plain(front.name, 64))
        for ax in axes[len(fronts) :]:
            ax.set_visible(False)
        handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        if handles:
            shown = list(handles)[:_MOST_IN_LEGEND]
            figure.legend(
                [handles[label] for label in shown], shown, loc="outside upper left", ncols=min(len(shown), 5)
            )
    return figure


def _draw(ax: Axes, front: Front, methods: Sequence[str]) -> None:
    factor, unit = axis_scale(front)
    levels: dict[str, list[Level]] = {}
    for level in front.levels:
        levels.setdefault(level.method, []).append(level)
    _staircase(ax, front, factor)
    for i, method in enumerate(methods):
        if method in levels:
            colour, marker = look_of(i)
            _method(ax, front, levels[method], factor, (COLOURS[colour], MARKERS[marker], 7.0))
    if DENSE in levels:
        _method(ax, front, levels[DENSE], factor, (INK, "*", 13.0))
    if is_wide(front):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_minor_locator(FixedLocator([]))
    ax.set_xlabel(axis_label(front.x_name, unit))
    ax.set_ylabel("accuracy")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlim(*cost_ends(front))


def _staircase(ax: Axes, front: Front, factor: float) -> None:
    """What a budget buys: the best mean accuracy up to it."""
    best = sorted((level.x.mean * factor, level.accuracy.mean) for level in front.levels if not level.dominated)
    if len(best) > 1:
        ax.step(*zip(*best, strict=True), where="post", color=MUTED, linewidth=1, zorder=1)


def _method(ax: Axes, front: Front, levels: Sequence[Level], factor: float, look: tuple[str, str, float]) -> None:
    """One method's means with their intervals, its seeds and its mean curve."""
    colour, marker, size = look
    method = levels[0].method
    if method in front.curves:
        knots, means = mean_curve(list(front.curves[method].values()))
        if len(knots) > 1:
            ax.plot(knots * factor, [mean.mean for mean in means], color=colour, linewidth=1.2, alpha=0.8, zorder=2)
    seeds = [point for level in levels for point in level.points if len(level.points) > 1]
    ax.scatter(
        [point.x * factor for point in seeds],
        [point.accuracy for point in seeds],
        s=7,
        color=colour,
        alpha=FAINT,
        linewidths=0,
        zorder=2,
    )
    for faint in (True, False):
        shown = [level for level in levels if level.dominated is faint]
        if shown:
            ax.errorbar(
                [level.x.mean * factor for level in shown],
                [level.accuracy.mean for level in shown],
                xerr=_reach([x_interval(level) for level in shown], factor),
                yerr=_reach([_accuracy_reach(level) for level in shown]),
                alpha=FAINT if faint else 1.0,
                color=colour,
                marker=marker,
                markersize=size,
                markeredgecolor="white",
                linestyle="",
                elinewidth=1.2,
                capsize=3,
                zorder=3,
            )
    ax.plot([], [], linestyle="", marker=marker, markersize=size, color=colour, markeredgecolor="white",
            label=plain(method, 32))  # fmt: skip


def _accuracy_reach(level: Level) -> tuple[float | None, float, float | None]:
    low, high = accuracy_interval(level.accuracy) or (None, None)
    return low, level.accuracy.mean, high


def _reach(
    intervals: Sequence[tuple[float | None, float, float | None]], factor: float = 1.0
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]] | None:
    """Distances to both ends as matplotlib takes them, 0 where an end is not known; None without any."""
    found = [
        [
            mean - low if low is not None and math.isfinite(low) else 0.0,
            high - mean if high is not None and math.isfinite(high) else 0.0,
        ]
        for low, mean, high in intervals
    ]
    reach = np.maximum(np.array(found).T, 0.0) * factor
    return reach if reach.any() else None
