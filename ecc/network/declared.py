"""Declared groups: channels that the user says go together, for parts of a network that cannot be followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.widths import Kept, WidthGroup
from ecc.network.axes import Propagation
from ecc.network.copying import copy_sharing
from ecc.network.equality import zero_then_remove
from ecc.network.graph import WidthGraph
from ecc.network.nesting import bind, tensors_in
from ecc.network.opaque import Opaque, ParameterAxis

__all__ = ["Declared", "axes_of", "confirm", "declare", "is_inside", "parse"]

_DRAWS = 4  # of weights, inputs and units that a declaration is tried on
_LIMIT = 1e-3  # as in ``checking``


@dataclass(frozen=True, slots=True)
class Declared:
    """A group as the user declared it.

    Attributes:
        name: That the user gave it.
        roles: ``write`` or ``read`` of each parameter axis; at least one is written.
    """

    name: str
    roles: Mapping[ParameterAxis, str]


def parse(model: nn.Module, groups: Mapping[str, Any]) -> tuple[Declared, ...]:
    """Declarations such as ``{"hidden": {"writes": ["fc1.weight:0", "fc1.bias:0"], "reads": ["fc2.weight:1"]}}``.

    Raises:
        InputError: If a parameter or axis is unknown, sizes differ, an axis is named twice or nothing is written.
    """
    first = {id(tensor): name for name, tensor in reversed(_named(model))}
    tensors = {name: (first[id(tensor)], tensor) for name, tensor in _named(model)}
    taken: dict[ParameterAxis, str] = {}
    found = []
    for name, sides in groups.items():
        if not isinstance(sides, Mapping) or not sides.get("writes") or not set(sides) <= {"writes", "reads"}:
            raise InputError(
                f"group {name!r} must be declared as {{'writes': [...], 'reads': [...]}} with at least one parameter "
                f"axis that it writes, got {sides!r}"
            )
        roles: dict[ParameterAxis, str] = {}
        sizes: dict[str, int] = {}
        for side, role in (("writes", "write"), ("reads", "read")):
            for text in sides.get(side, ()):
                axis, sizes[text] = _axis(name, text, tensors)
                if axis in taken:
                    raise InputError(f"group {name!r} names {text}, which group {taken[axis]!r} holds already")
                taken[axis] = name
                roles[axis] = role
        if len(set(sizes.values())) > 1:
            shown = ", ".join(f"{text} has {size}" for text, size in sizes.items())
            raise InputError(f"all axes of group {name!r} must have one size, but {shown}")
        found.append(Declared(name, roles))
    return tuple(found)


def axes_of(declared: Sequence[Declared]) -> frozenset[ParameterAxis]:
    """All parameter axes that are named."""
    return frozenset(axis for group in declared for axis in group.roles)


def declare(propagation: Propagation, declared: Sequence[Declared]) -> None:
    """Tie the named axes of each group; roles that were found stay."""
    ledger = propagation.ledger
    for group in declared:
        lead = None
        for (name, i), role in group.roles.items():
            labels = propagation.parameters[name].axes[i].labels
            if labels is None:
                continue
            lead = labels if lead is None else lead
            ledger.channels.tie(lead, labels, f"group {group.name!r} ties it to an axis of fixed size")
            ledger.roles.setdefault((name, i), role)
            ledger.names[name, i] = group.name


def confirm(
    model: nn.Module, before: WidthGraph, after: WidthGraph, declared: Sequence[Declared], inputs: Any, *, seed: int = 0
) -> None:
    """Try declared groups on shaken weights and other inputs; what they say about opaque modules is checked only here.

    Args:
        before: The graph as declared.
        after: The graph without the groups that failed their check.

    Raises:
        InputError: If pruning a declared group is not the same as masking it.
    """
    for group in declared:
        names = [candidate.name for candidate in before.prunable if _touches(candidate, group)]
        for name in names:
            if not after.group(name).prunable:
                raise _wrong(group, after.group(name).reason)
        for draw in range(_DRAWS if names else 0):
            try:
                difference = _difference(model, after, names, inputs, seed + draw)
            except Exception as error:  # whatever a user's forward may raise
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise _wrong(group, f"the forward insists on its size: {first}") from error
            if not difference <= _LIMIT:
                raise _wrong(group, "removing its channels changes the output of the network")


def is_inside(declared: Declared, skipped: Sequence[Opaque]) -> bool:
    """Whether a group names an axis of a module that is not followed inside."""
    names = {name for name, _ in declared.roles}
    return any(
        name in part.reads or not part.path or name.startswith(f"{part.path}.") for part in skipped for name in names
    )


def _difference(model: nn.Module, graph: WidthGraph, names: Sequence[str], inputs: Any, seed: int) -> float:
    """Between masked and slim outputs for random units of the groups."""
    generator = np.random.default_rng([seed, len(names)])
    kept: dict[str, Any] = {}
    for name in names:
        units = graph.group(name).units
        count = int(generator.integers(1, units)) if units > 2 else 1
        kept[name] = np.sort(generator.choice(units, count, replace=False))
    chosen: Kept = kept
    return zero_then_remove(_shaken(model, seed), graph, chosen, _other(graph, inputs, seed))


def _other(graph: WidthGraph, inputs: Any, seed: int) -> Any:
    """The example inputs first, then random ones like them."""
    device = next(tensors_in(list(bind(inputs)))).device
    return inputs if not seed else graph.example(seed=seed, device=device)


def _shaken(model: nn.Module, seed: int) -> nn.Module:
    """A copy with noise on all weights, so that equal rows, zeros and identities hide no error."""
    generator = torch.Generator().manual_seed(seed)
    replacements: dict[int, Tensor] = {}
    for parameter in model.parameters():
        data = parameter.detach()
        if data.is_floating_point() and data.numel():
            scale = data.float().square().mean().sqrt().clamp(min=1e-2)
            noise = torch.randn(data.shape, generator=generator).to(data.device) * scale * 0.3
            replacements[id(parameter)] = nn.Parameter(data + noise.to(data.dtype), requires_grad=False)
    return copy_sharing(model, replacements).eval()


def _touches(group: WidthGroup, declared: Declared) -> bool:
    return any((slot.tensor, slot.axis) in declared.roles for slot in group.slots)


def _wrong(group: Declared, reason: str) -> InputError:
    return InputError(
        f"the declared group {group.name!r} is wrong ({reason}); name every parameter axis that its channels lie along, "
        "in the same order of channels, and no other"
    )


def _named(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _axis(group: str, text: Any, tensors: Mapping[str, tuple[str, Tensor]]) -> tuple[ParameterAxis, int]:
    """The parameter axis that is written as ``name:axis``, and its size."""
    name, _, number = str(text).rpartition(":")
    if name not in tensors:
        near = get_close_matches(name or str(text), tensors, n=3)
        raise InputError(
            f"group {group!r} names {text!r}, which is not parameter:axis of the network"
            + (f"; did you mean {' or '.join(f'{close}:{number or 0}' for close in near)}?" if near else "")
        )
    first, tensor = tensors[name]
    if not number.lstrip("-").isdigit() or not -tensor.ndim <= int(number) < tensor.ndim:
        raise InputError(f"group {group!r} names axis {number!r} of {name}, which has the axes 0 to {tensor.ndim - 1}")
    axis = int(number) % tensor.ndim
    return (first, axis), int(tensor.shape[axis])
