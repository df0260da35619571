r"""The bilinear cost model of ECC (Yang, Zhu, Liu: CVPR 2019), on the real graph.

.. math:: E(w) = c + \sum_j a_j\, r_j(w)\, s_j(w), \qquad c, a_j \ge 0

with r and s the kept fractions of what layer j reads and writes, and one linear term per distinct side. Coefficients
are non-negative least squares in *relative* error on ratios to the dense network, so that neither the unit nor the size
of the network matters; the dense network's own value turns ratios into seconds or joules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ecc.core.cost import METRICS, as_vector
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.layers import Side, SumOfProducts
from ecc.core.table import ProfileTable, Provenance
from ecc.core.widths import Widths, WidthSpace
from ecc.energy_models.cost_files import (
    as_side,
    metric_of,
    numbers,
    objects,
    provenance_of,
    refuse_large,
    space_of,
    write_cost,
)
from ecc.energy_models.least_squares import shrunken_nnls
from ecc.energy_models.samples import Samples
from ecc.energy_models.terms import Term, terms_of

__all__ = ["BilinearCost", "conformal_quantile", "fit", "fit_samples"]

_MEASURED = ("latency", "energy")


@dataclass(frozen=True, eq=False)
class BilinearCost:
    """A metric as constant + Σ coefficient × product of sides.

    Attributes:
        metric: ``latency`` or ``energy``.
        space: The groups, in the order of width vectors.
        constant: What remains at zero width, in s or J.
        terms: Products and their coefficients, in s or J at dense widths.
        reference: The dense network's measured value in s or J: (value, low, high), 95 % interval.
        calibration: |log(measured / predicted)| of rows that the prediction had not seen, sorted; empty when unknown.
        profiled: Smallest and largest width measured, per group; None when unknown.
        provenance: What was measured; None for coefficients from elsewhere.
        holdout: Held-out error when the model was judged: ``mape``, ``p95``, ``worst``, ``within_10pct``.
        samples: Rows that the coefficients were fitted to.
    """

    metric: str
    space: WidthSpace
    constant: float
    terms: tuple[Term, ...]
    reference: tuple[float, float, float]
    calibration: tuple[float, ...] = ()
    profiled: tuple[tuple[int, int], ...] | None = None
    provenance: Provenance | None = None
    holdout: Mapping[str, float] | None = None
    samples: int = 0

    def __post_init__(self) -> None:
        if self.metric not in _MEASURED:
            raise InputError(f"BilinearCost(metric=...) must be one of {', '.join(_MEASURED)}, got {self.metric!r}")
        values = (self.constant, *(term.value for term in self.terms))
        if not all(math.isfinite(value) and value >= 0 for value in values) or not sum(values) > 0:
            raise InputError("BilinearCost: coefficients must be finite, not negative and not all zero")
        value, low, high = self.reference
        if not 0 < low <= value <= high < math.inf:
            raise InputError(f"BilinearCost(reference=...) must be 0 < low ≤ value ≤ high, got {low}, {value}, {high}")
        if list(self.calibration) != sorted(self.calibration):
            raise InputError("BilinearCost(calibration=...) must be sorted")
        if self.profiled is not None and len(self.profiled) != len(self.space):
            raise InputError("BilinearCost(profiled=...) must hold one pair per group")

    @classmethod
    def chain(
        cls,
        widths: Sequence[int],
        coefficients: Sequence[float],
        *,
        constant: float = 0.0,
        metric: str = "energy",
        names: Sequence[str] | None = None,
    ) -> BilinearCost:
        """A plain chain of layers with given coefficients, as the ECC code stores them.

        Args:
            widths: Dense channels s_1 … s_{U+1}; the first and the last are fixed.
            coefficients: J (or s) of each layer at dense widths, shape (U,): a_j s_j s_{j+1}.
            constant: J (or s) at zero width.
            metric: ``energy`` or ``latency``.
            names: Of the layers, shape (U,); layer j names the group that it writes.

        Raises:
            InputError: If the lengths do not fit or a coefficient is negative.
        """
        layers = tuple(names) if names is not None else tuple(f"layer{j}" for j in range(1, len(coefficients) + 1))
        if len(coefficients) < 1 or len(widths) != len(coefficients) + 1 or len(layers) != len(coefficients):
            raise InputError("BilinearCost.chain(): U coefficients need U names and U + 1 widths")
        inner = layers[:-1]
        space = WidthSpace(inner, tuple(widths[1:-1]), (1,) * len(inner))
        groups = ((), *((name,) for name in inner), ())
        terms = tuple(
            Term(layer, (Side(((1.0, groups[j]),)), Side(((1.0, groups[j + 1]),))), float(coefficients[j]))
            for j, layer in enumerate(layers)
        )
        total = constant + sum(coefficients)
        return cls(metric, space, float(constant), terms, (total, total, total))

    @property
    def unit(self) -> str:
        """Of the values: s or J."""
        return METRICS[self.metric]

    @property
    def dense(self) -> float:
        """The dense network's measured value; the fit may differ from it by its own error."""
        return self.reference[0]

    @property
    def coefficients(self) -> dict[str, float]:
        """The constant and each term's cost at dense widths, in s or J, by name."""
        return {"constant": self.constant, **{term.name: term.value for term in self.terms}}

    @cached_property
    def _products(self) -> tuple[SumOfProducts, Tensor]:
        """The terms that cost something, and their coefficients."""
        active = [term for term in self.terms if term.value > 0]
        values = torch.tensor([term.value for term in active], dtype=torch.float64)
        return SumOfProducts(self.space, [term.sides for term in active]), values

    def __call__(self, widths: Widths | Tensor) -> Tensor:
        """The metric at widths (a mapping, or channels of shape (…, n_groups)): shape (…), float64, differentiable."""
        products, values = self._products
        total: Tensor = self.constant + products(as_vector(self.space, widths)) @ values
        return total

    def interval(self, widths: Widths | Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Prediction interval: the conformal quantile of held-out errors and the dense network's own interval.

        Both are relative and independent, so they add in quadrature on the logarithm. A model that was never judged
        knows nothing: its interval is (0, ∞).

        Raises:
            InputError: If ``level`` is not in (0, 1).
        """
        if not 0 < level < 1:
            raise InputError(f"interval(level=...) must be in (0, 1), got {level}")
        predicted = self(widths)
        if not self.calibration:
            return torch.zeros_like(predicted), torch.full_like(predicted, math.inf)
        error = conformal_quantile(self.calibration, level)
        value, low, high = self.reference
        stretch = float(stats.norm.ppf((1 + level) / 2) / stats.norm.ppf(0.975))
        below, above = (math.hypot(error, stretch * math.log(ratio)) for ratio in (value / low, high / value))
        return predicted * math.exp(-below), predicted * math.exp(above)

    def extrapolates(self, widths: Widths | Tensor) -> bool:
        """Whether any width lies outside those that were profiled, so that the interval promises nothing."""
        if self.profiled is None:
            return False
        vector = as_vector(self.space, widths)
        low, high = (torch.tensor(bound, dtype=torch.float64) for bound in zip(*self.profiled, strict=True))
        return bool(((vector < low) | (vector > high)).any())

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``from_fields`` is the inverse."""
        value: dict[str, Any] = {
            "metric": self.metric,
            "unit": self.unit,
            "space": self.space.to_json(),
            "constant": self.constant,
            "terms": [
                {"name": term.name, "value": term.value, "sides": [side.to_json() for side in term.sides]}
                for term in self.terms
            ],
            "reference": list(self.reference),
            "calibration": list(self.calibration),
            "samples": self.samples,
        }
        if self.profiled is not None:
            value["profiled"] = {"low": [low for low, _ in self.profiled], "high": [high for _, high in self.profiled]}
        if self.provenance is not None:
            value["provenance"] = self.provenance.to_json()
        if self.holdout is not None:
            value["holdout"] = dict(self.holdout)
        return value

    def save(self, path: str | Path) -> None:
        """Write the model as JSON.

        Raises:
            InputError: If the file cannot be written.
        """
        write_cost(path, "bilinear", self.to_json())

    @classmethod
    def from_fields(cls, fields: Fields) -> BilinearCost:
        """Read what ``to_json`` wrote, without trusting it.

        Raises:
            InputError: If a member is missing or impossible.
        """
        space = space_of(fields)
        terms = tuple(_term(each, space) for each in objects(fields, "terms"))
        refuse_large([term.sides for term in terms])
        if len({term.name for term in terms} | {"constant"}) != len(terms) + 1:
            raise InputError("cost model: two terms have the same name")
        value, low, high = numbers(fields, "reference", length=3)
        profiled = None
        if "profiled" in fields:
            box = fields.inner("profiled")
            lows, highs = box.wholes("low"), box.wholes("high")
            if len(lows) != len(highs):
                raise InputError("cost model: 'profiled' must hold as many lows as highs")
            profiled = tuple(zip(lows, highs, strict=True))
        holdout = fields.inner("holdout") if "holdout" in fields else None
        return cls(
            metric=metric_of(fields, _MEASURED),
            space=space,
            constant=fields.number("constant"),
            terms=terms,
            reference=(value, low, high),
            calibration=numbers(fields, "calibration"),
            profiled=profiled,
            provenance=provenance_of(fields),
            holdout=None if holdout is None else {name: holdout.number(name) for name in holdout},
            samples=fields.whole("samples"),
        )

    def __repr__(self) -> str:
        error = f", held-out MAPE {self.holdout['mape']:.1%}" if self.holdout else ""
        return f"BilinearCost({self.metric} {self.dense:.4g} {self.unit} dense, {len(self.terms)} terms{error})"


def _term(fields: Fields, space: WidthSpace) -> Term:
    sides = tuple(as_side(value, space) for value in fields.items("sides"))
    if not 0 < len(sides) <= 64:
        raise InputError(f"cost model: term {fields.text('name')!r} must have between 1 and 64 sides")
    return Term(fields.text("name"), sides, fields.number("value"))


def conformal_quantile(errors: Sequence[float], level: float) -> float:
    """The error that a new row stays below with probability ≥ ``level`` (split conformal), from sorted errors.

    Where there are too few errors for that level, a normal tail of the same mean square stands in.
    """
    rank = math.ceil((len(errors) + 1) * level)
    if rank <= len(errors):
        return errors[rank - 1]
    scale = math.sqrt(sum(error * error for error in errors) / len(errors))
    return max(errors[-1], scale * float(stats.t.ppf((1 + level) / 2, len(errors))))


def fit(table: ProfileTable, metric: str, *, noise: float = 0.03) -> BilinearCost:
    """Fit a bilinear model to all rows of a profile; ``judging.judge`` also says how good it is.

    Args:
        noise: Relative error to expect even of a row measured without noise, because no form is perfect. Rows that are
            noisier than this count less, and few rows are drawn towards a MACs-only model (``shrunken_nnls``). 0 is
            plain non-negative least squares.

    Raises:
        InputError: If the rows cannot carry a fit; see Samples.of.
    """
    return fit_samples(Samples.of(table, metric), noise=noise)


def fit_samples(samples: Samples, *, noise: float = 0.03) -> BilinearCost:
    """Fit a bilinear model to rows that are already checked."""
    products = terms_of(samples.space, samples.layers)
    evaluate = SumOfProducts(samples.space, products.factors)
    features = np.column_stack([np.ones(len(samples)), evaluate(torch.tensor(samples.widths)).numpy()])
    macs = np.concatenate([[products.fixed_macs], products.macs])
    spread = np.hypot(noise, np.nan_to_num(samples.noise))  # what the form cannot express, and what the row cannot know
    weights = np.divide(noise, spread, out=np.ones(len(samples)), where=spread > 0) if noise else np.ones(len(samples))
    shares = shrunken_nnls(features, samples.ratio, weights, macs, noise=noise)
    dense = samples.reference[0]
    low, high = samples.widths.min(axis=0), np.array(samples.space.dense)  # the dense network is always measured
    return BilinearCost(
        metric=samples.metric,
        space=samples.space,
        constant=float(shares[0]) * dense,
        terms=products.with_values(shares[1:] * dense),
        reference=samples.reference,
        profiled=tuple((int(least), int(most)) for least, most in zip(low, high, strict=True)),
        provenance=samples.provenance,
        samples=len(samples),
    )
