"""Slimming: widths or kept units → a compact module of the original classes.

``slim`` chooses units and copies their weights; ``outline`` gives only the shapes, for timing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import nn

from ecc.core.widths import Kept, Widths
from ecc.network.cutting import cut, leading
from ecc.network.equality import demand_equal
from ecc.network.graph import WidthGraph
from ecc.network.matching import matched_units
from ecc.network.ranking import select

__all__ = ["outline", "slim"]


def slim(model: nn.Module, graph: WidthGraph, widths: Widths | Kept, *, check: bool = True) -> nn.Module:
    """A compact copy of the model: same classes, smaller tensors; the model is not touched.

    Args:
        widths: Channels kept per group, of which the largest units are chosen by ``select``; or the kept units
            themselves, arrays of indices.
        check: Whether to compare the result with the masked network on random inputs.

    Raises:
        InputError: If widths or units are not admissible, or the graph belongs to another network.
        EccError: If the outputs differ; the message names a group.
    """
    kept = matched_units(graph, widths) if _is_kept(widths) else select(model, graph, cast(Widths, widths))
    small = cut(model, graph, kept)
    if check and kept:
        demand_equal(model, graph, kept)
    return small


def outline(model: nn.Module, graph: WidthGraph, widths: Widths) -> nn.Module:
    """A network of given widths whose weights mean nothing: what ``slim`` makes, in a fraction of the time.

    Shapes, classes, dtypes, memory formats and attributes are those of the slim network. The values are ordinary ones
    (the first of each dense tensor) in memory of their own, so that time and energy are as they would be.

    Raises:
        InputError: If widths are not admissible, or the graph belongs to another network.
    """
    vector = graph.space.vector(widths).tolist()
    kept = {
        group.name: np.arange(width // group.step)
        for group, width in zip(graph.prunable, vector, strict=True)
        if width < group.width
    }
    return cut(model, graph, kept, take=leading)


def _is_kept(widths: Widths | Kept) -> bool:
    return any(isinstance(value, np.ndarray | Sequence) or torch.is_tensor(value) for value in widths.values())
