"""Figures of a judged cost model, one panel each, so that a page can set them side by side or one below the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from ecc.energy_models.fitted import conformal_quantile
from ecc.energy_models.judging import Fit
from ecc.report.style import COLOURS, INK, MUTED, TRACK, axis_label, canvas, plain, scale

__all__ = ["agreement", "distribution", "errors_by_row", "errors_by_size", "learning_curve", "shares", "within"]

Floats = NDArray[np.float64]
_Place = Literal["upper left", "upper center", "upper right", "lower right"]

_WIDTH_IN, _HEIGHT_IN = 4.6, 3.3  # of a panel; two of them are as wide as a page
_LEVEL = 0.95
_MANY = 1500  # points from which on a cloud is a picture, not an outline each: 10,000 of them are 1 MB
_BARRED = 250  # rows up to which each bears its own noise
_SMOOTHED = 40  # rows from which on a running median says more than it hides
_NAME = 52  # characters of a part's name
_TAIL = 2.0  # how far the worst may lie beyond the 99th percentile before it is set on the edge


def agreement(fit: Fit) -> Figure:
    """Measured against predicted on held-out rows, with the 95 % interval that a prediction there comes with."""
    predicted, measured, label = _sizes(fit)
    reach = _reach(fit)
    ends = np.array([min(measured.min(), predicted.min()), max(measured.max(), predicted.max())])
    ends += np.array([-0.03, 0.03]) * np.ptp(ends)
    ends = np.maximum(ends, 0.5 * min(measured.min(), predicted.min()))
    with canvas(_WIDTH_IN, _HEIGHT_IN) as (figure, (ax,)):
        if ends[1] > 20 * ends[0]:
            ax.set_xscale("log")
            ax.set_yscale("log")
        low, high = ends * math.exp(-reach), ends * math.exp(reach)
        ax.fill_between(ends, low, high, color=TRACK, linewidth=0, label="95 % interval")
        ax.plot(ends, ends, color=MUTED, linewidth=1)
        _cloud(ax, predicted, measured)
        ax.set_xlim(*ends)
        ax.set_xlabel(f"predicted {label}")
        ax.set_ylabel(f"measured {label}")
        ax.set_title("measured and predicted")
        _legend(ax, "upper left")
    return figure


def errors_by_size(fit: Fit) -> Figure:
    """Relative error against the predicted value: a bend is a form that does not fit, a funnel is uneven noise."""
    predicted, _, label = _sizes(fit)
    with canvas(_WIDTH_IN, _HEIGHT_IN) as (figure, (ax,)):
        _errors(ax, fit, predicted)
        ax.set_xlabel(f"predicted {label}")
        ax.set_title("error by size")
    return figure


def errors_by_row(fit: Fit) -> Figure:
    """Relative error in the order of the profile's rows: a trend is a device that drifted."""
    with canvas(_WIDTH_IN, _HEIGHT_IN) as (figure, (ax,)):
        _errors(ax, fit, fit.residuals.index.to_numpy(dtype=float))
        ax.set_xlabel("row of the profile")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.set_title("error by row")
    return figure


