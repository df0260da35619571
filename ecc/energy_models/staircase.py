r"""The staircase cost model: the bilinear form on hardware that works in tiles.

.. math:: E(w) = c + \sum_j a_j\, \frac{\lceil r_j / g \rceil}{\lceil R_j / g \rceil}\,
          \frac{\lceil s_j / h \rceil}{\lceil S_j / h \rceil}, \qquad c, a_j \ge 0

with r_j of R_j positions that layer j reads, s_j of S_j that it writes, tiles of g and h positions that are chosen per
kind of layer (``step_choice``; 1 is no tiles), linear terms as in the bilinear form, and linear terms of ragged sides
(``stepped``). On an output-stationary systolic array with the right tiles the form is exact. The value is the
staircase; its gradient, which would be zero nearly everywhere, is that of the chords between the edges of its steps.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ecc.core.cost import as_vector
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.interactions import Interactions, product_interactions, summands
from ecc.core.table import ProfileTable
from ecc.core.widths import Widths, WidthSpace
from ecc.energy_models.cost_files import as_side, objects, refuse_large
from ecc.energy_models.fitted import FittedCost, ground_of
from ecc.energy_models.least_squares import check_strengths, row_weights, shrunken_nnls
from ecc.energy_models.samples import Samples
from ecc.energy_models.step_choice import choose_steps
from ecc.energy_models.stepped import SteppedProducts, SteppedSide, Steps, products_of, stepped_terms
from ecc.energy_models.terms import Term, shares_left
from ecc.network.graph import WidthGraph

__all__ = ["StaircaseCost", "fit", "fit_samples"]

_MOST_KINDS = 64
_LARGEST_STEP = 1 << 20
_MOST_POSITIONS = 1 << 31


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class StaircaseCost(FittedCost):
    """A metric as constant + Σ coefficient × product of stepped sides; see FittedCost for what it rests on.

    Attributes:
        constant: What remains at zero width, in s or J.
        terms: Products and their coefficients, in s or J at dense widths; of ragged sides, at nearly dense ones.
        steps: Per kind of layer, positions per tile along what it reads and what it writes, and positions whose
            multiples are not ragged; kinds without any are left out.
    """

    form = "staircase"

    constant: float
    terms: tuple[Term[SteppedSide], ...]
    steps: Steps

    def __post_init__(self) -> None:
        super().__post_init__()
        values = (self.constant, *(term.value for term in self.terms))
        if not all(math.isfinite(value) and value >= 0 for value in values) or not sum(values) > 0:
            raise InputError("StaircaseCost: coefficients must be finite, not negative and not all zero")

    @property
    def coefficients(self) -> dict[str, float]:
        """The constant and each term's cost at dense widths, in s or J, by name; 0 for ragged sides that are whole."""
        at_dense = SteppedProducts(self.space, [term.sides for term in self.terms]).dense.tolist()
        costs = {term.name: term.value * share for term, share in zip(self.terms, at_dense, strict=True)}
        return {"constant": self.constant, **costs}

    @cached_property
    def active_terms(self) -> tuple[Term[SteppedSide], ...]:
        """The terms that cost something."""
        return tuple(term for term in self.terms if term.value > 0)

    def active_products(self, widths: Tensor) -> Tensor:
        """The products of those terms at channels of shape (…, n_groups), 1 when dense: shape (…, n_active)."""
        products, _ = self._products
        return products.exact(widths)

    @cached_property
    def _products(self) -> tuple[SteppedProducts, Tensor]:
        """The products of the active terms, and their coefficients."""
        values = torch.tensor([term.value for term in self.active_terms], dtype=torch.float64)
        return SteppedProducts(self.space, [term.sides for term in self.active_terms]), values

    def evaluate(self, widths: Tensor) -> Tensor:
        """The staircase at channels of shape (…, n_groups): shape (…), float64; its gradient is that of ``smooth``."""
        products, values = self._products
        with torch.no_grad():
            total: Tensor = self.constant + products.exact(widths) @ values
        if not (torch.is_grad_enabled() and widths.requires_grad):
            return total
        smooth = products.smooth(widths) @ values
        return total + (smooth - smooth.detach())  # the difference is exactly 0

    def smooth(self, widths: Widths | Tensor) -> Tensor:
        """The stand-in without steps, at widths as of a call: shape (…), float64, continuous and differentiable.

        Equal to the value where every side is whole tiles, and at the dense widths.
        """
        products, values = self._products
        total: Tensor = self.constant + products.smooth(as_vector(self.space, widths)) @ values
        return total

    @property
    def interactions(self) -> Interactions:
        """Groups that share a product, of which a side in tiles is one factor: it rounds the sum of its parts."""
        products = ([_summands(each) for each in term.sides] for term in self.active_terms)
        return product_interactions(self.space, products)

    def without(self, graph: WidthGraph, blocks: Collection[str]) -> Self:
        """As of FittedCost: terms count by the share of the layers that are left of those they are of."""
        left = {layer.name for layer in graph.without(blocks).layers}
        shares = shares_left(partial(products_of, self.space, steps=self.steps), graph.layers, left)
        return replace(
            self, terms=tuple(replace(term, value=term.value * shares.get(term.sides, 1.0)) for term in self.terms)
        )

    def members(self) -> dict[str, Any]:
        """The constant, the steps and the terms."""
        return {
            "constant": self.constant,
            "steps": {kind: list(triple) for kind, triple in self.steps.items()},
            "terms": [
                {
                    "name": term.name,
                    "value": term.value,
                    "sides": [
                        {
                            "parts": each.side.to_json(),
                            "positions": each.positions,
                            "step": each.step,
                            "ragged": each.ragged,
                        }
                        for each in term.sides
                    ],
                }
                for term in self.terms
            ],
        }

    @classmethod
    def read(cls, fields: Fields, ground: Mapping[str, Any]) -> Self:
        """The inverse of ``members``."""
        terms = tuple(_term(each, ground["space"]) for each in objects(fields, "terms"))
        refuse_large([[each.side for each in term.sides] for term in terms])
        if len({term.name for term in terms} | {"constant"}) != len(terms) + 1:
            raise InputError("cost model: two terms have the same name")
        return cls(**ground, constant=fields.number("constant"), terms=terms, steps=_steps(fields.inner("steps")))


