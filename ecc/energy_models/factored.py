r"""A sum of products times one factor per group: where kernels run faster at some widths than at others.

.. math:: E(w) = B(w)\, \exp\Bigl(\beta + \sum_k \bigl[ b_k (r_k - 1) + d_k \log r_k
          + \sum_g \bigl( m_{kg} [g \nmid w_k]\, r_k + s_{kg} [w_k < g] \bigr) \bigr]\Bigr), \qquad r_k = w_k / W_k

with each look at a width taken relative to what it is at dense width W. B is a staircase, bilinear where the rows show
no steps; the other coefficients, which may have either sign, are fitted to the logarithms of what B leaves over, each
kind of look (the misalignment to 16 channels, say, of all groups) being as important as the rows say (``pooling``).
Then B is fitted again beside them, and they beside it. A sum of non-negative products cannot say that a network takes
longer with fewer channels. Runtimes behave so where their fast kernels want multiples of some number of channels, where
narrow layers fill no vector, or where layers of fewer channels than a vector has lanes go another way, through other
layouts of their tensors.
"""

from __future__ import annotations

import math
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
from ecc.energy_models import staircase
from ecc.energy_models.bilinear import BilinearCost
from ecc.energy_models.cost_files import objects
from ecc.energy_models.fitted import FittedCost, ground_of
from ecc.energy_models.pooling import pooled
from ecc.energy_models.samples import Samples
from ecc.energy_models.staircase import StaircaseCost
from ecc.energy_models.stepped import Steps
from ecc.network.graph import WidthGraph

__all__ = ["KINDS", "Factor", "FactoredCost", "fit", "fit_samples"]

Floats = NDArray[np.float64]

KINDS = ("width", "log-width", "misaligned", "below")
"""What a factor may look at; the last two at a number of channels, their step."""

_AT_STEPS = KINDS[2:]
_STEPS = (2, 4, 8, 16, 32, 64, 128)
_LEAST_BELOW = 4  # narrower widths are looked at one by one, in their logarithm
_NOISE = 0.03  # relative error below which no row is an outlier
_HUBER, _MAD, _ROUNDS = 1.345, 1.4826, 3
_FARTHEST = 300.0  # that all factors together may move a logarithm, so that no cost overflows
_MOST_FACTORS, _LARGEST_STEP = 1 << 16, 1 << 20


