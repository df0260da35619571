"""Matching: whether a width graph and kept units fit a model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.network.copying import refuse_wrappers
from ecc.network.graph import WidthGraph

__all__ = ["matched_tensors", "matched_units"]


def matched_tensors(model: nn.Module, graph: WidthGraph) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once.

    Raises:
        InputError: If the graph was traced from another network, or the network is in a wrapper.
    """
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, axes in graph.parameters.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != axes.shape:
            refuse_wrappers(model)
            state = "is missing" if found is None else f"has shape {found}, not {axes.shape}"
            raise InputError(f"the width graph belongs to another network: parameter {name!r} {state}; trace this one")
    return tensors


def matched_units(graph: WidthGraph, kept: Any) -> dict[str, NDArray[np.int64]]:
    """Kept units as sorted arrays, without the groups that keep all.

    Raises:
        InputError: If a group is unknown or not prunable, or indices are not distinct units of it.
    """
    prunable = {group.name: group for group in graph.prunable}
    checked: dict[str, NDArray[np.int64]] = {}
    for name, units in kept.items():
        if name not in prunable:
            known = ", ".join(list(prunable)[:6]) + (" …" if len(prunable) > 6 else "")
            raise InputError(f"kept units name the unknown group {name!r}; the prunable groups are {known}")
        group = prunable[name]
        array = _array(units)
        indices = np.unique(array)
        valid = array.ndim == 1 and len(array) and len(indices) == len(array)
        if not valid or indices[0] < 0 or indices[-1] >= group.units:
            raise InputError(
                f"kept units of group {name!r} must be one or more distinct indices below {group.units}, got {units}"
            )
        if len(indices) < group.units:
            checked[name] = indices
    return checked


def _array(units: Any) -> NDArray[np.int64]:
    """Whole numbers as an array; an empty one for anything else."""
    try:
        array = np.asarray(units.cpu() if isinstance(units, Tensor) else units)
    except (TypeError, ValueError, RuntimeError):  # lists of unlike lengths, tensors without values
        return np.empty(0, dtype=np.int64)
    return array.astype(np.int64) if array.dtype.kind in "iu" else np.empty(0, dtype=np.int64)
