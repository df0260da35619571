"""Shapes: results of common operators on the meta device, without running what PyTorch runs to find them.

A batch norm takes PyTorch close to a millisecond on the meta device, a convolution a thirtieth of that. The rules here
give the same shape, dtype and layout at once, or None where a call is out of the ordinary and PyTorch has to judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["WithoutValues", "shaped"]

_ATEN = torch.ops.aten


class WithoutValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs networks on the meta device the short way; under inference mode, where operators arrive whole."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator imports PyTorch's compiler, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = shaped(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if output is None else output


def shaped(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The result of ``func(*args, **kwargs)`` without values, or None where there is no short way to it."""
    rule = _RULES.get(func)
    if rule is None or not args or not _plain(args[0]):
        return None
    return rule(*args, **kwargs)


def _plain(value: Any) -> bool:
    """Whether a value is an ordinary tensor of floats on the meta device."""
    return type(value) in (Tensor, nn.Parameter) and value.is_meta and value.is_floating_point()


def _like(value: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(value)


def _itself(value: Tensor, *_: Any, **__: Any) -> Tensor:
    return value


def _linear(value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    fits = value.ndim > 0 and weight.ndim == 2 and value.shape[-1] == weight.shape[1] and value.dtype == weight.dtype
    if not fits or not weight.is_meta or (bias is not None and (bias.shape != weight.shape[:1] or not bias.is_meta)):
        return None
    return value.new_empty((*value.shape[:-1], weight.shape[0]))


def _batch_norm(
    value: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    *_: Any,
) -> Tensor | None:
    tensors = [tensor for tensor in (weight, bias, mean, variance) if tensor is not None]
    if training or mean is None or value.ndim < 2:
        return None
    fits = all(tensor.is_meta and tensor.shape == value.shape[1:2] for tensor in tensors)
    return torch.empty_like(value) if fits else None


def _layer_norm(
    value: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, *_: Any
) -> Tensor | None:
    tensors = [tensor for tensor in (weight, bias) if tensor is not None]
    fits = tuple(shape) == value.shape[-len(shape) :] and all(
        tensor.is_meta and tensor.shape == tuple(shape) and tensor.dtype == value.dtype for tensor in tensors
    )
    return torch.empty(value.shape, dtype=value.dtype, device="meta") if fits else None


_UNARY = (_ATEN.relu, _ATEN.silu, _ATEN.sigmoid, _ATEN.tanh, _ATEN.hardswish, _ATEN.hardsigmoid, _ATEN.relu6)

_RULES: Mapping[Any, Callable[..., Tensor | None]] = MappingProxyType(
    {
        **{packet.default: _like for packet in (*_UNARY, _ATEN.gelu)},
        **{
            packet.default: _itself
            for packet in (_ATEN.relu_, _ATEN.silu_, _ATEN.hardswish_, _ATEN.hardsigmoid_, _ATEN.relu6_)
        },
        _ATEN.linear.default: _linear,
        _ATEN.batch_norm.default: _batch_norm,
        _ATEN.layer_norm.default: _layer_norm,
    }
)
