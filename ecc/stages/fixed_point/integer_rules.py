"""What each operator does to whole numbers: a rule per name; operators without one stay float.

Every rule takes ``Whole`` operands and gives a ``Whole``. Multiplying layers take bytes and add up in int32;
activations that have a curve are tables of 256 entries; pooling, sums at aligned exponents and moves of data work on
either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ecc.stages.fixed_point.arithmetic import INT32, Range, Whole, aligned, to_bytes, to_whole
from ecc.stages.fixed_point.split import SHIFT, low_and_high

__all__ = ["RULES", "Calculator", "Weights", "is_move"]

_EXACT = 1 << 24  # below, sums of whole numbers are exact in float32, in any order; in float64 below 2^53
_BIAS_BITS = 30
_RECIPROCAL_BITS, _FEWEST_BITS = 15, 8  # of the reciprocal of a window's size that is no power of two


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A layer's weights as whole numbers times a power of two per output channel.

    Attributes:
        numbers: int64, of the weight's shape.
        exponents: int64, shape (out,).
        split: Whether they are multiplied as a dense matrix of low and a sparse one of high bytes.
    """

    numbers: Tensor
    exponents: Tensor
    split: bool


class Calculator(Protocol):
    """What a rule may ask for while an operator runs."""

    def bytes_of(self, tensor: Tensor) -> Whole:
        """An operand in 8 bits, at the exponent that its calibration gave."""

    def whole(self, tensor: Tensor) -> Whole | None:
        """An operand as it is; None if it is a float."""

    def weights(self, tensor: Tensor, least: Tensor | None) -> Weights | None:
        """A parameter in fixed point; None if the tensor is none that can be.

        Args:
            tensor: Of two axes or more.
            least: The least exponents that output channels may have, shape (out,); None for any.
        """

    @property
    def place(self) -> Range:
        """Of the operator's output, by calibration."""


Rule = Callable[[Calculator, Callable[..., Any], Mapping[str, Any]], Whole | str]
"""(calculator, operator, arguments by name) → the result, or why the operator stays float."""


def _multiply(calculator: Calculator, func: Callable[..., Any], arguments: Mapping[str, Any]) -> Whole | str:
    """W x + b in int32: acc = Σ q_w q_x + q_b, at exponent e_w + e_x per output channel."""
    given, bias = calculator.bytes_of(arguments["input"]), arguments.get("bias")
    least = None if bias is None else _reach(bias) - given.exponents
    weights = calculator.weights(arguments["weight"], least)
    if weights is None:
        return "its weights are computed while it runs"
    exponents = weights.exponents + given.exponents
    offset = torch.zeros_like(exponents) if bias is None else _bias(bias, exponents)
    bound = int((weights.numbers.abs().reshape(len(exponents), -1).sum(1) * given.bound + offset.abs()).max())
    if bound > INT32:
        return f"its accumulators could reach {bound:.2e}, beyond int32"
    axis = 1 - weights.numbers.ndim if "stride" in arguments else -1
    rest = [value for name, value in arguments.items() if name not in ("input", "weight", "bias")]
    exact = torch.float32 if bound < _EXACT else torch.float64
    x = given.numbers.to(exact)

    def times(matrix: Tensor) -> Tensor:
        with torch.backends.nnpack.flags(enabled=False):  # its Winograd transforms would round
            product: Tensor = func(x, matrix.to(exact), None, *rest)
        return product.round_().to(torch.int64)

    if weights.split:
        low, high = low_and_high(weights.numbers)
        sums = times(low) + (times(high) << SHIFT)
    else:
        sums = times(weights.numbers)
    shape = [1] * sums.ndim
    shape[axis] = -1
    return Whole(sums + offset.reshape(shape), exponents.reshape(shape), bound)


def _reach(bias: Tensor) -> Tensor:
    """The least exponents at which the numbers of a bias take half of int32."""
    return torch.frexp(bias.detach().double()).exponent.to(torch.int64) - _BIAS_BITS


