"""Judging: how far a cost model can be trusted, from rows that it has not seen.

Every figure comes from cross-validation: the rows are cut in folds, each fold is predicted by a model fitted to the
others, and the errors are pooled. Only then is the model fitted once more, to all rows; that last model is what is
returned, so its error is if anything a little below the one stated. Only rows that were drawn at random are held out:
corners, sweeps and rows that a fit chose for itself are fitted to in every fold, because an error over them is no
estimate of the error at other widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ecc.core.errors import InputError
from ecc.core.layers import SumOfProducts
from ecc.core.table import ProfileTable
from ecc.energy_models.bilinear import fit_samples
from ecc.energy_models.fitted import FittedCost, conformal_quantile
from ecc.energy_models.least_squares import relative_nnls
from ecc.energy_models.samples import Samples

__all__ = ["FORMS", "Fit", "judge"]

Floats = NDArray[np.float64]
Fitter = Callable[[Samples], FittedCost]

FORMS: Mapping[str, Fitter] = MappingProxyType({"bilinear": fit_samples})
"""The fitted forms by name."""

_LEVEL = 0.95
_FEWEST_HELD = 5
_LEARNING = (0.1, 0.2, 0.4, 0.7)  # shares of the training rows; all of them come last


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A cost model and what is known about its error.

    Attributes:
        cost: The model, fitted to all rows after it was judged; carries the calibration of its intervals.
        form: A key of FORMS.
        samples: Rows used.
        holdout: Relative errors of rows that were held out: ``mape`` (mean), ``p95``, ``worst``, and ``within_10pct``
            (the share of rows within ±10 %).
        noise_floor: MAPE that a perfect model would show, given the noise of the rows; NaN when that is unknown.
        interval_coverage: Share of rows inside 95 % intervals that were calibrated without them.
        macs_only: MAPE of constant + MACs, on the same folds.
        learning_curve: MAPE against the number of rows fitted to.
        residuals: One row per sample that was held out, by its number in the profile: ``measured`` and ``predicted``
            (ratios to dense), ``relative_error``, ``noise`` (standard deviation).
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

    @property
    def coefficients(self) -> dict[str, float]:
        """What each term costs at dense widths, in s or J."""
        return self.cost.coefficients

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ecc fit --json``; a figure that is unknown is null."""
        return {
            "metric": self.cost.metric,
            "unit": self.cost.unit,
            "form": self.form,
            "samples": self.samples,
            "holdout": dict(self.holdout),
            "noise_floor": None if np.isnan(self.noise_floor) else self.noise_floor,
            "interval_coverage": self.interval_coverage,
            "macs_only": self.macs_only,
            "coefficients": self.coefficients,
            "learning_curve": [{"samples": samples, "mape": mape} for samples, mape in self.learning_curve],
        }

    def __repr__(self) -> str:
        floor = "unknown" if np.isnan(self.noise_floor) else f"{self.noise_floor:.1%}"
        return (
            f"Fit({self.form} {self.cost.metric}, {self.samples} samples, held-out MAPE {self.holdout['mape']:.1%}, "
            f"noise floor {floor}, 95 % interval covers {self.interval_coverage:.0%})"
        )


def judge(table: ProfileTable, metric: str, *, form: str = "bilinear", seed: int = 0, holdout: float = 0.2) -> Fit:
    """Fit a cost model and find its error on rows that it was not fitted to.

    Args:
        metric: A measured metric of the table.
        form: A key of FORMS.
        seed: Of the folds.
        holdout: Share of the random rows that each fold holds out, in (0, 0.5]; 0.2 is five folds.

    Raises:
        InputError: If the form or the share is unknown, or the rows cannot carry a fit (see Samples.of).
    """
    if form not in FORMS:
        raise InputError(f"cost model form {form!r} is unknown; choose from {', '.join(FORMS)}")
    if not 0 < holdout <= 0.5:
        raise InputError(f"judge(holdout=...) must be in (0, 0.5], got {holdout}")
    samples = Samples.of(table, metric)
    fitter = FORMS[form]
    held = np.flatnonzero(samples.random)
    if len(held) < _FEWEST_HELD:
        raise InputError(
            f"{len(held)} of the {len(samples)} profile rows were drawn at random and can be held out, at least "
            f"{_FEWEST_HELD} are needed; profile more samples"
        )
    folds = min(round(1 / holdout), len(held))
    generator = np.random.default_rng(seed)
    splits = list(_folds(samples, folds, generator))
    judged = samples.take(held)
    predicted = _held_out(samples, splits, lambda rows: _predictor(fitter(rows)))
    error = predicted / judged.ratio - 1
    figures = _figures(error)
    calibration = tuple(np.sort(np.abs(np.log(judged.ratio / predicted))).tolist())
    return Fit(
        cost=replace(fitter(samples), calibration=calibration, holdout=figures),
        form=form,
        samples=len(samples),
        holdout=figures,
        noise_floor=_noise_floor(judged.noise),
        interval_coverage=_coverage(samples, splits, fitter, folds, generator),
        macs_only=float(np.abs(_held_out(samples, splits, _macs_only) / judged.ratio - 1).mean()),
        learning_curve=_learning_curve(samples, splits, fitter, figures["mape"]),
        residuals=pd.DataFrame(
            {
                "measured": judged.ratio,
                "predicted": predicted,
                "relative_error": error,
                "noise": judged.noise,
            },
            index=held,
        ),
    )


