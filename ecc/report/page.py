"""One self-contained HTML page from the values that a run has: nothing fetched, nothing scripted, all text escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from ecc.api.packing import Packing
from ecc.api.sparsity import Sparsity
from ecc.core.cost import METRICS
from ecc.core.errors import InputError
from ecc.core.verdict import BudgetCheck, joint_confidence
from ecc.core.widths import Widths
from ecc.energy_models.judging import Fit
from ecc.fronts import DENSE, Front, Fronts
from ecc.report import figures, fit_figures
from ecc.report.front_figures import fronts_figure
from ecc.report.layers import layer_rows, layers_figure
from ecc.report.packing import packing_figure, stage_rows, tensor_rows
from ecc.report.places import ModelFacts, moment
from ecc.report.spending import Spent
from ecc.report.style import quantity, themed, to_png, to_svg
from ecc.report.templates import fill
from ecc.report.work import ChannelRow

__all__ = ["Report", "pictures", "render"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Report:
    """What a page shows; every section but the title may be absent, and is then left out.

    Attributes:
        title: First line of the page.
        summary: Facts under the title, name → text (network, method, data, seed …).
        budgets: How each budget ended.
        accuracy_dense: Score of the dense network, in [0, 1].
        accuracy: Score of the result, in [0, 1].
        dense: Channels per prunable group of the dense network; empty hides the widths.
        widths: Channels kept per prunable group.
        channels: What each layer takes in and makes, before and after.
        groups: Rows of ``group_rows``, for the metrics ``saved``.
        saved: The metrics of ``groups``.
        sparsity: Weights and inputs that are zero, layer by layer.
        packing: What secondary stages have made of the weights, tensor by tensor.
        history: One row per epoch.
        trials: One row per measurement and metric on the way, as in ``Compression.trials``.
        references: What the dense network took in the profile, for the metrics of relative budgets.
        fits: The cost models, judged.
        models: What the files of cost models say of their accuracy, and how they did here.
        places: What was measured where and when, name → text.
        times: What it cost in time.
        front: The methods compared.
        device: Name of the device.
        environment: Versions and settings, name → text.
        unmeasured: What could not be measured here, name → reason.
        notes: Sentences that the reader should know.
        created: When, as text.
    """

    title: str
    summary: Mapping[str, str] = field(default_factory=dict)
    budgets: tuple[BudgetCheck, ...] = ()
    accuracy_dense: float | None = None
    accuracy: float | None = None
    dense: Widths = field(default_factory=dict)
    widths: Widths = field(default_factory=dict)
    channels: tuple[ChannelRow, ...] = ()
    groups: tuple[Mapping[str, Any], ...] = ()
    saved: tuple[str, ...] = ()
    sparsity: Sparsity | None = None
    packing: Packing | None = None
    history: pd.DataFrame | None = None
    trials: pd.DataFrame | None = None
    references: Mapping[str, float] = field(default_factory=dict)
    fits: tuple[Fit, ...] = ()
    models: tuple[ModelFacts, ...] = ()
    places: tuple[tuple[str, str], ...] = ()
    times: tuple[Spent, ...] = ()
    front: Front | None = None
    device: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    created: str = ""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.widths if name not in self.dense]:
            raise InputError(
                f"Report(widths=...) names the group {unknown[0]!r}, which Report(dense=...) does not have"
            )


def render(report: Report) -> str:
    """The page as HTML text; it opens from disk and needs no network."""
    drawn = {name: Markup(themed(to_svg(figure))) for name, figure in _draw(report).items()}
    judged = {fit.cost.metric for fit in report.fits}
    return fill(
        "page.html",
        {
            "duration": _duration,
            "moment": moment,
            "percent": _percent,
            "probability": _probability,
            "quantity": quantity,
            "spare": _spare,
            "unit": METRICS.get,
            "verdict": _verdict,
        },
        report=report,
        together=joint_confidence(report.budgets) if sum(map(_uncertain, report.budgets)) > 1 else None,
        trials=_trials(report),
        layers=[] if report.sparsity is None else layer_rows(report.sparsity),
        stages=[] if report.packing is None else stage_rows(report.packing),
        tensors=[] if report.packing is None else tensor_rows(report.packing),
        epochs=[] if report.history is None else _epochs(report.history),
        here={model.metric: model.here for model in report.models if model.here},
        models=[model for model in report.models if model.metric not in judged],
        longest=max((spent.seconds for spent in report.times), default=0.0) or 1.0,
        figures=drawn,
        DENSE=DENSE,
    )


def pictures(report: Report) -> dict[str, bytes]:
    """The figures of the page as PNG files, file name → content."""
    return {f"{name}.png": to_png(figure) for name, figure in _draw(report).items()}


def _draw(report: Report) -> dict[str, Figure]:
    """Every figure that the report has values for, by name."""
    drawn: dict[str, Figure] = {}
    if report.front is not None:
        drawn["front"] = fronts_figure(Fronts((report.front,)))
    if report.dense:
        drawn["widths"] = figures.widths(report.dense, report.widths)
    if report.sparsity is not None:
        drawn["layers"] = layers_figure(report.sparsity)
    if report.packing is not None and len(report.packing.tensors):
        drawn["bytes"] = packing_figure(report.packing)
    if report.history is not None and len(report.history):
        drawn["history"] = figures.history(report.history)
    for fit in report.fits:
        drawn[f"agreement-{fit.cost.metric}"] = fit_figures.agreement(fit)
        drawn[f"errors-{fit.cost.metric}"] = fit_figures.errors_by_size(fit)
        if len(fit.learning_curve) > 1:
            drawn[f"learning-curve-{fit.cost.metric}"] = fit_figures.learning_curve(fit)
    return drawn


def _percent(value: float | None, digits: int = 1) -> str:
    """A fraction as text."""
    return "not measured" if value is None else f"{100 * value:.{digits}f} %"


def _duration(seconds: float) -> str:
    """A time as text."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if minutes < 60 else f"{seconds / 3600:.1f} h"


