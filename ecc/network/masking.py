"""Masking: zeros in every slice of the units that go, so that a network computes what it would without them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ecc.core.widths import Kept
from ecc.network.graph import WidthGraph
from ecc.network.matching import matched_tensors, matched_units

__all__ = ["mask"]


def mask(model: nn.Module, graph: WidthGraph, kept: Kept) -> None:
    """Set every slice of the dropped units to zero, in place; slots that are not ``zeroed`` keep their values.

    Raises:
        InputError: If ``kept`` does not fit the graph, or the graph the model.
    """
    tensors = matched_tensors(model, graph)
    with torch.no_grad():
        for name, units in matched_units(graph, kept).items():
            group = graph.group(name)
            dropped = np.setdiff1d(np.arange(group.units), units)
            for slot in (slot for slot in group.slots if slot.zeroed):
                positions = torch.from_numpy(slot.indices[dropped].reshape(-1))
                tensor = tensors[slot.tensor]
                tensor.index_fill_(slot.axis, positions.to(tensor.device), 0)
