"""The page of a judged cost model: what was fitted, how far to trust it, what the cost is made of, and the odd rows.

Nothing is fetched and nothing is scripted; all text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from scipy import stats

from ecc.core.errors import InputError
from ecc.core.table import ProfileTable, Provenance
from ecc.energy_models.bilinear import BilinearCost
from ecc.energy_models.diagnostics import Diagnostics, diagnose
from ecc.energy_models.fitted import conformal_quantile
from ecc.energy_models.forms import FORMS, MACS
from ecc.energy_models.judging import Fit
from ecc.energy_models.parts import describe, parts_of
from ecc.energy_models.samples import Samples
from ecc.energy_models.staircase import StaircaseCost
from ecc.report import fit_figures
from ecc.report.files import write_file
from ecc.report.style import quantity, to_svg
from ecc.report.templates import fill

__all__ = ["fit_pictures", "render_fit", "write_fit"]

_BARS = 24  # of the parts that are drawn
_LISTED = 300  # of the parts that are listed
_WORST = 12  # rows
_NARROWEST = 3  # groups of a row that are named
_ENDING = 30  # characters of their names
_UNEVEN = 0.05  # p-value below which errors are not taken to be as large for cheap networks as for costly ones
_CORRECTED = (
    "These are the terms of the sum of products inside, with the factor that corrects their sum at dense widths; "
    "elsewhere it is another one."
)
_MADE_OF = {
    MACS: "Each product has the share of the MACs that its layers have; the constant is paid by all networks.",
    "bilinear": "A product is paid by layers that read and write these groups; a group alone by what moves its "
    "channels; the constant by all that no width changes.",
    "factored": _CORRECTED,
    "mlp": _CORRECTED,
    "additive": "Calls of the network by kind; overhead is what there is beside them.",
}
_HARD = "\u00a0"  # a space at which no line ends


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the dense network's cost."""

    name: str
    value: float
    share: float
    standard_error: float | None


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that was held out; ``setting`` is None where the profile is not at hand."""

    number: int
    measured: float
    predicted: float
    error: float
    noise: float
    setting: _Setting | None


@dataclass(frozen=True, slots=True)
class _Setting:
    """What was measured in a row: channels left of all, the narrowest groups, the row's flags and purpose."""

    left: str
    narrowest: str
    flags: str
    purpose: str


@dataclass(frozen=True, slots=True)
class _Decider:
    """A row that decides the fit: its cost relative to dense, and its weight in the fit (``Diagnostics.rows``)."""

    number: int
    ratio: float
    residual: float
    leverage: float
    distance: float
    setting: _Setting


def fit_pictures(fit: Fit) -> dict[str, Figure]:
    """The figures of the page, by name; those that a fit has no values for are left out."""
    figures = {
        "agreement": fit_figures.agreement(fit),
        "distribution": fit_figures.distribution(fit),
        "within": fit_figures.within(fit),
        "errors-by-size": fit_figures.errors_by_size(fit),
        "errors-by-row": fit_figures.errors_by_row(fit),
    }
    if len(fit.learning_curve) > 1:
        figures["learning-curve"] = fit_figures.learning_curve(fit)
    if parts := _parts(fit):
        bars = [(part.name, part.value, part.share) for part in parts[:_BARS]]
        figures["shares"] = fit_figures.shares(bars, fit.cost.unit)
    return figures


def render_fit(fit: Fit, table: ProfileTable | None = None) -> str:
    """The page as HTML text; it opens from disk and needs no network.

    Args:
        table: The profile that was fitted; without it, odd rows are listed without their widths and flags, and no
            standard errors are given.
    """
    found, undiagnosed = _diagnosed(fit, table)
    parts = _parts(fit, found)
    reach = conformal_quantile(fit.cost.calibration, 0.95)
    about, place = describe(fit.form, fit.cost), fit.cost.provenance
    worst = fit.residuals["relative_error"].abs().sort_values(ascending=False, kind="stable").index[:_WORST]
    return fill(
        "fit.html",
        {"percent": _percent, "points": _points, "probability": _probability, "quantity": _quantity, "signed": _signed},
        fit=fit,
        cost=fit.cost,
        place=place,
        title=f"{fit.cost.metric.capitalize()} of {place.network if place else 'a network'}",
        about=about,
        summaries={name: form.summary for name, form in FORMS.items()},
        figures={name: Markup(to_svg(figure)) for name, figure in fit_pictures(fit).items()},
        interval=(math.expm1(-reach), math.expm1(reach)),
        covered=_binomial(fit.interval_coverage, len(fit.residuals)),
        parts=parts[:_LISTED],
        undrawn=_rest(parts[_BARS:]),
        unlisted=_rest(parts[_LISTED:]),
        worst=[_row(fit, int(number), table) for number in worst],
        settings=about.get("words", {}),
        environment=_environment(place),
        purposes=_purposes(table),
        diagnostics=found,
        undiagnosed=undiagnosed,
        deciders=_deciders(found, fit, table),
        made_of=_MADE_OF.get(fit.form, _MADE_OF["bilinear"]),
        folds=sum(candidate.chosen_in for candidate in fit.forms),
    )


