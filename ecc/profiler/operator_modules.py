"""Operators as modules with inputs, so that one alone can be timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ecc.core.meter import Runnable, Runtime
from ecc.core.operators import POINTWISE, RECURRENT, Operator

__all__ = ["Alone", "AloneRuntime", "build", "build_chain"]

_POOL = 1 << 16  # distinct random numbers that fill every tensor: what is computed with them costs as with any


class Alone(nn.Module):
    """An operator and what it is run on.

    Attributes:
        operator: Its module.
        inputs: Positional arguments of that.
    """

    def __init__(self, operator: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.operator = operator
        self.inputs = inputs

    def forward(self) -> Any:
        """Run it once."""
        return self.operator(*self.inputs)


@dataclass(frozen=True, slots=True)
class AloneRuntime:
    """A runtime that gives each operator its own inputs.

    Attributes:
        inner: Runs it.
    """

    inner: Runtime

    @property
    def name(self) -> str:
        """Of the inner one."""
        return self.inner.name

    @property
    def device(self) -> str:
        """Of the inner one."""
        return self.inner.device

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the inner one."""
        return self.inner.environment

    def prepare(self, module: nn.Module, inputs: Any) -> Runnable:
        """The operator on the device; an ``Alone`` brings its own inputs."""
        if isinstance(module, Alone):
            return self.inner.prepare(module.operator, module.inputs)
        return self.inner.prepare(module, inputs)

    def synchronise(self) -> None:
        """Wait until the device has finished all work."""
        self.inner.synchronise()


class _Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *values: Tensor) -> Any:
        """Call it."""
        return self.function(*values)


def build(operator: Operator, dtype: torch.dtype = torch.float32) -> Alone:
    """The operator alone, with random weights and inputs; convolutions have no bias, linear and recurrent layers do."""
    with torch.device("meta"):
        module, shapes = _MAKERS[operator.kind](operator)
    module = module.to_empty(device="cpu").to(dtype).eval()
    numbers = torch.randn(_POOL, generator=torch.Generator().manual_seed(0))
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = _filled(tuple(tensor.shape), numbers, dtype).mul_(1 / math.sqrt(tensor[:1].numel()))
        else:
            tensor.zero_()
    for name, tensor in module.named_buffers():
        if name.endswith("running_var"):
            tensor.fill_(1.0)
    if operator.kind == "embedding":
        places = torch.arange(math.prod(shapes[0])) * 7919 % operator.channels_in
        return Alone(module, (places.reshape(shapes[0]),))
    return Alone(module, tuple(_filled(shape, numbers, dtype) for shape in shapes))


class _Chain(nn.Module):
    """Operators one after the other; each reads the beginning of the same numbers, which stay as near as they can."""

    def __init__(self, links: Sequence[Alone]) -> None:
        super().__init__()
        self.operators = nn.ModuleList(link.operator for link in links)
        self._own = [link.inputs for link in links]
        self._calls: list[tuple[nn.Module, list[Tensor]]] = []

    def forward(self, numbers: Tensor) -> Any:
        """Run all; what the last one gives."""
        if not self._calls:  # the numbers are on the device and stay the same
            placed = [[_beginning(numbers, tensor) for tensor in own] for own in self._own]
            self._calls = list(zip(self.operators, placed, strict=True))
        for operator, inputs in self._calls:
            output = operator(*inputs)
        return output


def _beginning(numbers: Tensor, like: Tensor) -> Tensor:
    """As many of the numbers as a tensor has; places in a table stay what they are."""
    if like.is_floating_point():
        return numbers[: like.numel()].view(like.shape)
    return like.to(numbers.device)


def build_chain(operators: Sequence[Operator], dtype: torch.dtype = torch.float32) -> Alone:
    """Operators one after the other, each with weights of its own."""
    links = [build(operator, dtype) for operator in operators]
    most = max(tensor.numel() for link in links for tensor in link.inputs)
    numbers = torch.randn(_POOL, generator=torch.Generator().manual_seed(0))
    return Alone(_Chain(links), (_filled((most,), numbers, dtype),))


