"""Layers: convolutions, everything that is a sum of products, normalisation, pooling and resampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from ecc.network.channels import Labels
from ecc.network.values import PLAIN, Axes, Axis, Call, Value, computed

__all__ = ["LAYERS", "add_bias", "contract", "labels_of_all"]

_COUNTED = 100_000  # positions of a product of axes whose labels are still counted one by one


def _convolution(call: Call) -> list[Axes]:
    """Plain, grouped, depthwise and transposed convolutions of any dimension."""
    value, weight, bias = call.value("input"), call.value("weight"), call.get("bias")
    transposed = "transpose" in call.name or bool(call.get("transposed"))
    groups, spatial = call.get("groups"), len(weight.shape) - 2
    at = len(value.shape) - spatial - 1
    for axis in [*value.axes[at + 1 :], *weight.axes[2:]]:
        call.fix(axis, f"{call.place} slides along it")
    reads, writes = (weight.axes[0], weight.axes[1]) if transposed else (weight.axes[1], weight.axes[0])
    call.mark(reads, "read")
    call.mark(writes, "write")
    call.reduce(value.axes[at])
    call.reduce(reads)
    depthwise = groups > 1 and groups == value.shape[at]
    if groups == 1:
        call.tie(value.axes[at], reads)
        out = computed(writes)
    else:
        out = _grouped(call, value.axes[at], weight, groups, transposed=transposed)
    if not (depthwise or value.axes[at].zero or reads.zero):
        call.fix(value.axes[at], f"{call.place} sums over channels that are not zero once removed")
    if isinstance(bias, Value):
        call.tie(bias.axes[0], out)
        call.mark(bias.axes[0], "write")
        out = computed(out, zero=bias.axes[0].zero)
    macs = math.prod(weight.shape) * (
        math.prod(value.shape) // value.shape[at] if transposed else math.prod(call.shape) // call.shape[at]
    )
    counted = weight.axes[0] if depthwise else writes
    work = labels_of_all(
        call,
        [*value.axes[:at], counted],
        [*value.shape[:at], weight.shape[0] if counted is weight.axes[0] else weight.shape[1]],
    )
    call.charge(
        "depthwise" if depthwise else "conv", call.owner(weight), macs, None if depthwise else reads.labels, work
    )
    batch = [computed(axis, zero=bias is None) for axis in value.axes[:at]]
    return [[*batch, out, *[PLAIN] * spatial]]


def _grouped(call: Call, channel: Axis, weight: Value, groups: int, *, transposed: bool) -> Axis:
    """Tie the channels of a grouped convolution and give those of its output.

    With one input or one output channel per group whole groups go. Else equal local channels of all groups go together
    and the number of groups stays.
    """
    rows, columns = weight.axes[0], weight.axes[1]
    per_in = (weight.shape[0] // groups) if transposed else weight.shape[1]
    per_out = weight.shape[1] if transposed else weight.shape[0] // groups
    if per_in == 1 or per_out == 1:
        call.fix(columns, f"{call.place} keeps the channels of a group together")
        unit = call.ledger.channels.fresh(groups)
        call.tie(channel, Axis(np.repeat(unit, per_in, axis=0)))
        call.tie(rows, Axis(np.repeat(unit, per_in if transposed else per_out, axis=0)))
        return Axis(np.repeat(unit, per_out, axis=0), rows.zero or channel.zero)
    if columns.labels is None or rows.labels is None:
        call.fix(channel)
        call.fix(rows)
        call.fix(columns)
        return PLAIN
    call.ledger.channels.tie_blocks(rows.labels, groups, f"{call.place} keeps its groups equal")
    tiled = Axis(np.tile(columns.labels, (groups, 1)))
    call.tie(channel, rows if transposed else tiled)
    return tiled if transposed else computed(rows)


def labels_of_all(call: Call, axes: Sequence[Axis], sizes: Sequence[int]) -> Labels | None:
    """Labels of the product of those axes that have any."""
    movable = call.ledger.channels.movable
    labelled = [
        (size, axis.labels)
        for axis, size in zip(axes, sizes, strict=True)
        if axis.labels is not None and movable(axis.labels)
    ]
    while math.prod(size for size, _ in labelled) > _COUNTED:
        _, labels = labelled.pop(0)  # what a layer writes comes last
        call.ledger.channels.fix(labels, f"{call.place} is too large to count")
    if not labelled:
        return None
    return call.ledger.channels.merge(labelled)


def contract(call: Call, operands: Sequence[Value], letters: Sequence[str], result: str, *, kind: str = "") -> Axes:
    """A sum of products in the notation of einsum: axes of one letter go together, those not in ``result`` are summed.

    A summed channel may go if one of its factors is zero then, as weight columns are, and activations whose zeros
    survived. Axes of size 1 that broadcast have a blank for a letter.
    """
    axes: dict[str, Axis] = {}
    sizes: dict[str, int] = {}
    for value, names in zip(operands, letters, strict=True):
        for axis, name, size in zip(value.axes, names, value.shape, strict=True):
            if name == " ":
                continue
            if axis.source is not None:
                call.mark(axis, "write" if name in result else "read")
            if name not in result:
                call.reduce(axis)
            known = axes.get(name)
            if known is None:
                axes[name] = computed(axis)
            else:
                call.tie(known, axis)
                same = known if known.labels is None else axis
                axes[name] = Axis(same.labels, known.zero or axis.zero)
            sizes[name] = size
    summed = [name for name in axes if name not in result]
    for name in summed:
        if not axes[name].zero:
            call.fix(axes[name], f"{call.place} sums over channels that are not zero once removed")
    made = [name for name in axes if name in result]
    weight = next((value for value in operands if any(axis.source for axis in value.axes)), None)
    call.charge(
        kind or ("linear" if weight is not None else "matmul"),
        call.owner(weight),
        math.prod(sizes.values()),
        labels_of_all(call, [axes[name] for name in summed], [sizes[name] for name in summed]),
        labels_of_all(call, [axes[name] for name in made], [sizes[name] for name in made]),
    )
    return [axes.get(name, PLAIN) for name in result]


_BATCH = "abcdefghijklm"


def _linear(call: Call) -> list[Axes]:
    value, weight, bias = call.value("input"), call.value("weight"), call.get("bias")
    batch = _BATCH[: len(value.shape) - 1]
    axes = contract(call, [value, weight], [batch + "x", "yx"], batch + "y")
    add_bias(call, axes, bias)
    return [axes]


def add_bias(call: Call, axes: Axes, bias: object) -> None:
    """Tie a bias, broadcast from the last axis on, to the axes of what it is added to."""
    if not isinstance(bias, Value) or not bias.shape:
        if bias is not None:
            axes[:] = [computed(axis, zero=False) for axis in axes]
        return
    call.mark(bias.axes[-1], "write")
    for i in range(-len(axes), 0):
        fits = len(bias.shape) >= -i and bias.shape[i] > 1
        if fits:
            call.tie(bias.axes[i], axes[i])
        axes[i] = computed(axes[i], zero=fits and bias.axes[i].zero)


def _matmul(call: Call) -> list[Axes]:
    """matmul, mm, bmm, mv, dot with broadcasting of leading axes."""
    left, right = call.value("self", "input"), call.value("other", "mat2", "vec", "vec2", "tensor")
    return [_product(call, left, right)]


def _product(call: Call, left: Value, right: Value) -> Axes:
    n_batch = max(len(left.shape), len(right.shape)) - 2
    batch = _BATCH[: max(n_batch, 0)]
    row = "x" if len(left.shape) > 1 else ""
    column = "z" if len(right.shape) > 1 else ""
    names = []
    for value, own in ((left, row + "y"), (right, "y" + column)):
        lead = len(value.shape) - len(own)
        mine = batch[len(batch) - lead :] if lead else ""
        sizes = zip(mine, value.shape[:lead], strict=True)
        full = call.shape[: len(batch)]
        names.append("".join(name if size == full[batch.index(name)] else " " for name, size in sizes) + own)
    return contract(call, [left, right], names, batch + row + column)


def _add_matmul(call: Call) -> list[Axes]:
    """addmm and baddbmm: bias + left @ right."""
    left, right = call.value("mat1", "batch1"), call.value("mat2", "batch2")
    axes = _product(call, left, right)
    add_bias(call, axes, call.get("self"))
    return [axes]


def _embedding(call: Call) -> list[Axes]:
    weight, indices = call.value("weight"), call.value("indices")
    call.fix(weight.axes[0], f"{call.place} looks rows up by number")
    for axis in indices.axes:
        call.fix(axis)
    call.mark(weight.axes[1], "write")
    call.charge("embedding", call.owner(weight), 0, None, weight.axes[1].labels)
    made = [*[PLAIN] * (len(call.shape) - 1), computed(weight.axes[1])]
    return [made, *([PLAIN] * len(shape) for shape in call.shapes[1:])]


def _channel_norm(call: Call) -> list[Axes]:
    """Batch and instance norm: each channel by itself."""
    value, weight = call.value("input"), call.get("weight")
    for axis in value.axes[2:]:
        call.fix(axis, f"{call.place} takes statistics along it")
    if call.name != "instance_norm":
        call.fix(value.axes[0], f"{call.place} takes statistics along it")
    channel = value.axes[1]
    _affine(call, channel, [call.get(name) for name in ("weight", "bias", "running_mean", "running_var")])
    if channel.labels is not None:
        call.ledger.sizes.append((call.module, value.shape[1], channel.labels))
    call.charge("norm", call.owner(weight), 0, None, channel.labels)
    zero = _affine_zero(channel, weight, call.get("bias"))
    around = [computed(axis, zero=False) for axis in value.axes]
    axes = [around[0], Axis(channel.labels, zero), *around[2:]]
    saved = [Axis(channel.labels, zero=False)]  # statistics that some forms give too
    return [axes, *(saved if shape == value.shape[1:2] else [PLAIN] * len(shape) for shape in call.shapes[1:])]


def _affine(call: Call, channel: Axis, tensors: Sequence[object]) -> None:
    for tensor in tensors:
        if isinstance(tensor, Value):
            call.tie(channel, tensor.axes[0])
            call.mark(tensor.axes[0], "write")


def _affine_zero(channel: Axis, weight: object, bias: object) -> bool:
    """Whether a normalised channel is zero once its scale and shift are, or without them once it was."""
    scaled = weight.axes[0].zero if isinstance(weight, Value) else channel.zero
    return scaled and (not isinstance(bias, Value) or bias.axes[0].zero)


def _renormalised(call: Call, weight: object) -> bool:
    """Whether a norm may take its statistics over fewer channels; then it is noted."""
    source = weight.axes[0].source if isinstance(weight, Value) and len(weight.shape) == 1 else None
    if not call.ledger.renormalise or source is None:
        return False
    call.ledger.renormalised[source[0]] = None
    return True


def _over_all(call: Call) -> str:
    mend = "trace with renormalise=True to let it run over fewer"
    if call.ledger.renormalise:
        mend = "only norms over one axis that have a weight can run over fewer"
    return f"{call.place} takes its statistics over these channels, so that removing some changes the rest; {mend}"


def _group_norm(call: Call) -> list[Axes]:
    """Channels of one normalisation group share a mean and a variance, so whole groups go."""
    value, groups, weight = call.value("input"), call.get("num_groups"), call.get("weight")
    channel = value.axes[1]
    for axis in value.axes[2:]:
        call.fix(axis, f"{call.place} takes statistics along it")
    _affine(call, channel, [weight, call.get("bias")])
    if groups == 1 and not _renormalised(call, weight):
        call.fix(channel, _over_all(call))
    elif groups > 1 and channel.labels is not None:
        size = value.shape[1] // groups
        first = np.repeat(channel.labels[::size], size, axis=0)
        call.ledger.channels.tie(channel.labels, first, f"{call.place} normalises its channels together")
    call.charge("norm", call.owner(weight), 0, None, channel.labels)
    zero = _affine_zero(channel, weight, call.get("bias"))
    around = [computed(axis, zero=False) for axis in value.axes]
    return [[around[0], Axis(channel.labels, zero), *around[2:]]]


def _layer_norm(call: Call) -> list[Axes]:
    value, weight, bias = call.value("input"), call.get("weight"), call.get("bias")
    n = len(call.get("normalized_shape"))
    if n == 1 and _renormalised(call, weight):
        _affine(call, value.axes[-1], [weight, bias])
        call.charge("norm", call.owner(weight), 0, None, value.axes[-1].labels)
        around = [computed(axis, zero=bias is None) for axis in value.axes[:-1]]
        return [[*around, Axis(value.axes[-1].labels, _affine_zero(value.axes[-1], weight, bias))]]
    reason = _over_all(call)
    for axis in value.axes[-n:]:
        call.fix(axis, reason)
    for tensor in (weight, bias):
        if isinstance(tensor, Value):
            for axis, along in zip(tensor.axes, value.axes[-n:], strict=True):
                call.tie(along, axis)
                call.fix(axis, reason)
                call.mark(axis, "write")
    call.charge("norm", call.owner(weight), 0, None, value.axes[-1].labels)
    return [[computed(axis, zero=bias is None) for axis in value.axes]]


def _spatial(count: int) -> Callable[[Call], list[Axes]]:
    """Pooling and resampling of the last ``count`` axes: the channels stay, the rest may not be labelled."""

    def rule(call: Call) -> list[Axes]:
        value = call.value()
        for axis in value.axes[-count:]:
            call.fix(axis, f"{call.place} slides along it")
        axes = [computed(axis) for axis in value.axes[:-count]]
        return [[*axes, *[PLAIN] * count] for _ in call.shapes]

    return rule


def _grid_sample(call: Call) -> list[Axes]:
    value, grid = call.value("input"), call.value("grid")
    for axis in [*grid.axes, *value.axes[2:]]:
        call.fix(axis)
    return [[computed(value.axes[0]), computed(value.axes[1]), *[PLAIN] * (len(call.shape) - 2)]]


_BATCH_NORMS = (
    "batch_norm", "instance_norm", "native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_batch_norm_no_update",
)  # fmt: skip
_POOLS = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
_RESAMPLERS = {
    1: ("upsample_nearest1d", "upsample_linear1d", "_upsample_nearest_exact1d"),
    2: ("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d",
        "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    3: ("upsample_nearest3d", "upsample_trilinear3d", "_upsample_nearest_exact3d"),
}  # fmt: skip

LAYERS: Mapping[str, Callable[[Call], list[Axes]]] = MappingProxyType(
    {
        **{f"conv{n}d": _convolution for n in (1, 2, 3)},
        **{f"conv_transpose{n}d": _convolution for n in (1, 2, 3)},
        **dict.fromkeys(("convolution", "_convolution"), _convolution),
        "linear": _linear,
        **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot", "linalg_matmul"), _matmul),
        **dict.fromkeys(("addmm", "baddbmm"), _add_matmul),
        **dict.fromkeys(("embedding", "embedding_bag", "_embedding_bag"), _embedding),
        **dict.fromkeys(_BATCH_NORMS, _channel_norm),
        "group_norm": _group_norm,
        **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
        **{f"{pool}{n}d": _spatial(n) for pool in _POOLS for n in (1, 2, 3)},
        **{f"{pool}{n}d": _spatial(n) for pool in ("_adaptive_avg_pool", "fractional_max_pool") for n in (2, 3)},
        **{f"max_pool{n}d_with_indices": _spatial(n) for n in (1, 2, 3)},
        **{name: _spatial(n) for n, names in _RESAMPLERS.items() for name in names},
        **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), _grid_sample),
    }
)
"""Rules of the operators in this file."""
