"""Running a network without training it: outputs, scores, batch-norm statistics; every mode is put back after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ecc.core.errors import EccError, InputError
from ecc.core.problem import Batches, Task
from ecc.solvers.failures import failure_of, told
from ecc.solvers.randomness import kept_generators

__all__ = [
    "demand_fitting",
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
        InputError: If there is no batch, the loader fails, or it yields NaN that reaches the outputs.
    """
    device = device_of(model)
    outputs, targets = [], []
    with eval_mode(model), torch.no_grad():
        for inputs, wanted in _read(batches):
            outputs.append(forward(model, moved(inputs, device)).float().cpu())
            targets.append(wanted.cpu())
            if outputs[-1].isnan().any() and _holds_nan(inputs):
                raise InputError(f"batch {len(outputs)} of the data to score on holds NaN; mend the data")
    if not outputs:
        raise InputError("there are no batches to evaluate on; give a loader that can be repeated")
    return float(score(torch.cat(outputs), torch.cat(targets)))


def demand_fitting(model: nn.Module, task: Task) -> None:
    """Refuse a task whose loss and score do not take what the network gives, by the first training batch.

    Random generators are left as they are.

    Raises:
        InputError: If the loader, the network, the loss or the score fails there.
    """
    with kept_generators(device_of(model)), eval_mode(model), torch.no_grad():
        for inputs, targets in islice(_read(task.train), 1):
            _demand_pair(model, task, inputs, targets)


def _demand_pair(model: nn.Module, task: Task, inputs: Any, targets: Tensor) -> None:
    device = device_of(model)
    outputs = _tried("the network does not run on a training batch", lambda: forward(model, moved(inputs, device)))
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"the network gives a {type(outputs).__name__}, where loss and score take a tensor; wrap it in a module "
            "that returns the one to train on"
        )
    pair = f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}"
    loss = _tried(f"the loss does not take {pair}", lambda: task.loss(outputs, targets.to(device)))
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shown = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise InputError(
            f"the loss gives {shown}; it must give a tensor of one number, such as the mean over the batch"
        )
    _tried(f"the score does not take {pair}", lambda: float(task.score(outputs.float().cpu(), targets.cpu())))


def _tried(refusal: str, work: Callable[[], Any]) -> Any:
    """What the user's own code returns; its failure as an error of the input."""
    try:
        return work()
    except Exception as error:
        if isinstance(error, EccError) or failure_of(error) is not None:
            raise
        raise InputError(f"{refusal} ({told(error)}); give a network, data and a loss that go together") from error


def _read(batches: Batches | Iterator[tuple[Any, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
    """The batches; a loader that fails is told of."""
    iterator: Iterator[tuple[Any, Tensor]] | None = None
    for number in count(1):
        try:
            iterator = iter(batches) if iterator is None else iterator
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            if isinstance(error, EccError) or failure_of(error) is not None:
                raise
            raise InputError(f"the data failed at batch {number} ({told(error)}); mend the loader") from error
        yield batch


def _holds_nan(inputs: Any) -> bool:
    if isinstance(inputs, tuple | list):
        return any(map(_holds_nan, inputs))
    return isinstance(inputs, Tensor) and bool(inputs.isnan().any())


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
            for inputs, _ in _read(batches):
                forward(model, moved(inputs, device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
