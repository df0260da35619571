"""Operators that act on each position alone, and reductions along axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ecc.network.values import PLAIN, Axes, Axis, Call, Value, computed, take, values_in

__all__ = ["ELEMENTWISE"]

# Infinite at zero.
_SINGULAR = (
    "log", "log2", "log10", "rsqrt", "reciprocal", "logit", "digamma", "lgamma", "special_digamma", "mvlgamma",
)  # fmt: skip
# f(0) = 0, so that a removed channel stays zero through them.
_ZERO_AT_ZERO = (
    "relu", "relu6", "leaky_relu", "gelu", "silu", "mish", "elu", "selu", "celu", "hardswish", "tanh",
    "hardshrink", "softshrink", "rrelu", "abs", "absolute", "neg", "negative", "sign", "sgn", "sqrt",
    "square", "sin", "sinh", "asin", "arcsin", "atan", "arctan", "asinh", "arcsinh", "atanh", "arctanh", "tan", "erf",
    "erfinv", "floor", "ceil", "round", "trunc", "fix", "frac", "expm1", "log1p", "dropout", "feature_dropout",
    "alpha_dropout", "feature_alpha_dropout", "native_dropout", "contiguous", "clone", "alias", "detach",
    "lift_fresh", "lift_fresh_copy", "to", "_to_copy", "type_as", "positive",
    "_conj", "conj", "_conj_physical", "conj_physical", "real", "imag", "resolve_conj", "resolve_neg", "nan_to_num",
    "signbit", "special_entr",
)  # fmt: skip
_NOT_ZERO_AT_ZERO = (
    "sigmoid", "hardsigmoid", "softplus", "log_sigmoid", "exp", "exp2", "cos", "cosh", "acos", "arccos", "acosh",
    "arccosh", "threshold", "logical_not", "bitwise_not", "isnan",
    "isinf", "isfinite", "erfc", "bernoulli",
    "sinc", "special_expit", "i0", "special_i0", "special_i0e", "angle", "fake_quantize_per_tensor_affine",
)  # fmt: skip
# Zero where both operands are, where one of them is, where the first is.
_ALL = (
    "add", "sub", "subtract", "maximum", "minimum", "fmax", "fmin", "lerp", "hypot",
)  # fmt: skip
_ANY = (
    "mul", "multiply",
)  # fmt: skip
_QUOTIENTS = (
    "div", "divide", "true_divide", "floor_divide", "remainder", "fmod",
)  # fmt: skip
_NONE = (
    "eq", "ne", "lt", "le", "gt", "ge", "less", "less_equal", "greater", "greater_equal", "not_equal", "logical_and",
    "logical_or", "logical_xor", "rsub", "bitwise_and", "bitwise_or", "bitwise_xor", "__and__", "__or__", "__xor__",
    "pow", "xlogy", "heaviside", "logaddexp", "logaddexp2", "isclose",
)  # fmt: skip


def _same(call: Call) -> list[Axes]:
    return [list(call.value().axes) for _ in call.shapes]


def _same_but_not_zero(call: Call) -> list[Axes]:
    return [[computed(axis, zero=False) for axis in call.value().axes]]


def _fake_quantize(call: Call) -> list[Axes]:
    """Rounds along one axis by a scale and a zero point per position."""
    axis = call.value("self").axes[call.get("axis")]
    for name in ("scale", "zero_point"):
        call.avoid_zero(call.value(name).axes[0])
        call.tie(axis, call.value(name).axes[0])
    return _same_but_not_zero(call)


def _view_as_real(call: Call) -> list[Axes]:
    return [[*call.value().axes, PLAIN]]


def _view_as_complex(call: Call) -> list[Axes]:
    axes = call.value().axes
    call.fix(axes[-1], f"{call.place} takes it for a real and an imaginary part")
    return [list(axes[:-1])]


def _complex(call: Call) -> list[Axes]:
    first, second = call.value("real", "abs"), call.value("imag", "angle")
    return [_broadcast(call, [first, second], all if call.name == "complex" else _first)]


def _bucketize(call: Call) -> list[Axes]:
    """bucketize and searchsorted of one row of boundaries."""
    boundaries = call.value("boundaries", "sorted_sequence")
    if len(boundaries.shape) != 1:
        raise ValueError("boundaries differ")
    call.fix(boundaries.axes[0])
    return [[computed(axis, zero=False) for axis in call.value("self").axes]]


def _cross(call: Call) -> list[Axes]:
    operands, dim = [call.value("self"), call.value("other")], call.get("dim")
    axes = _broadcast(call, operands, any)
    if dim is None:
        raise ValueError("no axis")
    call.fix(axes[call.dimension(dim)])
    return [axes]


def _fill_in(call: Call) -> list[Axes]:
    value: Any = call.get("value")
    zero = call.name == "zero" or (not isinstance(value, Value) and value == 0)
    return [[Axis(axis.labels, zero) for axis in call.value("self").axes]]


def _singular(call: Call) -> list[Axes]:
    for axis in call.value().axes:
        call.avoid_zero(axis)
    return _same_but_not_zero(call)


def _clamp(call: Call) -> list[Axes]:
    low, high = call.get("min", "min_val"), call.get("max", "max_val")
    if isinstance(low, Value) or isinstance(high, Value):
        return [_broadcast(call, list(values_in([call.value(), low, high])), all)]
    zero = (low is None or low <= 0) and (high is None or high >= 0)
    return [[computed(axis, zero=zero) for axis in call.value().axes]]


def _power(call: Call) -> list[Axes]:
    base, exponent = call.get("self"), call.get("exponent")
    if not isinstance(base, Value) or isinstance(exponent, Value):
        return [_broadcast(call, [base, exponent], _never)]
    if isinstance(exponent, complex):
        raise ValueError("complex exponent")
    if exponent < 0:
        return _singular(call)
    return [[computed(axis, zero=exponent > 0) for axis in base.axes]]


def _shift(call: Call) -> list[Axes]:
    return [_broadcast(call, [call.value("self"), call.get("other")], _first)]


def _never(_: Sequence[bool]) -> bool:
    return False


def _first(zeros: Sequence[bool]) -> bool:
    return zeros[0]


def _elementwise(zero: Callable[[Sequence[bool]], bool]) -> Callable[[Call], list[Axes]]:
    def rule(call: Call) -> list[Axes]:
        first = call.get("self", "input", "condition")
        others = [call.get(name) for name in ("other", "end", "values") if name in call.arguments]
        if not others:
            raise ValueError("one operand")
        return [_broadcast(call, [first, *others], zero)]

    return rule


def _quotient(call: Call) -> list[Axes]:
    above, below = call.get("self", "input"), call.get("other")
    if isinstance(below, Value):
        for axis in below.axes:
            call.avoid_zero(axis)
    return [_broadcast(call, [above, below], _first)]


def _where(call: Call) -> list[Axes]:
    operands = [call.get("condition"), call.get("self"), call.get("other")]
    return [_broadcast(call, operands, lambda zeros: all(zeros[1:]))]


def _masked_fill(call: Call) -> list[Axes]:
    value, fill = call.get("self"), call.get("value")
    zero = not isinstance(fill, Value) and fill == 0
    return [_broadcast(call, [value, call.get("mask")], lambda zeros: zeros[0] and zero)]


def _copy(call: Call) -> list[Axes]:
    return [_broadcast(call, [call.get("self"), call.get("src")], lambda zeros: zeros[1])]


def _ternary(call: Call) -> list[Axes]:
    operands = [call.get("self"), call.get("tensor1"), call.get("tensor2")]
    both = any if call.name == "addcmul" else (lambda zeros: zeros[0])
    return [_broadcast(call, operands, lambda zeros: zeros[0] and both(zeros[1:]))]


def _broadcast(call: Call, operands: Sequence[Any], zero: Callable[[Sequence[bool]], bool]) -> Axes:
    """Axes that line up and have the result's size go together; an operand of size 1 there serves all positions."""
    axes: Axes = []
    for i, size in enumerate(call.shape):
        behind = len(call.shape) - i
        full: list[Axis] = []
        zeros: list[bool] = []
        for operand in operands:
            if not isinstance(operand, Value):
                zeros.append(operand == 0)
            elif len(operand.shape) >= behind and operand.shape[-behind] == size:
                full.append(operand.axes[-behind])
                zeros.append(full[-1].zero)
            else:
                zeros.append(False)
        for other in full[1:]:
            call.tie(full[0], other)
        labelled = next((axis for axis in full if axis.labels is not None), PLAIN)
        if any(axis.labels is None for axis in full):
            labelled = PLAIN
        others = tuple(dict.fromkeys(source for axis in full for source in axis.others))
        axes.append(Axis(labelled.labels, zero(zeros), call.relate(full), others))
    return axes


