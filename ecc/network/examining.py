"""Examining: whether a network runs on its example inputs, said plainly before any long work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from ecc.core.errors import InputError
from ecc.network.capture import Capture, operator_name, run
from ecc.network.nesting import bind, tensors_in

__all__ = ["examine", "is_meta", "random_operators"]


def is_meta(model: nn.Module) -> bool:
    """Whether any tensor of the model has no values."""
    return any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def examine(model: nn.Module, make: Callable[[], nn.Module], inputs: Any) -> None:
    """Run a copy of the network once.

    Args:
        make: Gives a fresh copy in eval mode.
        inputs: As for ``capture.bind``.

    Raises:
        InputError: If it has no parameters, does not run on the inputs, or gives no tensor or NaN.
    """
    name, tensors = type(model).__name__, list(tensors_in(list(bind(inputs))))
    if not any(True for _ in model.parameters()):
        raise InputError(f"{name} has no parameters; give a network with layers that have weights")
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise InputError(f"{name} has lazy layers whose sizes are not known yet; run it once on an input")
    empty = next((tensor for tensor in tensors if tensor.ndim and tensor.shape[0] == 0), None)
    if empty is not None:
        raise InputError(f"the example input of {_described(empty)} is an empty batch; give at least one example")
    if is_meta(model):
        return
    try:
        outputs = run(make(), inputs)
    except Exception as error:  # whatever a user's forward may raise
        given = ", ".join(_described(tensor) for tensor in tensors)
        raise InputError(f"{name} does not run on an input of {given}: {_cause(make(), inputs, error)}") from error
    if not outputs:
        raise InputError(f"{name} returns no tensor; its forward must return its outputs")
    if any(bool(tensor.isnan().any()) for tensor in outputs):
        raise InputError(f"{name} gives NaN on the example inputs; mend its weights or the inputs before pruning it")


def _described(tensor: Tensor) -> str:
    return f"{_shape(tensor)} ({_dtype(tensor.dtype)})"


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cause(module: nn.Module, inputs: Any, error: Exception) -> str:
    """What the layer that failed expects and got, if that is known and differs; else the first line of the error."""
    running: list[tuple[str, nn.Module, Tensor | None]] = []

    def enter(path: str) -> Callable[..., None]:
        def hook(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            running.append((path, part, next(tensors_in([args, kwargs]), None)))

        return hook

    def leave(*_: Any) -> None:
        running.pop()

    for path, part in module.named_modules():
        part.register_forward_pre_hook(enter(path), with_kwargs=True)
        part.register_forward_hook(leave)
    try:
        run(module, inputs)
    except Exception:  # the same as before
        path, part, given = running[-1] if running else ("", module, None)
        expected = "" if given is None else _expected(part, given)
        if expected and given is not None:
            place = f"layer {path} ({type(part).__name__})" if path else "it"
            whole = expected.startswith("whole") and given.numel() and not given.is_floating_point()
            values = f" with values from {given.min()} to {given.max()}" if whole else ""
            return f"{place} expects {expected}, got {_described(given)}{values}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _expected(module: nn.Module, given: Tensor) -> str:
    """What a layer of PyTorch expects, if what it got is something else; else empty."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
        inside = whole and bool(((given >= 0) & (given < module.num_embeddings)).all())
        return "" if inside else f"whole numbers from 0 to {module.num_embeddings - 1}"
    shape, fits = _shape_of(module, given)
    if not shape:
        return ""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), given.dtype)
    return "" if fits and dtype == given.dtype else f"{shape} ({_dtype(dtype)})"


def _shape_of(module: nn.Module, given: Tensor) -> tuple[str, bool]:
    """The inputs that a layer accepts, and whether a tensor is one; empty for other layers."""
    ndim = given.ndim
    if isinstance(module, _ConvNd):
        spatial = len(module.kernel_size)
        batched = ndim in (spatial + 1, spatial + 2)
        fits = batched and given.shape[-spatial - 1] == module.in_channels
        return "×".join(["N", str(module.in_channels), *"DHW"[3 - spatial :]]), fits
    if isinstance(module, nn.Linear):
        return f"…×{module.in_features}", bool(ndim) and given.shape[-1] == module.in_features
    if isinstance(module, nn.RNNBase):
        return f"…×{module.input_size}", bool(ndim) and given.shape[-1] == module.input_size
    if isinstance(module, nn.LayerNorm):
        size = tuple(module.normalized_shape)
        return "…×" + "×".join(map(str, size)), tuple(given.shape[-len(size) :]) == size
    if isinstance(module, _BatchNorm):
        return f"N×{module.num_features}×…", ndim > 1 and given.shape[1] == module.num_features
    return "", True


def random_operators(captured: Capture) -> list[str]:
    """Operators of a record that draw random numbers, with the module that they are in."""
    found = (
        f"{operator_name(node)} in {captured.modules[node]}" if captured.modules.get(node) else operator_name(node)
        for node in captured.graph.nodes
        if _is_random(node)
    )
    return list(dict.fromkeys(found))


def _is_random(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    given = {a.name: node.args[i] if i < len(node.args) else node.kwargs.get(a.name, a.default_value)
             for i, a in enumerate(target._schema.arguments)}  # fmt: skip
    switches = [given[name] for name in ("train", "training") if name in given]
    shares = [given[name] for name in ("p", "dropout_p", "dropout") if name in given]
    return all(bool(switch) for switch in switches) and not (shares and all(share == 0 for share in shares))
