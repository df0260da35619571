"""Cutting: kept units → a copy of the network with smaller tensors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ecc.core.widths import Kept
from ecc.network.attention import unfuse
from ecc.network.copying import copied, copy_sharing
from ecc.network.graph import WidthGraph
from ecc.network.matching import matched_tensors
from ecc.network.resizing import own_tensors, resize

__all__ = ["cut"]


def cut(model: nn.Module, graph: WidthGraph, kept: Kept) -> nn.Module:
    """A copy without the dropped units: same classes, own smaller tensors.

    Args:
        kept: As ``matched_units`` gives it.
    Raises:
        InputError: If the graph belongs to another network.
    """
    tensors = matched_tensors(model, graph)
    keep: dict[str, dict[int, NDArray[np.bool_]]] = {}
    for name, units in kept.items():
        group = graph.group(name)
        dropped = np.setdiff1d(np.arange(group.units), units)
        for slot in group.slots:
            axes = keep.setdefault(slot.tensor, {})
            if slot.axis not in axes:
                axes[slot.axis] = np.ones(tensors[slot.tensor].shape[slot.axis], dtype=bool)
            axes[slot.axis][slot.indices[dropped].reshape(-1)] = False
    replacements = {}
    for name, tensor in tensors.items():
        small = tensor.detach()
        for axis, positions in keep.get(name, {}).items():
            small = small.index_select(axis, torch.from_numpy(np.flatnonzero(positions)).to(tensor.device))
        if small.data_ptr() == tensor.data_ptr() or tensor.is_meta:
            small = small.clone()
        if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
            small = small.contiguous(memory_format=torch.channels_last)
        replacements[id(tensor)] = copied(tensor, small)
    small_model = copy_sharing(model, replacements)
    changed = {id(tensors[name]) for name in keep}
    for path, part in model.named_modules():
        # By identity, not by name: a tied tensor belongs to several modules.
        if any(id(tensor) in changed for tensor in own_tensors(part)):
            resize(small_model.get_submodule(path))
    relative = {name: len(units) / graph.group(name).units for name, units in kept.items()}
    for size in graph.sizes:
        if size.side.groups & relative.keys():
            setattr(
                small_model.get_submodule(size.module), size.attribute, round(size.dense * size.side.fraction(relative))
            )
    unfuse(small_model)
    return small_model
