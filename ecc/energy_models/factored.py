r"""A bilinear cost times one factor per group: where kernels run faster at some widths than at others.

.. math:: E(w) = B(w)\, \exp\Bigl(\beta + \sum_k \bigl[ b_k (r_k - 1) + d_k \log r_k
          + \sum_g m_{kg} ([g \nmid w_k]\, r_k - [g \nmid W_k]) \bigr]\Bigr), \qquad r_k = w_k / W_k

B is the bilinear model of the same rows; of the other coefficients, which may have either sign, most are zero: they are
found by the lasso (Tibshirani, 1996) on the logarithms of what B leaves over, its penalty by cross-validation within
the rows. A sum of non-negative products cannot say that a network takes longer with fewer channels. Runtimes behave so
where their fast kernels want multiples of some number of channels, or where narrow layers fill no vector.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.interactions import Interactions, maximal
from ecc.core.table import ProfileTable
from ecc.core.widths import WidthSpace
from ecc.energy_models import bilinear
from ecc.energy_models.bilinear import BilinearCost
from ecc.energy_models.cost_files import objects
from ecc.energy_models.fitted import FittedCost, ground_of
from ecc.energy_models.least_squares import row_weights
from ecc.energy_models.samples import Samples
from ecc.network.graph import WidthGraph

__all__ = ["KINDS", "Factor", "FactoredCost", "fit", "fit_samples"]

Floats = NDArray[np.float64]

KINDS = ("width", "log-width", "misaligned")
"""What a factor may look at."""

_STEPS = (2, 4, 8, 16, 32, 64, 128)
_NOISE = 0.03  # relative error to expect of any row, as in the bilinear fit
_PARTS, _PENALTIES, _WEAKEST = 5, 20, 1e-2  # of the cross-validation; penalties from the strongest that is of any use
_MOST_INPUTS = 400  # that the lasso chooses from: those that go most along with what is left over
_TIMES = 2000  # that it goes round
_HUBER, _MAD = 1.345, 1.4826
_FARTHEST = 300.0  # that all factors together may move a logarithm, so that no cost overflows
_MOST_FACTORS, _LARGEST_STEP = 1 << 16, 1 << 20


@dataclass(frozen=True, slots=True)
class Factor:
    """What one look at one group's width adds to the logarithm of the cost.

    Attributes:
        group: Name of the group.
        kind: One of KINDS.
        step: Of ``misaligned``, the channels that an aligned width is a multiple of; 0 otherwise.
        value: The coefficient.
    """

    group: str
    kind: str
    step: int
    value: float

    @property
    def name(self) -> str:
        """For people, unique in a model."""
        what = f"no multiple of {self.step}" if self.kind == "misaligned" else self.kind
        return f"factor {self.group}: {what}"


@dataclass(frozen=True, eq=False, kw_only=True)
class FactoredCost(FittedCost):
    """A bilinear model times factors of single groups; see FittedCost for what it rests on.

    Attributes:
        base: The bilinear model of the same rows.
        level: What is added to the logarithm at all widths.
        factors: Those that are not zero.
    """

    form = "factored"

    base: BilinearCost
    level: float
    factors: tuple[Factor, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        dense = dict(zip(self.space.names, self.space.dense, strict=True))
        reach = abs(self.level)
        for factor in self.factors:
            if factor.group not in dense or factor.kind not in KINDS or not 0 <= factor.step <= _LARGEST_STEP:
                raise InputError(f"FactoredCost: {factor.name!r:.80} is no factor of its groups")
            if (factor.step < 2) == (factor.kind == "misaligned"):
                raise InputError(f"FactoredCost: {factor.name!r:.80} has a step where it needs none, or none")
            reach += abs(factor.value) * max(1.0, math.log(dense[factor.group]))
        if not reach <= _FARTHEST:
            raise InputError(f"FactoredCost: factors must not move a cost by more than e^{_FARTHEST:.0f}")

    @property
    def coefficients(self) -> dict[str, float]:
        """Those of the bilinear model, in s or J, and the factors' in logarithms, by name."""
        return {**self.base.coefficients, "level": self.level, **{each.name: each.value for each in self.factors}}

    @cached_property
    def _inputs(self) -> tuple[_Inputs, Tensor]:
        """What the factors look at, and their coefficients."""
        number = {name: i for i, name in enumerate(self.space.names)}
        looks = [(number[each.group], each.kind, each.step) for each in self.factors]
        return _Inputs(self.space, looks), torch.tensor([each.value for each in self.factors], dtype=torch.float64)

    def evaluate(self, widths: Tensor) -> Tensor:
        """The base times the factors at channels of shape (…, n_groups): shape (…).

        A width between two whole numbers is as aligned as the nearer one; the gradient is that of a group which is
        aligned as rarely as its steps say.
        """
        inputs, values = self._inputs
        total: Tensor = self.base.evaluate(widths) * (self.level + inputs(widths) @ values).exp()
        return total

    @property
    def interactions(self) -> Interactions:
        """Those of the base, each with all groups that have a factor: what multiplies all terms is in each of them."""
        everywhere = {self.space.names.index(factor.group) for factor in self.factors}
        return maximal(tuple(sorted({*each, *everywhere})) for each in (*self.base.interactions, ()))

    def without(self, graph: WidthGraph, blocks: Collection[str]) -> Self:
        """As of FittedCost: the base without them, times the factors of the groups that are left."""
        left = {group.name for group in graph.without(blocks).groups}
        factors = tuple(factor for factor in self.factors if factor.group in left)
        return replace(self, base=self.base.without(graph, blocks), factors=factors)

    def members(self) -> dict[str, Any]:
        """The base and the factors."""
        factors = [
            {"group": each.group, "kind": each.kind, "step": each.step, "value": each.value} for each in self.factors
        ]
        return {"base": self.base.members(), "level": self.level, "factors": factors}

    @classmethod
    def read(cls, fields: Fields, ground: Mapping[str, Any]) -> Self:
        """The inverse of ``members``."""
        given = objects(fields, "factors")
        if len(given) > _MOST_FACTORS:
            raise InputError("cost model: has more factors than any that this program fits")
        factors = tuple(
            Factor(each.text("group"), each.text("kind"), each.whole("step"), each.number("value")) for each in given
        )
        if len({factor.name for factor in factors}) != len(factors):
            raise InputError("cost model: two factors have the same name")
        base = BilinearCost.read(fields.inner("base"), ground)
        return cls(**ground, base=base, level=fields.number("level"), factors=factors)


