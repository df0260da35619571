"""Renormalising: masked networks whose norms take their statistics over the channels that stay.

Layer norms divide by what all of their channels together amount to, so that a network without some channels is not the
one in which these are zero. Where ``trace`` was asked to prune such channels all the same, the masked network that a
slim one has to equal is this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ecc.core.widths import Kept
from ecc.network.graph import WidthGraph
from ecc.network.matching import matched_tensors

__all__ = ["limit_statistics"]

_LAYER = ("input", "normalized_shape", "weight", "bias", "eps", "cudnn_enable")
_ROOT = ("input", "normalized_shape", "weight", "eps")
_GROUP = ("input", "num_groups", "weight", "bias", "eps", "cudnn_enabled")

_ARGUMENTS: Mapping[Callable[..., Tensor], tuple[str, ...]] = MappingProxyType(
    {
        F.layer_norm: _LAYER,
        torch.layer_norm: _LAYER,
        F.rms_norm: _ROOT,
        torch.rms_norm: _ROOT,
        F.group_norm: _GROUP,
        torch.group_norm: _GROUP,
    }
)


def limit_statistics(masked: nn.Module, graph: WidthGraph, kept: Kept) -> None:
    """Let the norms ``graph.renormalised`` of a masked network run over kept channels, in place.

    Args:
        masked: With zeros in the slices of the dropped units; its forward is wrapped.
        kept: As ``matched_units`` gives it.
    """
    if not graph.renormalised:
        return
    tensors, positions = matched_tensors(masked, graph), dict[int, Tensor]()
    stays = {name: np.ones(len(tensors[name]), dtype=bool) for name in graph.renormalised}
    for name, units in kept.items():
        group = graph.group(name)
        dropped = np.setdiff1d(np.arange(group.units), units)
        for slot in group.slots:
            if slot.tensor in stays:
                stays[slot.tensor][slot.indices[dropped]] = False
    for name, flags in stays.items():
        if not flags.all():
            positions[id(tensors[name])] = torch.from_numpy(np.flatnonzero(flags)).to(tensors[name].device)
    if positions:
        vars(masked)["forward"] = partial(_run, masked.forward, _KeptStatistics(positions))


def _run(forward: Callable[..., Any], mode: _KeptStatistics, *args: Any, **kwargs: Any) -> Any:
    with mode:
        return forward(*args, **kwargs)


class _KeptStatistics(TorchFunctionMode):
    """Runs norms on some of their channels; the others come out as zeros.

    Args:
        positions: What stays of the weight with this id.
    """

    def __init__(self, positions: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._positions = positions

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        names, given = _ARGUMENTS.get(func, ()), kwargs or {}
        arguments = {**dict(zip(names, args, strict=False)), **given}
        positions = self._positions.get(id(arguments.get("weight"))) if names else None
        if positions is None:
            return func(*args, **given)
        value, axis = arguments["input"], 1 if names is _GROUP else -1
        arguments["input"] = value.index_select(axis, positions)
        if names is not _GROUP:
            arguments["normalized_shape"] = (len(positions),)
        for name in ("weight", "bias"):
            if arguments.get(name) is not None:
                arguments[name] = arguments[name][positions]
        return torch.zeros_like(value).index_copy(axis, positions, func(**arguments))
