"""What a projection is given, checked before anything is changed, as flat tensors."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from numbers import Real
from typing import TypeAlias

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.weights import Price
from ecc.solvers.projection.cuts import clear, cut_of, marks
from ecc.solvers.projection.greedy import Items, Window
from ecc.solvers.projection.items import Ranked, native, spans, zero_others
from ecc.solvers.projection.priced_items import Priced

__all__ = ["Floors", "PriceList", "Weights", "read_weights"]

PriceList: TypeAlias = Sequence[Tensor | Price]
"""Per tensor, a price for each weight or two by rank."""

Floors: TypeAlias = Sequence[int] | Mapping[int, int]
"""Fewest weights kept, of each tensor or of some by their number."""

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_PRICE_DTYPES = (*_DTYPES, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_ROOT = math.sqrt(sys.float_info.max)  # numbers below it have a square


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """One tensor of weights, flat in the order of memory.

    Attributes:
        origin: As given.
        flat: The same memory where that is possible, else a copy.
        profits: Flat; None where they are the squares of the weights.
        price: Of its weights by rank, per budget; None where each has its own.
        each: Of each weight, per budget, flat; empty where prices go by rank.
        least: Of ``each``, per budget.
        floor: How many of the largest are kept first.
        forced: Marks these, flat; None where prices go by rank.
    """

    origin: Tensor
    flat: Tensor
    profits: Tensor | None
    price: tuple[Price, ...] | None
    each: tuple[Tensor, ...] = ()
    least: tuple[float, ...] = ()
    floor: int = 0
    forced: Tensor | None = None

    @property
    def keys(self) -> tuple[Tensor, Tensor | None]:
        """What ranks the weights, and where they are zero if that does not tell."""
        return (self.flat, None) if self.profits is None else (self.profits, self.flat)

    def items(self, number: int, multipliers: Sequence[float], budgets: Sequence[float]) -> list[Items]:
        """The weights behind the floor that a budget has room for, cheaper ones first."""
        if not len(self.flat):
            return []
        if self.price is None:
            if any(least > budget for least, budget in zip(self.least, budgets, strict=True)):
                return []
            return [
                Priced(
                    number,
                    self.flat,
                    self.each,
                    tuple(multipliers),
                    tuple(budgets),
                    self.least,
                    profits=self.profits,
                    forced=self.forced,
                )
            ]
        found: list[Items] = []
        steps = {price.held for price in self.price if price.first < price.rest and self.floor < price.held}
        for first, last in pairwise(
            [self.floor, *sorted(step for step in steps if step < len(self.flat)), len(self.flat)]
        ):
            prices = tuple(price.first if first < price.held else price.rest for price in self.price)
            if any(price > budget for price, budget in zip(prices, budgets, strict=True)):
                break
            combined = math.fsum(price * multiplier for price, multiplier in zip(prices, multipliers, strict=True))
            found.append(Ranked(number, *self.keys, prices, combined, first, last, square=self.profits is None))
        return found

    def cost_of_floor(self) -> tuple[float, ...]:
        """Per budget."""
        if self.price is not None:
            return tuple(price.of(self.floor) for price in self.price)
        if self.forced is None:
            return (0.0,) * len(self.each)
        return tuple(float(each[self.forced].double().sum()) for each in self.each)

    def shortfall(self, density: float, multipliers: Sequence[float]) -> float:
        """By how much the profits of floors are below such a density, summed; of weights that have a price each."""
        if self.forced is None or not density:
            return 0.0
        places = self.forced.nonzero().flatten()
        profits = self.flat[places].double().square() if self.profits is None else self.profits[places].double()
        for each, multiplier in zip(self.each, multipliers, strict=True):
            profits = profits - density * multiplier * each[places].double()
        return -float(profits.clamp(max=0).sum())

    def keep(self, count: int, windows: Sequence[Window]) -> None:
        """Zero all but the largest; of weights with prices by rank."""
        clear(self.flat, cut_of(count, *self.keys, windows), self.profits)
        self._return()

    def keep_priced(self, items: Priced | None, ceiling: float, picked: Sequence[Tensor]) -> None:
        """Zero all but those of a density and some more; of weights that have a price each."""
        if items is None:
            self.flat.zero_()
        else:
            more = torch.zeros(len(self.flat), dtype=torch.bool, device=self.flat.device)
            for places in picked:
                more[places.to(more.device)] = True
            for span in spans(self.flat):
                density, _ = items.read(span)
                zero_others(self.flat[span], (native(density) >= ceiling) | native(more[span]))
        self._return()

    def _return(self) -> None:
        if self.flat.data_ptr() != self.origin.data_ptr():
            self.origin.copy_(self.flat.view(self.origin.shape))


def read_weights(
    values: Sequence[Tensor],
    offers: Sequence[tuple[PriceList, float]],
    floors: Floors | None,
    profits: Sequence[Tensor] | None,
) -> list[Weights]:
    """The tensors with the prices of each budget in ``offers``.

    Raises:
        InputError: If shapes, numbers or devices do not fit, or floors cost more than a budget.
    """
    _demand_tensors("values", values)
    for _, budget in offers:
        if not _is_amount(budget):
            raise InputError(f"budget must be a number of 0 or more, got {budget!r:.80}")
    lists = [prices for prices, _ in offers]
    for prices in lists:
        _demand_prices(values, prices)
    if profits is not None:
        _demand_tensors("profits", profits)
        _demand_alike("profits", values, profits)
    ranges = _demand_finite("values", values)
    if profits is None:
        worth = {
            number: max(-low, high) ** 2 if max(-low, high) < _ROOT else math.inf for number, (low, high) in ranges
        }
    else:
        ranges = _demand_finite("profits", profits)
        for number, (low, _) in ranges:
            if low < 0:
                raise InputError(f"profits[{number}] holds {low:g}; give what weights are worth, 0 or more")
        worth = {number: high for number, (_, high) in ranges}
    numbers = _floors(values, floors)
    found = [
        _weights(number, value, [prices[number] for prices in lists], None if profits is None else profits[number])
        for number, value in enumerate(values)
    ]
    _demand_densities(found, worth, [budget for _, budget in offers])
    found = [_with_floor(weights, floor) for weights, floor in zip(found, numbers, strict=True)]
    for place, (_, budget) in enumerate(offers):
        needed = math.fsum(weights.cost_of_floor()[place] for weights in found)
        if needed > budget:
            raise InputError(
                f"the floors alone cost {needed:.6g} and the budget is {budget:.6g}; lower floors or raise the budget"
            )
    return found


def _is_amount(given: object) -> bool:
    """Whether it is a finite number of 0 or more, of NumPy too."""
    if isinstance(given, bool) or not isinstance(given, Real):
        return False
    try:
        return 0 <= float(given) < math.inf
    except OverflowError:  # of a whole number
        return False


def _demand_list(name: str, given: object) -> None:
    if not isinstance(given, Sequence):  # a tensor is none
        raise InputError(f"{name} must be a list with one entry per tensor, got {type(given).__name__}")


def _demand_tensors(name: str, tensors: Sequence[Tensor]) -> None:
    _demand_list(name, tensors)
    for number, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise InputError(f"{name}[{number}] must be a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in _DTYPES or tensor.layout is not torch.strided or tensor.is_meta:
            raise InputError(
                f"{name}[{number}] must be a dense tensor of float32, float64, bfloat16 or float16, "
                f"got {tensor.dtype} on {tensor.device}"
            )
        if tensor.device != tensors[0].device:
            raise InputError(f"{name} must be on one device, got {tensors[0].device} and, at {number}, {tensor.device}")


def _demand_alike(name: str, values: Sequence[Tensor], others: Sequence[Tensor | Price]) -> None:
    if len(others) != len(values):
        raise InputError(f"{name} must be as many as values, {len(values)}, got {len(others)}")
    for number, (value, other) in enumerate(zip(values, others, strict=True)):
        if isinstance(other, Price):
            continue
        if other.shape != value.shape:
            raise InputError(
                f"{name}[{number}] has shape {tuple(other.shape)} and values[{number}] {tuple(value.shape)}; "
                f"they must be equal"
            )
        if other.device != value.device:
            raise InputError(f"{name}[{number}] is on {other.device} and the values on {value.device}; move one")


def _demand_prices(values: Sequence[Tensor], prices: PriceList) -> None:
    _demand_list("prices", prices)
    for number, price in enumerate(prices):
        if not isinstance(price, Tensor | Price):
            raise InputError(f"prices[{number}] must be a tensor or a Price, got {type(price).__name__}")
        if isinstance(price, Tensor) and (price.dtype not in _PRICE_DTYPES or price.layout is not torch.strided):
            raise InputError(
                f"prices[{number}] must be a dense tensor of floating-point or whole numbers, "
                f"got {price.dtype}, {price.layout}"
            )
    _demand_alike("prices", values, prices)


def _demand_finite(name: str, tensors: Sequence[Tensor]) -> list[tuple[int, tuple[float, float]]]:
    """Their ranges."""
    found = _ranges(tensors)
    for number, (low, high) in found:
        if not math.isfinite(low) or not math.isfinite(high):
            raise InputError(f"{name}[{number}] holds NaN or infinity; give finite numbers")
    return found


def _demand_densities(found: Sequence[Weights], worth: Mapping[int, float], budgets: Sequence[float]) -> None:
    """Refuse what is worth more per price than a float can say: infinite densities are in no order.

    Args:
        worth: The largest profit of each tensor that is not empty.
    """
    for number, most in worth.items():
        weights = found[number]
        least = weights.least if weights.price is None else [price.first for price in weights.price]
        for price, budget in zip(least, budgets, strict=True):
            share = price / max(budget, 1.0) if len(budgets) > 1 else price  # two prices are weighed by their budgets
            if not share > 0 or not most / share < math.inf:
                raise InputError(
                    f"values[{number}] are worth up to {most:g} at a price of {price:g}, more per price than float64 "
                    "holds; scale weights or prices"
                )


def _ranges(tensors: Sequence[Tensor]) -> list[tuple[int, tuple[float, float]]]:
    """Number, least and largest of each tensor that is not empty; NaN where one is; one copy from an accelerator."""
    full = [(number, tensor.detach()) for number, tensor in enumerate(tensors) if tensor.numel()]
    if not full:
        return []
    ends = torch.stack([torch.stack(torch.aminmax(tensor)).double() for _, tensor in full]).tolist()
    return [(number, (low, high)) for (number, _), (low, high) in zip(full, ends, strict=True)]


def _floors(values: Sequence[Tensor], floors: Floors | None) -> list[int]:
    """One per tensor."""
    if floors is None:
        return [0] * len(values)
    if not isinstance(floors, Sequence | Mapping):
        raise InputError(f"floors must be a list or a mapping of whole numbers, got {type(floors).__name__}")
    if isinstance(floors, Mapping):
        if unknown := [number for number in floors if number not in range(len(values))]:
            raise InputError(f"floors name tensor {unknown[0]!r:.80}; there are {len(values)}, from 0")
        floors = [floors.get(number, 0) for number in range(len(values))]
    if len(floors) != len(values):
        raise InputError(f"floors must be as many as values, {len(values)}, got {len(floors)}")
    for number, (floor, value) in enumerate(zip(floors, values, strict=True)):
        if isinstance(floor, bool) or not isinstance(floor, int) or not 0 <= floor <= value.numel():
            raise InputError(
                f"floors[{number}] must be a whole number from 0 to the {value.numel()} weights of the tensor, "
                f"got {floor!r:.80}"
            )
    return list(floors)


def _weights(number: int, value: Tensor, prices: Sequence[Tensor | Price], profits: Tensor | None) -> Weights:
    """Without its floor."""
    order = sorted(range(value.ndim), key=value.stride, reverse=True)
    if not value.permute(order).is_contiguous():
        order = list(range(value.ndim))

    def flat(tensor: Tensor) -> Tensor:
        return tensor.detach().permute(order).contiguous().view(-1)

    offers = [price if isinstance(price, Price) else _uniform(number, price) for price in prices]
    worth = None if profits is None else flat(profits)
    if ranked := tuple(price for price in offers if isinstance(price, Price)):
        if len(ranked) == len(offers):
            return Weights(value.detach(), flat(value), worth, ranked)
        if any(price.first < price.rest for price in ranked):
            raise InputError(
                f"prices[{number}] go by rank for one budget and by weight for the other; give both in the same way"
            )
    each = [
        offer.detach().permute(order).reshape(-1)
        if isinstance(offer, Tensor)
        else torch.tensor(offer.first, dtype=torch.float64, device=value.device).expand(value.numel())
        for offer in offers
    ]
    return Weights(value.detach(), flat(value), worth, None, tuple(each), tuple(float(one.min()) for one in each))


def _uniform(number: int, prices: Tensor) -> Tensor | Price:
    """A single price where all are equal; else the prices as they are."""
    one = prices.numel() > 0 and all(
        step == 0 or size == 1 for step, size in zip(prices.stride(), prices.shape, strict=True)
    )
    ranges = _ranges([prices[(0,) * prices.ndim] if one else prices])
    if not ranges:
        return Price(1.0, 1.0)
    low, high = ranges[0][1]
    if not 0 < low <= high < math.inf:  # NaN is refused too
        wrong = low if not low > 0 else high
        raise InputError(f"prices[{number}] holds {wrong:g}; prices must be positive and finite")
    return Price(low, low) if low == high else prices


def _with_floor(weights: Weights, floor: int) -> Weights:
    """With so many weights kept first, or all that are not zero."""
    if not floor:
        return weights
    floor = min(floor, int(torch.count_nonzero(weights.flat)))
    if weights.price is not None:
        return replace(weights, floor=floor)
    forced = marks(weights.flat, cut_of(floor, *weights.keys), weights.profits)
    return replace(weights, floor=floor, forced=forced)
