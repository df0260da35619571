"""Zeros: what a part of a network computes once its own parameters are zero, whatever it is given.

Operators are followed with what is certain of each tensor: that it is zero, its values where these depend on nothing
but zeros and constants, that it is the part's input unchanged, or nothing. So it is proved that a residual branch is
silent, whatever the buffers and the other parameters hold, and no forward has to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from ecc.network.capture import is_item, mutates, operator_name
from ecc.network.lives import storages
from ecc.network.replay import named_arguments

__all__ = ["Certain", "bounds", "carriers", "changed", "deduce"]


class Certain(Enum):
    """What is known of a tensor whose values are not."""

    ZERO = "all of it is zero"
    INPUT = "it equals the input"
    NOTHING = "it may hold anything"


Known = Certain | Tensor | Sequence[Any]
"""Of one tensor, its values if they are known; of several outputs, a sequence."""

_DIMENSIONS = (1, 2, 3)
_PRODUCTS = frozenset(
    ["mul", "linear", "matmul", "mm", "bmm", "mv", "dot", "einsum", "convolution"]
    + [f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in _DIMENSIONS]
)
_SUMS_OF_PRODUCTS = frozenset({"addcmul", "addmm", "addbmm", "baddbmm", "addmv", "addr"})
_NORMS = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"})
_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
_SELECTIONS = frozenset({"index", "index_select", "gather", "take_along_dim", "embedding", "masked_fill"})
_DROPOUTS = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
_CASTS = frozenset({"clone", "contiguous", "detach", "alias", "lift_fresh", "to", "_to_copy", "type_as"})
_VIEWS = frozenset({"view", "reshape", "flatten", "expand", "expand_as", "view_as", "slice"})
_MOVES = frozenset({"permute", "transpose", "squeeze", "unsqueeze", "select", "movedim", "roll", "pixel_shuffle"})
_POOLS = frozenset(f"{kind}_pool{n}d" for kind in ("max", "adaptive_max", "adaptive_avg") for n in _DIMENSIONS)
_ACTIVATIONS = frozenset({"relu", "relu6", "gelu", "silu", "hardswish", "tanh", "leaky_relu", "elu", "mish"})
_SILENT = _ACTIVATIONS | _CASTS | _VIEWS | _MOVES | _DROPOUTS
"""Operators on one tensor of zeros that are not worth running to see that they give zeros."""


def deduce(nodes: Sequence[fx.Node], start: Mapping[fx.Node, Known]) -> dict[fx.Node, Known]:
    """What is certain of the result of each node, in order of execution.

    Args:
        start: What is known of nodes outside, values on the CPU; of others nothing is.
    """
    known: dict[fx.Node, Known] = dict(start)
    entry = next((node for node, value in start.items() if value is Certain.INPUT), None)
    limits = bounds(entry) if entry is not None else (-torch.inf, torch.inf)
    for node in nodes:
        if is_item(node):
            source, index = node.args
            values = known.get(source, Certain.NOTHING) if isinstance(source, fx.Node) else Certain.NOTHING
            single = isinstance(values, Certain | Tensor)
            known[node] = values if single else values[index]  # type: ignore[index]
        else:
            known[node] = _result(node, known, limits)
        if mutates(node):
            _forget_views(node, known)
    return known


def carriers(node: fx.Node, limits: tuple[float, float]) -> Iterator[fx.Node]:
    """Arguments that the result may equal: shortcuts of an addition, what an operator leaves as it is.

    Args:
        limits: Between which the values of the part's input lie.
    """
    if node.op != "call_function" or is_item(node):
        return
    name, arguments = operator_name(node), dict(named_arguments(node))
    first = arguments.get("self", arguments.get("input"))
    passes = name in _CASTS | _VIEWS or (name in _DROPOUTS and not arguments["train"])
    interval = _interval(name, arguments)
    within = interval is not None and interval[0] <= limits[0] and limits[1] <= interval[1]
    if name == "slice" and arguments["step"] != 1:
        return
    found = [first] if passes or within or name in ("add", "sub") else []
    if name == "add" and arguments.get("alpha") == 1:
        found.append(arguments["other"])
    for argument in found:
        if isinstance(argument, fx.Node) and _alike(argument, node):
            yield argument


def bounds(node: fx.Node) -> tuple[float, float]:
    """Between which the values of a tensor certainly lie."""
    while node.op == "call_function" and not is_item(node):
        name, arguments = operator_name(node), dict(named_arguments(node))
        interval = _interval(name, arguments)
        if interval is not None:
            return interval
        source = arguments.get("self", arguments.get("input"))
        kept = name in _CASTS | _VIEWS | _MOVES | _POOLS or (name in _DROPOUTS and not arguments["train"])
        if not kept or not isinstance(source, fx.Node):
            break
        node = source
    return -torch.inf, torch.inf


def changed(node: fx.Node) -> set[int]:
    """The storages that an operator writes to in place."""
    if not isinstance(node.target, torch._ops.OpOverload) or not mutates(node):
        return set()
    written = {argument.name for argument in node.target._schema.arguments if argument.alias_info is not None}
    found: set[int] = set()
    for name, value in named_arguments(node):
        if name in written:
            found.update(*map(storages, [n for n in _listed(value) if isinstance(n, fx.Node)]))
    return found


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _interval(name: str, arguments: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval that an activation cuts its input to, leaving what lies inside."""
    if name == "relu":
        return 0.0, torch.inf
    if name == "relu6":
        return 0.0, 6.0
    if name == "hardtanh":
        return float(arguments["min_val"]), float(arguments["max_val"])
    if name in ("clamp", "clamp_min", "clamp_max"):
        low, high = arguments.get("min"), arguments.get("max")
        if not isinstance(low, fx.Node) and not isinstance(high, fx.Node):
            return -torch.inf if low is None else float(low), torch.inf if high is None else float(high)
    return None