def _filled(shape: tuple[int, ...], numbers: Tensor, dtype: torch.dtype) -> Tensor:
    size = math.prod(shape)
    return numbers.repeat(-(-size // len(numbers)))[:size].reshape(shape).to(dtype)


_Made = tuple[nn.Module, tuple[tuple[int, ...], ...]]


def _sizes(operator: Operator, channels: int) -> tuple[int, ...]:
    """Of an image, or of tokens where there is no image."""
    if operator.height * operator.width > 1 or operator.length == 1:
        return (operator.batch, channels, operator.height, operator.width)
    return (operator.batch, operator.length, channels)


def _padding(size: int, out: int, kernel: int, operator: Operator) -> int:
    """The least padding on both sides with which a window gives that many outputs."""
    return max(0, math.ceil(((out - 1) * operator.stride + operator.dilation * (kernel - 1) + 1 - size) / 2))


def _paddings(operator: Operator) -> tuple[int, int]:
    return (
        _padding(operator.height, operator.out_height, operator.kernel_h, operator),
        _padding(operator.width, operator.out_width, operator.kernel_w, operator),
    )


def _kernel(operator: Operator) -> tuple[int, int]:
    return operator.kernel_h, operator.kernel_w


def _convolution(operator: Operator) -> _Made:
    module = nn.Conv2d(
        operator.channels_in,
        operator.channels_out,
        _kernel(operator),
        stride=operator.stride,
        padding=_paddings(operator),
        dilation=operator.dilation,
        groups=operator.groups,
        bias=False,
    )
    return module, ((operator.batch, operator.channels_in, operator.height, operator.width),)


def _transposed(operator: Operator) -> _Made:
    """Full outputs are cut by the padding, and made longer by what is left of a stride."""
    sides = []
    for size, out, kernel in (
        (operator.height, operator.out_height, operator.kernel_h),
        (operator.width, operator.out_width, operator.kernel_w),
    ):
        full = (size - 1) * operator.stride + operator.dilation * (kernel - 1) + 1
        padding = max(0, math.ceil((full - out) / 2))
        sides.append((padding, out - full + 2 * padding))
    module = nn.ConvTranspose2d(
        operator.channels_in,
        operator.channels_out,
        _kernel(operator),
        stride=operator.stride,
        padding=(sides[0][0], sides[1][0]),
        output_padding=(sides[0][1], sides[1][1]),
        groups=operator.groups,
        bias=False,
        dilation=operator.dilation,
    )
    return module, ((operator.batch, operator.channels_in, operator.height, operator.width),)


def _linear(operator: Operator) -> _Made:
    leading = (operator.batch, operator.length) if operator.length > 1 else (operator.batch,)
    return nn.Linear(operator.channels_in, operator.channels_out), ((*leading, operator.channels_in),)


def _matmul(operator: Operator) -> _Made:
    copies = (operator.batch, operator.groups)
    left = (*copies, operator.length, operator.channels_in)
    return _Call(torch.matmul), (left, (*copies, operator.channels_in, operator.channels_out))


def _attention(operator: Operator) -> _Made:
    heads = (operator.batch, operator.groups)
    query = (*heads, operator.length, operator.channels_in)
    key = (*heads, operator.context, operator.channels_in)
    value = (*heads, operator.context, operator.channels_out)
    return _Call(functional.scaled_dot_product_attention), (query, key, value)


def _recurrent(operator: Operator) -> _Made:
    module = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[operator.kind]
    layer = module(operator.channels_in, operator.channels_out, batch_first=True)
    return layer, ((operator.batch, operator.length, operator.channels_in),)


def _embedding(operator: Operator) -> _Made:
    return nn.Embedding(operator.channels_in, operator.channels_out), ((operator.batch, operator.length),)


def _batch_norm(operator: Operator) -> _Made:
    sizes = _sizes(operator, operator.channels_in)
    return nn.BatchNorm2d(operator.channels_in), (sizes,)


def _layer_norm(operator: Operator) -> _Made:
    return nn.LayerNorm(operator.channels_in), ((operator.batch, operator.length, operator.channels_in),)


def _group_norm(operator: Operator) -> _Made:
    return nn.GroupNorm(operator.groups, operator.channels_in), (_sizes(operator, operator.channels_in),)


def _pool(operator: Operator) -> _Made:
    kernel, stride = _kernel(operator), operator.stride
    padding = tuple(
        min(pad, side // 2) for pad, side in zip(_paddings(operator), kernel, strict=True)
    )  # more is not allowed
    module: nn.Module
    if operator.kind == "max-pool":
        module = nn.MaxPool2d(kernel, stride, padding)
    else:
        module = nn.AvgPool2d(kernel, stride, padding)  # type: ignore[arg-type]
    return module, ((operator.batch, operator.channels_in, operator.height, operator.width),)


def _reduce(operator: Operator) -> _Made:
    sizes = _sizes(operator, operator.channels_in)
    if len(sizes) == 4:
        return nn.AdaptiveAvgPool2d(1), (sizes,)
    return _Call(lambda value: value.mean(1)), (sizes,)


def _each(function: Callable[..., Any], operands: int = 1) -> Callable[[Operator], _Made]:
    def make(operator: Operator) -> _Made:
        return _Call(function), (_sizes(operator, operator.channels_in),) * operands

    return make


def _smaller(function: Callable[..., Any]) -> Callable[[Operator], _Made]:
    """With a second operand that has a number per channel."""

    def make(operator: Operator) -> _Made:
        sizes = _sizes(operator, operator.channels_in)
        other = (*sizes[:2], 1, 1) if len(sizes) == 4 else sizes[-1:]
        return _Call(function), (sizes, other)

    return make


def _cat(operator: Operator) -> _Made:
    """Of two halves."""
    first = max(1, operator.channels_out // 2)
    parts = (first, operator.channels_out - first) if operator.channels_out > 1 else (1,)
    dim = 1 if len(_sizes(operator, first)) == 4 else 2
    return _Call(lambda *values: torch.cat(values, dim)), tuple(_sizes(operator, part) for part in parts)


_POINTWISE: Mapping[str, Callable[..., Any]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
}

_MAKERS: Mapping[str, Callable[[Operator], _Made]] = MappingProxyType(
    {
        **dict.fromkeys(("conv", "depthwise", "grouped"), _convolution),
        "transposed": _transposed,
        "linear": _linear,
        "matmul": _matmul,
        "attention": _attention,
        **dict.fromkeys(RECURRENT, _recurrent),
        "embedding": _embedding,
        "batch-norm": _batch_norm,
        "layer-norm": _layer_norm,
        "group-norm": _group_norm,
        **dict.fromkeys(("max-pool", "average-pool"), _pool),
        "reduce": _reduce,
        **{kind: _each(_POINTWISE[kind]) for kind in POINTWISE},
        "softmax": _each(lambda value: value.softmax(-1)),
        "add": _each(torch.add, 2),
        "multiply": _each(torch.mul, 2),
        "shift": _smaller(torch.add),
        "scale": _smaller(torch.mul),
        "cat": _cat,
        "copy": _each(torch.clone),
    }
)
