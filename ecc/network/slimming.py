"""Slimming: widths → which units stay → a compact module of the original classes, and the proof that it is the same.

Zero-then-remove: a network in which every slice of the dropped units is zero gives the same outputs as the network
without them. ``slim`` checks that on random inputs before it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecc.core.errors import EccError, InputError
from ecc.core.widths import Kept, WidthGroup, Widths
from ecc.network.capture import copy_sharing, run
from ecc.network.graph import WidthGraph
from ecc.network.resizing import resize

__all__ = ["mask", "rank_units", "select", "slim", "tolerance", "zero_then_remove"]

Ints = NDArray[np.int64]


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
    tensors = _tensors(model, graph)
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
    before = tensor.shape[:axis].numel()
    norms = torch.linalg.vector_norm(tensor.reshape(before, tensor.shape[axis], -1), dim=2, dtype=dtype)
    # In runs of rows, so that the squares stay in the cache.
    return torch.stack([rows.square().sum(0) for rows in norms.split(64)]).sum(0).double().cpu()


def mask(model: nn.Module, graph: WidthGraph, kept: Kept) -> None:
    """Set every slice of the dropped units to zero, in place.

    Raises:
        InputError: If ``kept`` does not fit the graph, or the graph the model.
    """
    tensors = _tensors(model, graph)
    with torch.no_grad():
        for name, units in _checked(graph, kept).items():
            group = graph.group(name)
            dropped = np.setdiff1d(np.arange(group.units), units)
            for slot in group.slots:
                positions = torch.from_numpy(slot.indices[dropped].reshape(-1))
                tensor = tensors[slot.tensor]
                tensor.index_fill_(slot.axis, positions.to(tensor.device), 0)


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
    kept = _checked(graph, widths) if _is_kept(widths) else select(model, graph, cast(Widths, widths))
    small = _without(model, graph, kept)
    if check and kept:
        _demand_equal(model, graph, kept)
    return small


def zero_then_remove(model: nn.Module, graph: WidthGraph, kept: Kept, inputs: Any) -> float:
    """Largest difference between masked and slim outputs, relative to the largest masked output; inf if NaN differ.

    Networks in half precision are compared in float32.
    """
    tensors = list(_tensors(model, graph).values())
    masked = copy_sharing(model, {id(tensor): _copied(tensor, tensor.detach().clone()) for tensor in tensors}).eval()
    mask(masked, graph, kept)
    small = _without(model, graph, kept).eval()
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors):
        masked, small, inputs = masked.float(), small.float(), _to_float(inputs)
    expected, found = run(masked, inputs), run(small, inputs)
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return float("inf")
    return max((_difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)


def _to_float(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.float() if inputs.dtype in (torch.float16, torch.bfloat16) else inputs
    if isinstance(inputs, Mapping):
        return {name: _to_float(value) for name, value in inputs.items()}
    return tuple(_to_float(value) for value in inputs)


def _difference(a: Tensor, b: Tensor) -> float:
    if not a.numel():
        return 0.0
    a, b = (t.to(torch.complex128 if t.is_complex() else torch.float64) for t in (a, b))
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, torch.zeros_like(a), a - b).abs().max()
    largest = torch.where(a.isfinite(), a, torch.zeros_like(a)).abs().max()
    if not bool(gap.isfinite()):
        return float("inf")
    return float(gap / largest) if largest > 0 else float(gap > 0)


def tolerance(model: nn.Module) -> float:
    """Relative difference that rounding may cause in the model's precision."""
    double = any(tensor.dtype == torch.float64 for tensor in model.parameters())
    return 1e-9 if double else 1e-4


def _demand_equal(model: nn.Module, graph: WidthGraph, kept: Kept) -> None:
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    if device.type == "meta" or not graph.inputs:
        return
    inputs, limit = graph.example(device=device), tolerance(model)
    try:
        difference = zero_then_remove(model, graph, kept, inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        name = _culprit(model, graph, kept, inputs, limit)
        raise EccError(
            f"the slim network fails once group {name!r} is pruned ({_first_line(error)}); exclude it"
        ) from error
    if not difference <= limit:
        name = _culprit(model, graph, kept, inputs, limit)
        raise EccError(
            f"the slim network differs from the masked one by {difference:.1e} once {name!r} is pruned; exclude it"
        )


def _culprit(model: nn.Module, graph: WidthGraph, kept: Kept, inputs: Any, limit: float) -> str:
    """The first group that makes a difference alone, else the last."""
    for name, units in kept.items():
        try:
            if not zero_then_remove(model, graph, {name: units}, inputs) <= limit:
                return name
        except (RuntimeError, ValueError, TypeError, IndexError):
            return name
    return list(kept)[-1]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _tensors(model: nn.Module, graph: WidthGraph) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once.

    Raises:
        InputError: If the graph was traced from another network.
    """
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, axes in graph.parameters.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != axes.shape:
            state = "is missing" if found is None else f"has shape {found}, not {axes.shape}"
            raise InputError(f"the width graph belongs to another network: parameter {name!r} {state}; trace this one")
    return tensors


def _is_kept(widths: Widths | Kept) -> bool:
    return any(isinstance(value, np.ndarray | Sequence) or torch.is_tensor(value) for value in widths.values())


def _checked(graph: WidthGraph, kept: Any) -> dict[str, Ints]:
    """Kept units as sorted arrays, without the groups that keep all.

    Raises:
        InputError: If a group is unknown or not prunable, or indices are not distinct units of it.
    """
    prunable = {group.name: group for group in graph.prunable}
    checked: dict[str, Ints] = {}
    for name, units in kept.items():
        if name not in prunable:
            known = ", ".join(list(prunable)[:6]) + (" …" if len(prunable) > 6 else "")
            raise InputError(f"kept units name the unknown group {name!r}; the prunable groups are {known}")
        group = prunable[name]
        array = np.asarray(units)
        indices = np.unique(array.astype(np.int64))
        valid = array.ndim == 1 and len(array) and len(indices) == len(array) and array.dtype.kind in "iu"
        if not valid or indices[0] < 0 or indices[-1] >= group.units:
            raise InputError(
                f"kept units of group {name!r} must be one or more distinct indices below {group.units}, got {units}"
            )
        if len(indices) < group.units:
            checked[name] = indices
    return checked


def _without(model: nn.Module, graph: WidthGraph, kept: Kept) -> nn.Module:
    """A copy without the dropped units."""
    tensors = _tensors(model, graph)
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
        replacements[id(tensor)] = _copied(tensor, small)
    copied = copy_sharing(model, replacements)
    changed = {id(tensors[name]) for name in keep}
    for path, part in model.named_modules():
        # By identity, not by name: a tied tensor belongs to several modules.
        if any(id(tensor) in changed for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False))):
            resize(copied.get_submodule(path))
    relative = {name: len(units) / graph.group(name).units for name, units in kept.items()}
    for size in graph.sizes:
        if size.side.groups & relative.keys():
            setattr(copied.get_submodule(size.module), size.attribute, round(size.dense * size.side.fraction(relative)))
    return copied


def _copied(tensor: Tensor, data: Tensor) -> Tensor:
    """Data as the kind of tensor that it replaces."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data
