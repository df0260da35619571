"""Sums of products and distances beyond matrix products: einsum, bilinear, inner, outer, cdist, cosine_similarity."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from types import MappingProxyType

from ecc.network.axes_layers import add_bias, contract
from ecc.network.values import PLAIN, Axes, Axis, Call, Value, computed

__all__ = ["PRODUCTS"]


def _einsum(call: Call) -> list[Axes]:
    equation, operands = call.get("equation").replace(" ", ""), call.get("tensors")
    letters, result = _letters(equation, [len(value.shape) for value in operands])
    taken = [_diagonal(call, value, names) for value, names in zip(operands, letters, strict=True)]
    operands, letters = [value for value, _ in taken], [names for _, names in taken]
    sizes: dict[str, int] = {}
    for value, names in taken:
        sizes.update((name, size) for name, size in zip(names, value.shape, strict=True) if size > 1)
    blanked = [
        "".join(name if size == sizes.get(name, 1) else " " for name, size in zip(names, value.shape, strict=True))
        for value, names in taken
    ]
    return [contract(call, operands, blanked, result)]


def _letters(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result; those of an ellipsis are written out."""
    inputs, arrow, result = equation.partition("->")
    operands = inputs.split(",")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    hidden = max(
        (rank - len(names) + 3 for names, rank in zip(operands, ranks, strict=True) if "..." in names), default=0
    )
    dots = "".join(free[:hidden])
    written = []
    for names, rank in zip(operands, ranks, strict=True):
        mine = rank - len(names) + 3 if "..." in names else 0
        written.append(names.replace("...", dots[len(dots) - mine :]))
    if not arrow:
        every = "".join(operands).replace("...", "")
        result = "..." * ("..." in inputs) + "".join(sorted(name for name in set(every) if every.count(name) == 1))
    return written, result.replace("...", dots)


def _diagonal(call: Call, value: Value, names: str) -> tuple[Value, str]:
    """An operand whose repeated letters are taken once, along the diagonal."""
    if len(set(names)) == len(names):
        return value, names
    for axis, name in zip(value.axes, names, strict=True):
        if names.count(name) > 1:
            call.fix(axis, f"{call.place} picks positions by number")
    first = [names.index(name) for name in dict.fromkeys(names)]
    axes = [PLAIN if names.count(names[i]) > 1 else value.axes[i] for i in first]
    return Value(tuple(value.shape[i] for i in first), axes, constant=value.constant), "".join(names[i] for i in first)


def _bilinear(call: Call) -> list[Axes]:
    """x1 (…, a), x2 (…, b), weight (y, a, b) → (…, y)."""
    first, second, weight = call.value("input1"), call.value("input2"), call.value("weight")
    batch = string.ascii_lowercase[: len(first.shape) - 1]
    axes = contract(call, [first, second, weight], [batch + "X", batch + "Y", "ZXY"], batch + "Z")
    add_bias(call, axes, call.get("bias"))
    return [axes]


def _inner(call: Call) -> list[Axes]:
    """(…, k), (…, k) → (…, …)."""
    left, right = call.value("self"), call.value("other")
    if not left.shape or not right.shape:
        raise ValueError("a scalar")
    mine = string.ascii_lowercase[: len(left.shape) - 1]
    theirs = string.ascii_uppercase[: len(right.shape) - 1]
    return [contract(call, [left, right], [mine + "_", theirs + "_"], mine + theirs)]


def _outer(call: Call) -> list[Axes]:
    return [contract(call, [call.value("self"), call.value("vec2")], ["x", "y"], "xy")]


def _tensordot(call: Call) -> list[Axes]:
    left, right = call.value("self"), call.value("other")
    mine, theirs = list(string.ascii_lowercase[: len(left.shape)]), list(string.ascii_uppercase[: len(right.shape)])
    pairs = zip(call.get("dims_self"), call.get("dims_other"), strict=True)
    summed = {}
    for i, j in pairs:
        theirs[j % len(theirs)] = mine[i % len(mine)]
        summed[mine[i % len(mine)]] = True
    result = "".join(name for name in (*mine, *theirs) if name not in summed)
    return [contract(call, [left, right], ["".join(mine), "".join(theirs)], result)]


def _cosine_similarity(call: Call) -> list[Axes]:
    """Sums of products and of squares along one axis, which do not see channels that are zero in both."""
    first, second = call.value("x1"), call.value("x2")
    if first.shape != second.shape:
        raise ValueError("broadcasting")
    dim = call.dimension(call.get("dim"))
    axes = _paired(call, first, second)
    _summed(call, axes[dim])
    return [[computed(axis, zero=False) for i, axis in enumerate(axes) if i != dim]]


def _pairwise_distance(call: Call) -> list[Axes]:
    """The norm of all differences plus a small number, along the last axis."""
    first, second = call.value("x1"), call.value("x2")
    if first.shape != second.shape:
        raise ValueError("broadcasting")
    axes = _paired(call, first, second)
    call.fix(axes[-1], f"{call.place} adds a number to each channel before it sums, so that removing some shows")
    kept = [*axes[:-1], PLAIN] if len(call.shape) == len(axes) else axes[:-1]
    return [[computed(axis, zero=False) for axis in kept]]


def _cdist(call: Call) -> list[Axes]:
    """(…, p, m), (…, r, m) → (…, p, r)."""
    first, second = call.value("x1"), call.value("x2")
    if first.shape[:-2] != second.shape[:-2]:
        raise ValueError("broadcasting")
    *batch, channel = _paired(
        call,
        Value((*first.shape[:-2], first.shape[-1]), [*first.axes[:-2], first.axes[-1]]),
        Value((*second.shape[:-2], second.shape[-1]), [*second.axes[:-2], second.axes[-1]]),
    )
    _summed(call, channel)
    return [[computed(axis, zero=False) for axis in (*batch, first.axes[-2], second.axes[-2])]]


def _dist(call: Call) -> list[Axes]:
    """The norm of all differences, a single number."""
    first, second = call.value("self"), call.value("other")
    if first.shape != second.shape or call.get("p") < 0:
        raise ValueError("broadcasting")
    for axis in _paired(call, first, second):
        _summed(call, axis)
    return [[]]


def _paired(call: Call, first: Value, second: Value) -> Axes:
    axes = []
    for a, b in zip(first.axes, second.axes, strict=True):
        call.tie(a, b)
        labels = None if b.labels is None else a.labels
        axes.append(Axis(labels, a.zero and b.zero, call.relate([a, b]), (*a.others, *b.others)))
    return axes


def _summed(call: Call, axis: Axis) -> None:
    call.reduce(axis)
    if not axis.zero:
        call.fix(axis, f"{call.place} sums over channels that are not zero once removed")


PRODUCTS: Mapping[str, Callable[[Call], list[Axes]]] = MappingProxyType(
    {
        "einsum": _einsum,
        "bilinear": _bilinear,
        "inner": _inner,
        **dict.fromkeys(("outer", "ger"), _outer),
        "tensordot": _tensordot,
        "dist": _dist,
        "cosine_similarity": _cosine_similarity,
        "pairwise_distance": _pairwise_distance,
        **dict.fromkeys(("cdist", "_cdist_forward"), _cdist),
    }
)
"""Rules of the operators in this file."""
