"""What the rows of weights are worth: how often they are read, and how far the network's outputs move with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from ecc.core.code import Workshop
from ecc.core.errors import InputError
from ecc.stages.code import PackedCode
from ecc.stages.nodes import shape_of

__all__ = ["IMPORTANCES", "row_importance"]

IMPORTANCES = ("equal", "uses", "outputs")
"""Rules by which rows weigh."""

_BATCHES = 64  # of training data that are looked at
_LEAST = 0.01  # of the mean: rows that the data do not show are worth something still

Floats = NDArray[np.float64]


def row_importance(rule: str, code: PackedCode, names: Sequence[str], workshop: Workshop | None) -> dict[str, Floats]:
    r"""Weight of an error in each row of some tensors, by name, shape (rows,), positive.

    ``uses`` counts how often an ``nn.Embedding`` reads a row (tensors of other layers: equal). ``outputs`` estimates
    how far the outputs y move with a row w, :math:`\sum \|\partial y/\partial w\|^2` per element, from gradients of y
    with random signs (Hutchinson): what it gives is comparable between tensors, and does not vanish where the loss is
    near zero. Both look at up to 64 batches of training data; rows that these do not show get a hundredth of the mean.

    Raises:
        InputError: If the rule needs a workshop and there is none, or the data or the network fail.
    """
    shapes = {name: shape_of(code.nodes[name]) for name in names}
    equal = {name: np.ones(shape[0]) for name, shape in shapes.items()}
    if rule == "equal":
        return equal
    if workshop is None:
        raise InputError(f"importance {rule!r} is found on training data; give them, or take importance 'equal'")
    parameters = dict(workshop.model.named_parameters())
    known = {name: parameters[name] for name in names if name in parameters and parameters[name].shape == shapes[name]}
    found = _uses(known, workshop) if rule == "uses" else _output_moves(known, workshop)
    return equal | {name: values + _LEAST * values.mean() for name, values in found.items() if values.any()}


def _uses(known: Mapping[str, nn.Parameter], workshop: Workshop) -> dict[str, Floats]:
    counts: dict[str, Floats] = {}
    hooks = []
    for path, module in workshop.model.named_modules():
        name = f"{path}.weight" if path else "weight"
        if isinstance(module, nn.Embedding) and name in known:
            counts[name] = np.zeros(module.num_embeddings)

            def count(module: nn.Module, inputs: tuple[Any, ...], total: Floats = counts[name]) -> None:
                total += np.bincount(inputs[0].flatten().cpu().numpy(), minlength=len(total))

            hooks.append(module.register_forward_pre_hook(count))
    try:
        with torch.no_grad():
            for inputs in _batches(workshop):
                workshop.model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def _output_moves(known: Mapping[str, nn.Parameter], workshop: Workshop) -> dict[str, Floats]:
    weights = {name: parameter.detach().requires_grad_() for name, parameter in known.items()}
    sums = {name: np.zeros(len(weight)) for name, weight in weights.items()}
    random = torch.Generator().manual_seed(workshop.seed)
    for inputs in _batches(workshop):
        outputs = _tensor(functional_call(workshop.model, weights, inputs))
        signs = torch.randint(0, 2, outputs.shape, generator=random) * 2 - 1
        gradients = torch.autograd.grad((outputs * signs.to(outputs)).sum(), list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                dense = gradient.to_dense() if gradient.is_sparse else gradient
                sums[name] += dense.flatten(1).double().square().mean(1).cpu().numpy()
    for path, module in workshop.model.named_modules():
        name = f"{path}.weight" if path else "weight"
        if isinstance(module, nn.Embedding) and module.padding_idx is not None and name in sums:
            sums[name][module.padding_idx] = sums[name].max()  # it has no gradient, but is read
    return sums


def _tensor(outputs: Any) -> Tensor:
    """The first tensor of floats among the outputs."""
    if isinstance(outputs, Tensor) and outputs.is_floating_point():
        return outputs
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, tuple | list) else ()
    for part in parts:
        if isinstance(part, Tensor) and part.is_floating_point():
            return part
    raise InputError("the network returns no tensor of floats, and so its rows cannot be weighed by its outputs")


def _batches(workshop: Workshop) -> Iterator[tuple[Any, ...]]:
    """Inputs of training batches on the network's device; random generators and modes are put back behind them."""
    device = next((each.device for each in workshop.model.parameters()), torch.device("cpu"))
    with _evaluating(workshop.model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(workshop.seed)
        for inputs, _ in islice(workshop.task.train, _BATCHES):
            several = inputs if isinstance(inputs, tuple | list) else (inputs,)
            yield tuple(each.to(device) if isinstance(each, Tensor) else each for each in several)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