def _prelu(call: Call) -> list[Axes]:
    value, weight = call.value("self"), call.value("weight")
    if weight.shape and weight.shape[0] > 1:
        call.tie(weight.axes[0], value.axes[1 if len(value.shape) > 1 else 0])
        call.mark(weight.axes[0], "read")
    return [[computed(axis) for axis in value.axes]]


def _glu(call: Call) -> list[Axes]:
    value, dim = call.value(), call.dimension(call.get("dim"))
    axes = [computed(axis) for axis in value.axes]
    labels = value.axes[dim].labels
    if labels is not None:
        call.ledger.channels.tie_blocks(labels, 2, f"{call.place} cuts its channels in unlike pieces")
        axes[dim] = take(value.axes[dim], np.arange(len(labels) // 2))
    return [axes]


def _reduced(call: Call) -> set[int]:
    """The dimensions that a reduction works along."""
    dims = call.get("dim", "dims", "axis")
    if dims is None or dims == []:
        return set(range(len(call.value().shape)))
    return {call.dimension(dim) for dim in ([dims] if isinstance(dims, int) else dims)}


_STATISTICS = frozenset({"mean", "var", "std", "var_mean", "std_mean"})


def _reduction(*, sums: bool, zero: bool = True) -> Callable[[Call], list[Axes]]:
    """A reduction; one that ``sums`` does not see channels that are exactly zero."""

    def rule(call: Call) -> list[Axes]:
        value = call.value()
        if call.name in ("max", "min") and isinstance(call.get("other"), Value):
            return [_broadcast(call, [value, call.get("other")], all)]
        reduced = _reduced(call)
        for i in reduced:
            axis = value.axes[i]
            call.reduce(axis)
            if not (sums and axis.zero):
                norm = "; of norms, renormalise=True covers PyTorch's own only" if call.name in _STATISTICS else ""
                call.fix(axis, f"{call.place} runs over its channels, so that removing some changes the result{norm}")
        kept = [
            PLAIN if i in reduced else computed(axis, zero=zero)
            for i, axis in enumerate(value.axes)
            if i not in reduced or len(call.shape) == len(value.shape)
        ]
        return _with_indices(call, kept)

    return rule


def _along(*, zero: bool) -> Callable[[Call], list[Axes]]:
    """An operator of unchanged shape whose positions depend on one another along some axes."""

    def rule(call: Call) -> list[Axes]:
        value = call.value()
        along = _reduced(call)
        for i in along:
            call.fix(value.axes[i], f"{call.place} runs over its channels, so that removing some changes the rest")
        axes = [PLAIN if i in along else computed(axis, zero=zero) for i, axis in enumerate(value.axes)]
        return _with_indices(call, axes)

    return rule


def _with_indices(call: Call, axes: Axes) -> list[Axes]:
    """A result and, where the operator tells, the indices that it came from, which are numbers other than zero."""
    indexed = call.name not in ("std_mean", "var_mean", "aminmax")
    return [axes, *([computed(axis, zero=not indexed) for axis in axes] for _ in call.shapes[1:])]


def _along_one(call: Call) -> list[Axes]:
    """diff: neighbours along one axis, which may get shorter."""
    if any(isinstance(call.get(name), Value) for name in ("prepend", "append")):
        raise ValueError("ends are appended")
    return _along(zero=True)(call)


def _vector_norm(call: Call) -> list[Axes]:
    order = call.get("ord", "p")
    return _reduction(sums=order in (None, "fro") or (not isinstance(order, str) and order >= 0))(call)


ELEMENTWISE: Mapping[str, Callable[[Call], list[Axes]]] = MappingProxyType(
    {
        **dict.fromkeys(_ZERO_AT_ZERO, _same),
        **dict.fromkeys(_SINGULAR, _singular),
        **dict.fromkeys(_NOT_ZERO_AT_ZERO, _same_but_not_zero),
        **dict.fromkeys(_ALL, _elementwise(all)),
        **dict.fromkeys(_ANY, _elementwise(any)),
        **dict.fromkeys(_QUOTIENTS, _quotient),
        "copysign": _elementwise(_first),
        **dict.fromkeys(("atan2", "arctan2"), _elementwise(all)),
        **dict.fromkeys(_NONE, _elementwise(_never)),
        **dict.fromkeys(("pow", "float_power"), _power),
        **dict.fromkeys(("ldexp", "__lshift__", "__rshift__", "bitwise_left_shift", "bitwise_right_shift"), _shift),
        "fake_quantize_per_channel_affine": _fake_quantize,
        "view_as_real": _view_as_real,
        "view_as_complex": _view_as_complex,
        **dict.fromkeys(("complex", "polar"), _complex),
        **dict.fromkeys(("bucketize", "searchsorted"), _bucketize),
        "linalg_cross": _cross,
        **dict.fromkeys(("fill", "zero"), _fill_in),
        **dict.fromkeys(("clamp", "clip", "hardtanh", "clamp_min", "clamp_max"), _clamp),
        "where": _where,
        "masked_fill": _masked_fill,
        "copy": _copy,
        "addcmul": _ternary,
        "addcdiv": _ternary,
        "prelu": _prelu,
        "_prelu_kernel": _prelu,
        "glu": _glu,
        **dict.fromkeys(("sum", "nansum", "count_nonzero"), _reduction(sums=True)),
        **dict.fromkeys(("linalg_vector_norm", "norm"), _vector_norm),
        **dict.fromkeys(
            (
                "mean",
                "amax",
                "amin",
                "max",
                "min",
                "var",
                "std",
                "prod",
                "median",
                "nanmedian",
                "nanmean",
                "mode",
                "kthvalue",
                "quantile",
                "nanquantile",
                "aminmax",
                "std_mean",
                "var_mean",
                "trapezoid",
                "trapz",
            ),
            _reduction(sums=False),
        ),
        **dict.fromkeys(("argmax", "argmin", "logsumexp", "any", "all"), _reduction(sums=False, zero=False)),
        **dict.fromkeys(("softmax", "log_softmax", "_softmax", "_log_softmax"), _along(zero=False)),
        **dict.fromkeys(("logcumsumexp", "argsort"), _along(zero=False)),
        **dict.fromkeys(
            ("cumsum", "cumprod", "cummax", "cummin", "sort", "msort", "topk", "cumulative_trapezoid"),
            _along(zero=True),
        ),
        "diff": _along_one,
    }
)
"""Rules of the operators in this file."""
