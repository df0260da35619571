"""Prices of inputs: what masking one takes off the energy of fetching the inputs of a layer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ecc.energy_models.systolic.account import fetched_again
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.layers import SystolicLayer

__all__ = ["input_prices"]


def input_prices(layer: SystolicLayer, array: SystolicArray, mask: Tensor | None = None) -> Tensor:
    """What each input costs that is kept: float64, of shape ``layer.input_shape``, in the array's unit.

    An input comes to the array for each tap that meets it and from DRAM once, or as often as its row is fetched while
    the mask is as it is. As these rows change with the mask, prices add up to the energy of the inputs only where the
    cache holds all of them; in a product that it does not hold, each input bears an equal share of what is read again.
    """
    operator = layer.operator
    kept = np.ones(layer.input_shape) if mask is None else (mask != 0).cpu().double().numpy()
    times = layer.examples * layer.repeats
    passes = -(-layer.fan_out // array.columns)
    near = (array.e_cache * passes + array.e_rf * layer.fan_out) * times
    if not layer.convolves:
        count = int(kept.sum())
        full, rest = divmod(layer.examples, array.rows)
        words = sum(
            times_held * (rows + (passes - 1) * max(0.0, rows - array.input_cache / max(count, 1)))
            for times_held, rows in ((full, array.rows), (1, rest))
        )
        price = near + array.e_dram * layer.repeats * words
        return torch.full(layer.input_shape, price, dtype=torch.float64)
    rows, columns = layer.taps()
    met = rows.sum(0)[:, None] * columns.sum(0)[None, :]
    sums = kept.reshape(layer.input_shape[0], *layer.rows).sum((0, 2))
    fetched = np.repeat(1.0 + fetched_again(layer, array, sums), layer.rows[1])
    price_of_each = near * met + array.e_dram * times * fetched.reshape(operator.height, operator.width)
    return torch.from_numpy(price_of_each).expand(layer.input_shape)
