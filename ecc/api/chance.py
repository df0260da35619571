"""Chance constraints: a budget set on the upper end of what a cost model predicts, instead of on its middle."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from scipy import stats
from torch import Tensor

from ecc.core.cost import CostModel, Decomposable
from ecc.core.errors import InputError
from ecc.core.interactions import Interactions
from ecc.core.widths import Widths, WidthSpace
from ecc.energy_models.depth import cost_without
from ecc.energy_models.derived import Derived
from ecc.network.graph import WidthGraph

__all__ = ["StretchedCost", "UpperCost", "demand_chance", "deviations", "upper"]


def demand_chance(chance: float | None) -> None:
    """Refuse a probability that is none, or no more than that of the plain budget.

    Raises:
        InputError: If so.
    """
    if chance is not None and not 0.5 <= chance < 1:
        raise InputError(f"chance must be a probability from 0.5 to below 1 that a budget holds, got {chance:g}")


def deviations(chance: float | None) -> float:
    """Standard deviations above the mean below which a normal value is with that probability; 0 without one."""
    return 0.0 if chance is None else float(stats.norm.ppf(chance))


@dataclass(frozen=True, eq=False)
class UpperCost(Derived):
    """The value that a cost stays below with a given probability: the upper end of its prediction interval.

    Attributes:
        cost: What it is the upper end of.
        chance: One-sided level, in (0.5, 1).

    Raises:
        InputError: If the cost has no finite interval.
    """

    chance: float

    def __post_init__(self) -> None:
        demand_chance(self.chance)
        if not math.isfinite(float(self(self.space.full))):
            raise InputError(
                f"the cost model of {self.metric} promises no interval, so no budget can be kept with a chance of "
                f"{self.chance:g}: judge it on a profile with ecc fit, or leave the chance out"
            )

    @property
    def space(self) -> WidthSpace:
        """As of the cost."""
        return self.cost.space

    def __call__(self, widths: Widths | Tensor) -> Tensor:
        """The upper end at widths (a mapping, or channels of shape (…, n_groups)): shape (…), differentiable."""
        if self.chance == 0.5:
            return self.cost(widths)
        return self.cost.interval(widths, 2 * self.chance - 1)[1]

    def interval(self, widths: Widths | Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """As of the cost."""
        return self.cost.interval(widths, level)

    def without(self, graph: WidthGraph, blocks: Collection[str]) -> UpperCost:
        """The upper end of the cost without some residual blocks.

        Raises:
            InputError: If the cost cannot say what they cost.
        """
        return replace(self, cost=cost_without(self.cost, graph, blocks))


@dataclass(frozen=True, eq=False)
class StretchedCost(UpperCost):
    """An upper end that is the cost times one factor at all widths, so that it falls into the same parts."""

    @property
    def interactions(self) -> Interactions:
        """As of the cost.

        Raises:
            TypeError: If the cost has none; ``upper`` makes no such object.
        """
        if not isinstance(self.cost, Decomposable):
            raise TypeError(f"{type(self.cost).__name__} is no sum of parts")
        return self.cost.interactions


def upper(cost: CostModel, chance: float | None) -> CostModel:
    """The cost's upper end with that chance; the cost itself where it is exact or no chance is asked for.

    Raises:
        InputError: If the cost has no finite interval.
    """
    if chance is None or cost.exact:
        return cost
    found = UpperCost(cost, chance)
    ends = torch.tensor([cost.space.dense, cost.space.step], dtype=torch.float64)
    with torch.no_grad():
        dense, least = (found(ends) / cost(ends)).tolist()
    alike = math.isclose(dense, least, rel_tol=1e-9)
    return StretchedCost(cost, chance) if alike and isinstance(cost, Decomposable) else found