def _alike(a: fx.Node, b: fx.Node) -> bool:
    x, y = a.meta.get("val"), b.meta.get("val")
    return isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape == y.shape and x.dtype == y.dtype


def _result(node: fx.Node, known: Mapping[fx.Node, Known], limits: tuple[float, float]) -> Known:
    if not isinstance(node.target, torch._ops.OpOverload):
        return Certain.NOTHING
    arguments = dict(named_arguments(node))
    if _is_silent(operator_name(node), arguments, known):
        several = not isinstance(node.meta.get("val"), Tensor)
        return [Certain.ZERO] * len(node.meta["val"]) if several else Certain.ZERO
    for carrier in carriers(node, limits):
        others = [other for other in node.all_input_nodes if other is not carrier]
        if known.get(carrier) is Certain.INPUT and all(known.get(other) is Certain.ZERO for other in others):
            twice = sum(argument is carrier for argument in arguments.values())
            return Certain.INPUT if twice == 1 else Certain.NOTHING
    return _computed(node, known)


def _is_silent(name: str, arguments: Mapping[str, Any], known: Mapping[fx.Node, Known]) -> bool:
    """Whether the result is zero because some of its arguments are."""

    def zero(argument: Any) -> bool:
        if isinstance(argument, list | tuple):
            return all(zero(item) for item in argument)
        return argument is None or (isinstance(argument, fx.Node) and known.get(argument) is Certain.ZERO)

    def given(argument: Any) -> bool:
        return argument is not None and zero(argument)

    if name in _PRODUCTS | _SUMS_OF_PRODUCTS:
        added = "bias" if name in _PRODUCTS else "self"
        factors = [value for key, value in arguments.items() if key != added]
        nodes = [f for value in factors for f in _listed(value) if isinstance(f, fx.Node)]
        return zero(arguments.get(added)) and any(map(zero, nodes))
    if name in ("zeros_like", "new_zeros"):
        return True
    if name == "_weight_norm":
        return given(arguments["g"]) and not given(arguments["v"])  # which it divides by
    if name in _NORMS:
        return given(arguments.get("weight")) and zero(arguments.get("bias"))
    if name in _RECURRENT:
        return bool(arguments.get("params")) and zero(arguments["params"]) and given(arguments.get("hx"))
    if name == "scaled_dot_product_attention":
        return zero(arguments["value"])
    if name in _SELECTIONS:
        first = arguments["weight"] if name == "embedding" else arguments["self"]
        return given(first) and (name != "masked_fill" or arguments["value"] == 0)
    if name == "where":
        return given(arguments.get("self")) and given(arguments.get("other"))
    return name in _SILENT and given(arguments.get("self", arguments.get("input")))


def _computed(node: fx.Node, known: Mapping[fx.Node, Known]) -> Known:
    """The result by running the operator, if all that goes in is known; zeros are told from other values."""
    if any(
        not isinstance(known.get(source), Tensor) and known.get(source) is not Certain.ZERO
        for source in node.all_input_nodes
    ) or _draws(node):
        return Certain.NOTHING
    change = mutates(node)

    def value(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            held = known[argument]
            if isinstance(held, Tensor):
                return held.clone() if change else held
            like = argument.meta["val"]
            return torch.zeros(like.shape, dtype=like.dtype)
        if isinstance(argument, torch.device):
            return torch.device("cpu")
        return argument

    target: Callable[..., Any] = node.target  # type: ignore[assignment]
    try:
        with torch.no_grad():
            result = target(*map_aggregate(node.args, value), **map_aggregate(node.kwargs, value))
    except Exception:  # whatever an operator may raise on values that it was not written for
        return Certain.NOTHING
    if isinstance(result, Tensor):
        return _certain(result)
    if isinstance(result, list | tuple) and all(isinstance(item, Tensor) for item in result):
        return [_certain(item) for item in result]
    return Certain.NOTHING


def _draws(node: fx.Node) -> bool:
    """Whether the operator gives other values every time; dropout does not in eval mode."""
    tags = node.target.tags if isinstance(node.target, torch._ops.OpOverload) else []
    idle = operator_name(node) in _DROPOUTS and not dict(named_arguments(node))["train"]
    return torch.Tag.nondeterministic_seeded in tags and not idle


def _certain(result: Tensor) -> Known:
    if result.is_meta or result.is_quantized:
        return Certain.NOTHING
    return result if bool(result.any()) else Certain.ZERO


def _forget_views(node: fx.Node, known: dict[fx.Node, Known]) -> None:
    """After an operator in place nothing is certain of other views of what it changed, unless they agree with it."""
    places = changed(node)
    for other, value in known.items():
        agrees = isinstance(value, Certain) and value is known[node]
        if other is not node and not agrees and not places.isdisjoint(storages(other)):
            known[other] = Certain.NOTHING
