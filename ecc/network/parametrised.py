"""Parametrised weights: those that a module computes from other tensors whenever it runs."""

from __future__ import annotations

from torch import nn

__all__ = ["parametrised_tensors"]

_SUFFIXES = ("g", "v", "u", "orig", "mask")
"""What the hooks of ``torch.nn.utils`` (weight and spectral norm, pruning) add to the name of a weight."""


def parametrised_tensors(model: nn.Module) -> frozenset[str]:
    """Names in the state of the tensors from which parametrised weights are computed.

    Both forms of PyTorch are known: ``torch.nn.utils.parametrize``, with all that its modules hold, and the older hooks
    of ``torch.nn.utils`` that run before the forward.
    """
    state = model.state_dict()
    found: set[str] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        if nn.utils.parametrize.is_parametrized(module):
            found.update(name for name in state if name.startswith(f"{prefix}parametrizations."))
        for hook in module._forward_pre_hooks.values():
            weight = getattr(hook, "name", None) or getattr(hook, "_tensor_name", None)
            if isinstance(weight, str) and weight not in module._parameters:
                found.update(f"{prefix}{weight}_{suffix}" for suffix in _SUFFIXES)
    return frozenset(found & state.keys())
