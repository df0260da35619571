"""Checking a fresh width graph: prune at random, compare, and keep dense what fails.

The labels say what must go together; whether the forward itself follows a smaller tensor (or insists on ``view(n, 784)``)
shows only when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.widths import Kept, WidthGroup
from ecc.network.capture import copy_sharing
from ecc.network.graph import WidthGraph
from ecc.network.slimming import zero_then_remove

__all__ = ["refuse_failing"]

_LIMIT = 1e-3  # relative difference; rounding stays far below, a wrong channel is far above
_AFFORDABLE = 3e9  # MACs up to which a second draw is made


def refuse_failing(model: nn.Module, graph: WidthGraph, inputs: Any, *, seed: int = 0) -> WidthGraph:
    """The graph with every group that fails zero-then-remove kept dense, with the reason.

    Args:
        inputs: As given to trace.
        seed: Of the random units and of the perturbed weights.
    """
    if not graph.prunable:
        return graph
    trial = perturbed(model, seed)
    for draw in range(2 if graph.macs() < _AFFORDABLE else 1):
        generator = np.random.default_rng([seed, draw])
        kept = {group.name: _some(group, generator) for group in graph.prunable}
        failures = _failures(trial, graph, kept, inputs)
        if failures:
            graph = replace(
                graph,
                groups=tuple(
                    replace(group, prunable=False, reason=failures[group.name]) if group.name in failures else group
                    for group in graph.groups
                ),
            )
    return graph


def perturbed(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose biases, norms and running statistics are moved off zero and one, so that they hide no error."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)

    def factor(tensor: Tensor) -> Tensor:
        return (0.5 + torch.rand(tensor.shape, generator=generator)).to(tensor.device, tensor.dtype)

    replacements: dict[int, Tensor] = {}
    for parameter in model.parameters():
        data = parameter.detach()
        if not data.is_floating_point() or not data.numel():
            continue
        scale = data.float().square().mean().sqrt().to(data.dtype)
        if data.ndim <= 1:
            data = data * factor(data) + 0.1 * noise(data) * (scale if scale > 0 else 1)
        elif scale == 0:
            data = 0.1 * noise(data)
        replacements[id(parameter)] = nn.Parameter(data, requires_grad=False)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            replacements[id(buffer)] = buffer * factor(buffer)
        elif name.endswith("running_mean"):
            replacements[id(buffer)] = buffer + 0.3 * noise(buffer)
    return copy_sharing(model, replacements).eval()


def _some(group: WidthGroup, generator: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Between a third and four fifths of the units, and never all."""
    count = int(np.clip(round(group.units * generator.uniform(0.33, 0.8)), 1, group.units - 1))
    return np.sort(generator.choice(group.units, count, replace=False))


def _failures(model: nn.Module, graph: WidthGraph, kept: Kept, inputs: Any) -> dict[str, str]:
    """Groups that make the pruned network fail or differ beside the ones that do not, with reasons."""
    accepted: dict[str, Any] = {}
    failures: dict[str, str] = {}

    def admit(names: Sequence[str]) -> None:
        reason = _trial(model, graph, {**accepted, **{name: kept[name] for name in names}}, inputs)
        if not reason:
            accepted.update((name, kept[name]) for name in names)
        elif len(names) == 1:
            failures[names[0]] = reason
        else:
            admit(names[: len(names) // 2])
            admit(names[len(names) // 2 :])

    admit(list(kept))
    return failures


def _trial(model: nn.Module, graph: WidthGraph, kept: Kept, inputs: Any) -> str:
    """Why pruning to ``kept`` is wrong; empty if it is right."""
    try:
        difference = zero_then_remove(model, graph, kept, inputs)
    except InputError:
        raise
    except Exception as error:  # whatever a user's forward may raise
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"the forward insists on its size: {text}"
    return "" if difference <= _LIMIT else "removing its channels changes the output: the forward depends on its size"
