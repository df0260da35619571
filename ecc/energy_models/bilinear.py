r"""The bilinear cost model of ECC (Yang, Zhu, Liu: CVPR 2019), on the real graph.

.. math:: E(w) = c + \sum_j a_j\, r_j(w)\, s_j(w), \qquad c, a_j \ge 0

with r and s the kept fractions of what layer j reads and writes, and one linear term per distinct side. Coefficients
are non-negative least squares of the *logarithm* of ratios to the dense network, so that neither the unit nor the size
of the network matters; the dense network's own value turns ratios into seconds or joules.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.interactions import Interactions, product_interactions, summands
from ecc.core.layers import Side, SumOfProducts
from ecc.core.table import ProfileTable
from ecc.core.widths import WidthSpace
from ecc.energy_models.cost_files import as_side, objects, refuse_large
from ecc.energy_models.fitted import FittedCost, ground_of
from ecc.energy_models.least_squares import check_strengths, row_weights, shrunken_nnls
from ecc.energy_models.samples import Samples
from ecc.energy_models.terms import Term, TermSet, products_of, shares_left, terms_of
from ecc.network.graph import WidthGraph

__all__ = ["BilinearCost", "fit", "fit_macs", "fit_samples"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class BilinearCost(FittedCost):
    """A metric as constant + Σ coefficient × product of sides; see FittedCost for what it rests on.

    Attributes:
        constant: What remains at zero width, in s or J.
        terms: Products and their coefficients, in s or J at dense widths.
    """

    form = "bilinear"

    constant: float
    terms: tuple[Term[Side], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        values = (self.constant, *(term.value for term in self.terms))
        if not all(math.isfinite(value) and value >= 0 for value in values) or not sum(values) > 0:
            raise InputError("BilinearCost: coefficients must be finite, not negative and not all zero")

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
        return cls(metric=metric, space=space, reference=(total, total, total), constant=float(constant), terms=terms)

    @property
    def coefficients(self) -> dict[str, float]:
        """The constant and each term's cost at dense widths, in s or J, by name."""
        return {"constant": self.constant, **{term.name: term.value for term in self.terms}}

    @cached_property
    def active_terms(self) -> tuple[Term[Side], ...]:
        """The terms that cost something."""
        return tuple(term for term in self.terms if term.value > 0)

    def active_products(self, widths: Tensor) -> Tensor:
        """The products of those terms at channels of shape (…, n_groups), 1 when dense: shape (…, n_active)."""
        products, _ = self._products
        return products(widths)

    @cached_property
    def _products(self) -> tuple[SumOfProducts, Tensor]:
        """The products of the active terms, and their coefficients."""
        values = torch.tensor([term.value for term in self.active_terms], dtype=torch.float64)
        return SumOfProducts(self.space, [term.sides for term in self.active_terms]), values

    def evaluate(self, widths: Tensor) -> Tensor:
        """Constant and terms at channels of shape (…, n_groups): shape (…)."""
        products, values = self._products
        total: Tensor = self.constant + products(widths) @ values
        return total

    @property
    def interactions(self) -> Interactions:
        """Groups that share a product: it is a sum of products of the parts of its sides."""
        products = ([summands(side) for side in term.sides] for term in self.active_terms)
        return product_interactions(self.space, products)

    def without(self, graph: WidthGraph, blocks: Collection[str]) -> Self:
        """As of FittedCost: terms count by the share of the layers that are left of those they are of."""
        left = {layer.name for layer in graph.without(blocks).layers}
        shares = shares_left(partial(products_of, self.space), graph.layers, left)
        return replace(
            self, terms=tuple(replace(term, value=term.value * shares.get(term.sides, 1.0)) for term in self.terms)
        )

    def members(self) -> dict[str, Any]:
        """The constant and the terms."""
        return {
            "constant": self.constant,
            "terms": [
                {"name": term.name, "value": term.value, "sides": [side.to_json() for side in term.sides]}
                for term in self.terms
            ],
        }

    @classmethod
    def read(cls, fields: Fields, ground: Mapping[str, Any]) -> Self:
        """The inverse of ``members``."""
        terms = tuple(_term(each, ground["space"]) for each in objects(fields, "terms"))
        refuse_large([term.sides for term in terms])
        if len({term.name for term in terms} | {"constant"}) != len(terms) + 1:
            raise InputError("cost model: two terms have the same name")
        return cls(**ground, constant=fields.number("constant"), terms=terms)


