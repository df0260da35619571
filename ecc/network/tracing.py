"""Tracing: a module and example inputs → its width graph."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ecc.core.errors import InputError
from ecc.core.layers import Side
from ecc.core.widths import WidthGroup
from ecc.network.attention import head_counts
from ecc.network.axes import propagate
from ecc.network.capture import bind, capture, run
from ecc.network.checking import counting_attributes, refuse_failing
from ecc.network.copying import copy_sharing
from ecc.network.graph import InputSpec, SizeAttribute, TensorAxes, WidthGraph
from ecc.network.grouping import group_channels
from ecc.network.replay import Replay
from ecc.network.values import owner

__all__ = ["trace"]


def trace(
    model: nn.Module,
    example_inputs: Any,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    check: bool = True,
) -> WidthGraph:
    """Find which channels of a network can only go together.

    Args:
        model: Any module; it is not changed, and looked at in eval mode.
        example_inputs: A tensor, a tuple of tensors, or a dict of tensors for keyword arguments; axis 0 is the batch.
        include: Patterns (``layer1.*``) of the layers whose channels may be pruned; all when empty.
        exclude: Patterns of layers whose channels stay.
        check: Whether to prune a copy at random, compare it with the masked network, and keep dense what fails.

    Raises:
        InputError: If the model does not run on the inputs, cannot be recorded or copied, or a pattern matches nothing.
    """
    args, kwargs = bind(example_inputs)
    shared = {id(parameter): parameter for parameter in model.parameters()}
    if not _is_meta(model):
        _try(copy_sharing(model, shared).eval(), example_inputs)
    captured = capture(lambda: copy_sharing(model, shared).eval(), example_inputs)
    first = next(tensor for tensor in (*args, *kwargs.values()))
    propagation = propagate(captured, first.shape[0] if first.ndim else 1)
    grouping = group_channels(propagation)
    parameters = {
        name: TensorAxes(tuple(parameter.shape), grouping.sides[name]) for name, parameter in model.named_parameters()
    }
    specs = [*(InputSpec.of(tensor) for tensor in args), *(InputSpec.of(value, name) for name, value in kwargs.items())]
    graph = WidthGraph(
        groups=_chosen(grouping.groups, include, exclude),
        layers=grouping.layers,
        parameters=parameters,
        input_shapes=tuple(spec.shape for spec in specs),
        notes=tuple(dict.fromkeys(propagation.ledger.notes)),
        inputs=tuple(specs),
        sizes=(*_unused_sizes(model, grouping.sizes), *head_counts(model, grouping.sizes, grouping.sides)),
    )
    if check:
        replay = Replay(captured, propagation, grouping.units)
        graph = refuse_failing(model, graph, example_inputs, replay, counting_attributes(model, grouping.sizes))
    return graph


def _unused_sizes(model: nn.Module, candidates: Sequence[tuple[str, int, Side]]) -> tuple[SizeAttribute, ...]:
    """The number of channels of norms that have no tensor to tell it; they warn when it is wrong."""
    modules = dict(model.named_modules())
    return tuple(
        SizeAttribute(path, "num_features", value, side)
        for path, value, side in candidates
        if isinstance(module := modules[path], _NormBase) and not [*module.parameters(), *module.buffers()]
        if module.num_features == value
    )


def _is_meta(model: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def _try(model: nn.Module, inputs: Any) -> None:
    """Run the model once, so that what is wrong with the inputs is said plainly."""
    args, kwargs = bind(inputs)
    shapes = ", ".join("×".join(map(str, tensor.shape)) or "a scalar" for tensor in (*args, *kwargs.values()))
    try:
        outputs = run(model, inputs)
    except Exception as error:  # whatever a user's forward may raise
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{type(model).__name__} does not run on an input of {shapes}: {text}") from error
    if not outputs:
        raise InputError(f"{type(model).__name__} returns no tensor; its forward must return its outputs")
    if any(bool(tensor.isnan().any()) for tensor in outputs):
        raise InputError(
            f"{type(model).__name__} gives NaN on the example inputs; mend its weights or the inputs before pruning it"
        )


def _chosen(groups: Sequence[WidthGroup], include: Sequence[str], exclude: Sequence[str]) -> tuple[WidthGroup, ...]:
    """Groups with the user's choice applied.

    Raises:
        InputError: If a pattern matches no layer.
    """
    writers = {group.name: _writers(group) for group in groups}
    known = sorted({name for names in writers.values() for name in names})
    for pattern in (*include, *exclude):
        if not fnmatch.filter(known, pattern):
            raise InputError(f"pattern {pattern!r} matches no layer; layers are {', '.join(known[:6])} …")

    def reason(group: WidthGroup) -> str:
        names = writers[group.name]
        if include and not any(fnmatch.filter(names, pattern) for pattern in include):
            return "it is not among the included layers"
        hit = next((pattern for pattern in exclude if fnmatch.filter(names, pattern)), None)
        return f"it is excluded by {hit!r}" if hit else ""

    return tuple(
        replace(group, prunable=False, reason=reason(group)) if group.prunable and reason(group) else group
        for group in groups
    )


def _writers(group: WidthGroup) -> list[str]:
    return [group.name, *dict.fromkeys(owner(slot.tensor) for slot in group.slots if slot.role == "write")]
