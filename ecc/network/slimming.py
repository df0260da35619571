"""Slimming: widths or kept units → a compact module of the original classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import nn

from ecc.core.widths import Kept, Widths
from ecc.network.cutting import cut
from ecc.network.equality import demand_equal
from ecc.network.graph import WidthGraph
from ecc.network.matching import matched_units
from ecc.network.ranking import select

__all__ = ["slim"]


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


def _is_kept(widths: Widths | Kept) -> bool:
    return any(isinstance(value, np.ndarray | Sequence) or torch.is_tensor(value) for value in widths.values())
