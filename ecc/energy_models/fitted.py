"""Fitted costs: what every model that comes from a profile has, whatever its form.

A form adds what its predictions are made of (``evaluate``) and how that is written and read. What it rests on, its
intervals and its limits are the same for all: the dense network's measured value, errors of rows that it had not seen,
and the widths between which it was profiled.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from scipy import stats
from torch import Tensor

from ecc.core.cost import METRICS, as_vector
from ecc.core.errors import InputError
from ecc.core.fields import Fields, Scalar
from ecc.core.markup import card
from ecc.core.table import Provenance
from ecc.core.widths import Widths, WidthSpace
from ecc.energy_models.cost_files import metric_of, numbers, provenance_of, space_of, write_cost
from ecc.energy_models.samples import Samples
from ecc.network.graph import WidthGraph

__all__ = ["FITTED", "FittedCost", "conformal_quantile", "demand_level", "ground_of"]

FITTED = ("latency", "energy")
"""The metrics that are measured, and so may be fitted."""

_FAR = 100.0  # times the dense network's measured value that no model is off at dense widths
_WORST = 1e9  # relative error that no row is off
_FARTHEST = 700.0  # logarithm of the largest number that there is, nearly


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedCost(ABC):
    """A metric of one inference as a function of the widths, fitted to a profile.

    Attributes:
        form: Key of the form, as ``ecc fit --form`` names it.
        metric: ``latency`` or ``energy``.
        space: The groups, in the order of width vectors.
        reference: The dense network's measured value in s or J: (value, low, high), 95 % interval.
        calibration: |log(measured / predicted)| of rows that the prediction had not seen, sorted; empty when unknown.
        profiled: Smallest and largest width measured, per group; None when unknown.
        provenance: What was measured; None for coefficients from elsewhere.
        holdout: Held-out error when the model was judged: ``mape``, ``p95``, ``worst``, ``within_10pct``.
        samples: Rows that it was fitted to.
        extrapolate: Whether widths outside those profiled may be asked for.
        made: How it came about, as far as that is known, for people: ``measured_from`` and ``measured_to`` (ISO times),
            ``measuring_s``, ``noise`` (median relative half-width of the rows), ``fitted`` (ISO time), ``fit_s``,
            ``noise_floor``, ``macs_only`` and ``interval_coverage`` (as of Fit).
    """

    form: ClassVar[str]

    metric: str
    space: WidthSpace
    reference: tuple[float, float, float]
    calibration: tuple[float, ...] = ()
    profiled: tuple[tuple[int, int], ...] | None = None
    provenance: Provenance | None = None
    holdout: Mapping[str, float] | None = None
    samples: int = 0
    extrapolate: bool = False
    made: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.metric not in FITTED:
            raise InputError(f"{name}(metric=...) must be one of {', '.join(FITTED)}, got {self.metric!r}")
        value, low, high = self.reference
        if not 0 < low <= value <= high < math.inf:
            raise InputError(f"{name}(reference=...) must be 0 < low ≤ value ≤ high, got {low}, {value}, {high}")
        if list(self.calibration) != sorted(self.calibration):
            raise InputError(f"{name}(calibration=...) must be sorted")
        if self.profiled is not None and len(self.profiled) != len(self.space):
            raise InputError(f"{name}(profiled=...) must hold one pair per group")
        for (least, most), dense in zip(self.profiled or (), self.space.dense, strict=bool(self.profiled)):
            if not 1 <= least <= most == dense:
                raise InputError(f"{name}(profiled=...) must reach from 1 or more to {dense}, got {least} to {most}")

    @abstractmethod
    def evaluate(self, widths: Tensor) -> Tensor:
        """The metric at channels of shape (…, n_groups), float64: shape (…), float64.

        The value is what is predicted there; the gradient may be that of a smooth stand-in where the value has steps.
        """

    @property
    @abstractmethod
    def coefficients(self) -> dict[str, float]:
        """What can be said of the model in numbers with names; in s or J where they are costs."""

    @abstractmethod
    def members(self) -> dict[str, Any]:
        """The JSON members that only this form has."""

    @classmethod
    @abstractmethod
    def read(cls, fields: Fields, ground: Mapping[str, Any]) -> Self:
        """The inverse of ``members``, without trusting it; ``ground`` holds the arguments that all forms have."""

    def without(self, graph: WidthGraph, blocks: Collection[str]) -> Self:
        """What is predicted of the network without some residual blocks, as far as rows with them can say.

        Groups that go with the blocks play no part any more. What the network costs beside its layers stays.

        Args:
            graph: Of the network with them.
            blocks: Names of removable blocks.
        Raises:
            InputError: If the form does not say what belongs to which layer.
        """
        raise InputError(
            f"a {self.metric} cost model of the form {self.form} cannot say what single blocks cost, so none can be "
            "removed by it; fit another form (--form bilinear, staircase, factored or additive)"
        )

    @property
    def unit(self) -> str:
        """Of the values: s or J."""
        return METRICS[self.metric]

    @property
    def exact(self) -> bool:
        """False: what was fitted is an estimate of what a device takes."""
        return False

    @property
    def source(self) -> str:
        """Empty: it is of a device that was measured, which ``provenance`` names."""
        return ""

    @property
    def dense(self) -> float:
        """The dense network's measured value; the fit may differ from it by its own error."""
        return self.reference[0]

    def __call__(self, widths: Widths | Tensor) -> Tensor:
        """The metric at widths (a mapping, or channels of shape (…, n_groups)): shape (…), float64, differentiable.

        Raises:
            InputError: If a mapping holds a width outside those profiled and the model may not extrapolate; a tensor,
                which may be a point on a solver's way, is taken as it is.
        """
        vector = as_vector(self.space, widths)
        if not isinstance(widths, Tensor) and not self.extrapolate:
            self._demand_profiled(vector)
        return self.evaluate(vector)

    def interval(self, widths: Widths | Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Prediction interval: the conformal quantile of held-out errors and the dense network's own interval.

        Both are relative and independent, so they add in quadrature on the logarithm. A model that was never judged
        knows nothing: its interval is (0, ∞).

        Raises:
            InputError: If ``level`` is not in (0, 1), or as of a call.
        """
        demand_level("interval", level)
        predicted = self(widths)
        if not self.calibration:
            return torch.zeros_like(predicted), torch.full_like(predicted, math.inf)
        error = conformal_quantile(self.calibration, level)
        value, low, high = self.reference
        stretch = float(stats.norm.ppf((1 + level) / 2) / stats.norm.ppf(0.975))
        below, above = (math.hypot(error, stretch * math.log(ratio)) for ratio in (value / low, high / value))
        return predicted * math.exp(-below), predicted * (math.exp(above) if above < _FARTHEST else math.inf)

    def extrapolates(self, widths: Widths | Tensor) -> bool:
        """Whether any width lies outside those that were profiled, so that the interval promises nothing."""
        return bool(self._outside(as_vector(self.space, widths)).any())

    @property
    def floor(self) -> dict[str, int]:
        """The smallest admissible widths that may be asked for: one unit, or the fewest channels profiled."""
        if self.profiled is None or self.extrapolate:
            return self.space.smallest
        bounds = zip(self.space.names, self.profiled, self.space.step, strict=True)
        return {name: -(-low // step) * step for name, (low, _), step in bounds}

    def _outside(self, vector: Tensor) -> Tensor:
        """Which widths were not profiled, shape (…, n_groups)."""
        if self.profiled is None or not self.profiled:
            return torch.zeros_like(vector, dtype=torch.bool)
        low, high = (torch.tensor(bound, dtype=torch.float64) for bound in zip(*self.profiled, strict=True))
        return (vector < low) | (vector > high)

    def _demand_profiled(self, vector: Tensor) -> None:
        outside = self._outside(vector)
        if not outside.any() or self.profiled is None:
            return
        group = int(outside.nonzero()[0, -1])
        low, high = self.profiled[group]
        raise InputError(
            f"group {self.space.names[group]!r} was profiled at widths from {low} to {high}, so the {self.metric} at "
            f"{vector[group]:.0f} is unknown; profile smaller widths too, or fit with extrapolate=True (--extrapolate)"
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``from_fields`` is the inverse."""
        value: dict[str, Any] = {
            "metric": self.metric,
            "unit": self.unit,
            "space": self.space.to_json(),
            **self.members(),
            "reference": list(self.reference),
            "calibration": list(self.calibration),
            "samples": self.samples,
            "extrapolate": self.extrapolate,
        }
        if self.profiled is not None:
            value["profiled"] = {"low": [low for low, _ in self.profiled], "high": [high for _, high in self.profiled]}
        if self.provenance is not None:
            value["provenance"] = self.provenance.to_json()
        if self.holdout is not None:
            value["holdout"] = dict(self.holdout)
        if self.made:
            value["made"] = dict(self.made)
        return value

    def save(self, path: str | Path) -> None:
        """Write the model as JSON.

        Raises:
            InputError: If the file cannot be written.
        """
        write_cost(path, self.form, self.to_json())

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read what ``to_json`` wrote, without trusting it.

        Raises:
            InputError: If a member is missing or impossible.
        """
        value, low, high = numbers(fields, "reference", length=3)
        holdout = fields.inner("holdout") if "holdout" in fields else None
        ground = {
            "metric": metric_of(fields, FITTED),
            "space": space_of(fields),
            "reference": (value, low, high),
            "calibration": numbers(fields, "calibration"),
            "profiled": _box(fields.inner("profiled")) if "profiled" in fields else None,
            "provenance": provenance_of(fields),
            "holdout": None if holdout is None else _figures(holdout),
            "samples": fields.whole("samples"),
            "extrapolate": _flag(fields, "extrapolate"),
            "made": fields.scalars("made") if "made" in fields else {},
        }
        cost = cls.read(fields, ground)
        with torch.no_grad():
            ratio = float(cost.evaluate(torch.tensor(cost.space.dense, dtype=torch.float64))) / cost.dense
        if not 1 / _FAR <= ratio <= _FAR:
            raise InputError(
                f"cost model: predicts {ratio:.3g} times what the dense network was measured to take; no fit does"
            )
        return cost

    def __repr__(self) -> str:
        error = f", held-out MAPE {self.holdout['mape']:.1%}" if self.holdout else ""
        return f"{type(self).__name__}({self.metric} {self.dense:.4g} {self.unit} dense, {self.samples} rows{error})"

    def _repr_html_(self) -> str:
        place, held = self.provenance, self.holdout
        value, low, high = self.reference
        facts = [
            ("dense", f"{value:.4g} {self.unit}, 95 % interval [{low:.4g}, {high:.4g}]"),
            ("network", None if place is None else place.network),
            ("device", None if place is None else f"{place.device}, {place.runtime}"),
            ("fitted to", f"{self.samples} rows" if self.samples else None),
            ("held-out error", None if not held else f"{held['mape']:.1%} (mean), {held['p95']:.1%} (95th percentile)"),
            ("widths", f"{len(self.space)} groups, {sum(self.space.dense):,} channels"),
        ]
        return card(f"{type(self).__name__} of {self.metric}", facts)


def ground_of(samples: Samples) -> dict[str, Any]:
    """The arguments that every form takes from the rows that it is fitted to."""
    low, high = samples.widths.min(axis=0), samples.space.dense  # the dense network is always measured
    return {
        "metric": samples.metric,
        "space": samples.space,
        "reference": samples.reference,
        "profiled": tuple((int(least), most) for least, most in zip(low, high, strict=True)),
        "provenance": samples.provenance,
        "samples": len(samples),
    }


def _flag(fields: Fields, name: str) -> bool:
    """True or false; false where there is none."""
    value = fields.optional_flag(name)
    if value is None and name in fields:
        raise InputError(f"cost model: {name!r} must be true or false")
    return bool(value)


def _figures(fields: Fields) -> dict[str, float]:
    """Held-out errors."""
    figures = {name: fields.number(name) for name in ("mape", *fields)}
    for name, value in figures.items():
        if not 0 <= value <= (1 if name.startswith("within") else _WORST):
            raise InputError(f"cost model: {value:.3g} is no held-out error {name!r:.80}")
    return figures


def _box(fields: Fields) -> tuple[tuple[int, int], ...]:
    lows, highs = fields.wholes("low"), fields.wholes("high")
    if len(lows) != len(highs):
        raise InputError("cost model: 'profiled' must hold as many lows as highs")
    return tuple(zip(lows, highs, strict=True))


def demand_level(call: str, level: object) -> None:
    """Refuse a level of an interval that is no number between 0 and 1.

    Raises:
        InputError: If it is none.
    """
    if not isinstance(level, Real) or not 0 < float(level) < 1:
        raise InputError(f"{call}(level=...) must be in (0, 1), got {level!r:.80}")


def conformal_quantile(errors: Sequence[float], level: float) -> float:
    """The error that a new row stays below with probability ≥ ``level`` (split conformal), from sorted errors.

    Where there are too few errors for that level, a normal tail of the same mean square stands in.
    """
    rank = math.ceil((len(errors) + 1) * level)
    if rank <= len(errors):
        return errors[rank - 1]
    scale = math.sqrt(sum(error * error for error in errors) / len(errors))
    return max(errors[-1], scale * float(stats.t.ppf((1 + level) / 2, len(errors))))