Split = tuple[NDArray[np.int64], NDArray[np.int64]]
Predictor = Callable[[Samples], Floats]


def _folds(samples: Samples, folds: int, generator: np.random.Generator) -> Iterator[Split]:
    """(training rows, held-out rows) of each fold, shuffled; rows not drawn at random always train."""
    parts = np.array_split(generator.permutation(np.flatnonzero(samples.random)), folds)
    always = np.flatnonzero(~samples.random)
    for held in range(len(parts)):
        others = np.concatenate([always, *parts[:held], *parts[held + 1 :]])
        yield (generator.permutation(others) if len(always) else others), parts[held]


def _predictor(cost: FittedCost) -> Predictor:
    """A fitted cost as a function samples → ratios."""
    return lambda samples: cost(torch.tensor(samples.widths)).numpy() / cost.dense


def _held_out(samples: Samples, splits: list[Split], fitter: Callable[[Samples], Predictor]) -> Floats:
    """The ratio of each row drawn at random, in order, as predicted by the fit that has not seen it."""
    predicted = np.empty(len(samples))
    for train, held in splits:
        predicted[held] = fitter(samples.take(train))(samples.take(held))
    return predicted[samples.random]


def _macs_only(samples: Samples) -> Predictor:
    """Constant + MACs: what a model must beat to be worth its name."""
    layers = [layer for layer in samples.layers if layer.macs]
    products = SumOfProducts(samples.space, [(layer.reads, layer.writes) for layer in layers])
    share = np.array([layer.macs for layer in layers], dtype=np.float64)
    share /= max(share.sum(), 1.0)

    def features(rows: Samples) -> Floats:
        return np.column_stack([np.ones(len(rows)), products(torch.tensor(rows.widths)).numpy() @ share])

    shares = relative_nnls(features(samples), samples.ratio)
    return lambda rows: np.asarray(features(rows) @ shares, dtype=np.float64)


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


def _coverage(
    samples: Samples, splits: list[Split], fitter: Fitter, folds: int, generator: np.random.Generator
) -> float:
    """Share of held-out rows inside intervals whose model and calibration both come from the other rows."""
    inside = 0
    for train, held in splits:
        rows, rest = samples.take(train), samples.take(held)
        inner = list(_folds(rows, min(folds, int(rows.random.sum())), generator))
        seen = _held_out(rows, inner, lambda part: _predictor(fitter(part)))
        width = conformal_quantile(np.sort(np.abs(np.log(rows.ratio[rows.random] / seen))).tolist(), _LEVEL)
        error = np.abs(np.log(rest.ratio / _predictor(fitter(rows))(rest)))
        inside += int((error <= width).sum())
    return inside / int(samples.random.sum())


def _learning_curve(
    samples: Samples, splits: list[Split], fitter: Fitter, mape: float
) -> tuple[tuple[int, float], ...]:
    """MAPE of fits to the first of each fold's shuffled training rows; the last point is the held-out MAPE."""
    most = min(len(train) for train, _ in splits)
    sizes = sorted({max(2, round(share * most)) for share in _LEARNING})
    curve = []
    for size in sizes:
        shorter = [(train[:size], held) for train, held in splits]
        predicted = _held_out(samples, shorter, lambda rows: _predictor(fitter(rows)))
        curve.append((size, float(np.abs(predicted / samples.ratio[samples.random] - 1).mean())))
    return (*curve, (most, mape))
