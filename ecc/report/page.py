"""One self-contained HTML page from the values that a run has: nothing fetched, nothing scripted, all text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
from ecc.report.style import quantity, to_png, to_svg
from ecc.report.templates import fill

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
        sparsity: Weights and inputs that are zero, layer by layer.
        packing: What secondary stages have made of the weights, tensor by tensor.
        history: One row per epoch.
        trials: One row per measurement and metric on the way, as in ``Compression.trials``.
        fits: The cost models, judged.
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
    sparsity: Sparsity | None = None
    packing: Packing | None = None
    history: pd.DataFrame | None = None
    trials: pd.DataFrame | None = None
    fits: tuple[Fit, ...] = ()
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
    drawn = {name: Markup(to_svg(figure)) for name, figure in _draw(report).items()}
    return fill(
        "page.html",
        {
            "percent": _percent,
            "probability": _probability,
            "quantity": quantity,
            "unit": METRICS.get,
            "verdict": _verdict,
        },
        report=report,
        together=joint_confidence(report.budgets) if sum(map(_uncertain, report.budgets)) > 1 else None,
        trials=[] if report.trials is None else report.trials.to_dict("records"),
        layers=[] if report.sparsity is None else layer_rows(report.sparsity),
        stages=[] if report.packing is None else stage_rows(report.packing),
        tensors=[] if report.packing is None else tensor_rows(report.packing),
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