def _term(fields: Fields, space: WidthSpace) -> Term[Side]:
    sides = tuple(as_side(value, space) for value in fields.items("sides"))
    if not 0 < len(sides) <= 64:
        raise InputError(f"cost model: term {fields.text('name')!r} must have between 1 and 64 sides")
    return Term(fields.text("name"), sides, fields.number("value"))


def fit(
    table: ProfileTable, metric: str, *, noise: float = 0.03, ridge: float = 1.0, robust: bool = False
) -> BilinearCost:
    """Fit a bilinear model to all rows of a profile; ``judging.judge`` also says how good it is.

    Args:
        noise: Relative error to expect even of a row measured without noise, because no form is perfect. Rows that are
            noisier than this count less, and few rows are drawn towards a MACs-only model (``shrunken_nnls``). 0 is
            plain non-negative least squares.
        ridge: Strength of that pull; 1 is what the noise says, 0 is none, more holds coefficients nearer to MACs.
        robust: Whether rows far from what the others say count less, up to nothing (``robust_weights``).

    Raises:
        InputError: If the rows cannot carry a fit, see Samples.of; or if an argument is negative or not finite.
    """
    return fit_samples(Samples.of(table, metric), noise=noise, ridge=ridge, robust=robust)


def fit_samples(samples: Samples, *, noise: float = 0.03, ridge: float = 1.0, robust: bool = False) -> BilinearCost:
    """Fit a bilinear model to rows that are already checked; arguments as of ``fit``."""
    check_strengths(noise, ridge)
    products, features, macs = _columns(samples)
    weights = row_weights(samples.noise, noise)
    shares = shrunken_nnls(features, samples.ratio, weights, macs, noise=noise, ridge=ridge, robust=robust)
    return _made(samples, products, shares)


def fit_macs(samples: Samples, *, noise: float = 0.03, robust: bool = False) -> BilinearCost:
    """Fit a constant and one price per MAC: what a model must beat to be worth its name, and all that few rows carry.

    Every term of the bilinear model has its MACs' share of that price, so it is read and written as one.
    """
    check_strengths(noise, 0.0)
    products, features, macs = _columns(samples)
    of_all = macs / max(macs.sum(), 1.0)
    base, slope = shrunken_nnls(
        np.column_stack([features[:, 0], features @ of_all]),
        samples.ratio,
        row_weights(samples.noise, noise),
        np.array([0.0, 1.0]),
        noise=noise,
        ridge=0.0,
        robust=robust,
        dense=np.array([1.0, of_all.sum()]),
    )
    shares = slope * of_all
    shares[0] += base
    return _made(samples, products, shares)


def _columns(samples: Samples) -> tuple[TermSet[Side], Floats, Floats]:
    """The products, their values in the rows behind a column of ones, and the MACs of each column."""
    products = terms_of(samples.space, samples.layers)
    evaluate = SumOfProducts(samples.space, products.factors)
    features = np.column_stack([np.ones(len(samples)), evaluate(torch.tensor(samples.widths)).numpy()])
    return products, features, np.concatenate([[products.fixed_macs], products.macs])


def _made(samples: Samples, products: TermSet[Side], shares: Floats) -> BilinearCost:
    """The model whose columns cost these shares of the dense network."""
    dense = samples.reference[0]
    return BilinearCost(
        **ground_of(samples), constant=float(shares[0]) * dense, terms=products.with_values(shares[1:] * dense)
    )