def _bias(bias: Tensor, exponents: Tensor) -> Tensor:
    """A bias as int32 at the exponents of the accumulators."""
    numbers = torch.floor(torch.ldexp(bias.detach().double(), -exponents) + 0.5)
    return numbers.clamp(-INT32, INT32).to(torch.int64)


def _relu(calculator: Calculator, func: Callable[..., Any], arguments: Mapping[str, Any]) -> Whole | str:
    given = calculator.whole(arguments["self"])
    if given is None:
        return "its input is float"
    return Whole(given.numbers.clamp_min(0), given.exponents, given.bound)


def _table(calculator: Calculator, func: Callable[..., Any], arguments: Mapping[str, Any]) -> Whole | str:
    """An activation of bytes: looked up."""
    rest = {name: value for name, value in arguments.items() if name != "self"}
    if any(isinstance(value, Tensor) for value in rest.values()):
        return "it has operands beside its input"
    given = calculator.bytes_of(arguments["self"])
    low = int(given.numbers.min()) if given.numbers.numel() else 0
    high = int(given.numbers.max()) if given.numbers.numel() else 0
    entries = torch.arange(min(low, -128), max(high, 255) + 1)
    curve = func(Whole(entries, given.exponents, 255).floats(), **rest)
    table = to_whole(curve, calculator.place)
    return Whole(table.numbers[given.numbers - entries[0]], table.exponents, table.bound)


def _max_pool(calculator: Calculator, func: Callable[..., Any], arguments: Mapping[str, Any]) -> Whole | str:
    given = calculator.whole(arguments["self"])
    if given is None:
        return "its input is float"
    rest = {name: value for name, value in arguments.items() if name != "self"}
    pooled: Tensor = func(given.numbers.double(), **rest)
    return Whole(pooled.to(torch.int64), given.exponents, given.bound)


