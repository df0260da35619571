"""Slimming: widths or kept units → a compact module of the original classes.

``slim`` chooses units and copies their weights; ``outline`` gives only the shapes, for timing.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import nn

from ecc.core.widths import Kept, Widths, demand_widths
from ecc.network.arguments import demand_graph
from ecc.network.cutting import cut, leading
from ecc.network.depth import shortened
from ecc.network.equality import demand_equal
from ecc.network.graph import WidthGraph
from ecc.network.ranking import kept_units

__all__ = ["outline", "slim"]


def slim(
    model: nn.Module, graph: WidthGraph, widths: Widths | Kept, *, remove: Collection[str] = (), check: bool = True
) -> nn.Module:
    """A compact copy of the model: same classes, smaller tensors; the model is not touched.

    Args:
        widths: Channels kept per group, of which the largest units are chosen by ``select``, on the meta device the
            first; or the kept units themselves, arrays of indices.
        remove: Names of residual blocks that go whole; groups that only they hold must not be in ``widths``.
        check: Whether to compare the result with the masked network on random inputs.

    Raises:
        InputError: If widths, units or blocks are not admissible, or the graph belongs to another network.
        EccError: If the outputs differ; the message names a group or a block.
    """
    demand_graph(model, graph)
    demand_widths(widths)
    with torch.inference_mode(False):  # the slim network can be trained, whatever the caller is about
        short, left = shortened(model, graph, remove), graph.without(remove, widths)
        kept = kept_units(model, graph, widths)  # the ranks are the same whatever blocks go
        small = cut(short, left, kept)
        if check and (kept or remove):
            demand_equal(model, graph, kept, remove)
    return small


def outline(model: nn.Module, graph: WidthGraph, widths: Widths, *, remove: Collection[str] = ()) -> nn.Module:
    """A network of given widths whose weights mean nothing: what ``slim`` makes, in a fraction of the time.

    Shapes, classes, dtypes, memory formats and attributes are those of the slim network. The values are ordinary ones
    (the first of each dense tensor) in memory of their own, so that time and energy are as they would be.

    Raises:
        InputError: If widths or blocks are not admissible, or the graph belongs to another network.
    """
    demand_graph(model, graph)
    demand_widths(widths)
    with torch.inference_mode(False):
        short, left = shortened(model, graph, remove), graph.without(remove, widths)
        left.demand(widths)
        vector = left.space.vector(widths).tolist()
        kept = {
            group.name: np.arange(width // group.step)
            for group, width in zip(left.prunable, vector, strict=True)
            if width < group.width
        }
        return cut(short, left, kept, take=leading)
