"""Shapes: results of common operators on the meta device, without running what PyTorch runs to find them.

A batch norm takes PyTorch close to a millisecond on the meta device, a convolution a thirtieth of that; and the first
operator whose shape PyTorch finds in Python imports its compiler, which takes seconds. The rules here give the same
shape, dtype and layout at once, or None where a call is out of the ordinary and PyTorch has to judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
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


def shaped(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The result of ``func(*args, **kwargs)`` without values, or None where there is no short way to it."""
    rule = _RULES.get(func)
    if rule is None or not args:
        return None
    first = args[0][0] if isinstance(args[0], list | tuple) and args[0] else args[0]
    return rule(*args, **kwargs) if _plain(first) else None


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


def _matmul(value: Tensor, other: Tensor) -> Tensor | None:
    if not _plain(other) or value.dtype != other.dtype or value.ndim < 2 or value.ndim != other.ndim:
        return None
    if value.shape[:-2] != other.shape[:-2] or value.shape[-1] != other.shape[-2]:
        return None
    return value.new_empty((*value.shape[:-1], other.shape[-1]))


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *_: Any, **options: Any
) -> Tensor | None:
    """Attention whose heads are equally many; what comes out lies as the query's own axes do, or in their order."""
    same = query.shape[:-2] == key.shape[:-2] == value.shape[:-2] and query.dtype == key.dtype == value.dtype
    fits = query.ndim == 4 and key.shape[-1] == query.shape[-1] and value.shape[-2] == key.shape[-2]
    if not same or not fits or mask is not None or options.get("enable_gqa"):
        return None
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


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


def _binary(value: Tensor, other: Any, **options: Any) -> Tensor | None:
    """An operator on two operands of one type, or on one and a number."""
    if options.get("rounding_mode") is not None:
        return None
    if isinstance(other, int | float):
        return torch.empty_like(value)
    if not _plain(other) or value.dtype != other.dtype or 0 in (value.ndim, other.ndim):
        return None
    shape = _broadcast(value, other)
    if value.shape == shape == other.shape:
        return torch.empty_like(value) if value.stride() == other.stride() else None
    if shape is None or not (value.is_contiguous() and other.is_contiguous()):
        return None
    return value.new_empty(shape)


def _binary_in_place(value: Tensor, other: Any, **_: Any) -> Tensor | None:
    if isinstance(other, int | float):
        return value
    fits = _plain(other) and value.dtype == other.dtype
    return value if fits and _broadcast(value, other) == value.shape else None


def _broadcast(value: Tensor, other: Tensor) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(value.shape, other.shape)
    except ValueError:
        return None


