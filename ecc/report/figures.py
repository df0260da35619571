"""Figures, each a pure function from a value to a matplotlib Figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ecc.core.cost import METRICS
from ecc.core.widths import Widths
from ecc.report.style import COLOURS, INK, MARKERS, MUTED, TRACK, canvas, plain

__all__ = ["history", "widths"]

_WIDTH_IN = 9.2
_ROWS_PER_COLUMN = 32  # of the widths figure; more groups make more columns


def widths(dense: Widths, kept: Widths) -> Figure:
    """Channels before (grey) and after (coloured) per group, as fractions of dense with the counts beside.

    Args:
        dense: Channels per group of the dense network.
        kept: Channels per group of the result; a group that is not named is dense.
    """
    names = list(dense)
    columns = 2 if len(names) > _ROWS_PER_COLUMN else 1
    rows = max(math.ceil(len(names) / columns), 1)
    longest = 26 if columns == 2 else 44
    with canvas(_WIDTH_IN, 0.75 + 0.2 * rows, 1, columns) as (figure, axes):
        for column, ax in enumerate(axes):
            part = names[column * rows : (column + 1) * rows]
            _width_bars(ax, part, dense, kept, longest)
            ax.set_ylim(rows - 0.4, -0.6)  # equal bars in every column, the first group on top
        figure.supxlabel("channels kept, as a fraction of dense", fontsize=10)
    return figure


def _width_bars(ax: Axes, names: Sequence[str], dense: Widths, kept: Widths, longest: int) -> None:
    """One column of bars."""
    place = np.arange(len(names))
    left = [kept.get(name, dense[name]) for name in names]
    ax.barh(place, 1.0, height=0.72, color=TRACK)
    ax.barh(
        place, [width / dense[name] for name, width in zip(names, left, strict=True)], height=0.72, color=COLOURS[0]
    )
    for y, (name, width) in enumerate(zip(names, left, strict=True)):
        ax.text(
            1.02, y, f"{width} / {dense[name]}", va="center", fontsize=8, color=INK if width < dense[name] else MUTED
        )
    ax.set_yticks(place, [plain(name, longest, keep="end") for name in names], fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1.22)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)


def history(frame: pd.DataFrame) -> Figure:
    """Loss, score, costs relative to dense, and duals over the epochs; what the frame does not hold is left out.

    Args:
        frame: One row per epoch: ``phase``, ``epoch``, ``loss``, ``score``, and per metric M the cost ``M`` and the
            dual ``z_M``.
    """
    metrics = [metric for metric in METRICS if metric in frame]
    panels = [
        ("training loss", ["loss"], False),
        ("validation score", ["score"], True),
        ("cost, relative to dense", metrics, True),
        ("dual variables", [f"z_{metric}" for metric in METRICS], False),
    ]
    shown = [(title, [name for name in names if _has_numbers(frame, name)], share) for title, names, share in panels]
    shown = [panel for panel in shown if panel[1]]
    columns = 2 if len(shown) > 1 else 1
    rows = max(math.ceil(len(shown) / columns), 1)
    with canvas(_WIDTH_IN, 0.3 + 2.4 * rows, rows, columns) as (figure, axes):
        for ax, (title, names, share) in zip(axes, shown, strict=False):
            _history_panel(ax, frame, names)
            ax.set_title(title)
            if share:
                ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        for ax in axes[len(shown) :]:
            ax.set_visible(False)
    return figure


def _has_numbers(frame: pd.DataFrame, name: str) -> bool:
    return name in frame and bool(np.isfinite(pd.to_numeric(frame[name], errors="coerce")).any())


def _history_panel(ax: Axes, frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Curves over the row number; a dotted line where the phase changes."""
    epoch = np.arange(1, len(frame) + 1)
    for i, name in enumerate(names):
        values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)
        seen = np.isfinite(values)
        marker = MARKERS[i] if seen.sum() <= 60 else ""
        label = name.removeprefix("z_")
        ax.plot(epoch[seen], values[seen], color=COLOURS[i], marker=marker, markersize=3.5, label=label)
    if len(names) > 1:
        ax.legend()
    if "phase" in frame:
        phase = frame["phase"].astype(str).to_numpy()
        starts = [0, *np.flatnonzero(phase[1:] != phase[:-1]) + 1]
        low, high = ax.get_ylim()
        if len(starts) > 1:
            ticks = [tick for tick in ax.get_yticks() if low <= tick <= high]
            ax.set_yticks(ticks)
            ax.set_ylim(low, high + 0.12 * (high - low))  # a strip without ticks for the names
        for start in starts if len(starts) > 1 else []:
            ax.axvline(epoch[start] - 0.5, color=MUTED, linestyle=":", linewidth=1)
            ax.annotate(
                plain(phase[start], 16),
                (epoch[start] - 0.5, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -2),
                textcoords="offset points",
                va="top",
                fontsize=8,
                color=MUTED,
            )
    ax.set_xlim(0.5, len(frame) + 0.5)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
