"""Running a network without training it: outputs, scores, batch-norm statistics; every mode is put back after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ecc.core.errors import InputError
from ecc.core.problem import Batches

__all__ = [
    "device_of",
    "eval_mode",
    "evaluate",
    "forward",
    "kept_modes",
    "moved",
    "recalibrate",
    "running_statistics",
    "switch_off_dropout",
]


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter (or buffer) is; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def forward(model: nn.Module, inputs: Any) -> Tensor:
    """The outputs for one batch; a tuple or list of inputs is spread over the arguments."""
    outputs: Tensor = model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)
    return outputs


def moved(inputs: Any, device: torch.device) -> Any:
    """A tensor, or the tensors of a tuple or list, on the device."""
    if isinstance(inputs, tuple | list):
        return tuple(moved(item, device) for item in inputs)
    return inputs.to(device) if isinstance(inputs, Tensor) else inputs


@contextmanager
def kept_modes(model: nn.Module | None) -> Iterator[None]:
    """Put the train/eval mode of every module back at the end."""
    modes = [(module, module.training) for module in model.modules()] if model is not None else []
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def eval_mode(model: nn.Module | None) -> Iterator[None]:
    """Eval mode within, the modes of before at the end."""
    with kept_modes(model):
        if model is not None:
            model.eval()
        yield


@contextmanager
def switch_off_dropout(model: nn.Module) -> Iterator[None]:
    """No dropout within: layers, recurrent layers and attention (a functional call in a forward is out of reach)."""
    probabilities: list[tuple[_DropoutNd | nn.RNNBase | nn.MultiheadAttention, str, float]] = []
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            probabilities.append((module, "p", module.p))
        elif isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            probabilities.append((module, "dropout", module.dropout))
    try:
        for module, name, _ in probabilities:
            setattr(module, name, 0.0)
        yield
    finally:
        for module, name, probability in probabilities:
            setattr(module, name, probability)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The running means and variances of normalisations: what training estimates rather than learns."""
    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    return [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]


def evaluate(model: nn.Module, batches: Batches, score: Callable[[Tensor, Tensor], float]) -> float:
    """The score of the model's outputs, in eval mode, over all batches.

    Raises:
        InputError: If there is no batch.
    """
    device = device_of(model)
    outputs, targets = [], []
    with eval_mode(model), torch.no_grad():
        for inputs, wanted in batches:
            outputs.append(forward(model, moved(inputs, device)).float().cpu())
            targets.append(wanted.cpu())
    if not outputs:
        raise InputError("there are no batches to evaluate on; give a loader that can be repeated")
    return float(score(torch.cat(outputs), torch.cat(targets)))


def recalibrate(model: nn.Module, batches: Batches, *, seed: int = 0) -> None:
    """Recompute the running statistics of batch norms as plain averages over the batches; weights stay.

    Args:
        seed: Of the loader's shuffling.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    device = device_of(model)
    momenta = [norm.momentum for norm in norms]
    with eval_mode(model), torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's sign for a cumulative average
                norm.train()
            for inputs, _ in batches:
                forward(model, moved(inputs, device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
