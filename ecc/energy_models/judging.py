"""Judging: how far a cost model can be trusted, from rows that it has not seen.

Every figure comes from cross-validation: the rows are cut in folds, each fold is predicted by a model fitted to the
others, and the errors are pooled. Where the form is chosen, it is chosen anew for each fold, from errors within the
other rows alone, so that the error stated is that of choosing and fitting together (Varma and Simon, 2006). Only then
is a model fitted once more, to all rows; that one is returned, so its error is if anything a little below the one
stated. Only rows that were drawn at random are held out: corners, sweeps and rows that a fit chose for itself are
fitted to in every fold, because an error over them is no estimate of the error at other widths.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecc.core.errors import InputError
from ecc.core.fields import Scalar
from ecc.core.markup import card
from ecc.core.problem import Progress
from ecc.core.table import OperatorTable, ProfileTable
from ecc.energy_models import bilinear
from ecc.energy_models.choice import Candidate, choose, explain
from ecc.energy_models.composition import demand_composable
from ecc.energy_models.crossing import Crossed, Folds, Predictor, cross, held_out, predictor
from ecc.energy_models.fitted import FittedCost, conformal_quantile
from ecc.energy_models.forms import AUTO, FORMS, MACS, Options, demand_form
from ecc.energy_models.operator_costs import OperatorCosts
from ecc.energy_models.samples import Samples

__all__ = ["Fit", "judge"]

Floats = NDArray[np.float64]

_LEVEL = 0.95
_FEWEST_HELD = 5
_HOLDOUT = (0.1, 1 / 3)  # three folds at least, so that something is left without two; at most 45 pairs of them
_YEAR_S = 3.2e7  # that clocks may be apart
_LEARNING = (0.1, 0.2, 0.4)  # shares of the training rows; fits without two folds have more, and all of them come last


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A cost model and what is known about its error.

    Attributes:
        cost: The model, fitted to all rows after it was judged; carries the calibration of its intervals.
        form: Its form, a key of FORMS.
        samples: Rows used.
        holdout: Relative errors of rows that were held out: ``mape`` (mean), ``p95``, ``worst``, and ``within_10pct``
            (the share of rows within ±10 %); where the form was chosen, of the choice and the fit together.
        noise_floor: MAPE that a perfect model would show, given the noise of the rows; NaN when that is unknown.
        interval_coverage: Share of rows inside 95 % intervals whose form and calibration came from other rows.
        macs_only: MAPE of constant + MACs, on the same folds.
        learning_curve: MAPE of the form against the number of rows fitted to; ends in the held-out error.
        residuals: One row per sample that was held out, by its number in the profile: ``measured`` and ``predicted``
            (ratios to dense), ``relative_error``, ``noise`` (standard deviation).
        forms: All forms that were considered, with their held-out errors; the simplest first.
        chosen_because: Why this form, in one sentence.
        notes: What to know before it is trusted, a sentence each; empty where it is better than MACs alone.
    """

    cost: FittedCost
    form: str
    samples: int
    holdout: Mapping[str, float]
    noise_floor: float
    interval_coverage: float
    macs_only: float
    learning_curve: tuple[tuple[int, float], ...]
    residuals: pd.DataFrame
    forms: tuple[Candidate, ...] = ()
    chosen_because: str = ""
    notes: tuple[str, ...] = ()

    @property
    def coefficients(self) -> dict[str, float]:
        """The model in numbers with names; of a sum of terms, what each costs at dense widths, in s or J."""
        return self.cost.coefficients

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ecc fit --json``; a figure that is unknown is null."""
        return {
            "metric": self.cost.metric,
            "unit": self.cost.unit,
            "form": self.form,
            "chosen_because": self.chosen_because,
            "forms": [candidate.to_json() for candidate in self.forms],
            "samples": self.samples,
            "holdout": dict(self.holdout),
            "noise_floor": None if np.isnan(self.noise_floor) else self.noise_floor,
            "interval_coverage": self.interval_coverage,
            "macs_only": self.macs_only,
            "notes": list(self.notes),
            "coefficients": self.coefficients,
            "learning_curve": [{"samples": samples, "mape": mape} for samples, mape in self.learning_curve],
        }

    def __repr__(self) -> str:
        floor = "unknown" if np.isnan(self.noise_floor) else f"{self.noise_floor:.1%}"
        return (
            f"Fit({self.form} {self.cost.metric}, {self.samples} samples, held-out MAPE {self.holdout['mape']:.1%}, "
            f"noise floor {floor}, 95 % interval covers {self.interval_coverage:.0%})"
        )

    def _repr_html_(self) -> str:
        held, floor = self.holdout, None if np.isnan(self.noise_floor) else f"{self.noise_floor:.1%}"
        facts = [
            ("held-out error", f"{held['mape']:.1%} (mean), {held['p95']:.1%} (95th percentile)"),
            ("noise floor", floor or "unknown"),
            ("MACs alone", f"{self.macs_only:.1%}"),
            ("95 % intervals cover", f"{self.interval_coverage:.0%}"),
            ("chosen because", self.chosen_because),
            ("notes", "; ".join(self.notes)),
        ]
        rows = [
            [each.form, f"left out: {each.left_out}" if each.mape is None else f"{each.mape:.1%}"]
            for each in self.forms
        ]
        title = f"{self.form} model of {self.cost.metric}, {self.samples} rows"
        return card(title, facts, ["form", "held-out error"], rows)


def judge(
    table: ProfileTable,
    metric: str,
    *,
    form: str = AUTO,
    operators: OperatorTable | None = None,
    robust: bool = False,
    extrapolate: bool = False,
    seed: int = 0,
    holdout: float = 0.2,
    progress: Progress | None = None,
) -> Fit:
    """Fit a cost model and find its error on rows that it was not fitted to.

    Args:
        metric: A measured metric of the table.
        form: A key of FORMS, or ``auto``: the simplest of those whose held-out errors are about as likely as the
            likeliest (``choice.choose``).
        operators: Operator profile of the same device and runtime, for the forms that are made of one.
        robust: Let rows count less that disagree with what the others say.
        extrapolate: Let the model be asked for widths outside those that were profiled.
        seed: Of the folds and of whatever a form draws at random.
        holdout: Share of the random rows that each fold holds out, in [0.1, 1/3]; 0.2 is five folds.

    Raises:
        InputError: If the form is unknown or lacks its operator profile, the share is out of range, or the rows cannot
            carry a fit (see Samples.of).
    """
    started = time.monotonic()
    demand_form(form, given=operators is not None)
    _demand_share(holdout)
    samples = _demand_held(Samples.of(table, metric))
    learnt = None
    if operators is not None and form != AUTO:
        demand_composable(samples, operators, samples.provenance)
    if operators is not None and samples.calls:
        learnt = OperatorCosts.of(operators, metric)  # once for all folds
    options = Options(operators=operators, learnt=learnt, robust=robust, seed=seed)
    generator = np.random.default_rng(seed)
    folds = Folds.of(samples, max(3, round(1 / holdout)), generator)
    crossed, left_out = _cross_all(folds, form, options, progress)
    drawn, ratio = folds.drawn, samples.ratio
    errors = {name: _error(found.outer, ratio)[drawn] for name, found in crossed.items()}
    chosen = choose(errors)
    picks = [_pick(crossed, ratio, fold) for fold in range(len(folds))]
    predicted = np.full(len(samples), np.nan)
    for name, part in zip(picks, folds.parts, strict=True):
        predicted[part] = crossed[name].outer[part]
    relative = (predicted / ratio - 1)[drawn]
    figures = _figures(relative)
    calibration = tuple(np.sort(np.abs(np.log(ratio / predicted)[drawn])).tolist())
    macs_only = float(_error(held_out(folds, partial(_macs_only, robust=robust)), ratio)[drawn].mean())
    cost = FORMS[chosen].fit(samples, options)
    noise_floor, coverage = _noise_floor(samples.noise[drawn]), _coverage(folds, crossed, picks)
    learning_curve = _learning_curve(folds, chosen, options, crossed[chosen], figures["mape"])
    known = {"noise_floor": noise_floor, "interval_coverage": coverage, "macs_only": macs_only}
    known |= {"fit_s": time.monotonic() - started}
    made = _measured_when(table, metric) | {name: value for name, value in known.items() if np.isfinite(value)}
    return Fit(
        cost=replace(cost, calibration=calibration, holdout=figures, extrapolate=extrapolate, made=made),
        form=chosen,
        samples=len(samples),
        holdout=figures,
        noise_floor=noise_floor,
        interval_coverage=coverage,
        macs_only=macs_only,
        learning_curve=learning_curve,
        residuals=pd.DataFrame(
            {
                "measured": ratio[drawn],
                "predicted": predicted[drawn],
                "relative_error": relative,
                "noise": samples.noise[drawn],
            },
            index=samples.numbers[drawn],
        ),
        forms=(*(Candidate.of(name, error, picks.count(name)) for name, error in errors.items()), *left_out),
        chosen_because=explain(errors) if form == AUTO else f"{form} was asked for",
        notes=_notes(chosen, figures["mape"], macs_only, len(samples)) if form != MACS else (),
    )


def _measured_when(table: ProfileTable, metric: str) -> dict[str, Scalar]:
    """When the rows were measured, for how long and with what noise, as far as the table says; and when this is."""
    now = datetime.now().astimezone()
    found: dict[str, Scalar] = {"fitted": now.isoformat(timespec="seconds")}
    rows = table.rows
    if {"started", "seconds"} <= set(rows):
        begun = pd.to_numeric(rows["started"], errors="coerce")
        lasted = pd.to_numeric(rows["seconds"], errors="coerce")
        first, last = float(begun.min()), float((begun + lasted).max())
        if 0 < first <= last < now.timestamp() + _YEAR_S:
            texts = [datetime.fromtimestamp(end).astimezone().isoformat(timespec="seconds") for end in (first, last)]
            found |= {"measured_from": texts[0], "measured_to": texts[1], "measuring_s": float(lasted.sum())}
    ends = [f"{metric}_ratio_low", f"{metric}_ratio_high", f"{metric}_ratio"]
    if set(ends) <= set(rows):
        low, high, ratio = (pd.to_numeric(rows[end], errors="coerce") for end in ends)
        noise = float(((high - low) / 2 / ratio).median())
        found |= {"noise": noise} if np.isfinite(noise) else {}
    return found


def _demand_share(holdout: object) -> None:
    if not isinstance(holdout, Real) or not _HOLDOUT[0] <= float(holdout) <= _HOLDOUT[1]:
        raise InputError(f"judge(holdout=...) must be in [0.1, 1/3], got {holdout!r:.80}")


def _demand_held(samples: Samples) -> Samples:
    held = len(np.unique(samples.widths[samples.random], axis=0))
    if held < _FEWEST_HELD:
        raise InputError(
            f"{held} of the {len(samples)} profile rows were drawn at random and can be held out, at least "
            f"{_FEWEST_HELD} of different widths are needed; profile more samples"
        )
    return samples


def _cross_all(
    folds: Folds, form: str, options: Options, progress: Progress | None
) -> tuple[dict[str, Crossed], list[Candidate]]:
    """What the form, or with auto each one, predicts; and those that these rows or options cannot carry."""
    names = [
        name for name in (FORMS if form == AUTO else (form,)) if options.operators or not FORMS[name].needs_operators
    ]
    left_out = [
        Candidate(name, left_out="it needs an operator profile of the device (--operators)")
        for name in (FORMS if form == AUTO else ())
        if name not in names
    ]
    fits = len(folds) * (len(folds) + 1) // 2
    crossed: dict[str, Crossed] = {}
    refused: list[InputError] = []
    for place, name in enumerate(names):
        count = iter(range(place * fits + 1, (place + 1) * fits + 1))

        def report(name: str = name, count: Any = count) -> None:
            if progress is not None:
                progress("fit", next(count), len(names) * fits, name)

        def fit(rows: Samples, name: str = name) -> FittedCost:
            return FORMS[name].fit(rows, options)

        try:
            crossed[name] = cross(folds, fit, report)
        except InputError as error:
            refused.append(error)
            left_out.append(Candidate(name, left_out=str(error)))
    if not crossed:
        raise refused[0]
    return crossed, left_out


def _pick(crossed: Mapping[str, Crossed], ratio: Floats, fold: int) -> str:
    """The form that the rows outside a fold speak for."""
    rows = np.isfinite(next(iter(crossed.values())).inner[fold])
    return choose({name: _error(found.inner[fold], ratio)[rows] for name, found in crossed.items()})


def _error(predicted: Floats, ratio: Floats) -> Floats:
    return np.asarray(np.abs(predicted / ratio - 1), dtype=np.float64)


def _macs_only(samples: Samples, *, robust: bool) -> Predictor:
    """Constant + MACs: what a model must beat to be worth its name."""
    return predictor(bilinear.fit_macs(samples, robust=robust))


def _notes(form: str, mape: float, macs_only: float, rows: int) -> tuple[str, ...]:
    """Whether the rows say more than MACs do."""
    if form == MACS:
        return (f"{rows} rows say no more than MACs do: this is a constant and a price per MAC; profile more samples",)
    if mape < macs_only:
        return ()
    return (
        f"held-out error {mape:.1%} is no better than that of MACs alone, {macs_only:.1%}: profile more samples, or "
        f"take the form {MACS}",
    )


def _figures(error: Floats) -> dict[str, float]:
    size = np.abs(error)
    return {
        "mape": float(size.mean()),
        "p95": float(np.quantile(size, 0.95)),
        "worst": float(size.max()),
        "within_10pct": float((size <= 0.1).mean()),
    }


def _noise_floor(noise: Floats) -> float:
    """The mean absolute error of normal noise: σ √(2/π), over the rows whose noise is known."""
    known = noise[np.isfinite(noise)]
    return float(known.mean() * np.sqrt(2 / np.pi)) if len(known) else float("nan")


def _coverage(folds: Folds, crossed: Mapping[str, Crossed], picks: list[str]) -> float:
    """Share of held-out rows inside intervals whose form, model and calibration all come from the other rows."""
    ratio, inside = folds.samples.ratio, 0
    for fold, (name, part) in enumerate(zip(picks, folds.parts, strict=True)):
        seen = np.abs(np.log(ratio / crossed[name].inner[fold]))
        width = conformal_quantile(np.sort(seen[np.isfinite(seen)]).tolist(), _LEVEL)
        inside += int((np.abs(np.log(ratio[part] / crossed[name].outer[part])) <= width).sum())
    return inside / len(folds.drawn)


def _learning_curve(
    folds: Folds, form: str, options: Options, crossed: Crossed, mape: float
) -> tuple[tuple[int, float], ...]:
    """MAPE of fits to the first of each fold's training rows, of those without two folds, and the held-out one."""
    ratio, drawn = folds.samples.ratio, folds.drawn
    fit: Callable[[Samples], Predictor] = lambda rows: predictor(FORMS[form].fit(rows, options))  # noqa: E731
    most = min(len(order) for order in folds.orders)
    fewer = most - max(len(part) for part in folds.parts)
    curve = {most: mape, fewer: float(np.nanmean(_error(crossed.inner, ratio)))}
    for size in {max(2, round(share * most)) for share in _LEARNING} - set(curve):
        curve[size] = float(_error(held_out(folds, fit, most=size), ratio)[drawn].mean())
    return tuple(sorted(curve.items()))
