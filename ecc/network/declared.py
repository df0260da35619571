"""Declared groups: channels that the user says go together, for parts of a network that cannot be followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ecc.core.errors import InputError
from ecc.core.widths import WidthGroup
from ecc.network.axes import Propagation
from ecc.network.capture import run
from ecc.network.copying import copy_sharing
from ecc.network.equality import zero_then_remove
from ecc.network.graph import WidthGraph
from ecc.network.nesting import bind, tensors_in
from ecc.network.opaque import Opaque, ParameterAxis

__all__ = ["Declared", "axes_of", "confirm", "declare", "is_inside", "parse"]

_DRAWS = 4  # of weights, inputs and units that a declaration is tried on
_MOST_DRAWS = 16  # while some of its parameters were not used yet
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

    def sides(self) -> dict[str, tuple[str, ...]]:
        """It as ``parse`` reads it."""
        return {
            side: tuple(f"{name}:{axis}" for (name, axis), own in self.roles.items() if own == role)
            for side, role in (("writes", "write"), ("reads", "read"))
        }


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
) -> WidthGraph:
    """Try declared groups on shaken weights and other inputs; what they say about opaque modules is checked only here.

    Groups with a parameter that the network used in no trial (an expert that no token went to) stay dense.

    Args:
        before: The graph as declared.
        after: The graph without the groups that failed their check.

    Raises:
        InputError: If pruning a declared group is not the same as masking it.
    """
    found = {group.name: [g.name for g in before.prunable if _touches(g, group)] for group in declared}
    for group in declared:
        failed = next((name for name in found[group.name] if not after.group(name).prunable), None)
        if failed is not None:
            raise _wrong(group, after.group(failed).reason)
    missing = {group.name: {name for name, _ in group.roles} for group in declared if found[group.name]}
    for draw in range(_MOST_DRAWS if missing else 0):
        shaken, other = _shaken(model, seed + draw), _other(after, inputs, seed + draw)
        used = _used(shaken, other)
        for group in declared:
            if group.name in missing and (draw < _DRAWS or missing[group.name] & used):
                missing[group.name] -= used
                _demand_equal(shaken, after, group, found[group.name], other, seed + draw)
        if draw >= _DRAWS and not any(missing.values()):
            break
    reasons = {
        name: f"the declared group {group!r} was not checked, as no trial used {min(unused)}; give more examples"
        for group, unused in missing.items()
        if unused
        for name in found[group]
    }
    groups = (replace(g, prunable=False, reason=reasons[g.name]) if g.name in reasons else g for g in after.groups)
    return replace(after, groups=tuple(groups)) if reasons else after


def _demand_equal(
    model: nn.Module, graph: WidthGraph, group: Declared, names: Sequence[str], inputs: Any, seed: int
) -> None:
    """Masked and slim outputs must agree for random units of the named groups, which are the declared one."""
    generator = np.random.default_rng([seed, len(names)])
    kept: dict[str, NDArray[np.int64]] = {}
    for name in names:
        units = graph.group(name).units
        count = int(generator.integers(1, units)) if units > 2 else 1
        kept[name] = np.sort(generator.choice(units, count, replace=False))
    try:
        difference = zero_then_remove(model, graph, kept, inputs)
    except Exception as error:  # whatever a user's forward may raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _wrong(group, f"the forward insists on its size: {first}") from error
    if not difference <= _LIMIT:
        raise _wrong(group, "removing its channels changes the output of the network")


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which tensors a forward uses."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator imports PyTorch's compiler, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen |= {id(tensor) for tensor in tensors_in([args, kwargs or {}])}
        return func(*args, **(kwargs or {}))


def _used(model: nn.Module, inputs: Any) -> set[str]:
    """Names of the parameters and buffers that a forward uses."""
    with _Watch() as watch:
        run(model, inputs)
    return {name for name, tensor in _named(model) if id(tensor) in watch.seen}


def is_inside(declared: Declared, skipped: Sequence[Opaque]) -> bool:
    """Whether a group names an axis of a module that is not followed inside."""
    names = {name for name, _ in declared.roles}
    return any(
        name in part.reads or not part.path or name.startswith(f"{part.path}.") for part in skipped for name in names
    )


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
        f"the declared group {group.name!r} is wrong ({reason}); name every parameter axis that its channels lie "
        "along, in the same order of channels, and no other"
    )


def _named(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _axis(group: str, text: Any, tensors: Mapping[str, tuple[str, Tensor]]) -> tuple[ParameterAxis, int]:
    """The parameter axis that is written as ``name:axis``, and its size."""
    name, _, number = str(text).rpartition(":") if ":" in str(text) else (str(text), "", "")
    if name not in tensors or not number:
        near = get_close_matches(name, tensors, n=3)
        raise InputError(
            f"group {group!r} names {text!r}, which is not parameter:axis of the network"
            + (f"; did you mean {' or '.join(f'{close}:{number or 0}' for close in near)}?" if near else "")
        )
    first, tensor = tensors[name]
    if not number.lstrip("-").isdigit() or not -tensor.ndim <= int(number) < tensor.ndim:
        raise InputError(f"group {group!r} names axis {number!r} of {name}, which has the axes 0 to {tensor.ndim - 1}")
    axis = int(number) % tensor.ndim
    return (first, axis), int(tensor.shape[axis])
