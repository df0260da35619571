"""What an operator has to do, as numbers that its cost follows: smooth in its shape, so that gradients pass.

``Operator`` counts the work of whole shapes; here the same counts are taken of tensors, for many shapes at once and for
those between whole ones that a solver passes through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.operators import COLUMNS, CONVOLUTIONS, RECURRENT, Operator

__all__ = ["TERMS", "Sizes", "features", "sizes_of", "work"]

Sizes = Mapping[str, Tensor]
"""The numbers of operators by column of Operator, float64, each of shape (n,)."""

TERMS = ("call", "macs", "reads", "weights", "writes", "steps")
"""What ``work`` counts, in order."""

_STEPS = (4, 8, 16)  # vector and tile widths that channels and positions are padded to
_SLACK = 1e-6  # of a whole number that came from a product of fractions


def sizes_of(operators: Sequence[Operator]) -> dict[str, Tensor]:
    """Of whole operators."""
    table = np.array([[getattr(each, name) for name in COLUMNS] for each in operators], dtype=np.float64)
    columns: NDArray[np.float64] = table.reshape(len(operators), len(COLUMNS))
    return {name: torch.from_numpy(columns[:, i].copy()) for i, name in enumerate(COLUMNS)}


def work(kind: str, sizes: Sizes) -> Tensor:
    """One call, its MACs, the numbers that it reads, those of its weights and those written, its steps in sequence.

    Returns:
        Shape (n, len(TERMS)); as Operator counts them where the sizes are whole.
    """
    s = sizes
    positions, taps = s["out_height"] * s["out_width"], s["kernel_h"] * s["kernel_w"]
    one = torch.ones_like(s["batch"])
    weights = _weights(kind, s)
    macs, steps = 0 * one, one
    reads = s["batch"] * s["length"] * s["channels_in"] * s["height"] * s["width"]
    writes = s["batch"] * s["length"] * s["channels_out"] * positions
    rows = s["batch"] * s["groups"] * s["length"]
    if kind == "transposed":
        macs = s["batch"] * s["height"] * s["width"] * weights
    elif kind in CONVOLUTIONS:
        macs = s["batch"] * positions * s["channels_out"] * (s["channels_in"] / s["groups"]) * taps
    elif kind == "attention":
        macs = rows * s["context"] * (s["channels_in"] + s["channels_out"])
        each = s["length"] * s["channels_in"] + s["context"] * (s["channels_in"] + s["channels_out"])
        reads, writes = s["batch"] * s["groups"] * each, rows * s["channels_out"]
    elif kind in ("linear", "matmul"):
        macs = rows * s["channels_in"] * s["channels_out"]
    elif kind in RECURRENT:
        macs, steps = s["batch"] * s["length"] * weights, s["length"]
    elif kind == "embedding":
        reads = writes
    elif kind in ("add", "multiply"):
        reads = 2 * reads
    elif kind == "reduce":
        writes = s["batch"] * s["channels_out"] * positions
    if kind == "matmul":
        reads = s["batch"] * s["groups"] * s["channels_in"] * (s["length"] + s["channels_out"])
        writes = rows * s["channels_out"]
    return torch.stack([one, macs, reads, weights, writes, steps], -1)


def _weights(kind: str, s: Sizes) -> Tensor:
    """Numbers in its weights."""
    if kind in CONVOLUTIONS:
        return s["channels_out"] * s["channels_in"] / s["groups"] * s["kernel_h"] * s["kernel_w"]
    if kind == "linear":
        return s["channels_in"] * s["channels_out"]
    if kind in RECURRENT:
        return RECURRENT[kind] * s["channels_out"] * (s["channels_in"] + s["channels_out"])
    return {"batch-norm": 4, "layer-norm": 2, "group-norm": 2}.get(kind, 0) * s["channels_in"]


def features(kind: str, sizes: Sizes) -> Tensor:
    """What tells operators of a kind apart: logarithms of sizes and of work, and how much padding adds to them.

    Steps of the hardware are seen in the share that padding to a multiple of 4, 8 or 16 adds to channels, rows and
    positions. That share jumps, so no gradient passes through it.

    Returns:
        Shape (n, d), d the same for all kinds.
    """
    s = sizes
    alone = kind == "depthwise"  # one channel a group: the channels are what counts, not the groups
    groups = torch.ones_like(s["groups"]) if alone else s["groups"]
    split = groups if kind in CONVOLUTIONS else torch.ones_like(groups)
    reads = torch.ones_like(groups) if alone else s["channels_in"] / split
    writes = s["channels_out"] / split
    positions = s["out_height"] * s["out_width"]
    done = work(kind, s)
    smooth = [
        *(s["batch"], s["length"], s["context"], groups, reads, writes),
        *(positions, s["out_width"], s["height"] * s["width"] / positions),
        *(s["kernel_h"] * s["kernel_w"], s["stride"]),
        *(done[:, 1].clamp_min(1), done[:, 2] + done[:, 3], done[:, 4]),
    ]
    seen = torch.stack(smooth, -1).clamp_min(1e-12).log()
    return torch.cat([seen, _paddings(torch.stack((reads, writes, s["out_width"], positions), -1))], -1)


def _paddings(sizes: Tensor) -> Tensor:
    """Logarithms of sizes, shape (n, k), padded to multiples of each step over the sizes themselves; (n, k · steps)."""
    exact = sizes.detach()[..., None]
    steps = torch.tensor(_STEPS, dtype=torch.float64)
    return (torch.ceil(exact / steps - _SLACK) * steps / exact).log().clamp_min(0).flatten(1)
