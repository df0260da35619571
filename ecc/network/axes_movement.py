"""Operators that move data: the labels move with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ecc.network.values import PLAIN, Axes, Axis, Call, Value, computed, take

__all__ = ["MOVEMENT", "reshape"]

_LARGEST = 4_000_000  # positions of a flattened axis whose labels are still followed one by one


def _reshape(call: Call) -> list[Axes]:
    return [reshape(call, call.value(), call.shape)]


def reshape(call: Call, value: Value, shape: tuple[int, ...]) -> Axes:
    """The axes of a value seen with another shape; axes are cut in the smallest runs of equal size."""
    if math.prod(shape) == 0:
        raise ValueError("empty tensor")
    axes: Axes = [PLAIN] * len(shape)
    before = [i for i, size in enumerate(value.shape) if size > 1]
    after = [i for i, size in enumerate(shape) if size > 1]
    while before or after:
        left, right = [before.pop(0)], [after.pop(0)]
        while (a := math.prod(value.shape[i] for i in left)) != (b := math.prod(shape[i] for i in right)):
            if a < b:
                left.append(before.pop(0))
            else:
                right.append(after.pop(0))
        for i, axis in zip(right, _regroup(call, value, left, [shape[i] for i in right]), strict=True):
            axes[i] = axis
    return axes


def _regroup(call: Call, value: Value, left: Sequence[int], sizes: Sequence[int]) -> Axes:
    """Axes ``left`` of a value, flattened and cut to ``sizes``."""
    channels = call.ledger.channels
    if all(value.axes[i].labels is None for i in left):
        return [PLAIN] * len(sizes)
    if len(left) == len(sizes) == 1:
        axis = value.axes[left[0]]
        if axis.labels is not None and call.name in ("view", "reshape"):  # with a size that a module may keep
            call.ledger.sizes.append((call.module, sizes[0], axis.labels))
        return [axis]
    zero, sources = all(value.axes[i].zero for i in left), [s for i in left if (s := value.axes[i].source)]
    source, others = next(iter(sources), None), tuple(sources[1:] + [s for i in left for s in value.axes[i].others])
    if math.prod(sizes) > _LARGEST:
        for i in left:
            call.fix(value.axes[i], f"{call.place} mixes it with too many positions to follow")
        return [PLAIN] * len(sizes)
    labels = channels.merge([(value.shape[i], value.axes[i].labels) for i in left])
    axes: Axes = []
    rest = math.prod(sizes)
    for size in sizes[:-1]:
        rest //= size
        row = None
        if labels is not None:
            row, labels = channels.split(labels, size, rest, f"{call.place} cuts its channels in unlike pieces")
        axes.append(Axis(row, zero, source, others) if row is not None else Axis(None, zero))
        if row is not None:
            call.ledger.sizes.append((call.module, size, row))
    if labels is not None and (len(sizes) > 1 or sum(value.axes[i].labels is not None for i in left) > 1):
        call.ledger.sizes.append((call.module, sizes[-1], labels))
    return [*axes, Axis(labels, zero, source, others) if labels is not None else Axis(None, zero)]


def _permute(call: Call) -> list[Axes]:
    value = call.value()
    return [[value.axes[call.dimension(dim)] for dim in call.get("dims")]]


def _transpose(call: Call) -> list[Axes]:
    axes = list(call.value().axes)
    first, second = call.get("dim0", "axis0"), call.get("dim1", "axis1")
    i, j = (call.dimension(dim) for dim in (first, second))
    axes[i], axes[j] = axes[j], axes[i]
    return [axes]


def _reverse_last_two(call: Call) -> list[Axes]:
    axes = list(call.value().axes)
    return [[*axes[:-2], *reversed(axes[-2:])]]


def _movedim(call: Call) -> list[Axes]:
    axes = call.value().axes
    source, destination = call.get("source"), call.get("destination")
    source, destination = ([dims] if isinstance(dims, int) else dims for dims in (source, destination))
    places = {call.dimension(d): call.dimension(s) for s, d in zip(source, destination, strict=True)}
    rest = iter([i for i in range(len(axes)) if i not in places.values()])
    return [[axes[places[i] if i in places else next(rest)] for i in range(len(axes))]]


def _expand(call: Call) -> list[Axes]:
    """New positions of an expanded axis are all alike, so their number may follow whatever they meet."""
    value, shape = call.value(), call.shape
    axes: Axes = [
        Axis(call.ledger.channels.fresh(size), zero=False) if size > 1 else PLAIN
        for size in shape[: len(shape) - len(value.shape)]
    ]
    for axis, old, new in zip(value.axes, value.shape, shape[len(axes) :], strict=True):
        if old == new:
            axes.append(axis)
        else:
            axes.append(Axis(call.ledger.channels.fresh(new), zero=False))
    return [axes]


def _repeat(call: Call) -> list[Axes]:
    value = call.value()
    missing = len(call.shape) - len(value.shape)
    axes: Axes = []
    for new, axis, old in zip(call.shape, [PLAIN] * missing + value.axes, (1,) * missing + value.shape, strict=True):
        if old == new:
            axes.append(axis)
        elif old == 1:
            axes.append(Axis(call.ledger.channels.fresh(new), zero=False))
        else:
            axes.append(take(axis, np.tile(np.arange(old), new // old)))
    return [axes]


def _repeat_interleave(call: Call) -> list[Axes]:
    value, repeats, dim = call.value(), call.get("repeats"), call.get("dim")
    if not isinstance(repeats, int) or dim is None:
        raise ValueError("repeats differ")
    dim = call.dimension(dim)
    axes = list(value.axes)
    axes[dim] = take(axes[dim], np.repeat(np.arange(value.shape[dim]), repeats))
    return [axes]


def _cat(call: Call) -> list[Axes]:
    values = [value for value in call.get("tensors") if value.shape != (0,)]
    return [_joined(call, values, call.dimension(call.get("dim", "axis"), len(call.shape)))]


def _joined(call: Call, values: Sequence[Value], dim: int) -> Axes:
    axes: Axes = []
    for i in range(len(call.shape)):
        pieces = [value.axes[i] for value in values]
        if i == dim:
            parts = [(value.shape[i], value.axes[i].labels) for value in values]
            zero = all(piece.zero for piece in pieces)
            axes.append(Axis(call.ledger.channels.concatenate(parts), zero, call.relate(pieces)))
        else:
            axes.append(_tied(call, pieces))
    return axes


def _stack(call: Call) -> list[Axes]:
    values = call.get("tensors")
    dim = call.dimension(call.get("dim"), len(call.shape))
    axes = [_tied(call, [value.axes[i] for value in values]) for i in range(len(call.shape) - 1)]
    return [[*axes[:dim], PLAIN, *axes[dim:]]]


def _stacked(call: Call) -> list[Axes]:
    """hstack, vstack and dstack of tensors that have the axis already."""
    dim = {"vstack": 0, "row_stack": 0, "dstack": 2}.get(call.name, 1)
    values = call.get("tensors")
    if min(len(value.shape) for value in values) <= max(dim, 1):
        raise ValueError("an axis is added")
    return [_joined(call, values, dim)]


def _tied(call: Call, pieces: Sequence[Axis]) -> Axis:
    for piece in pieces[1:]:
        call.tie(pieces[0], piece)
    if any(piece.labels is None for piece in pieces):
        return PLAIN
    return Axis(pieces[0].labels, all(piece.zero for piece in pieces), call.relate(pieces))


def _pieces(call: Call) -> list[Axes]:
    """chunk, split and their kin: pieces of equal size lose equal local positions.

    A forward that computes the sizes from the tensor then finds every piece where it was; one that insists on numbers
    fails, and the check says so.
    """
    value = call.value()
    dim = call.dimension(call.get("dim") or 0)
    sizes = [shape[dim] for shape in call.shapes]
    _balance(call, value.axes[dim], sizes)
    starts = np.cumsum([0, *sizes])[:-1]
    return [_cut(call, value, dim, start, start + size) for start, size in zip(starts, sizes, strict=True)]


def _balance(call: Call, axis: Axis, cuts: Sequence[int]) -> None:
    """Tie equal local positions of the equal runs that an axis is cut in; ``cuts`` are sizes that add up to it."""
    if axis.labels is not None:
        blocks = sum(cuts) // math.gcd(*cuts)
        call.ledger.channels.tie_blocks(axis.labels, blocks, f"{call.place} cuts its channels in unlike pieces")


def _cut(call: Call, value: Value, dim: int, start: int, end: int, step: int = 1) -> Axes:
    axes = list(value.axes)
    axes[dim] = take(axes[dim], np.arange(start, end, step))
    labels = axes[dim].labels
    if labels is not None:  # modules often keep the size of a piece
        call.ledger.sizes.append((call.module, len(labels), labels))
    return axes


def _slice(call: Call) -> list[Axes]:
    value = call.value()
    dim = call.dimension(call.get("dim") or 0)
    size = value.shape[dim]
    start, end, step = slice(call.get("start"), call.get("end"), call.get("step") or 1).indices(size)
    if call.name == "narrow":
        start = call.get("start") % size
        end = start + call.get("length")
    axis = value.axes[dim]
    whole = (start, end, step) == (0, size, 1)
    if step != 1:
        call.fix(axis, f"{call.place} picks positions by number")
    elif not whole:
        _balance(call, axis, [cut for cut in (start, end - start, size - end) if cut])
    return [list(value.axes) if whole else _cut(call, value, dim, start, end, step)]


def _select(call: Call) -> list[Axes]:
    value = call.value()
    dim = call.dimension(call.get("dim"))
    call.fix(value.axes[dim], f"{call.place} picks positions by number")
    return [[*value.axes[:dim], *value.axes[dim + 1 :]]]


def _unbind(call: Call) -> list[Axes]:
    value = call.value()
    dim = call.dimension(call.get("dim") or 0)
    call.fix(value.axes[dim], f"{call.place} picks positions by number")
    return [[*value.axes[:dim], *value.axes[dim + 1 :]] for _ in call.shapes]


def _index_select(call: Call) -> list[Axes]:
    value = call.value()
    dim = call.dimension(call.get("dim"))
    call.fix(value.axes[dim], f"{call.place} picks positions by number")
    return [[computed(axis) if i != dim else PLAIN for i, axis in enumerate(value.axes)]]


def _index(call: Call) -> list[Axes]:
    """x[:, i, j, …] by index tensors: neighbouring axes are replaced by those of the indices, else these come first."""
    value, indices = call.value(), call.get("indices")
    picked = [i for i, index in enumerate(indices) if index is not None]
    for i in picked:
        call.fix(value.axes[i], f"{call.place} picks positions by number")
    for index in (indices[i] for i in picked):
        for axis in index.axes:
            call.fix(axis)
    new = len(call.shape) - (len(value.shape) - len(picked))
    kept = [axis for i, axis in enumerate(value.axes) if i not in picked]
    before = picked[0] if picked == list(range(picked[0], picked[-1] + 1)) else 0
    return [[*kept[:before], *[PLAIN] * new, *kept[before:]]]


def _pad(call: Call) -> list[Axes]:
    value, pads = call.value(), call.get("pad", "padding")
    axes = list(value.axes)
    constant = call.get("mode") in (None, "constant") and "reflection" not in call.name and "replic" not in call.name
    for k in range(len(pads) // 2):
        before, after = pads[2 * k], pads[2 * k + 1]
        dim = len(axes) - 1 - k
        axis = axes[dim]
        if axis.labels is None or before == after == 0:
            continue
        if not constant or before < 0 or after < 0:
            call.fix(axis)
            axes[dim] = PLAIN
            continue
        channels = call.ledger.channels
        added = [channels.fresh(size) for size in (before, after)]
        for labels in added:
            channels.fix(labels, f"{call.place} appends a fixed number of channels here")
        parts = [(before, added[0]), (value.shape[dim], axis.labels), (after, added[1])]
        axes[dim] = Axis(channels.concatenate(parts), axis.zero)
    zero = not call.get("value")
    return [[computed(axis, zero=zero) for axis in axes]]


def _roll(call: Call) -> list[Axes]:
    value, dims = call.value(), call.get("dims")
    rolled = {call.dimension(dim) for dim in dims} if dims else set(range(len(value.shape)))
    for i in rolled:
        call.fix(value.axes[i])
    return [list(value.axes)]


def _pixel_shuffle(call: Call) -> list[Axes]:
    """(…, C·r², H, W) → (…, C, H·r, W·r): the r² channels of one pixel block go together."""
    value, factor = call.value(), call.get("upscale_factor") ** 2
    axis = value.axes[-3]
    labels = None
    if axis.labels is not None:
        labels = axis.labels[::factor]
        repeated = np.repeat(labels, factor, axis=0)
        call.ledger.channels.tie(axis.labels, repeated, f"{call.place} mixes it into pixels")
    call.fix(value.axes[-2])
    call.fix(value.axes[-1])
    return [[*value.axes[:-3], Axis(labels, axis.zero), PLAIN, PLAIN]]


def _pixel_unshuffle(call: Call) -> list[Axes]:
    value, factor = call.value(), call.get("downscale_factor") ** 2
    call.fix(value.axes[-2])
    call.fix(value.axes[-1])
    channels = take(value.axes[-3], np.repeat(np.arange(value.shape[-3]), factor))
    return [[*value.axes[:-3], channels, PLAIN, PLAIN]]


def _channel_shuffle(call: Call) -> list[Axes]:
    value, groups = call.value(), call.get("groups")
    axes = list(value.axes)
    axis, size = axes[1], value.shape[1]
    if axis.labels is not None:
        call.ledger.channels.tie_blocks(axis.labels, groups, f"{call.place} cuts its channels in unlike pieces")
        axes[1] = take(axis, np.arange(size).reshape(groups, -1).T.reshape(-1))
    return [axes]


def _unfold_patches(call: Call) -> list[Axes]:
    """im2col: (N, C, H, W) → (N, C·k², L)."""
    value = call.value()
    for axis in value.axes[-2:]:
        call.fix(axis)
    factor = math.prod(call.get("kernel_size"))
    channels = take(value.axes[-3], np.repeat(np.arange(value.shape[-3]), factor))
    return [[*value.axes[:-3], channels, PLAIN]]


def _fill(call: Call) -> list[Axes]:
    """A constant everywhere: its sizes may follow whatever they meet."""
    value: Any = call.get("fill_value")
    zero = call.name in ("zeros", "zeros_like", "new_zeros") or value == 0
    return [[Axis(call.ledger.channels.fresh(size), zero) if size > 1 else PLAIN for size in call.shape]]


MOVEMENT: Mapping[str, Callable[[Call], list[Axes]]] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "view",
                "reshape",
                "_unsafe_view",
                "flatten",
                "unflatten",
                "ravel",
                "view_as",
                "reshape_as",
                "_reshape_alias",
            ),
            _reshape,
        ),
        **dict.fromkeys(("squeeze", "unsqueeze", "atleast_1d", "atleast_2d", "atleast_3d"), _reshape),
        "permute": _permute,
        **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transpose),
        **dict.fromkeys(("t", "mT", "adjoint", "numpy_T", "mH"), _reverse_last_two),
        **dict.fromkeys(("movedim", "moveaxis"), _movedim),
        **dict.fromkeys(("expand", "expand_as", "broadcast_to"), _expand),
        "repeat": _repeat,
        "tile": _repeat,
        "repeat_interleave": _repeat_interleave,
        **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
        "stack": _stack,
        **dict.fromkeys(("hstack", "vstack", "dstack", "row_stack", "column_stack"), _stacked),
        **dict.fromkeys(
            ("chunk", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "tensor_split"), _pieces
        ),
        **dict.fromkeys(("slice", "narrow"), _slice),
        "select": _select,
        "unbind": _unbind,
        "index_select": _index_select,
        "index": _index,
        **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
        **dict.fromkeys((f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)), _pad),
        **dict.fromkeys(("roll", "flip"), _roll),
        "pixel_shuffle": _pixel_shuffle,
        "pixel_unshuffle": _pixel_unshuffle,
        "channel_shuffle": _channel_shuffle,
        "im2col": _unfold_patches,
        **dict.fromkeys(
            (
                "zeros",
                "ones",
                "full",
                "zeros_like",
                "ones_like",
                "full_like",
                "new_zeros",
                "new_ones",
                "new_full",
                "empty",
                "empty_like",
                "new_empty",
            ),
            _fill,
        ),
    }
)
"""Rules of the operators in this file."""