class _Inputs:
    """What factors look at, 0 at dense widths.

    Args:
        looks: (number of the group, kind, step) of each input.
    """

    def __init__(self, space: WidthSpace, looks: Sequence[tuple[int, str, int]]) -> None:
        self._group = torch.tensor([group for group, _, _ in looks], dtype=torch.int64)
        self._dense = torch.tensor([space.dense[group] for group, _, _ in looks], dtype=torch.float64)
        self._log = torch.tensor([kind == "log-width" for _, kind, _ in looks], dtype=torch.bool)
        self._stepped = torch.tensor([kind == "misaligned" for _, kind, _ in looks], dtype=torch.bool)
        self._step = torch.tensor([max(step, 1) for _, _, step in looks], dtype=torch.float64)
        rare = [1 - space.step[group] / math.lcm(space.step[group], max(step, 1)) for group, _, step in looks]
        self._rare = torch.tensor(rare, dtype=torch.float64)  # share of the admissible widths that are not aligned

    def __call__(self, widths: Tensor) -> Tensor:
        """Values at channels of shape (…, n_groups): shape (…, n_inputs), float64."""
        channels = widths.to(torch.float64)[..., self._group]
        relative = channels / self._dense
        plain = torch.where(self._log, relative.clamp_min(1e-9).log(), relative - 1)
        smooth = self._rare * relative
        off = (channels.detach().round() % self._step != 0).to(torch.float64)
        exact = off * relative.detach() - (self._dense % self._step != 0).to(torch.float64)
        return torch.where(self._stepped, exact + (smooth - smooth.detach()), plain)


