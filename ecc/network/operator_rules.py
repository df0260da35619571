"""How each operator of a record is written as operators of a device's profile: a rule per name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from ecc.core.operators import POINTWISE, RECURRENT, Operator, convolution_kind
from ecc.network.capture import operator_name
from ecc.network.nesting import tensors_in

__all__ = ["translate"]

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A node's arguments by the names of its schema, tensors without values, and the shapes of what it gives."""

    name: str
    arguments: Mapping[str, Any]
    outputs: Sequence[Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        return list(tensors_in(list(self.arguments.values())))

    @property
    def sizes(self) -> Sizes:
        """Of the first tensor."""
        return tuple(self.tensors[0].shape)

    @property
    def out(self) -> Sizes:
        return tuple(self.outputs[0].shape)


def translate(node: fx.Node, tensors: Callable[[fx.Node], Any]) -> list[Operator] | None:
    """The operators of a call; none for a view, None for what is unknown.

    Args:
        node: Of a record; a call of an operator.
        tensors: What a node gives, as tensors that need no values: a tensor or a list of them.
    """
    name = operator_name(node)
    rule = _RULES.get(name)
    if rule is None or not isinstance(node.target, torch._ops.OpOverload):
        return [] if name in _FREE else None

    def value(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return [value(item) for item in argument]
        return tensors(argument) if isinstance(argument, fx.Node) else argument

    arguments = {
        argument.name: value(
            node.args[i] if i < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        )
        for i, argument in enumerate(node.target._schema.arguments)
    }
    call = _Call(name, arguments, list(tensors_in(tensors(node))))
    if any(0 in tensor.shape for tensor in (*call.tensors, *call.outputs)):
        return []
    return rule(call)


def _plane(sizes: Sizes, spatial: int) -> tuple[int, int, int, int]:
    """Batch, channels, height and width of a tensor with one or two spatial axes; the batch axis may be missing."""
    at = len(sizes) - spatial
    height, width = (1, sizes[-1]) if spatial == 1 else sizes[-2:]
    return (sizes[0] if at == 2 else 1), sizes[at - 1], height, width


def _convolution(call: _Call) -> list[Operator] | None:
    weight = tuple(call.arguments["weight"].shape)
    spatial = len(weight) - 2
    if spatial not in (1, 2):
        return None
    transposed = "transpose" in call.name or bool(call.arguments.get("transposed"))
    batch, channels_in, height, width = _plane(call.sizes, spatial)
    _, channels_out, out_height, out_width = _plane(call.out, spatial)
    groups = (channels_out if transposed else channels_in) // weight[1]
    return [
        Operator(
            "transposed" if transposed else convolution_kind(groups, channels_in),
            batch=batch,
            groups=groups,
            channels_in=channels_in,
            channels_out=channels_out,
            height=height,
            width=width,
            out_height=out_height,
            out_width=out_width,
            kernel_h=weight[2] if spatial == 2 else 1,
            kernel_w=weight[-1],
            stride=_largest(call.arguments["stride"]),
            dilation=_largest(call.arguments["dilation"]),
        )
    ]


def _largest(value: Any) -> int:
    return max([value] if isinstance(value, int) else value, default=1)


def _pool(kind: str, spatial: int) -> Callable[[_Call], list[Operator] | None]:
    def rule(call: _Call) -> list[Operator] | None:
        batch, channels, height, width = _plane(call.sizes, spatial)
        _, _, out_height, out_width = _plane(call.out, spatial)
        kernel = call.arguments.get("kernel_size")
        if kernel is None:  # adaptive
            if (out_height, out_width) == (1, 1):
                return _reduce(call)
            sides, stride = (math.ceil(height / out_height), math.ceil(width / out_width)), max(1, width // out_width)
        else:
            both = [kernel] if isinstance(kernel, int) else list(kernel)
            sides = (1 if spatial == 1 else both[0], both[-1])
            stride = _largest(call.arguments["stride"] or kernel)
        return [
            Operator(
                kind,
                batch=batch,
                channels_in=channels,
                channels_out=channels,
                height=height,
                width=width,
                out_height=out_height,
                out_width=out_width,
                kernel_h=sides[0],
                kernel_w=sides[1],
                stride=stride,
            )
        ]

    return rule


def _shape(sizes: Sizes) -> dict[str, int]:
    """The columns of a tensor that is worked on number by number or along its channels.

    (batch, channels, height, width); (batch, length, channels), leading axes of more dimensions taken together;
    (batch, channels).
    """
    if len(sizes) == 4:
        names = ("batch", "channels_in", "height", "width")
        found = dict(zip(names, sizes, strict=True))
        return {**found, "channels_out": sizes[1], "out_height": sizes[2], "out_width": sizes[3]}
    batch = sizes[0] if len(sizes) > 1 else 1
    channels = sizes[-1] if sizes else 1
    return {"batch": batch, "length": math.prod(sizes[1:-1]), "channels_in": channels, "channels_out": channels}


def _each(kind: str) -> Callable[[_Call], list[Operator]]:
    """Operators whose output has the shape of their first tensor."""

    def rule(call: _Call) -> list[Operator]:
        return [Operator(kind, **_shape(call.out))]

    return rule


def _group_norm(call: _Call) -> list[Operator]:
    batch, channels, height, width = _plane((*call.sizes, 1, 1)[: max(4, len(call.sizes))], 2)
    sizes = (batch, channels, height, width)
    return [Operator("group-norm", groups=call.arguments["num_groups"], **_shape(sizes))]


def _batch_norm(call: _Call) -> list[Operator]:
    """Of images, or of features; a signal's length is the width of an image of height 1."""
    sizes = call.sizes
    return [Operator("batch-norm", **_shape((*sizes[:2], 1, sizes[2]) if len(sizes) == 3 else sizes))]


def _reduce(call: _Call) -> list[Operator] | None:
    """A reduction that leaves fewer numbers; the axes that it works along are height and width, or the length."""
    sizes, batch = call.sizes, call.sizes[0] if call.sizes else 1
    kept, all_numbers = math.prod(call.out), math.prod(sizes)
    if kept % batch or all_numbers % kept:
        return None
    if len(sizes) == 4:
        return [Operator("reduce", **{**_shape(sizes), "channels_out": kept // batch, "out_height": 1, "out_width": 1})]
    channels = kept // batch
    return [
        Operator("reduce", batch=batch, length=all_numbers // kept, channels_in=channels, channels_out=channels),
    ]


def _binary(same: str, smaller: str) -> Callable[[_Call], list[Operator]]:
    """Arithmetic of two operands: of one shape, or one of them a number or smaller."""

    def rule(call: _Call) -> list[Operator]:
        full = [tensor for tensor in call.tensors if tuple(tensor.shape) == call.out]
        return [Operator(same if len(full) > 1 else smaller, **_shape(call.out))]

    return rule


def _cat(call: _Call) -> list[Operator]:
    return [Operator("cat", **_shape(call.out))]


def _moved(call: _Call) -> list[Operator]:
    """Free where the new shape is a view of the old one, else a copy."""
    try:
        call.tensors[0].view(call.out)
    except (RuntimeError, ValueError):  # the latter of fake tensors
        return [Operator("copy", **_shape(call.out))]
    return []


def _linear(call: _Call) -> list[Operator]:
    *leading, features = call.sizes
    batch, length = (leading[0], math.prod(leading[1:])) if leading else (1, 1)
    return [Operator("linear", batch=batch, length=length, channels_in=features, channels_out=call.out[-1])]


def _matmul(call: _Call) -> list[Operator] | None:
    """Products of matrices, the leading axes as copies; a matrix that all share takes all rows at once."""
    left, right = (tuple(tensor.shape) for tensor in call.tensors[-2:])
    if len(left) < 2 or len(right) < 2:
        return None
    copies = math.prod(right[:-2])
    rows = math.prod(call.out[:-1]) // copies
    batch = right[0] if len(right) > 2 else 1
    sizes = {"length": rows, "channels_in": right[-2], "channels_out": right[-1]}
    return [Operator("matmul", batch=batch, groups=copies // batch, **sizes)]


def _attention(call: _Call) -> list[Operator] | None:
    query, key, value = (tuple(call.arguments[name].shape) for name in ("query", "key", "value"))
    if len(query) < 3:
        return None
    return [
        Operator(
            "attention",
            batch=query[0],
            groups=math.prod(query[1:-2]),
            length=query[-2],
            context=key[-2],
            channels_in=query[-1],
            channels_out=value[-1],
        )
    ]


def _embedding(call: _Call) -> list[Operator]:
    table, places = call.arguments["weight"].shape, tuple(call.arguments["indices"].shape)
    batch = places[0] if places else 1
    length = math.prod(places) // batch
    return [Operator("embedding", batch=batch, length=length, channels_in=table[0], channels_out=table[1])]


def _recurrent(kind: str) -> Callable[[_Call], list[Operator] | None]:
    """One operator per layer and direction; packed sequences and projections are not understood."""

    def rule(call: _Call) -> list[Operator] | None:
        if call.arguments.get("batch_sizes") is not None or len(call.sizes) != 3:
            return None
        cells = call.arguments["num_layers"] * (2 if call.arguments["bidirectional"] else 1)
        weights = call.arguments["params"]
        per_cell = len(weights) // cells
        if per_cell not in (2, 4):
            return None
        first = call.arguments.get("batch_first", False)
        batch, length = call.sizes[:2] if first else call.sizes[1::-1]
        made = []
        for cell in range(cells):
            rows, features = weights[cell * per_cell].shape
            hidden = rows // RECURRENT[kind]
            made.append(Operator(kind, batch=batch, length=length, channels_in=features, channels_out=hidden))
        return made

    return rule


_RULES: Mapping[str, Callable[[_Call], list[Operator] | None]] = MappingProxyType(
    {
        **dict.fromkeys(("conv1d", "conv2d", "convolution", "conv_transpose1d", "conv_transpose2d"), _convolution),
        **{f"max_pool{n}d": _pool("max-pool", n) for n in (1, 2)},
        **{f"avg_pool{n}d": _pool("average-pool", n) for n in (1, 2)},
        **{f"adaptive_avg_pool{n}d": _pool("average-pool", n) for n in (1, 2)},
        **{name: _each(name) for name in POINTWISE},
        **dict.fromkeys(("hardtanh", "clamp", "clamp_min"), _each("relu6")),
        **dict.fromkeys(("softmax", "_softmax", "log_softmax"), _each("softmax")),
        "layer_norm": _each("layer-norm"),
        "batch_norm": _batch_norm,
        "group_norm": _group_norm,
        **dict.fromkeys(("mean", "sum", "amax"), _reduce),
        **dict.fromkeys(("add", "sub", "rsub"), _binary("add", "shift")),
        **dict.fromkeys(("mul", "div"), _binary("multiply", "scale")),
        "cat": _cat,
        **dict.fromkeys(("clone", "pad", "constant_pad_nd"), _each("copy")),
        **dict.fromkeys(("reshape", "flatten"), _moved),
        "linear": _linear,
        **dict.fromkeys(("matmul", "mm", "bmm", "addmm", "baddbmm"), _matmul),
        "scaled_dot_product_attention": _attention,
        "embedding": _embedding,
        "lstm": _recurrent("lstm"),
        "gru": _recurrent("gru"),
        **dict.fromkeys(("rnn_tanh", "rnn_relu"), _recurrent("rnn")),
    }
)

_FREE = frozenset(
    (
        *("view", "_unsafe_view", "unflatten", "transpose", "permute", "movedim", "t", "numpy_T", "mT", "alias"),
        *("expand", "expand_as", "unsqueeze", "squeeze", "select", "slice", "narrow", "chunk", "split", "unbind"),
        *("split_with_sizes", "unsafe_split_with_sizes", "tensor_split", "detach", "lift_fresh", "as_strided"),
        *("dropout", "feature_dropout", "alpha_dropout", "zeros", "ones", "empty", "arange", "full"),
    )
)
