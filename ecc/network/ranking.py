"""Ranking: which units of each group stay, by the size of their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecc.core.widths import Kept, WidthGroup, Widths, demand_widths
from ecc.network.graph import WidthGraph
from ecc.network.matching import matched_tensors, matched_units

__all__ = ["kept_units", "rank_units", "select"]

Ints = NDArray[np.int64]

_IN_CACHE = 1 << 18  # numbers whose squares stay in the cache of one core


def kept_units(model: nn.Module, graph: WidthGraph, widths: Widths | Kept) -> Kept:
    """The units that widths mean (see ``select``), or the given units, checked; without the groups that keep all.

    Raises:
        InputError: If widths or units are not admissible, or the graph belongs to another network.
    """
    demand_widths(widths)
    graph.demand(widths)
    if any(_is_indices(value) for value in widths.values()):
        return matched_units(graph, widths)
    return select(model, graph, cast(Widths, widths))


def _is_indices(value: Any) -> bool:
    """Whether a value is several numbers; single ones in an array or a tensor are widths."""
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def select(model: nn.Module, graph: WidthGraph, widths: Widths) -> Kept:
    """The units of largest L2 norm over all parameters that a group touches; of equal ones the first.

    Raises:
        InputError: If a width is not admissible or the graph belongs to another network.
    """
    vector = graph.space.vector(widths)
    narrower = {g.name: width for g, width in zip(graph.prunable, vector.tolist(), strict=True) if width < g.width}
    return {
        name: np.sort(order[: narrower[name] // graph.group(name).step])
        for name, order in rank_units(model, graph, list(narrower)).items()
    }


def rank_units(model: nn.Module, graph: WidthGraph, names: Sequence[str]) -> dict[str, Ints]:
    """The units of the named groups by falling L2 norm over all parameters that they touch; equal ones by index."""
    tensors = matched_tensors(model, graph)
    squares: dict[tuple[str, int], Tensor] = {}
    return {name: np.argsort(-_norms(tensors, graph.group(name), squares), kind="stable") for name in names}


def _norms(
    tensors: Mapping[str, Tensor], group: WidthGroup, squares: dict[tuple[str, int], Tensor]
) -> NDArray[np.float64]:
    """Sum of squares per unit over the group's parameters; buffers do not count."""
    total = np.zeros(group.units)
    for slot in group.slots:
        tensor = tensors[slot.tensor]
        if not isinstance(tensor, nn.Parameter):
            continue
        key = (slot.tensor, slot.axis)
        if key not in squares:
            squares[key] = _sum_of_squares(tensor.detach(), slot.axis)
        total += squares[key].numpy()[slot.indices].sum(axis=1)
    return total


def _sum_of_squares(tensor: Tensor, axis: int) -> Tensor:
    """Over all axes but one: shape (size of the axis,), float64 on the CPU."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    before, size = tensor.shape[:axis].numel(), tensor.shape[axis]
    if tensor.is_meta or not tensor.numel():  # without values no unit is better than another
        return torch.zeros(size, dtype=torch.float64)
    if before == 1:
        norms: Tensor = torch.linalg.vector_norm(tensor.reshape(size, -1), dim=1, dtype=dtype)
        return norms.square().double().cpu()
    rows = tensor.reshape(before, -1)
    total = torch.zeros(rows.shape[1], dtype=dtype, device=tensor.device)
    for part in rows.split(max(1, _IN_CACHE // rows.shape[1])):  # type: ignore[no-untyped-call]
        total += part.to(dtype).square().sum(0)
    squares: Tensor = total.reshape(size, -1).sum(1).double().cpu()
    return squares