def write_fit(fit: Fit, path: str | Path, table: ProfileTable | None = None) -> Path:
    """Write the page of ``render_fit``; returns its path.

    Raises:
        InputError: If the file cannot be written.
    """
    return write_file(path, render_fit(fit, table).encode())


def _parts(fit: Fit, found: Diagnostics | None = None) -> list[_Part]:
    """The parts of the dense network's cost that cost something, the largest first."""
    parts = parts_of(fit.cost)
    total = math.fsum(parts.values())
    errors: dict[str, float] = {}
    if found is not None:
        column = "robust_error" if found.uneven < _UNEVEN else "standard_error"
        known = found.coefficients[column]
        errors = {str(name): error for name, error in known.items() if np.isfinite(error)}
    return [_Part(name, value, value / total, errors.get(name)) for name, value in parts.items() if value > 0]


def _rest(parts: Sequence[_Part]) -> tuple[int, float]:
    """How many parts are left out, and their share."""
    return len(parts), math.fsum(part.share for part in parts)


def _row(fit: Fit, number: int, table: ProfileTable | None) -> _Row:
    """A row that was held out, by its number in the profile."""
    names = ["measured", "predicted", "relative_error", "noise"]
    measured, predicted, error, noise = fit.residuals.loc[[number], names].to_numpy(dtype=float)[0].tolist()
    setting = None if table is None else _setting(table, number)
    return _Row(number, measured * fit.cost.dense, predicted * fit.cost.dense, error, noise, setting)


def _setting(table: ProfileTable, number: int) -> _Setting:
    widths, dense = table.widths[number], np.array(table.space.dense)
    order = np.argsort(widths / dense, kind="stable")[:_NARROWEST]
    values = table.rows.iloc[number]
    return _Setting(
        f"{int(widths.sum())} of {int(dense.sum())}",
        ", ".join(f"{_ending(table.space.names[i])} {widths[i]}/{dense[i]}" for i in order),
        *(str(values[name]) if name in table.rows else "" for name in ("flags", "purpose")),
    )


def _diagnosed(fit: Fit, table: ProfileTable | None) -> tuple[Diagnostics | None, str]:
    """Standard errors and influence, or why there are none; for sums of terms fitted one by one to rows at hand."""
    if table is None or fit.form == MACS or not isinstance(fit.cost, BilinearCost | StaircaseCost):
        return None, ""
    try:
        return diagnose(fit.cost, Samples.of(table, fit.cost.metric)), ""
    except InputError as error:
        return None, str(error)


def _deciders(found: Diagnostics | None, fit: Fit, table: ProfileTable | None) -> list[_Decider]:
    """The rows that decide the fit, the most influential first."""
    if found is None or table is None:
        return []
    rows = found.rows[found.rows["decides"]].sort_values("cooks_distance", ascending=False).head(_WORST)
    values = rows[["residual", "leverage", "cooks_distance"]].to_numpy(dtype=float).tolist()
    ratios = table.rows[f"{fit.cost.metric}_ratio"].to_numpy(dtype=float)
    return [
        _Decider(number, float(ratios[number]), residual, leverage, distance, _setting(table, number))
        for number, (residual, leverage, distance) in zip(rows.index.tolist(), values, strict=True)
    ]


def _purposes(table: ProfileTable | None) -> Mapping[str, int]:
    """Rows by why they were measured; empty where that is not known."""
    if table is None or "purpose" not in table.rows:
        return {}
    return {str(name): int(count) for name, count in table.rows["purpose"].value_counts().items()}


def _binomial(share: float, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share of so many rows (Clopper and Pearson)."""
    found = stats.binomtest(round(share * rows), rows).proportion_ci(0.95)
    return float(found.low), float(found.high)


def _ending(name: str) -> str:
    """The end of a long name, which tells groups apart."""
    return name if len(name) <= _ENDING else f"…{name[1 - _ENDING :]}"


def _environment(place: Provenance | None) -> dict[str, str]:
    """What was recorded of the machine; numbers of cores are called so."""
    found = {} if place is None else {name: str(value) for name, value in place.environment.items()}
    if cores := found.get("pinned"):
        found["pinned"] = f"core{'s' if ',' in cores else ''} {cores}"
    return found


def _quantity(value: float, unit: str) -> str:
    return quantity(value, unit).replace(" ", _HARD)


def _percent(value: float | None, digits: int = 1) -> str:
    return "unknown" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}{_HARD}%"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}{_HARD}%".replace("-", "−")


def _points(value: float | None) -> str:
    """A standard error of a share."""
    return "" if value is None else f"± {100 * value:.2f}{_HARD}%".replace(" ", _HARD)


def _probability(value: float) -> str:
    return "unknown" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