def _concatenated(values: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = values[0]
    same = all(_plain(value) and value.dtype == first.dtype and value.ndim == first.ndim for value in values)
    ordered = first.ndim not in (4, 5) or all(value.is_contiguous() for value in values)  # else perhaps channels last
    if not same or not ordered or not first.ndim:
        return None
    dim %= first.ndim
    if len({(value.shape[:dim], value.shape[dim + 1 :]) for value in values}) > 1:
        return None
    shape = list(first.shape)
    shape[dim] = sum(value.shape[dim] for value in values)
    return first.new_empty(shape)


def _reduced(
    value: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor | None:
    if not dims or dtype is not None or not value.ndim:
        return None
    gone = {dim % value.ndim for dim in dims}
    sizes = enumerate(value.shape)
    return value.new_empty([1 if i in gone else n for i, n in sizes if keepdim or i not in gone])


def _adaptive_pool(value: Tensor, sizes: Sequence[int]) -> Tensor | None:
    """Pooling to a given size; in the layout of the input only where that is the plain one."""
    if not value.is_contiguous() or value.ndim <= len(sizes) or not all(isinstance(size, int) for size in sizes):
        return None
    return value.new_empty((*value.shape[: value.ndim - len(sizes)], *sizes))


def _expanded(value: Tensor, sizes: Sequence[int], **_: Any) -> Tensor | None:
    missing = len(sizes) - value.ndim
    old, strides = (1,) * missing + tuple(value.shape), (0,) * missing + value.stride()
    shape = [before if size == -1 else size for size, before in zip(sizes, old, strict=True)]
    if -1 in sizes[:missing] or any(a not in (1, b) for a, b in zip(old, shape, strict=True)):
        return None
    steps = [stride if a == b else 0 for a, b, stride in zip(old, shape, strides, strict=True)]
    return value.as_strided(shape, steps)


def _softmax(value: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor | None:
    return torch.empty_like(value) if dtype in (None, value.dtype) and value.is_contiguous() else None


def _recurrent(
    value: Tensor,
    states: Any,
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool = False,
) -> Any:
    """LSTM, GRU and plain recurrent layers over one batch of sequences."""
    initial = list(states) if isinstance(states, list | tuple) else [states]
    if value.ndim != 3 or not all(_plain(state) for state in initial) or not _fits(value, initial, weights, has_biases):
        return None
    directions = 2 if bidirectional else 1
    first, second = reversed(value.shape[:2]) if batch_first else value.shape[:2]
    output = value.new_empty((first, second, directions * initial[0].shape[-1]))
    if batch_first:
        output = output.transpose(0, 1)
    return (output, *(state.new_empty(state.shape) for state in initial))


def _fits(value: Tensor, initial: Sequence[Tensor], weights: Sequence[Tensor], has_biases: bool) -> bool:
    """Whether the first cell takes inputs and states of these sizes."""
    rows, columns = weights[0].shape
    hidden = initial[-1].shape[-1]
    return (
        value.shape[-1] == columns
        and rows % hidden == 0
        and weights[1].shape == (rows, initial[0].shape[-1])
        and (not has_biases or weights[2].shape == (rows,))
    )


_UNARY = (
    *(_ATEN.relu, _ATEN.silu, _ATEN.sigmoid, _ATEN.tanh, _ATEN.hardswish, _ATEN.hardsigmoid, _ATEN.relu6, _ATEN.gelu),
    *(_ATEN.leaky_relu, _ATEN.elu, _ATEN.mish, _ATEN.softplus, _ATEN.hardtanh, _ATEN.exp, _ATEN.sqrt, _ATEN.rsqrt),
)
_UNARY_IN_PLACE = (
    *(_ATEN.relu_, _ATEN.silu_, _ATEN.hardswish_, _ATEN.hardsigmoid_, _ATEN.relu6_, _ATEN.hardtanh_, _ATEN.sigmoid_),
    *(_ATEN.leaky_relu_, _ATEN.elu_, _ATEN.tanh_, _ATEN.mish_, _ATEN.clamp_),
)

_RULES: Mapping[Any, Callable[..., Any]] = MappingProxyType(
    {
        **{packet.default: _like for packet in _UNARY},
        **{packet.default: _itself for packet in _UNARY_IN_PLACE},
        **{packet.Tensor: _binary for packet in (_ATEN.add, _ATEN.sub, _ATEN.mul, _ATEN.div)},
        **{packet.Tensor: _binary_in_place for packet in (_ATEN.add_, _ATEN.sub_, _ATEN.mul_, _ATEN.div_)},
        _ATEN.cat.default: _concatenated,
        _ATEN.mean.dim: _reduced,
        _ATEN.sum.dim_IntList: _reduced,
        _ATEN.amax.default: _reduced,
        _ATEN.softmax.int: _softmax,
        _ATEN.expand.default: _expanded,
        **{packet.default: _adaptive_pool for packet in (_ATEN.adaptive_avg_pool2d, _ATEN.adaptive_avg_pool3d)},
        _ATEN.linear.default: _linear,
        _ATEN.matmul.default: _matmul,
        _ATEN.scaled_dot_product_attention.default: _attention,
        _ATEN.batch_norm.default: _batch_norm,
        _ATEN.layer_norm.default: _layer_norm,
        _ATEN.lstm.input: _recurrent,
        _ATEN.gru.input: _recurrent,
    }
)
