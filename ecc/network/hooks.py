"""Hooks: those that only observe are no part of a network, those that change what it computes are.

Which they are shows when it runs once with them and once without. Nothing here runs where nobody registered any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from ecc.core.errors import InputError
from ecc.network.capture import run
from ecc.network.comparing import difference
from ecc.network.copying import copied, copy_sharing
from ecc.network.stopping import hooked_module

__all__ = ["strip", "unobserved"]

_ROUNDING = 1e-6  # two runs of one network may differ by so much on a GPU


@contextmanager
def unobserved(model: nn.Module, inputs: Any) -> Iterator[nn.Module]:
    """The network without its user's forward hooks if these change no output, sharing all tensors; else itself.

    Both runs are on moved weights, because a hook that computes a weight gives the one that is there already.
    Hooks of PyTorch's own (weight norm …) stay. Global hooks are set aside with the others while it lasts. On the meta
    device nothing shows, so all hooks stay.

    Raises:
        InputError: If a hook fails, and the network runs without.
    """
    tensors = (*model.parameters(), *model.buffers())
    if any(tensor.is_meta for tensor in tensors) or not (_is_hooked(model) and _observe(model, inputs)):
        yield model
    else:
        bare = copy_sharing(model, {id(tensor): tensor for tensor in tensors})
        strip(bare)
        with _no_global_hooks():
            yield bare


def _is_hooked(model: nn.Module) -> bool:
    tables = [torch_modules._global_forward_hooks, torch_modules._global_forward_pre_hooks]
    for part in model.modules():
        tables += [part._forward_hooks, part._forward_pre_hooks]
    return any(_is_users(hook) for table in tables for hook in table.values())


def _is_users(hook: Callable[..., Any]) -> bool:
    return not str(hook.__module__).startswith("torch.")


def _observe(model: nn.Module, inputs: Any) -> bool:
    """Whether the outputs are those without the hooks; false if the network runs neither way."""
    bare = _elsewhere(model)
    strip(bare)
    with _no_global_hooks():
        try:
            expected = run(bare, inputs)
        except Exception:  # whatever a user's forward may raise, which may need the hooks
            return False
    for gradients in (False, True):  # an observer of gradients needs them
        watched = _elsewhere(model)
        try:
            return difference(expected, run(watched, inputs, gradients=gradients)) <= _ROUNDING
        except Exception as error:  # whatever a user's hook may raise
            failed, cause = hooked_module(error), error
    if failed is None:
        return False
    path = next((path for path, part in watched.named_modules() if part is failed), "")
    place = f"{path} ({type(failed).__name__})" if path else type(failed).__name__
    why = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    raise InputError(f"a forward hook of {place} fails: {why}; mend the hook or remove it from the network") from cause


def _elsewhere(model: nn.Module) -> nn.Module:
    """A copy with weights moved a little, each number on its own, so that zeros do not stay."""
    generator = torch.Generator().manual_seed(0)
    moved: dict[int, Tensor] = {id(buffer): buffer.detach().clone() for buffer in model.buffers()}
    for parameter in model.parameters():
        data = parameter.detach().clone()
        if data.is_floating_point() and data.numel():
            noise = torch.randn(data.shape, generator=generator).to(data.device, data.dtype)
            data += 0.1 * noise * (data.float().square().mean().sqrt() + 1e-3).to(data.dtype)
        moved[id(parameter)] = copied(parameter, data)
    return copy_sharing(model, moved).eval()


def strip(model: nn.Module) -> None:
    """Take the user's forward hooks off a network."""
    for part in model.modules():
        for table in (part._forward_hooks, part._forward_pre_hooks):
            for key in [key for key, hook in table.items() if _is_users(hook)]:
                del table[key]


@contextmanager
def _no_global_hooks() -> Iterator[None]:
    tables: list[Any] = [torch_modules._global_forward_hooks, torch_modules._global_forward_pre_hooks]
    before = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, hooks in zip(tables, before, strict=True):
            table.update(hooks)