def _average_pool(calculator: Calculator, func: Callable[..., Any], arguments: Mapping[str, Any]) -> Whole | str:
    """Sums of windows, then the reciprocal of their size: a shift, or a product with 2^15 / size and a shift."""
    given = calculator.bytes_of(arguments["self"])
    spatial = given.numbers.ndim - 2
    if spatial < 1:
        return "its input has no batch axis"
    if "output_size" in arguments:
        sizes = [arguments["output_size"]] * spatial if isinstance(arguments["output_size"], int) else list(
            arguments["output_size"])  # fmt: skip
        inner = given.numbers.shape[2:]
        if any(size is None or whole % size for whole, size in zip(inner, sizes, strict=True)):
            return "its windows are not all of one size"
        kernel = [whole // size for whole, size in zip(inner, sizes, strict=True)]
        pooled = _pools(spatial)(given.numbers.double(), kernel)
    else:
        padded = arguments.get("padding") not in (None, 0) and any(_listed(arguments["padding"]))
        if (padded and not arguments.get("count_include_pad", True)) or arguments.get("ceil_mode"):
            return "its windows are not all of one size"
        if arguments.get("divisor_override"):
            return "it divides by a number of its own"
        kernel = _listed(arguments["kernel_size"], spatial)
        rest = {name: value for name, value in arguments.items() if name != "self"}
        pooled = func(given.numbers.double(), **rest)
    return _averaged((pooled * math.prod(kernel)).round_().to(torch.int64), math.prod(kernel), given)


def _mean(calculator: Calculator, func: Callable[..., Any], arguments: Mapping[str, Any]) -> Whole | str:
    given, dims = calculator.bytes_of(arguments["self"]), arguments.get("dim")
    if arguments.get("dtype") is not None or not dims:
        return "it is a mean of all numbers"
    sums = given.numbers.sum(dims, keepdim=bool(arguments.get("keepdim")))
    return _averaged(sums, math.prod(given.numbers.shape[dim] for dim in dims), given)


def _averaged(sums: Tensor, count: int, given: Whole) -> Whole | str:
    shift = count.bit_length() - 1
    if count == 1 << shift and given.bound * count <= INT32:
        return Whole(sums, given.exponents - shift, given.bound * count)
    bits = min(_RECIPROCAL_BITS, (INT32 // given.bound).bit_length() - shift - 3)
    if bits < _FEWEST_BITS:
        return f"its windows of {count} numbers leave no room for an average in int32"
    reciprocal = round(2 ** (bits + shift) / count)
    return Whole(sums * reciprocal, given.exponents - (bits + shift), given.bound * count * reciprocal)


def _pools(spatial: int) -> Callable[..., Tensor]:
    return (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spatial - 1]


def _listed(value: Any, count: int = 1) -> list[int]:
    found = [value] if isinstance(value, int) else list(value)
    return found * count if len(found) == 1 else found


def _add(calculator: Calculator, func: Callable[..., Any], arguments: Mapping[str, Any]) -> Whole | str:
    """A sum at the finer of both exponents; accumulators that would not fit so go to 8 bits first."""
    one, other = arguments["self"], arguments["other"]
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)) or arguments.get("alpha", 1) != 1:
        return "it adds a number"
    given = calculator.whole(one), calculator.whole(other)
    if given[0] is None or given[1] is None:
        return "one of its operands is float"
    made = aligned(given[0], given[1]) or aligned(calculator.bytes_of(one), calculator.bytes_of(other))
    if made is None:
        return "its operands differ too much in size for int32"
    left, right, exponents, bound = made
    return Whole(left + right, exponents, bound)


def _move(calculator: Calculator, func: Callable[..., Any], arguments: Mapping[str, Any]) -> Whole | str:
    """Numbers that only change their places; those with an exponent per channel go to 8 bits first."""
    if arguments.get("value") or arguments.get("train") or arguments.get("mode") not in (None, "constant"):
        return "it puts other numbers in"
    key = "self" if "self" in arguments else "input"
    given = calculator.whole(arguments[key])
    if given is None:
        return "its input is float"
    given = given if given.uniform else calculator.bytes_of(arguments[key])
    rest = {name: value for name, value in arguments.items() if name != key}
    moved = given.numbers if key == "input" else func(given.numbers, **rest)
    return Whole(moved, given.exponents, given.bound)


def _cat(calculator: Calculator, func: Callable[..., Any], arguments: Mapping[str, Any]) -> Whole | str:
    """Side by side at the exponent of the whole."""
    parts = [calculator.whole(tensor) for tensor in arguments["tensors"]]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return "one of its operands is float"
    numbers = [to_bytes(part, calculator.place).numbers for part in known]
    place = calculator.place
    return Whole(func(numbers, arguments.get("dim", 0)), torch.tensor(place.exponent), max(place.high, -place.low))


def is_move(name: str) -> bool:
    """Whether an operator only moves data."""
    return RULES.get(name) is _move


_MOVES = (
    *(
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "permute",
        "transpose",
        "t",
        "slice",
        "select",
        "squeeze",
        "unsqueeze",
    ),
    *(
        "contiguous",
        "clone",
        "constant_pad_nd",
        "pad",
        "dropout",
        "narrow",
        "movedim",
        "expand",
        "alias",
        "channel_shuffle",
    ),
)
_CURVES = (
    *("tanh", "sigmoid", "gelu", "silu", "mish", "elu", "leaky_relu", "softplus", "hardswish", "hardsigmoid"),
    *("hardtanh", "clamp", "clamp_min", "relu6", "selu", "celu", "abs", "neg", "square", "logsigmoid", "log_sigmoid"),
)

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), _multiply),
        **dict.fromkeys(_CURVES, _table),
        **dict.fromkeys(_MOVES, _move),
        **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _max_pool),
        **{f"{kind}avg_pool{n}d": _average_pool for kind in ("", "adaptive_") for n in (1, 2, 3)},
        "relu": _relu,
        "mean": _mean,
        "add": _add,
        "cat": _cat,
    }
)
"""By the name of the operator."""
