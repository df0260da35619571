"""Weights as items of a knapsack: what ranks them and what they cost, read in chunks.

An item is a weight that is not zero; its density is its profit over its price. ``Ranked`` are items of one tensor that
cost the same, so that their keys (magnitudes, or profits) order them and a density is a threshold on keys. They are
counted above a density and collected between two; what is collected is of the same class, and says how many are larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["BITS", "Floats", "Group", "Ranked", "buffer_for", "count_of", "joined", "native", "spans", "zero_others"]

Native: TypeAlias = Any
"""A NumPy array on the processor, where its comparisons are vectorised and torch's are not; a tensor elsewhere."""

Floats: TypeAlias = NDArray[np.float64]

_CHUNK = 1 << 16  # elements that are worked on at once: they stay in the cache, and masks in memory that is reused
_DEVICE_CHUNK = 1 << 26  # elsewhere, where only memory counts
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size of an element
_STEPS = 4  # numbers to look at one by one before bisecting


def native(values: Tensor) -> Native:
    """The same memory, as it is worked on the fastest."""
    return values.numpy() if values.device.type == "cpu" else values


def spans(values: Tensor) -> Iterator[slice]:
    """The chunks of a flat tensor, in order."""
    size = _CHUNK if values.device.type == "cpu" else _DEVICE_CHUNK
    for start in range(0, values.numel(), size):
        yield slice(start, min(start + size, values.numel()))


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Items on the host, largest density first.

    Attributes:
        density: Profit over combined price, shape (n,).
        prices: Per budget, shape (budgets, n).
        counts: How many items each entry stands for, shape (n,).
        places: Of the items in their tensor, shape (n,); -1 where ranks say which are kept.
    """

    density: Floats
    prices: Floats
    counts: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Items of a tensor that cost the same: those from one rank to another, the largest key first.

    Attributes:
        tensor: Number of the tensor.
        keys: Flat; their magnitudes are the keys. Profits where ``values`` are given.
        values: Flat, of the shape of ``keys``; where they are zero there is no item.
        prices: Of an item, per budget.
        price: The combined price.
        first: Rank in the tensor of the first of these items.
        last: Rank behind the last.
        square: Whether profits are squares of keys; keys are magnitudes then, and where they are zero there is no item.
        above: Items of the tensor that are larger than all ``keys``.
        ceiling: Those above are the ones with this key or a larger one.
        atom: Where given, all keys are this number and only ``count`` of them is stored.
        count: See ``atom``.
    """

    tensor: int
    keys: Tensor
    values: Tensor | None
    prices: tuple[float, ...]
    price: float
    first: int
    last: int
    square: bool = True
    above: int = 0
    ceiling: float = math.inf
    atom: float | None = None
    count: int = 0

    def __len__(self) -> int:
        return self.keys.numel() if self.atom is None else self.count

    def taken(self, larger: int) -> int:
        """How many of these items are among so many largest of the tensor."""
        return min(max(larger, self.first), self.last) - self.first

    def density(self, keys: Floats) -> Floats:
        """Profit over combined price; float64, in which squares of float32 are exact."""
        with np.errstate(over="ignore", under="ignore"):
            return (keys * keys if self.square else keys) / self.price

    def threshold(self, density: float) -> float:
        """The smallest key of at least this density, in the precision of the keys."""
        kind = np.float64 if self.keys.dtype == torch.float64 else np.float32
        lowest = np.nextafter(kind(0), kind(1)) if self.square else kind(0)
        guess = density * self.price
        return _smallest(
            lambda key: bool(self.density(np.array(key, np.float64)) >= density),
            kind,
            lowest,
            math.sqrt(guess) if self.square else guess,
        )

    def read(self, span: slice, buffer: Tensor) -> Tensor:
        """Keys of a chunk in a buffer; where there is no item they are zero, or NaN beside ``values``."""
        chunk, out = self.keys[span], buffer[: span.stop - span.start]
        if chunk.dtype == out.dtype:
            torch.abs(chunk, out=out)
        else:
            out.copy_(chunk).abs_()
        if self.values is not None:
            _hide(out, self.values[span])
        return out

    def sampled(self, step: int) -> Tensor:
        """Keys of every ``step``-th element, float64, shape (1, n)."""
        keys = self.keys[step // 2 :: step].double().abs()
        if self.values is not None:
            keys.masked_fill_(self.values[step // 2 :: step] == 0, math.nan)
        return keys[None]

    def densities(self, sample: Floats, step: int) -> tuple[Floats, Floats]:
        """Of a sample: density (n,) and prices (budgets, n) of its items in these ranks."""
        keys = sample[0]
        keys = np.sort(keys[keys > 0 if self.square else keys >= 0])[::-1]
        low, high = (min(max(round((rank - self.above) / step), 0), len(keys)) for rank in (self.first, self.last))
        density = self.density(keys[low:high])
        return density, np.repeat(np.array(self.prices)[:, None], len(density), 1)

    def scan(self, low: float, high: float, collect: bool) -> Ranked:
        """The items with densities in [low, high)."""
        floor, ceiling = self.threshold(low), self.threshold(high)
        buffer = buffer_for(self.keys)
        above, count = 0, 0
        window: list[Native] = []
        for span in spans(self.keys):
            keys = native(self.read(span, buffer))
            dense = keys >= ceiling
            inside = (keys >= floor) ^ dense
            above += count_of(dense)
            if collect:
                window.append(keys[inside])
            else:
                count += count_of(inside)
        found = replace(self, above=self.above + int(above), ceiling=ceiling)
        if not collect:
            return replace(found, atom=floor, count=int(count))
        return replace(found, keys=joined(window, buffer[:0]), values=None)

    def group(self) -> tuple[Group, Floats]:
        """These items in order of their keys, and the keys, those of other ranks included."""
        if self.atom is not None:
            keys = np.array([self.atom], np.float64)
            counts = np.array([self.taken(self.above + self.count) - self.taken(self.above)])
        else:
            keys = np.sort(self.keys.cpu().numpy())[::-1].astype(np.float64)
            low, high = (min(max(rank - self.above, 0), len(keys)) for rank in (self.first, self.last))
            counts = np.zeros(len(keys), np.int64)
            counts[low:high] = 1
        chosen = np.flatnonzero(counts)
        density = self.density(keys[chosen])
        prices = np.repeat(np.array(self.prices)[:, None], len(chosen), 1)
        return Group(density, prices, counts[chosen], np.full(len(chosen), -1)), keys


def buffer_for(keys: Tensor) -> Tensor:
    """What a chunk of keys is read into: float32, in which halves are exact, unless they are float64."""
    dtype = torch.float64 if keys.dtype == torch.float64 else torch.float32
    size = _CHUNK if keys.device.type == "cpu" else _DEVICE_CHUNK
    return torch.empty(min(size, keys.numel()), dtype=dtype, device=keys.device)


def count_of(mask: Native) -> Any:
    """How many are true; a tensor elsewhere, so that nobody waits for it."""
    return np.count_nonzero(mask) if isinstance(mask, np.ndarray) else mask.sum()


def joined(parts: list[Native], like: Tensor) -> Tensor:
    """One flat tensor; ``like`` where there are no parts."""
    if not parts:
        return like
    return torch.from_numpy(np.concatenate(parts)) if isinstance(parts[0], np.ndarray) else torch.cat(parts)


def zero_others(values: Tensor, keep: Native) -> None:
    """Zero what is not kept; both flat."""
    if isinstance(keep, np.ndarray):
        bits = values.view(BITS[values.element_size()]).numpy()
        np.multiply(bits, keep, out=bits)  # several times as fast as a masked fill; no negative zeros
    else:
        values.masked_fill_(~keep, 0)


def _hide(keys: Tensor, values: Tensor) -> None:
    """Make keys NaN where values are zero: these are above no threshold."""
    if keys.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        bits = keys.view(BITS[keys.element_size()]).numpy()
        np.bitwise_or(bits, np.negative((values.numpy() == 0).view(np.int8)), out=bits)
    else:
        keys.masked_fill_(values == 0, math.nan)


def _smallest(reaches: Callable[[Any], bool], kind: type[Any], lowest: Any, guess: float) -> float:
    """The smallest number that reaches; all above one that does reach too. Infinity if no other does."""
    infinity = kind(math.inf)
    with np.errstate(over="ignore", under="ignore"):
        key = max(kind(guess), lowest)
    for _ in range(_STEPS):
        if reaches(key):
            below = np.nextafter(key, kind(-1))
            if key <= lowest or not reaches(below):
                return float(key)
            key = below
        elif key == infinity:
            return math.inf
        else:
            key = np.nextafter(key, infinity)
    # Rounding to zero or infinity maps many keys to one density: bisect the numbers, which lie as their bits do.
    bits = np.int64 if kind is np.float64 else np.int32
    low, high = int(lowest.view(bits)), int(infinity.view(bits))
    while low < high:
        middle = (low + high) // 2
        if reaches(bits(middle).view(kind)):
            high = middle
        else:
            low = middle + 1
    return float(bits(low).view(kind))
