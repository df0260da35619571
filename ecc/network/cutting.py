"""Cutting: kept units → a copy of the network with smaller tensors.

A *plan* says what goes, without the network: which positions of each tensor axis stay and what sizes modules hold then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecc.core.widths import Kept
from ecc.network.attention import unfuse
from ecc.network.copying import copied, copy_sharing
from ecc.network.directions import Direction, balance
from ecc.network.graph import WidthGraph
from ecc.network.matching import matched_tensors
from ecc.network.resizing import own_tensors, resize

__all__ = ["Plan", "chosen", "cut", "leading", "plan", "rebuilt"]

Axes = Mapping[int, NDArray[np.int64]]
"""By axis of a tensor, the positions that stay, sorted; axes that are not named stay whole."""

Take = Callable[[Tensor, Axes], Tensor]
"""Makes a smaller tensor in memory of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What cutting does to a network.

    Attributes:
        axes: What stays of each tensor that gets smaller, by its name.
        sizes: Module path, attribute and value of what follows the widths beyond PyTorch's own modules.
        factors: Axis, positions that stay and what to multiply them by, by name of the tensor.
        directions: Weights of unit norm whose factor makes up for what the norm loses.
    """

    axes: Mapping[str, Axes]
    sizes: tuple[tuple[str, str, int], ...] = ()
    factors: Mapping[str, tuple[tuple[int, NDArray[np.int64], float], ...]] = field(default_factory=dict)
    directions: tuple[Direction, ...] = ()


def plan(graph: WidthGraph, kept: Kept, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
    """What keeping only some units does.

    Args:
        kept: As ``matched_units`` gives it.
        shapes: Of all parameters and buffers when dense, by name.
    """
    stays: dict[str, dict[int, NDArray[np.bool_]]] = {}
    for name, units in kept.items():
        group = graph.group(name)
        dropped = np.ones(group.units, dtype=bool)
        dropped[units] = False
        for slot in group.slots:
            axes = stays.setdefault(slot.tensor, {})
            if slot.axis not in axes:
                axes[slot.axis] = np.ones(shapes[slot.tensor][slot.axis], dtype=bool)
            axes[slot.axis][slot.indices[dropped]] = False
    relative = {name: len(units) / graph.group(name).units for name, units in kept.items()}
    sizes = tuple(
        (size.module, size.attribute, round(size.dense * size.side.fraction(relative)))
        for size in graph.sizes
        if size.side.groups & relative.keys()
    )
    factors: dict[str, tuple[tuple[int, NDArray[np.int64], float], ...]] = {}
    for rescale in graph.rescales:
        if rescale.side.groups & relative.keys():
            flags = np.zeros(shapes[rescale.tensor][rescale.axis], dtype=bool)
            flags[rescale.positions] = True
            left = np.flatnonzero(flags[stays.get(rescale.tensor, {}).get(rescale.axis, slice(None))])
            factor = (rescale.axis, left, rescale.side.fraction(relative) ** rescale.power)
            factors[rescale.tensor] = (*factors.get(rescale.tensor, ()), factor)
    positions = {name: {i: np.flatnonzero(flags) for i, flags in axes.items()} for name, axes in stays.items()}
    directions = tuple(d for d in graph.directions if not positions.get(d.vector, {}).keys().isdisjoint(d.axes))
    return Plan(positions, sizes, factors, directions)


def cut(model: nn.Module, graph: WidthGraph, kept: Kept, *, take: Take | None = None) -> nn.Module:
    """A copy without the dropped units: same classes, own smaller tensors, no gradients.

    Args:
        kept: As ``matched_units`` gives it.
        take: How a tensor gets smaller; ``chosen`` when None.
    Raises:
        InputError: If the graph belongs to another network.
    """
    tensors = matched_tensors(model, graph)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return rebuilt(model, tensors, plan(graph, kept, shapes), take=take or chosen)


def rebuilt(model: nn.Module, tensors: Mapping[str, Tensor], planned: Plan, *, take: Take) -> nn.Module:
    """A copy of a module as planned.

    Args:
        tensors: Its parameters and buffers by name, each once.
    """
    values = {name: take(tensor.detach(), planned.axes.get(name, {})) for name, tensor in tensors.items()}
    for name, factors in planned.factors.items():
        for axis, positions, factor in factors:
            at = torch.from_numpy(positions).to(values[name].device)
            values[name].index_copy_(axis, at, values[name].index_select(axis, at) * factor)
    for each in planned.directions:
        dense, stays = tensors[each.vector].detach(), planned.axes[each.vector]
        scale, vector = balance(each, dense, values[each.scale], values[each.vector], stays)
        values[each.scale], values[each.vector] = scale, vector
    small = copy_sharing(model, {id(tensor): copied(tensor, values[name]) for name, tensor in tensors.items()})
    changed = {id(tensors[name]) for name in planned.axes}
    for path, part in model.named_modules():
        # By identity, not by name: a tied tensor belongs to several modules.
        if any(id(tensor) in changed for tensor in own_tensors(part)):
            resize(small.get_submodule(path))
    for path, attribute, value in planned.sizes:
        setattr(small.get_submodule(path), attribute, value)
    unfuse(small)
    return small


def chosen(tensor: Tensor, axes: Axes) -> Tensor:
    """The values at the positions that stay."""
    small = tensor
    for axis in sorted(axes, key=lambda axis: len(axes[axis]) / tensor.shape[axis]):
        small = small.index_select(axis, torch.from_numpy(axes[axis]).to(tensor.device))
    fresh = bool(axes) and not tensor.is_meta
    return small if fresh and tensor.is_contiguous() else _laid_out(small, tensor)


def leading(tensor: Tensor, axes: Axes) -> Tensor:
    """As many values as stay, but the first ones: faster, and as good where only shapes matter.

    Whole numbers are chosen all the same, because they may be indices.
    """
    if not tensor.is_floating_point():
        return chosen(tensor, axes)
    small = tensor
    for axis, positions in axes.items():
        small = small.narrow(axis, 0, len(positions))
    return _laid_out(small, tensor)


def _laid_out(values: Tensor, like: Tensor) -> Tensor:
    """A copy whose axes follow in memory as those of ``like`` do (channels last, transposed …), without gaps."""
    if like.is_contiguous():
        return values.clone(memory_format=torch.contiguous_format)
    # Where strides are equal, axes of size one come last: such a weight is channels-last only by this order.
    order = sorted(range(like.ndim), key=lambda axis: (-like.stride()[axis], like.shape[axis] == 1))
    fresh = torch.empty_permuted(values.shape, order, dtype=values.dtype, device=values.device)
    return fresh.copy_(values)
