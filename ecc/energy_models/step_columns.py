"""Columns for the choice of steps: the values, at given rows, of all the products that steps may lead to.

Choosing steps compares hundreds of models of the same rows, most of whose products are the same. So each axis is cut in
tiles of each size once, all of them together, and a product is named by the numbers of its columns. Columns that are
equal at all rows share a number: rows cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ecc.core.layers import Layer, Side, SumOfProducts
from ecc.core.widths import WidthSpace
from ecc.energy_models.stepped import NO_STEPS, Axis, Factors, SteppedSide, Steps, axes_of, in_tiles, where_ragged

__all__ = ["Key", "StepColumns"]

Floats = NDArray[np.float64]

Key = tuple[int, ...]
"""A product by the numbers of its columns, sorted; empty for the constant."""

_DIGITS = 9  # to which columns must be equal to share a number


class StepColumns:
    """The products of a network's layers at some rows, under any steps out of a given set.

    Args:
        space: The order and the dense values of the width vectors.
        layers: The layers whose products are wanted.
        widths: Channels of the rows, shape (n, n_groups).
        steps: Positions per tile that will be asked for, 1 among them or not.
    """

    def __init__(
        self, space: WidthSpace, layers: Sequence[Layer], widths: NDArray[np.float64], steps: Sequence[int]
    ) -> None:
        self.kinds: list[str] = sorted({layer.kind for layer in layers})
        numbers: dict[Axis, int] = {}
        self._layers: dict[str, list[tuple[int, int, float]]] = {kind: [] for kind in self.kinds}
        for layer in layers:
            reads, writes = (numbers.setdefault(axis, len(numbers)) for axis in axes_of(space, layer))
            self._layers[layer.kind].append((reads, writes, float(layer.macs)))
        self._axes = list(numbers)
        self._numbers: dict[SteppedSide, int] = {}
        self._columns = self._cut(space, np.vstack([widths, space.dense]), sorted(steps))
        self._alone: dict[tuple[str, int, int], dict[Key, float]] = {}
        self._ragged: dict[tuple[str, int], dict[Key, float]] = {}
        self._both: dict[tuple[str, int, int], dict[Key, float]] = {}

    def products(self, steps: Steps) -> dict[Key, float]:
        """The distinct products under those steps, the constant among them, each with its dense MACs."""
        macs: dict[Key, float] = {(): 0.0}
        for kind in self.kinds:
            reads, writes, whole = steps.get(kind, NO_STEPS)
            macs.update(self._alone_of(kind, 0, reads))
            macs.update(self._alone_of(kind, 1, writes))
            macs.update(self._ragged_of(kind, whole))
        for kind in self.kinds:
            reads, writes, _ = steps.get(kind, NO_STEPS)
            for key, value in self._both_of(kind, reads, writes).items():
                macs[key] = macs.get(key, 0.0) + value
        return macs

    def values(self, keys: Sequence[Key]) -> Floats:
        """The products at each row and, behind them, at dense widths: shape (n_keys, n + 1)."""
        depth = max((len(key) for key in keys), default=0)
        chosen = np.zeros((depth, len(keys)), dtype=np.int64)  # column 0 is the factor 1
        for place, key in enumerate(keys):
            chosen[: len(key), place] = key
        product = np.ones((len(keys), self._columns.shape[1]))
        for numbers in chosen:
            product *= self._columns[numbers]
        return product

    def _cut(self, space: WidthSpace, widths: NDArray[np.float64], steps: Sequence[int]) -> Floats:
        """Number each side of each axis under each of the steps; all columns, shape (n_columns, n + 1)."""
        sides: dict[Side, int] = {}
        for axis in self._axes:
            for side in (axis.whole, *axis.simplest):
                sides.setdefault(side, len(sides))
        fractions = SumOfProducts(space, [(side,) for side in sides])(torch.tensor(widths))
        columns: list[Floats] = [np.ones(len(widths))]
        alike: dict[bytes, int] = {}

        def enter(wanted: Sequence[SteppedSide], values: torch.Tensor) -> None:
            block = np.ascontiguousarray(values.numpy().T)
            for side, column, rounded in zip(wanted, block, np.round(block, _DIGITS), strict=True):
                number = alike.setdefault(rounded.tobytes(), len(columns))
                if number == len(columns):
                    columns.append(column)
                self._numbers[side] = number

        plain = list(dict.fromkeys(SteppedSide(side) for axis in self._axes for side in axis.simplest))
        enter(plain, fractions[:, [sides[each.side] for each in plain]])
        for step in steps:
            tiled = [each for axis in self._axes for factors in axis.alone(step) for each in factors]
            ragged = [each for axis in self._axes for factors in axis.ragged(step) for each in factors]
            for found, rounding in ((tiled, in_tiles), (ragged, where_ragged)):
                wanted = [each for each in dict.fromkeys(found) if each not in self._numbers]
                positions, size = (
                    torch.tensor([getattr(each, name) for each in wanted], dtype=torch.float64)
                    for name in ("positions", "step")
                )
                enter(wanted, rounding(fractions[:, [sides[each.side] for each in wanted]], positions, size))
        return np.array(columns)

    def _key(self, factors: Factors) -> Key:
        return tuple(sorted(self._numbers[side] for side in factors))

    def _alone_of(self, kind: str, end: int, step: int) -> dict[Key, float]:
        """Of what the layers of a kind read (end 0) or write (end 1), without the other axis; they spend no MACs."""
        if (kind, end, step) not in self._alone:
            axes = dict.fromkeys(layer[end] for layer in self._layers[kind])
            factors = (each for axis in axes for each in self._axes[int(axis)].alone(step))
            self._alone[kind, end, step] = dict.fromkeys(map(self._key, factors), 0.0)
        return self._alone[kind, end, step]

    def _ragged_of(self, kind: str, whole: int) -> dict[Key, float]:
        if (kind, whole) not in self._ragged:
            axes = dict.fromkeys(axis for reads, writes, _ in self._layers[kind] for axis in (reads, writes))
            factors = (each for axis in axes for each in self._axes[axis].ragged(whole))
            self._ragged[kind, whole] = dict.fromkeys(map(self._key, factors), 0.0)
        return self._ragged[kind, whole]

    def _both_of(self, kind: str, of_reads: int, of_writes: int) -> dict[Key, float]:
        """Dense MACs of the products reads × writes of a kind."""
        if (kind, of_reads, of_writes) not in self._both:
            found = self._both[kind, of_reads, of_writes] = {}
            ends: list[dict[int, Key]] = [{}, {}]
            for end, step in enumerate((of_reads, of_writes)):
                for axis in {layer[end] for layer in self._layers[kind]}:
                    ends[end][int(axis)] = self._key(self._axes[int(axis)].stepped(step))
            for reads, writes, value in self._layers[kind]:
                if value:
                    key = tuple(sorted(ends[0][reads] + ends[1][writes]))
                    found[key] = found.get(key, 0.0) + value
        return self._both[kind, of_reads, of_writes]