@dataclass(frozen=True, slots=True)
class Factor:
    """What one look at one group's width adds to the logarithm of the cost.

    Attributes:
        group: Name of the group.
        kind: One of KINDS.
        step: Of ``misaligned``, the channels that an aligned width is a multiple of; of ``below``, those that the
            width is fewer than; 0 otherwise.
        value: The coefficient.
    """

    group: str
    kind: str
    step: int
    value: float

    @property
    def name(self) -> str:
        """For people, unique in a model."""
        what = {"misaligned": f"no multiple of {self.step}", "below": f"below {self.step}"}
        return f"factor {self.group}: {what.get(self.kind, self.kind)}"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class FactoredCost(FittedCost):
    """A sum of products times factors of single groups; see FittedCost for what it rests on.

    Attributes:
        base: The sum of products of the same rows; a bilinear one in older files.
        level: What is added to the logarithm at all widths.
        factors: Those that are not zero.
    """

    form = "factored"

    base: BilinearCost | StaircaseCost
    level: float
    factors: tuple[Factor, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        dense = dict(zip(self.space.names, self.space.dense, strict=True))
        reach = abs(self.level)
        for factor in self.factors:
            if factor.group not in dense or factor.kind not in KINDS or not 0 <= factor.step <= _LARGEST_STEP:
                raise InputError(f"FactoredCost: {factor.name!r:.80} is no factor of its groups")
            if (factor.step < 2) == (factor.kind in _AT_STEPS):
                raise InputError(f"FactoredCost: {factor.name!r:.80} has a step where it needs none, or none")
            reach += abs(factor.value) * max(1.0, math.log(dense[factor.group]))
        if not reach <= _FARTHEST:
            raise InputError(f"FactoredCost: factors must not move a cost by more than e^{_FARTHEST:.0f}")

    @property
    def coefficients(self) -> dict[str, float]:
        """Those of the sum of products, in s or J, and the factors' in logarithms, by name."""
        return {**self.base.coefficients, "level": self.level, **{each.name: each.value for each in self.factors}}

    @cached_property
    def _inputs(self) -> tuple[_Inputs, Tensor]:
        """What the factors look at, and their coefficients."""
        number = {name: i for i, name in enumerate(self.space.names)}
        looks = [(number[each.group], each.kind, each.step) for each in self.factors]
        return _Inputs(self.space, looks), torch.tensor([each.value for each in self.factors], dtype=torch.float64)

    def evaluate(self, widths: Tensor) -> Tensor:
        """The base times the factors at channels of shape (…, n_groups): shape (…).

        A width between two whole numbers is as aligned as the nearer one. The gradient is that of a group which is
        aligned as rarely as its steps say, and of an edge that is as wide as the width where it lies.
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
        inner = fields.inner("base")
        base = (StaircaseCost if "steps" in inner else BilinearCost).read(inner, ground)
        return cls(**ground, base=base, level=fields.number("level"), factors=factors)


class _Inputs:
    """What factors look at, 0 at dense widths.

    Args:
        looks: (number of the group, kind, step) of each input.
    """

    def __init__(self, space: WidthSpace, looks: Sequence[tuple[int, str, int]]) -> None:
        self._group = torch.tensor([group for group, _, _ in looks], dtype=torch.int64)
        self._dense = torch.tensor([space.dense[group] for group, _, _ in looks], dtype=torch.float64)
        self._step = torch.tensor([max(step, 1) for _, _, step in looks], dtype=torch.float64)
        self._log, self._misaligned, self._below = (
            torch.tensor([kind == each for _, kind, _ in looks], dtype=torch.bool) for each in KINDS[1:]
        )
        self._steps = self._misaligned | self._below
        rare = [1 - space.step[group] / math.lcm(space.step[group], max(step, 1)) for group, _, step in looks]
        self._rare = torch.tensor(rare, dtype=torch.float64)  # share of the admissible widths that are not aligned
        self._at_dense = self._exact(self._dense, torch.ones_like(self._dense))

    def __call__(self, widths: Tensor) -> Tensor:
        """Values at channels of shape (…, n_groups): shape (…, n_inputs), float64."""
        channels = widths.to(torch.float64)[..., self._group]
        relative = channels / self._dense
        plain = torch.where(self._log, relative.clamp_min(1e-9).log(), relative - 1)
        with torch.no_grad():
            exact = self._exact(channels, relative) - self._at_dense
        if channels.requires_grad:
            ramp = (1.5 - channels / self._step).clamp(0, 1) * self._below
            smooth = self._rare * relative * self._misaligned + ramp
            exact = exact + (smooth - smooth.detach())
        return torch.where(self._steps, exact, plain)

    def _exact(self, channels: Tensor, relative: Tensor) -> Tensor:
        """Values of the looks that have a step."""
        whole = channels.round()
        off = (whole % self._step != 0) * relative
        return torch.where(self._below, (whole < self._step).to(torch.float64), off)


def fit(table: ProfileTable, metric: str, *, robust: bool = False, steps: Steps | None = None) -> FactoredCost:
    """Fit to all rows of a profile; ``judging.judge`` also says how good it is.

    Args:
        robust: Whether rows far from what the others say count less.
        steps: Of the base, as of ``staircase.fit``: chosen from the rows if None; with {} the base is bilinear.

    Raises:
        InputError: If the rows cannot carry a fit, see Samples.of; or as of ``staircase.fit``.
    """
    return fit_samples(Samples.of(table, metric), robust=robust, steps=steps)


def fit_samples(samples: Samples, *, robust: bool = False, steps: Steps | None = None) -> FactoredCost:
    """Fit to rows that are already checked; arguments as of ``fit``."""
    base = staircase.fit_samples(samples, robust=robust, steps=steps)
    looks = _looks(samples.space)
    values = _Inputs(samples.space, looks)(torch.tensor(samples.widths)).numpy()
    _, coefficients = _pooled(samples, base, looks, values, robust=robust)
    beside = replace(samples, ratio=samples.ratio * np.exp(-values @ coefficients))
    base = staircase.fit_samples(beside, robust=robust, steps=base.steps)  # that need not make up for factors
    level, coefficients = _pooled(samples, base, looks, values, robust=robust)
    names = samples.space.names
    factors = tuple(
        Factor(names[group], kind, step, float(value))
        for (group, kind, step), value in zip(looks, coefficients, strict=True)
        if value
    )
    return FactoredCost(**ground_of(samples), base=base, level=level, factors=factors)


def _pooled(
    samples: Samples, base: StaircaseCost, looks: Sequence[tuple[int, str, int]], values: Floats, *, robust: bool
) -> tuple[float, Floats]:
    """Level and coefficients of the looks, whose values are of shape (n, n_looks), in what the base leaves over."""
    left = np.log(samples.ratio * base.dense / base.evaluate(torch.tensor(samples.widths)).numpy())
    alike = {each: number for number, each in enumerate(dict.fromkeys((kind, step) for _, kind, step in looks))}
    kinds = np.array([alike[kind, step] for _, kind, step in looks], dtype=np.int64)
    trust = np.ones(len(samples))
    level, coefficients = pooled(values, kinds, left, samples.noise, trust)
    for _ in range(_ROUNDS if robust else 0):
        beside = left - level - values @ coefficients
        beside -= np.median(beside)
        scale = max(_MAD * float(np.median(np.abs(beside))), _NOISE)
        trust = _HUBER / np.maximum(np.abs(beside) / scale, _HUBER)
        level, coefficients = pooled(values, kinds, left, samples.noise, trust)
    return level, coefficients


def _looks(space: WidthSpace) -> list[tuple[int, str, int]]:
    """All that factors may look at: (number of the group, kind, step)."""
    found: list[tuple[int, str, int]] = []
    for group, (dense, step) in enumerate(zip(space.dense, space.step, strict=True)):
        found += [(group, "width", 0), (group, "log-width", 0)]
        steps = [each for each in _STEPS if each <= dense and step % each]
        found += [(group, "misaligned", each) for each in steps]
        found += [(group, "below", each) for each in _STEPS if max(_LEAST_BELOW, step) < each <= dense]
    return found