def _errors(ax: Axes, fit: Fit, x: Floats) -> None:
    """Errors in % of measured over x, with the interval, the noise of the rows, and what a running median shows."""
    error = 100 * fit.residuals["relative_error"].to_numpy(dtype=float)
    noise = 100 * fit.residuals["noise"].to_numpy(dtype=float)
    reach = _reach(fit)
    low, high = 100 * math.expm1(-reach), 100 * math.expm1(reach)
    ax.axhspan(low, high, color=TRACK, linewidth=0, label="95 % interval")
    known = np.isfinite(noise)
    if known.any():
        typical = float(np.median(noise[known]))
        ax.axhspan(-typical, typical, color=COLOURS[4], alpha=0.45, linewidth=0, label=f"noise, ± {typical:.1f} %")
    ax.axhline(0, color=MUTED, linewidth=1)
    edge = max(_edge(np.abs(error)), 1.15 * high)
    if known.any() and len(error) <= _BARRED:
        shown = known & (np.abs(error) <= edge)
        ax.errorbar(x[shown], error[shown], noise[shown], fmt="none", ecolor=MUTED, elinewidth=0.6, alpha=0.6)
    beyond = np.abs(error) > edge
    _cloud(ax, x[~beyond], error[~beyond])
    for sign, marker in ((1, "^"), (-1, "v")):
        far = beyond & (np.sign(error) == sign)
        if far.any():
            ax.plot(x[far], np.full(int(far.sum()), 0.97 * sign * edge), marker=marker, linestyle="", color=COLOURS[1])
    if len(error) >= _SMOOTHED:
        order = np.array_split(np.argsort(x, kind="stable"), min(12, len(error) // 10))
        middle = [float(np.median(error[part])) for part in order]
        ax.plot([float(np.median(x[part])) for part in order], middle, color=INK, linewidth=1.5, label="running median")
    ax.set_ylim(-edge, edge * 1.3)  # a strip for the legend
    ax.set_ylabel("predicted − measured, % of measured")
    _legend(ax, "upper center", 2)


def distribution(fit: Fit) -> Figure:
    """How the errors are spread, beside what the noise of the rows alone would make of them."""
    error = 100 * fit.residuals["relative_error"].to_numpy(dtype=float)
    reach, edge = _reach(fit), _edge(np.abs(error))
    edge = max(edge, 115 * math.expm1(reach))
    bins = int(np.clip(2 * len(error) ** 0.5, 8, 60))
    places = np.linspace(-edge, edge, bins + 1)
    with canvas(_WIDTH_IN, _HEIGHT_IN) as (figure, (ax,)):
        counts, *_ = ax.hist(
            np.clip(error, -edge, edge), places.tolist(), color=COLOURS[0], alpha=0.75, label="held-out rows"
        )
        noise = _known_noise(fit)
        if len(noise):
            fine = np.linspace(-edge, edge, 241)
            density = _mean_density(fine, 100 * np.maximum(noise, 1e-6))
            rows = len(error) * (places[1] - places[0]) * density
            ax.plot(fine, rows, color=COLOURS[4], linewidth=2, label="noise alone")
        for i, end in enumerate((100 * math.expm1(-reach), 100 * math.expm1(reach))):
            ax.axvline(end, color=INK, linestyle="--", linewidth=1, label=None if i else "95 % interval")
        ax.set_ylim(0, 1.3 * min(ax.get_ylim()[1], 2.5 * float(np.max(counts))))  # room for the legend
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_xlabel("predicted − measured, % of measured")
        ax.set_ylabel("rows")
        ax.set_title("how errors are spread")
        _legend(ax, "upper left", 2)
    return figure


def within(fit: Fit) -> Figure:
    """The share of held-out rows whose error is at most so large, beside what the noise of the rows alone makes."""
    error = np.sort(100 * np.abs(fit.residuals["relative_error"].to_numpy(dtype=float)))
    edge = max(_edge(error), 115 * math.expm1(_reach(fit)))
    with canvas(_WIDTH_IN, _HEIGHT_IN) as (figure, (ax,)):
        shares = np.arange(1, len(error) + 1) / len(error)
        ax.step([0, *error, edge], [0, *shares, 1], where="post", color=COLOURS[0], label="held-out rows")
        noise = _known_noise(fit)
        if len(noise):
            fine = np.linspace(0, edge, 121)
            ax.plot(fine, _mean_share(fine, 100 * np.maximum(noise, 1e-6)), color=COLOURS[4], label="noise alone")
        ax.axhline(_LEVEL, color=MUTED, linestyle=":", linewidth=1)
        ax.axvline(100 * math.expm1(_reach(fit)), color=INK, linestyle="--", linewidth=1, label="95 % interval")
        ax.set_xlim(0, edge)
        ax.set_ylim(0, 1.02)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set_xlabel("error of at most, % of measured")
        ax.set_ylabel("share of the rows")
        ax.set_title("how many rows are how close")
        _legend(ax, "lower right")
    return figure


def learning_curve(fit: Fit) -> Figure:
    """Held-out error over the number of rows fitted to, between MACs alone and the floor that no model can beat."""
    samples = [samples for samples, _ in fit.learning_curve]
    with canvas(_WIDTH_IN, _HEIGHT_IN) as (figure, (ax,)):
        mapes = [100 * mape for _, mape in fit.learning_curve]
        ax.plot(samples, mapes, color=COLOURS[0], marker="o", markersize=5, label="this model")
        if np.isfinite(fit.noise_floor):
            ax.axhline(100 * fit.noise_floor, color=COLOURS[4], linestyle="--", label="noise floor")
        if np.isfinite(fit.macs_only):
            ax.axhline(100 * fit.macs_only, color=COLOURS[1], linestyle=":", label="MACs alone, all rows")
        known = [value for value in (*mapes, 100 * fit.macs_only) if math.isfinite(value)]
        ax.set_ylim(0, 1.25 * max(known))
        if samples[-1] > 20 * samples[0]:
            ax.set_xscale("log")
        else:
            ax.set_xlim(0, 1.05 * samples[-1])
        ax.set_xlabel("rows fitted to")
        ax.set_ylabel("mean error of held-out rows, %")
        ax.set_title("how much measuring is enough")
        _legend(ax, "upper right", 3)
    return figure


def shares(parts: Sequence[tuple[str, float, float]], unit: str) -> Figure:
    """What the dense network's cost is made of, the largest part on top.

    Args:
        parts: (name, cost at dense widths in SI units, share of the whole), in the order of the bars, at least one.
        unit: Of the costs.
    """
    factor, shown = scale(unit, [value for _, value, _ in parts])
    with canvas(2 * _WIDTH_IN, 0.7 + 0.23 * len(parts)) as (figure, (ax,)):
        place = np.arange(len(parts))
        ax.barh(place, [value * factor for _, value, _ in parts], height=0.72, color=COLOURS[0])
        for y, (_, value, share) in enumerate(parts):
            ax.annotate(
                f"{100 * share:.1f} %",
                (value * factor, y),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        ax.set_yticks(place, [_short(name) for name, _, _ in parts], fontsize=8.5)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(parts) - 0.4, -0.6)
        ax.set_xlim(0, 1.12 * (max(value for _, value, _ in parts) * factor or 1.0))
        ax.grid(visible=False, axis="y")
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(f"at dense widths ({shown})" if shown else "at dense widths")
    return figure


def _short(name: str) -> str:
    """The name of a part; of a product, the ends of all factors."""
    factors = name.split(" × ")
    longest = max(_NAME // len(factors) - 3, 6) if len(name) > _NAME else len(name)
    return plain(" × ".join(plain(factor, longest, keep="end") for factor in factors), 2 * _NAME)


def _sizes(fit: Fit) -> tuple[Floats, Floats, str]:
    """Predicted and measured values of the held-out rows in one unit, and how their axes are named."""
    predicted, measured = (
        fit.residuals[name].to_numpy(dtype=float) * fit.cost.dense for name in ("predicted", "measured")
    )
    factor, unit = scale(fit.cost.unit, [*measured, *predicted])
    return predicted * factor, measured * factor, axis_label(fit.cost.metric, unit)


def _reach(fit: Fit) -> float:
    """Half of the 95 % interval of a ratio, on the logarithm."""
    return conformal_quantile(fit.cost.calibration, _LEVEL)


def _edge(sizes: Floats) -> float:
    """End of an axis of errors that a few rows do not squeeze, in the unit of the errors."""
    usual, worst = float(np.quantile(sizes, 0.99)), float(sizes.max())
    return 1.08 * (worst if worst <= _TAIL * usual else usual) or 1.0


def _known_noise(fit: Fit) -> Floats:
    noise = fit.residuals["noise"].to_numpy(dtype=float)
    return np.asarray(noise[np.isfinite(noise)], dtype=np.float64)


def _mean_density(x: Floats, spread: Floats) -> Floats:
    """The density of normal noise whose spread is each of these as often as it occurs, in rows of bounded memory."""
    typical = np.quantile(spread, np.linspace(0.01, 0.99, 50))
    density = np.exp(-0.5 * (x[:, None] / typical) ** 2) / (typical * math.sqrt(2 * math.pi))
    return np.asarray(density.mean(axis=1), dtype=np.float64)


def _mean_share(x: Floats, spread: Floats) -> Floats:
    """The share of such noise within ±x."""
    typical = np.quantile(spread, np.linspace(0.01, 0.99, 50))
    share = np.vectorize(math.erf, otypes=[np.float64])(x[:, None] / (typical * math.sqrt(2)))
    return np.asarray(share.mean(axis=1), dtype=np.float64)


def _legend(ax: Axes, place: _Place, columns: int = 1) -> None:
    """Names of what is drawn, on white, so that no line runs through them."""
    legend = ax.legend(
        loc=place, ncols=columns, fontsize=8, columnspacing=1.0, handlelength=1.5, frameon=True, framealpha=0.9
    )
    legend.get_frame().set_linewidth(0)


def _cloud(ax: Axes, x: Floats, y: Floats) -> None:
    """Points; many of them as one picture."""
    many = len(x) > _MANY
    look: dict[str, Any] = {"markersize": 2.5, "alpha": 0.25} if many else {"markersize": 4, "alpha": 0.6}
    ax.plot(x, y, linestyle="", marker="o", markeredgewidth=0, color=COLOURS[0], rasterized=many, **look)
