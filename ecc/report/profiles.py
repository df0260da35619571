"""The page of a profile store: whether its rows can be trusted, seen at a glance.

Nothing is fetched and nothing is scripted; all text is escaped.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from ecc.core.widths import WidthSpace
from ecc.profiler.inspection import FLAGS, describe_state
from ecc.profiler.operator_design import REFERENCE
from ecc.profiler.operators import Subject, holds_operators, row_name
from ecc.profiler.store import Store
from ecc.profiler.tables import UNITS
from ecc.report.files import write_file
from ecc.report.stability import drift_figure, noise_figure, span
from ecc.report.style import quantity, to_svg
from ecc.report.templates import fill

__all__ = ["profile_figures", "render_profile", "write_profile"]


def profile_figures(store: Store) -> dict[str, Figure]:
    """Drift and noise of each metric, by name.

    Raises:
        InputError: If nothing has been measured yet, or the file is damaged.
    """
    table, visits = store.table(), store.visits()
    figures: dict[str, Figure] = {}
    for metric in table.metrics:
        mine = [visit for visit in visits if visit.metric == metric]
        figures[f"drift-{metric}"] = drift_figure(mine, table, metric)
        figures[f"noise-{metric}"] = noise_figure(mine, table, metric)
    return figures


def render_profile(store: Store) -> str:
    """The page as HTML text; it opens from disk and needs no network.

    Raises:
        InputError: If nothing has been measured yet, or the file is damaged.
    """
    manifest = store.inspect()
    figures = {name: Markup(to_svg(figure)) for name, figure in profile_figures(store).items()}
    space = WidthSpace.from_json(manifest["space"])
    return fill(
        "profile.html",
        {
            "date": _date,
            "quantity": quantity,
            "span": span,
            "percent": _percent,
            "signed": _signed,
            "state": describe_state,
            "operator": row_name,
        },
        store=manifest,
        place=manifest["provenance"],
        figures=figures,
        units=UNITS,
        flags=FLAGS,
        dense=space.full,
        subject=Subject.of(space),
        reference=str(REFERENCE) if holds_operators(space) else "",
    )


def write_profile(store: Store, path: str | Path) -> Path:
    """Write the page of ``render_profile``; returns its path.

    Raises:
        InputError: If nothing has been measured yet, or a file cannot be read or written.
    """
    return write_file(path, render_profile(store).encode())


def _date(instant: float | None) -> str:
    """A Unix time in the reader's own zone."""
    return "–" if instant is None else f"{datetime.fromtimestamp(instant).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f} %"
