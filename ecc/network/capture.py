"""Capture: a module and example inputs → the graph of ATen operators that its forward runs.

The graph is recorded on fake tensors, before composite operators are taken apart. Callers hand over a copy that shares
the parameters (``copy_sharing``), so that the module itself is neither run nor changed.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from ecc.core.errors import InputError

__all__ = ["Capture", "bind", "capture", "copy_sharing", "is_item", "live", "mutates", "run", "tensors_in"]


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """What a forward does.

    Attributes:
        graph: Operators in order of execution.
        tensors: Name of the parameter or buffer behind each of the first placeholders, each tensor once.
        modules: Path of the module whose forward made a node.
    """

    graph: fx.Graph
    tensors: tuple[str, ...]
    modules: Mapping[fx.Node, str]


def bind(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs (a tensor, a tuple or list of positional ones, or a dict of keyword ones) as args and kwargs.

    Raises:
        InputError: If something else is given, or no tensor is among them.
    """
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs) if isinstance(inputs, tuple | list) else ()
    kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
    everything = [*args, *kwargs.values()]
    if not everything or not all(isinstance(value, Tensor) for value in everything):
        raise InputError(
            f"example inputs must be a tensor, a tuple of tensors or a dict of tensors, got {type(inputs).__name__}"
        )
    return args, kwargs


def copy_sharing(module: nn.Module, replacements: Mapping[int, Tensor]) -> nn.Module:
    """A deep copy in which the tensors with these ids are replaced, so that large ones are never copied.

    Raises:
        InputError: If the module holds something that cannot be copied.
    """
    memo: dict[int, Any] = dict(replacements)
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf and id(value) not in memo:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{type(module).__name__} cannot be copied ({error}); remove what cannot from it") from error


def tensors_in(output: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in output:
            yield from tensors_in(value)
    elif is_dataclass(output) and not isinstance(output, type):
        for entry in fields(output):
            yield from tensors_in(getattr(output, entry.name))


def run(module: nn.Module, inputs: Any) -> list[Tensor]:
    """The output tensors of one forward, with the random generator of torch set aside and seeded."""
    args, kwargs = bind(inputs)
    devices = {tensor.device for tensor in (*args, *kwargs.values()) if tensor.is_cuda}
    exact = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)
    with torch.no_grad(), torch.random.fork_rng(sorted({d.index or 0 for d in devices})), exact:
        torch.manual_seed(0)
        return [tensor.detach() for tensor in tensors_in(module(*args, **kwargs))]


def capture(module: nn.Module, inputs: Any) -> Capture:
    """Record the forward of a module in eval mode.

    Args:
        module: Already a copy; its buffers and attributes may change.
        inputs: As for ``bind``.

    Raises:
        InputError: If the forward depends on the values of tensors, or gives no tensor.
    """
    args, kwargs = bind(inputs)
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    names, keys = tuple(named), tuple(kwargs)
    boundaries: dict[fx.Node | None, str] = {}

    def forward(tensors: list[Tensor], values: list[Tensor]) -> list[Tensor]:
        positional, keyword = values[: len(args)], dict(zip(keys, values[len(args) :], strict=True))
        state = dict(zip(names, tensors, strict=True))
        output = torch.func.functional_call(module, state, tuple(positional), keyword)
        return list(tensors_in(output))

    record = make_fx(forward, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)
    try:
        with _module_boundaries(module, boundaries):
            graph = record(list(named.values()), [*args, *kwargs.values()]).graph
    except Exception as error:  # whatever a user's forward may raise on tensors without values
        raise InputError(_explain(module, error)) from error
    return Capture(graph, names, _paths(graph, boundaries))


def _explain(module: nn.Module, error: Exception) -> str:
    name, text = type(module).__name__, str(error).strip().splitlines()
    if "DataDependent" in type(error).__name__ or "data-dependent" in str(error):
        return (
            f"the forward of {name} depends on the values of tensors (a branch, a loop or a size), so its channels "
            "cannot be followed; make that part independent of the data or trace the modules inside"
        )
    first = text[0] if text else type(error).__name__
    return f"the forward of {name} cannot be recorded on tensors without values: {first}"


@contextmanager
def _module_boundaries(module: nn.Module, boundaries: dict[fx.Node | None, str]) -> Iterator[None]:
    """While recording, note after which node the execution enters or leaves a module."""
    stack = [""]

    def last() -> fx.Node | None:
        mode = get_proxy_mode()
        return None if mode is None else next(iter(reversed(mode.tracer.graph.nodes)), None)

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            stack.append(path)
            boundaries[last()] = path

        return hook

    def leave(*_: Any) -> None:
        if len(stack) > 1:
            stack.pop()
        boundaries[last()] = stack[-1]

    handles = []
    for path, part in module.named_modules():
        if path:
            handles += [part.register_forward_pre_hook(enter(path)), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _paths(graph: fx.Graph, boundaries: Mapping[fx.Node | None, str]) -> dict[fx.Node, str]:
    paths, path = {}, boundaries.get(None, "")
    for node in graph.nodes:
        paths[node] = path
        path = boundaries.get(node, path)
    return paths


def live(captured: Capture) -> list[fx.Node]:
    """Nodes that matter, in order: all but tails of operators on a single tensor whose result is never used.

    What is computed in vain still runs, so its weights and operands have to keep fitting together.
    """
    placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
    parameters = set(placeholders[: len(captured.tensors)])
    needed: set[fx.Node] = set()
    for node in reversed(captured.graph.nodes):
        inputs = node.all_input_nodes
        joins = len(inputs) > 1 or not parameters.isdisjoint(inputs)
        if node.op in ("placeholder", "output") or node in needed or mutates(node) or joins:
            needed.add(node)
            needed.update(inputs)
    return [node for node in captured.graph.nodes if node in needed]


def mutates(node: fx.Node) -> bool:
    """Whether the operator works in place."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def is_item(node: fx.Node) -> bool:
    """Whether the node takes one of several outputs."""
    return node.op == "call_function" and node.target is operator.getitem