def _spare(check: BudgetCheck) -> str:
    """By how much a budget is kept or missed, as a share of it, with the interval."""
    if check.measured is None or not check.limit:
        return "–"
    ends = [1 - end / check.limit for end in (check.high, check.low) if end is not None and math.isfinite(end)]
    middle = 1 - check.measured / check.limit
    text = f"{100 * abs(middle):.1f} % {'to spare' if middle >= 0 else 'too much'}"
    if len(ends) == 2 and ends[0] < ends[1]:
        interval = f"[{100 * ends[0]:+.1f} %, {100 * ends[1]:+.1f} %]"
        text += " " + interval.replace("-", "−").replace(" ", "\u00a0")  # in one line
    return text


def _trials(report: Report) -> list[dict[str, Any]]:
    """The trials for a table, with ``off``: by how much the measured value is above the predicted one.

    Where the budget is relative both are those in the dense network's, measured in the same run and in the profile.
    """
    if report.trials is None:
        return []
    rows = [{str(name): value for name, value in row.items()} for row in report.trials.to_dict("records")]
    for row in rows:
        reference = report.references.get(row["metric"])
        predicted = row["predicted"] * (row["dense"] / reference if reference else 1.0)
        off = row["measured"] / predicted - 1 if predicted else math.nan
        row["off"] = f"{100 * off:+.1f} %".replace("-", "−") if math.isfinite(off) else "–"
    return rows


def _epochs(history: pd.DataFrame) -> list[dict[str, Any]]:
    """The epochs for a table: what has a number, in four digits."""
    names = [name for name in ("phase", "epoch", "loss", "score", "lr", "seconds") if name in history]
    return [{name: _figure(row[name]) for name in names} for row in history[names].to_dict("records")]


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    return str(value)


def _probability(value: float) -> str:
    """A probability as text, never rounded to a certainty."""
    if value > 0.999:
        return "> 99.9 %"
    return "< 0.1 %" if value < 0.001 else _percent(value)


def _uncertain(check: BudgetCheck) -> bool:
    """Whether it was measured, and not counted."""
    return check.low is not None and check.low != check.high


def _verdict(check: BudgetCheck) -> tuple[str, str]:
    """What to say of a budget, and the style class to say it in."""
    if check.met is None:
        return "not measured", "open"
    if check.met:
        return "holds", "holds"
    if check.low is not None and check.low <= check.limit:
        return "is not certain to hold", "fails"
    return "does not hold", "fails"