def fit(table: ProfileTable, metric: str, *, robust: bool = False, seed: int = 0) -> FactoredCost:
    """Fit to all rows of a profile; ``judging.judge`` also says how good it is.

    Args:
        robust: Whether rows far from what the others say count less.
        seed: Of the parts in which the penalty is found.

    Raises:
        InputError: If the rows cannot carry a fit; see Samples.of.
    """
    return fit_samples(Samples.of(table, metric), robust=robust, seed=seed)


def fit_samples(samples: Samples, *, robust: bool = False, seed: int = 0) -> FactoredCost:
    """Fit to rows that are already checked; arguments as of ``fit``."""
    base = bilinear.fit_samples(samples, robust=robust)
    widths = torch.tensor(samples.widths)
    looks = _looks(samples.space)
    values = _Inputs(samples.space, looks)(widths).numpy()
    left = np.log(samples.ratio * base.dense / base.evaluate(widths).numpy())
    weights = row_weights(samples.noise, _NOISE) ** 2
    level, coefficients = _sparse(values, left, weights, _parts(samples, seed))
    if robust:
        beside = left - level - values @ coefficients
        scale = max(_MAD * float(np.median(np.abs(beside - np.median(beside)))), _NOISE)
        weights = weights * _HUBER / np.maximum(np.abs(beside - np.median(beside)) / scale, _HUBER)
        level, coefficients = _sparse(values, left, weights, _parts(samples, seed))
    names = samples.space.names
    factors = tuple(
        Factor(names[group], kind, step, float(value))
        for (group, kind, step), value in zip(looks, coefficients, strict=True)
        if value
    )
    return FactoredCost(**ground_of(samples), base=base, level=level, factors=factors)


def _looks(space: WidthSpace) -> list[tuple[int, str, int]]:
    """All that factors may look at: (number of the group, kind, step)."""
    found: list[tuple[int, str, int]] = []
    for group, (dense, step) in enumerate(zip(space.dense, space.step, strict=True)):
        found += [(group, "width", 0), (group, "log-width", 0)]
        found += [(group, "misaligned", each) for each in _STEPS if each <= dense and step % each]
    return found


def _parts(samples: Samples, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(rows to fit to, rows to look at) for each part; rows of the same widths are in the same one."""
    _, same = np.unique(samples.widths, axis=0, return_inverse=True)
    kinds = int(same.max()) + 1
    part = (np.random.default_rng(seed).permutation(kinds) % min(_PARTS, kinds))[same.reshape(-1)]
    return [(np.flatnonzero(part != each), np.flatnonzero(part == each)) for each in range(min(_PARTS, kinds))]


def _sparse(
    inputs: Floats, target: Floats, weights: Floats, parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> tuple[float, Floats]:
    """Intercept and coefficients, most of them zero: shapes (n, p), (n,) and (n,) → a number and (p,)."""
    from sklearn.exceptions import ConvergenceWarning  # here, because it takes a second
    from sklearn.linear_model import LassoCV

    share = weights / weights.sum()
    spread = np.sqrt(share @ (inputs - share @ inputs) ** 2)
    centred = target - share @ target
    found = np.zeros(inputs.shape[1])
    along = np.abs((share * centred) @ inputs) / np.where(spread > 1e-9, spread, np.inf)
    used = np.sort(np.argsort(-along, kind="stable")[:_MOST_INPUTS])
    used = used[spread[used] > 1e-9]
    strongest = float(along[used].max()) if len(used) else 0.0
    if strongest < 1e-9 or len(parts) < 2:
        return float(share @ target), found
    penalties = strongest * np.geomspace(1, _WEAKEST, _PENALTIES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of penalties so weak that they are not chosen
        lasso = LassoCV(alphas=penalties, cv=parts, max_iter=_TIMES)
        lasso.fit(inputs[:, used] / spread[used], target, sample_weight=weights)
    found[used] = lasso.coef_ / spread[used]
    return float(lasso.intercept_), found
