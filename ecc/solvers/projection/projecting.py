"""The weighted sparse projection: the nearest weights whose non-zeros cost no more than a budget.

Yang, Zhu, Liu: Energy-Constrained Compression for Deep Neural Networks via Weighted Sparse Projection and Layer Input
Masking, ICLR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.solvers.projection.greedy import Greedy
from ecc.solvers.projection.inputs import Floors, PriceList, Weights, read_weights
from ecc.solvers.projection.priced_items import Priced

__all__ = ["Projection", "project_", "weighted_sparse_projection"]

_TRIES = 10  # to balance two budgets
_TIGHT = 1e-4  # of the weighed budgets left, of which the bound is no larger a share of the profit; or two items


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Projection:
    """Weights under a budget.

    Attributes:
        values: With zeros where weights went, as they were elsewhere.
        spent: Prices of the weights kept; not above the budget.
        gap: At most so much closer, in squared distance (or in profit kept), is the best choice of weights that keeps
            budgets and floors; zero where this is one.
        kept: Weights that are not zero, per tensor.
        threshold: Profit per price of the first weight for which there was no room; zero if there was room for all.
        second_spent: Of the second budget, where there is one.
    """

    values: tuple[Tensor, ...]
    spent: float
    gap: float
    kept: tuple[int, ...]
    threshold: float
    second_spent: float | None = None

    def __repr__(self) -> str:
        total = sum(value.numel() for value in self.values)
        return f"Projection({sum(self.kept):,} of {total:,} weights, spent {self.spent:.6g}, gap {self.gap:.3g})"


def weighted_sparse_projection(
    values: Sequence[Tensor],
    prices: PriceList,
    budget: float,
    *,
    second: tuple[PriceList, float] | None = None,
    floors: Floors | None = None,
    profits: Sequence[Tensor] | None = None,
) -> Projection:
    r"""The weights nearest to ``values`` whose non-zeros cost no more than ``budget``.

    .. math:: \min_W \|W - Z\|^2 \quad\text{subject to}\quad \sum_i A_i [w_i \ne 0] \le C

    is a 0/1 knapsack: a weight is worth :math:`z_i^2`. All weights are kept, the most worth per price first, until the
    budget has no room for one; then each of the next that still fits. Equal ones go by tensor, then by their order in
    memory. What the best choice would save beyond that is at most :math:`\rho^* R`: worth per price of the first weight
    without room, times what was left of the budget there (``gap``). Weights that are zero cost nothing.

    Args:
        values: Weights, of any shapes, on one device.
        prices: Per tensor, a positive price for each weight, of the shape of the tensor (a view of one number may be
            expanded), or a ``Price`` of which the ``held`` largest take ``first``, the others ``rest``.
        budget: In the unit of the prices.
        second: Prices and budget of another cost that must hold too. Both budgets are kept; prices are weighed by one
            number, so found that both are used up if that can be.
        floors: Fewest weights to keep of a tensor; its largest are kept first, and pay first.
        profits: What each weight is worth instead of its square, of the shapes of ``values``, not negative: for
            example a loss's curvature times the square. They also rank the weights of a ``Price``.

    Raises:
        InputError: If shapes, numbers or devices are not as above, or floors cost more than a budget.
    """
    if isinstance(values, Sequence):  # else it is refused
        values = [value.detach().clone() if isinstance(value, Tensor) else value for value in values]
    return project_(values, prices, budget, second=second, floors=floors, profits=profits)


@torch.no_grad()
def project_(
    values: Sequence[Tensor],
    prices: PriceList,
    budget: float,
    *,
    second: tuple[PriceList, float] | None = None,
    floors: Floors | None = None,
    profits: Sequence[Tensor] | None = None,
) -> Projection:
    """``weighted_sparse_projection`` in place: weights that are not kept become zero in ``values``.

    Takes little memory beside them, some 4 % of many float32 weights; more where each weight has a price of its own.
    Nothing is changed before all input was found to be right.
    """
    if isinstance(values, Sequence):  # else it is refused
        _demand_own_memory(values)
    if second is not None and not (isinstance(second, tuple | list) and len(second) == 2):
        raise InputError(f"second must be (prices, budget), got {type(second).__name__}")
    offers = [(prices, budget)] if second is None else [(prices, budget), second]
    weights = read_weights(values, offers, floors, profits)
    budgets = [float(limit) for _, limit in offers]
    if len(budgets) > 1 and min(budgets) > 0:
        found, gap = _balanced(weights, budgets)
    else:
        found, gap = _greedy(weights, budgets, [1.0] * len(budgets))
    for number, weight in enumerate(weights):
        if weight.price is not None:
            weight.keep(int(found.kept[number]), found.windows.get(number, []))
        else:
            items = [item for item in found.items if isinstance(item, Priced) and item.tensor == number]
            picked = [torch.from_numpy(places) for places in found.picked.get(number, [])]
            weight.keep_priced(items[0] if items else None, found.ceilings.get(number, math.inf), picked)
    spent = found.spent()
    kept = tuple(int(count) for count in found.kept)
    return Projection(tuple(values), spent[0], gap, kept, found.density, spent[1] if len(spent) > 1 else None)


def _demand_own_memory(values: Sequence[Tensor]) -> None:
    """Each weight can be changed without changing another."""
    seen: dict[int, int] = {}
    for number, value in enumerate(values):
        if not isinstance(value, Tensor) or not value.numel() or value.is_meta or value.layout is not torch.strided:
            continue  # refused for what it is
        if any(step == 0 and size > 1 for step, size in zip(value.stride(), value.shape, strict=True)):
            raise InputError(f"values[{number}] is an expanded view, whose weights share memory; give a copy of it")
        if (other := seen.setdefault(value.data_ptr(), number)) != number:
            raise InputError(f"values[{number}] is the same memory as values[{other}]; give each tensor once")


def _greedy(weights: Sequence[Weights], budgets: Sequence[float], multipliers: Sequence[float]) -> tuple[Greedy, float]:
    """The choice and the bound on what is lost."""
    items = [item for number, weight in enumerate(weights) for item in weight.items(number, multipliers, budgets)]
    prices = [weight.price for weight in weights]
    found = Greedy(items, prices, [weight.floor for weight in weights], budgets, multipliers)
    # Where prices go by rank, the largest are among the best choice that keeps the floors. Where they do not, it may
    # keep cheaper ones: floors may then cost all by which their weights fall short of the density that others had.
    short = math.fsum(weight.shortfall(found.density, multipliers) for weight in weights if weight.forced is not None)
    return found, found.gap + short


def _balanced(weights: Sequence[Weights], budgets: Sequence[float]) -> tuple[Greedy, float]:
    """The choice with the least bound over prices of both budgets, weighed by one number.

    For any weighing the bound holds, since what keeps both budgets keeps the weighed one. The share of the second
    budget is searched between the two ends by the rule of false position (Illinois), until both run out at once.
    """

    def at(share: float) -> tuple[Greedy, float]:
        return _greedy(weights, budgets, [(1 - share) / budgets[0], share / budgets[1]])

    def excess(found: Greedy) -> float:
        return float(found.slack[0] - found.slack[1])

    low = at(0.0)
    if excess(low[0]) <= 0:  # the first budget alone decides
        return low
    high = at(1.0)
    best = min(low, high, key=lambda pair: pair[1])
    if excess(high[0]) >= 0:
        return best
    (left, more), (right, less) = (0.0, excess(low[0])), (1.0, excess(high[0]))
    side = 0
    for _ in range(_TRIES):
        share = left + (right - left) * more / (more - less)
        found = at(share)
        best = min(best, found, key=lambda pair: pair[1])
        if (1 - share) * found[0].slack[0] + share * found[0].slack[1] <= max(_TIGHT, 2 * found[0].item):
            break
        now = excess(found[0])
        if now > 0:
            left, more, less = share, now, less / 2 if side > 0 else less
            side = 1
        else:
            right, less, more = share, now, more / 2 if side < 0 else more
            side = -1
    return best
