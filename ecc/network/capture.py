"""Capture: a module and example inputs → the graph of ATen operators that its forward runs.

The forward runs once on tensors that have shapes but no values, while a dispatch mode writes down what arrives. In
inference mode operators arrive whole (``linear``, ``lstm``, ``scaled_dot_product_attention``), as they do in
``torch.export`` before composite operators are taken apart. Callers hand over copies that share the parameters
(``copying.copy_sharing``), so that the module itself is neither run nor changed.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ecc.core.errors import InputError
from ecc.network.shapes import shaped

__all__ = [
    "Capture",
    "ModuleCall",
    "bind",
    "capture",
    "is_item",
    "live",
    "mutates",
    "operator_name",
    "run",
    "tensors_in",
]

_LOG = logging.getLogger("ecc")


@dataclass(frozen=True, slots=True, eq=False)
class ModuleCall:
    """One call of a module's forward.

    Attributes:
        path: Of the module; empty for the whole network.
        inputs: Nodes of the tensors that it got, positional ones first.
        outputs: Nodes of the tensors that it gave.
        single: Whether it got one positional argument and no others, and gave one tensor.
    """

    path: str
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    single: bool


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """What a forward does.

    Attributes:
        graph: Operators in order of execution.
        tensors: Name of the parameter or buffer behind each of the first placeholders, each tensor once.
        modules: Path of the module whose forward made a node.
        constants: The tensors, neither parameter nor input, that ``get_attr`` nodes stand for.
        calls: Calls of modules in the order in which they return.
    """

    graph: fx.Graph
    tensors: tuple[str, ...]
    modules: Mapping[fx.Node, str]
    constants: Mapping[fx.Node, Tensor]
    calls: tuple[ModuleCall, ...]


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


def capture(make: Callable[[], nn.Module], inputs: Any) -> Capture:
    """Record the forward of a module.

    Args:
        make: Gives a fresh copy of the module, in eval mode; its buffers and attributes may change.
        inputs: As for ``bind``.

    Raises:
        InputError: If the forward depends on the values of tensors, or gives no tensor.
    """
    module = make()
    try:
        return _record(module, inputs, _on_meta)
    except Exception:  # such as a forward that makes tensors on a device of its own
        _LOG.debug("%s does not run on the meta device; recording on fake tensors", type(module).__name__)
    module, fake = make(), FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with fake:
            return _record(module, inputs, fake.from_tensor)
    except Exception as error:  # whatever a user's forward may raise on tensors without values
        raise InputError(_explain(module, error)) from error


def _on_meta(tensor: Tensor) -> Tensor:
    """A tensor on the meta device, which is much quicker than a fake one but does not know where it would be."""
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _record(module: nn.Module, inputs: Any, empty: Callable[[Tensor], Tensor]) -> Capture:
    args, kwargs = bind(inputs)
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    recorder = _Recorder()
    state = {name: recorder.placeholder(empty(tensor)) for name, tensor in named.items()}
    positional = tuple(recorder.placeholder(empty(tensor)) for tensor in args)
    keyword = {name: recorder.placeholder(empty(tensor)) for name, tensor in kwargs.items()}
    with _whole_operators(), _module_calls(module, recorder), recorder:
        output = torch.func.functional_call(module, state, positional, keyword)
    recorder.graph.output(tuple(recorder.node(tensor) for tensor in tensors_in(output)))
    return Capture(recorder.graph, tuple(named), recorder.modules, recorder.constants, tuple(recorder.calls))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator that a forward runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self.modules: dict[fx.Node, str] = {}
        self.constants: dict[fx.Node, Tensor] = {}
        self.calls: list[ModuleCall] = []
        self.path = [""]  # modules that are running, outermost first
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Tensor] = []  # so that no two tensors have one id

    def placeholder(self, tensor: Tensor) -> Tensor:
        """Note a parameter, buffer or input before the forward runs."""
        self._made(self.graph.placeholder(f"p{len(self._alive)}"), tensor)
        return tensor

    def node(self, tensor: Tensor) -> fx.Node:
        """The node that made a tensor; one that no operator made is a constant."""
        if id(tensor) not in self._nodes:
            node = self.graph.create_node("get_attr", f"constant{len(self.constants)}")
            self.constants[node] = tensor
            self._made(node, tensor)
        return self._nodes[id(tensor)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        output = shaped(func, args, given)
        if output is None:
            output = func(*args, **given)
        if isinstance(output, Tensor) or func._schema.is_mutable or any(True for _ in tensors_in(output)):
            # Arguments are looked up before the outputs, which may be one of them, take over their places.
            node = self.graph.call_function(func, self._arguments(args), self._arguments(given))
            self.modules[node] = self.path[-1]
            self._outputs(node, output)
        return output

    def _arguments(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.node(value)
        if isinstance(value, list | tuple):
            return type(value)(self._arguments(item) for item in value)
        if isinstance(value, dict):
            return {name: self._arguments(item) for name, item in value.items()}
        return value

    def _outputs(self, node: fx.Node, output: Any) -> None:
        if isinstance(output, Tensor):
            self._made(node, output)
            return
        node.meta["val"] = output
        for i, item in enumerate(output if isinstance(output, list | tuple) else []):
            if isinstance(item, Tensor):
                taken = self.graph.call_function(operator.getitem, (node, i))
                self.modules[taken] = self.path[-1]
                self._made(taken, item)

    def _made(self, node: fx.Node, tensor: Tensor) -> None:
        node.meta["val"] = tensor
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)


@contextmanager
def _whole_operators() -> Iterator[None]:
    """Without gradients, so that composite operators arrive whole, and without fused layers of attention."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def _module_calls(module: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """While recording, keep track of which modules run and note each call."""

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            recorder.path.append(path)

        return hook

    def leave(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            recorder.path.pop()
            inputs = tuple(recorder.node(tensor) for tensor in tensors_in([args, kwargs]))
            outputs = tuple(recorder.node(tensor) for tensor in tensors_in(output))
            single = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor)
            recorder.calls.append(ModuleCall(path, inputs, outputs, single))

        return hook

    handles = []
    for path, part in module.named_modules():
        if path:
            handles.append(part.register_forward_pre_hook(enter(path), prepend=True))
            handles.append(part.register_forward_hook(leave(path), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _explain(module: nn.Module, error: Exception) -> str:
    name, text = type(module).__name__, str(error).strip().splitlines()
    if "DataDependent" in type(error).__name__ or "data-dependent" in str(error):
        return (
            f"the forward of {name} depends on the values of tensors (a branch, a loop or a size), so its channels "
            "cannot be followed; make that part independent of the data or trace the modules inside"
        )
    first = text[0] if text else type(error).__name__
    return f"the forward of {name} cannot be recorded on tensors without values: {first}"


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


def operator_name(node: fx.Node) -> str:
    """``relu`` for aten.relu_.default; other namespaces keep theirs; forms that write to ``out`` say so."""
    target: Any = node.target
    if is_item(node) and isinstance(node.args[0], fx.Node):
        return operator_name(node.args[0])
    if not isinstance(target, torch._ops.OpOverload):
        return str(getattr(target, "__name__", target))
    namespace, _, name = target._schema.name.partition("::")
    if namespace != "aten":
        return f"{namespace}::{name}"
    if target._overloadname.endswith("out"):
        return f"{name}.out"
    return name if name.startswith("__") else name.rstrip("_")