def _steps(fields: Fields) -> Steps:
    steps: dict[str, tuple[int, int, int]] = {}
    for kind in fields:
        triple = fields.wholes(kind, 1)
        if len(triple) != 3 or max(triple) > _LARGEST_STEP or len(steps) >= _MOST_KINDS:
            raise InputError(f"cost model: the steps of kind {kind!r:.80} must be three whole numbers of sensible size")
        steps[kind] = (triple[0], triple[1], triple[2])
    return MappingProxyType(steps)


def _term(fields: Fields, space: WidthSpace) -> Term[SteppedSide]:
    sides = tuple(_side(Fields(value, "cost model: a side"), space) for value in fields.items("sides"))
    if not 0 < len(sides) <= 64:
        raise InputError(f"cost model: term {fields.text('name')!r} must have between 1 and 64 sides")
    return Term(fields.text("name"), sides, fields.number("value"))


def _side(fields: Fields, space: WidthSpace) -> SteppedSide:
    positions, step = fields.whole("positions"), fields.whole("step", 1)
    ragged = bool(fields.optional_flag("ragged"))
    least = step + (not ragged) if step > 1 else 0
    if positions > _MOST_POSITIONS or step > _LARGEST_STEP or positions < least or (ragged and step == 1):
        raise InputError(f"cost model: a side of {positions} positions cannot have steps of {step}")
    return SteppedSide(as_side(fields.items("parts"), space), positions, step, ragged)


def _summands(factor: SteppedSide) -> list[tuple[str, ...]]:
    """The groups of each part of a side that is their sum, all groups together of one that is rounded as a whole."""
    return summands(factor.side) if factor.step == 1 else [tuple(sorted(factor.side.groups))]


def fit(
    table: ProfileTable,
    metric: str,
    *,
    noise: float = 0.03,
    ridge: float = 1.0,
    robust: bool = False,
    steps: Steps | None = None,
) -> StaircaseCost:
    """Fit a staircase model to all rows of a profile; ``judging.judge`` also says how good it is.

    Args:
        noise: Relative error to expect even of a row measured without noise; as of ``bilinear.fit``, as are ``ridge``
            and ``robust``.
        steps: Per kind of layer, positions per tile along what it reads and what it writes, and positions whose
            multiples are not ragged, 1 for none; chosen from the rows if None. With {} the model is the bilinear one.

    Raises:
        InputError: If the rows cannot carry a fit, see Samples.of; or if an argument is negative or not finite.
    """
    return fit_samples(Samples.of(table, metric), noise=noise, ridge=ridge, robust=robust, steps=steps)


def fit_samples(
    samples: Samples, *, noise: float = 0.03, ridge: float = 1.0, robust: bool = False, steps: Steps | None = None
) -> StaircaseCost:
    """Fit a staircase model to rows that are already checked; arguments as of ``fit``."""
    check_strengths(noise, ridge)
    if steps is None:
        steps = choose_steps(samples, noise=noise, ridge=ridge, robust=robust)
    _check_steps(steps, samples)
    products = stepped_terms(samples.space, samples.layers, steps)
    evaluate = SteppedProducts(samples.space, products.factors)
    features = np.column_stack([np.ones(len(samples)), evaluate.exact(torch.tensor(samples.widths)).numpy()])
    macs = np.concatenate([[products.fixed_macs], products.macs])
    weights, at_dense = row_weights(samples.noise, noise), np.append(1.0, evaluate.dense.numpy())
    shares = shrunken_nnls(
        features, samples.ratio, weights, macs, noise=noise, ridge=ridge, robust=robust, dense=at_dense
    )
    dense = samples.reference[0]
    return StaircaseCost(
        **ground_of(samples),
        constant=float(shares[0]) * dense,
        terms=products.with_values(shares[1:] * dense),
        steps=MappingProxyType({kind: triple for kind, triple in steps.items() if max(triple) > 1}),
    )


def _check_steps(steps: Steps, samples: Samples) -> None:
    kinds = {layer.kind for layer in samples.layers}
    for kind, triple in steps.items():
        if kind not in kinds:
            raise InputError(
                f"fit(steps=...): the network has no layer of kind {kind!r}, only {', '.join(sorted(kinds))}"
            )
        if len(triple) != 3 or not all(isinstance(step, int) and 1 <= step <= _LARGEST_STEP for step in triple):
            raise InputError(
                f"fit(steps=...): kind {kind!r} needs three whole numbers ≥ 1 (reads, writes, ragged), got {triple}"
            )
