"""Finding what can be folded: modules that scale and shift channels, and the layer before or behind each.

All is read off the record of one forward, so what counts is how tensors really flow: modules that run twice, weights
that are used twice, results that something else reads too, and activations in between are seen as what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ecc.network.capture import Capture, ModuleCall, operator_name
from ecc.network.replay import named_arguments

__all__ = ["Affine", "Found", "Neighbour", "channels_of", "find", "winner_layers"]

_ARITHMETIC = frozenset(["add", "sub", "rsub", "mul", "div", "batch_norm"])
_LAYERS = frozenset(["linear", *(f"conv{n}d" for n in (1, 2, 3)), *(f"conv_transpose{n}d" for n in (1, 2, 3))])
_SOFTMAX = frozenset(["softmax", "_softmax", "log_softmax", "_log_softmax"])


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A layer whose weights take up a scale and a shift.

    Attributes:
        path: Of the module.
        axis: Of its output (where it is before) or input (behind), which holds the channels; negative.
        padded: Whether zeros are put around its input, or its borders have fewer taps.
    """

    path: str
    axis: int
    padded: bool


@dataclass(frozen=True, slots=True)
class Affine:
    """A module that scales and shifts channels, and where that can go.

    Attributes:
        path: Of the module.
        shape: Of its input.
        producer: The layer that makes its input, if that can take it up.
        consumers: All that reads its output, if these are layers that can.
    """

    path: str
    shape: tuple[int, ...]
    producer: Neighbour | None
    consumers: tuple[Neighbour, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a network has to fold.

    Attributes:
        affine: In the order in which they run.
        left: Path of each further module that scales and shifts → why it stays.
    """

    affine: tuple[Affine, ...]
    left: Mapping[str, str]


def find(model: nn.Module, captured: Capture) -> Found:
    """Modules that scale and shift channels, with the neighbours that can do it for them.

    Args:
        model: The network, in eval mode.
        captured: Record of its forward.
    """
    record = _Record(model, captured)
    affine: list[Affine] = []
    left: dict[str, str] = {}
    for path, calls in record.calls.items():
        nodes = record.inside.get(path, [])
        if not nodes or not any(operator_name(node) in _ARITHMETIC for node in nodes) or record.holds_modules(path):
            continue
        why = record.refusal(path, calls, nodes)
        if not why:
            found = record.neighbours(calls[0], nodes)
            if found.producer or found.consumers:
                affine.append(found)
                continue
            why = record.reason(calls[0], nodes)
        if isinstance(model.get_submodule(path), nn.modules.batchnorm._BatchNorm) or not why.startswith("it does more"):
            left[path] = why
    return Found(tuple(affine), left)


def winner_layers(model: nn.Module, captured: Capture) -> dict[str, int]:
    """Modules that are a softmax on an output of the network and nothing else → its axis, counted from the end."""
    record, found = _Record(model, captured), dict[str, int]()
    for path, calls in record.calls.items():
        nodes = record.inside.get(path, [])
        if len(nodes) != 1 or len(calls) != 1 or not calls[0].single or operator_name(nodes[0]) not in _SOFTMAX:
            continue
        if all(user.op == "output" for user in nodes[0].users) and not record.hooked(path):
            dim = int(dict(named_arguments(nodes[0]))["dim"])
            found[path] = dim if dim < 0 else dim - int(nodes[0].meta["val"].ndim)
    return found


class _Record:
    """A record, with what is asked of it here."""

    def __init__(self, model: nn.Module, captured: Capture) -> None:
        self.model = model
        self.modules = dict(model.named_modules())
        placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
        self.names = dict(zip(placeholders, captured.tensors, strict=False))
        self.parameters = dict(model.named_parameters())
        self.calls: dict[str, list[ModuleCall]] = {}
        for call in captured.calls:
            self.calls.setdefault(call.path, []).append(call)
        self.inside: dict[str, list[fx.Node]] = {}
        for node in captured.graph.nodes:
            if node.op == "call_function":
                self.inside.setdefault(captured.modules.get(node, ""), []).append(node)

    def holds_modules(self, path: str) -> bool:
        """Whether others run inside a module, so that its own nodes are not all of it."""
        return any(other.startswith(f"{path}.") for other in self.calls)

    def hooked(self, path: str) -> bool:
        """Whether hooks of the user run with a module; they would go with it."""
        part = self.modules[path]
        return bool(part._forward_hooks or part._forward_pre_hooks)

    def refusal(self, path: str, calls: list[ModuleCall], nodes: list[fx.Node]) -> str:
        """Why a module that scales or shifts cannot be taken out; empty if it can."""
        if sum(part is self.modules[path] for _, part in self.model.named_modules(remove_duplicate=False)) > 1:
            return "it is used at several places"
        if len(calls) > 1:
            return "it runs more than once"
        if not calls[0].single:
            return "it takes or gives more than one tensor"
        if self.hooked(path):
            return "it has forward hooks"
        return _not_affine(calls[0], nodes)

    def neighbours(self, call: ModuleCall, nodes: list[fx.Node]) -> Affine:
        """The layers that can take up what a module does."""
        before, behind = call.inputs[0], call.outputs[0]
        producer = self._layer(before, behind=False) if set(before.users) <= set(nodes) else None
        users = [self._layer(user, behind=True, source=behind) for user in behind.users]
        consumers = tuple(user for user in users if user is not None)
        whole = len(consumers) == len(users)
        return Affine(call.path, tuple(before.meta["val"].shape), producer, consumers if whole else ())

    def reason(self, call: ModuleCall, nodes: list[fx.Node]) -> str:
        """Why neither side can take up what a module does."""
        before = call.inputs[0]
        if operator_name(before) in _LAYERS:
            if not set(before.users) <= set(nodes):
                return "something else reads its input, too"
            return "the weights before it are used elsewhere, are computed, or have their channels along another axis"
        name = operator_name(before) if before.op == "call_function" else "an input"
        return f"{name} is before it, and what follows is not only layers that could take it up"

    def _layer(self, node: fx.Node, *, behind: bool, source: fx.Node | None = None) -> Neighbour | None:
        """A linear or convolutional layer whose weights nobody else uses; None for anything else."""
        if node.op != "call_function" or operator_name(node) not in _LAYERS:
            return None
        arguments = dict(named_arguments(node))
        given, weight, bias = arguments["input"], arguments["weight"], arguments.get("bias")
        if source is not None and given is not source:
            return None
        path, _, last = self.names.get(weight, "").rpartition(".")
        part = self.modules.get(path)
        if last != "weight" or not isinstance(part, nn.Linear | _ConvNd) or f"{path}.weight" not in self.parameters:
            return None
        if not self._is_own(weight) or (bias is not None and not (self._is_own(bias) and part.bias is not None)):
            return None
        if bias is None and part.bias is not None:
            return None  # a forward that leaves its bias out
        tensor = given if behind else node
        ndim, axis = int(tensor.meta["val"].ndim), 1 - int(weight.meta["val"].ndim)
        if operator_name(node) == "linear":
            axis = -1
        return Neighbour(path, axis, _is_padded(arguments, part)) if ndim >= -axis else None

    def _is_own(self, node: Any) -> bool:
        """Whether a tensor is a parameter that only one operator reads."""
        return isinstance(node, fx.Node) and len(node.users) == 1 and self.names.get(node, "") in self.parameters


def _not_affine(call: ModuleCall, nodes: list[fx.Node]) -> str:
    """Why what a module does is no scale and shift of its input; empty if it is."""
    data = {call.inputs[0]}
    for node in nodes:
        met = [argument for argument in _nodes_in(node) if argument in data]
        if not met:
            continue
        arguments = dict(named_arguments(node))
        if operator_name(node) not in _ARITHMETIC or len(met) > 1:
            return f"it does more than scale and shift: {operator_name(node)}"
        if arguments.get("training"):
            return "it normalises by the statistics of the batch"
        if operator_name(node) == "div" and (arguments.get("other") in data or arguments.get("rounding_mode")):
            return "it does more than scale and shift: div"
        data.add(node)
    return "" if call.outputs[0] in data else "it does more than scale and shift"


def _nodes_in(node: fx.Node) -> Iterator[fx.Node]:
    """Arguments that are nodes, each as often as it is given."""
    stack: list[Any] = [*node.args, *node.kwargs.values()]
    while stack:
        value = stack.pop()
        if isinstance(value, fx.Node):
            yield value
        elif isinstance(value, list | tuple):
            stack += value


def _is_padded(arguments: Mapping[str, Any], part: nn.Module) -> bool:
    """Whether some taps of a kernel meet zeros that are not numbers of the input, or nothing."""
    if isinstance(part, nn.Linear):
        return False
    if isinstance(part, _ConvTransposeNd):
        return True
    padding = arguments["padding"]
    if isinstance(padding, str):
        return padding != "valid" and any(size > 1 for size in part.kernel_size)  # type: ignore[union-attr]
    return any(padding) if isinstance(padding, list | tuple) else bool(padding)


def channels_of(tensor: Tensor, axis: int) -> Tensor | None:
    """The numbers along an axis, if those along all others are equal; shape (channels,)."""
    if not -tensor.ndim <= axis < tensor.ndim:
        return None
    rows = tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)
    return rows[:, 0].clone() if bool(torch.all(rows == rows[:, :1])) else None
