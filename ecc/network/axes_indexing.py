"""Operators that pick or fill positions by number: other axes go through them, the picked ones stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from ecc.network.values import PLAIN, Axes, Axis, Call, Value, computed, take

__all__ = ["INDEXING"]


def _stay(call: Call, *axes: Axis) -> None:
    for axis in axes:
        call.fix(axis, f"{call.place} picks positions by number")


def _gather(call: Call) -> list[Axes]:
    """gather and take_along_dim: position i of every axis but one meets position i of the index."""
    value, index = call.value("self"), call.value("index", "indices")
    dim = call.dimension(call.get("dim"))
    _stay(call, value.axes[dim], index.axes[dim])
    axes = _matched(call, value, index, dim)
    axes[dim] = PLAIN
    return [axes]


def _scatter(call: Call) -> list[Axes]:
    value, index, source = call.value("self"), call.value("index"), call.get("src", "value")
    dim = call.dimension(call.get("dim"))
    _stay(call, value.axes[dim], index.axes[dim])
    axes = _matched(call, value, index, dim)
    if isinstance(source, Value):
        _stay(call, source.axes[dim])
        axes = [
            computed(axis, zero=other.zero)
            for axis, other in zip(axes, _matched(call, value, source, dim), strict=True)
        ]
    elif source != 0:
        axes = [computed(axis, zero=False) for axis in axes]
    axes[dim] = PLAIN
    return [axes]


def _matched(call: Call, value: Value, other: Value, dim: int) -> Axes:
    """Axes of a value tied to those of another of its rank; one of size 1 there serves all positions."""
    if len(value.shape) != len(other.shape):
        raise ValueError("ranks differ")
    axes: Axes = []
    for i, (mine, theirs) in enumerate(zip(value.axes, other.axes, strict=True)):
        if i == dim:
            axes.append(PLAIN)
        elif value.shape[i] == other.shape[i]:
            call.tie(mine, theirs)
            both = mine.labels is not None and theirs.labels is not None
            axes.append(Axis(mine.labels if both else None, mine.zero and theirs.zero))
        else:
            call.fix(mine)
            call.fix(theirs)
            axes.append(PLAIN)
    return axes


def _index_into(call: Call) -> list[Axes]:
    """index_add, index_copy, select_scatter, slice_scatter …: a source is written along one axis."""
    value, source = call.value("self"), call.get("source", "src", "value")
    dim = call.dimension(call.get("dim") or 0)
    _stay(call, value.axes[dim])
    if not isinstance(source, Value) or not source.shape:
        zero = not isinstance(source, Value) and source == 0
        return [[PLAIN if i == dim else computed(axis, zero=zero) for i, axis in enumerate(value.axes)]]
    if len(source.shape) < len(value.shape):  # select_scatter writes one position
        source = Value((*source.shape[:dim], 1, *source.shape[dim:]), [*source.axes[:dim], PLAIN, *source.axes[dim:]])
    _stay(call, source.axes[dim])
    return [_matched(call, value, source, dim)]


def _index_put(call: Call) -> list[Axes]:
    """x[:, i, j, …] = values, by index tensors of at most one axis that stand side by side."""
    value, indices, values = call.value("self"), call.get("indices"), call.value("values")
    picked = [i for i, index in enumerate(indices) if index is not None]
    new = max(len(indices[i].shape) for i in picked)
    if picked != list(range(picked[0], picked[-1] + 1)) or new > 1:
        raise ValueError("indices lie apart or are masks")
    _stay(call, *(axis for i in picked for axis in (value.axes[i], *indices[i].axes)))
    rest = len(value.shape) - picked[-1] - 1
    behind = list(reversed(list(zip(values.shape, values.axes, strict=True))))
    _stay(call, *(axis for _, axis in behind[rest : rest + new]))
    partners = [*reversed(range(picked[-1] + 1, len(value.shape))), *[None] * new, *reversed(range(picked[0]))]
    axes = [PLAIN if i in picked else computed(axis, zero=False) for i, axis in enumerate(value.axes)]
    for (size, axis), i in zip(behind, partners, strict=False):
        if i is not None and size > 1:
            call.tie(value.axes[i], axis)
            axes[i] = computed(value.axes[i], zero=axis.zero)
    return [axes]


def _corners(call: Call) -> list[Axes]:
    """tril and triu keep positions by row and column number."""
    axes = call.value().axes
    _stay(call, *axes[-2:])
    return [[*axes[:-2], PLAIN, PLAIN]]


def _diagonal(call: Call) -> list[Axes]:
    value = call.value()
    both = {call.dimension(call.get("dim1") or 0), call.dimension(1 if call.get("dim2") is None else call.get("dim2"))}
    _stay(call, *(value.axes[i] for i in both))
    return [[*(axis for i, axis in enumerate(value.axes) if i not in both), PLAIN]]


def _windows(call: Call) -> list[Axes]:
    """unfold: windows along one axis, which come last."""
    value, dim = call.value(), call.dimension(call.get("dimension"))
    call.fix(value.axes[dim], f"{call.place} slides along it")
    return [[*(PLAIN if i == dim else axis for i, axis in enumerate(value.axes)), PLAIN]]


def _fold_patches(call: Call) -> list[Axes]:
    """col2im: (…, C·k², L) → (…, C, H, W); the k² positions of one channel go together."""
    value, factor = call.value(), math.prod(call.get("kernel_size"))
    channel = value.axes[-2]
    call.fix(value.axes[-1], f"{call.place} slides along it")
    if channel.labels is not None:
        call.ledger.channels.tie(
            channel.labels, np.repeat(channel.labels[::factor], factor, axis=0), f"{call.place} mixes it into pixels"
        )
        channel = take(channel, np.arange(0, len(channel.labels), factor))
    return [[*value.axes[:-2], channel, PLAIN, PLAIN]]


def _unpool(count: int) -> Callable[[Call], list[Axes]]:
    """max_unpool of the last ``count`` axes."""

    def rule(call: Call) -> list[Axes]:
        value, index = call.value("self"), call.value("indices")
        for axis in (*value.axes[-count:], *index.axes[-count:]):
            call.fix(axis, f"{call.place} slides along it")
        lead = len(value.shape) - count
        for mine, theirs in zip(value.axes[:lead], index.axes[:lead], strict=True):
            call.tie(mine, theirs)
        return [[*(computed(axis) for axis in value.axes[:lead]), *[PLAIN] * count]]

    return rule


def _quarter_turns(call: Call) -> list[Axes]:
    value, dims = call.value(), [call.dimension(dim) for dim in call.get("dims")]
    _stay(call, *(value.axes[i] for i in dims))
    return [[PLAIN if i in dims else axis for i, axis in enumerate(value.axes)]]


def _one_hot(call: Call) -> list[Axes]:
    return [[*(computed(axis, zero=False) for axis in call.value().axes), PLAIN]]


INDEXING: Mapping[str, Callable[[Call], list[Axes]]] = MappingProxyType(
    {
        **dict.fromkeys(("gather", "take_along_dim"), _gather),
        **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), _scatter),
        **dict.fromkeys(("index_add", "index_copy", "index_fill", "select_scatter", "slice_scatter"), _index_into),
        **dict.fromkeys(("index_put", "_index_put_impl"), _index_put),
        **dict.fromkeys(("tril", "triu"), _corners),
        "diagonal": _diagonal,
        "unfold": _windows,
        "col2im": _fold_patches,
        **{f"max_unpool{n}d": _unpool(n) for n in (2, 3)},
        "rot90": _quarter_turns,
        "one_hot": _one_hot,
    }
)
"""Rules of the operators in this file."""
