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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ecc.network.attention import narrow_all
from ecc.network.lives import Life, find_lives, is_step
from ecc.network.nesting import bind, map_tensors, tensors_in
from ecc.network.opaque import Opaque, TensorSpec, leaves_in, opaque
from ecc.network.shapes import shaped
from ecc.network.stopping import Unfollowed, explain

__all__ = [
    "Capture",
    "ModuleCall",
    "capture",
    "is_item",
    "live",
    "mutates",
    "operator_name",
    "run",
    "target_name",
    "whole_operators",
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
        opaque: Modules that it does not follow inside.
        on_meta: Whether it was recorded on the meta device, not on fake tensors.
        lives: The memory that it takes, in the order in which it is taken, without what only idle operators use.
        steps: Path of the module whose forward made each of the operators that the lives count by.
    """

    graph: fx.Graph
    tensors: tuple[str, ...]
    modules: Mapping[fx.Node, str]
    constants: Mapping[fx.Node, Tensor]
    calls: tuple[ModuleCall, ...]
    opaque: tuple[Opaque, ...] = ()
    on_meta: bool = False
    lives: tuple[Life, ...] = ()
    steps: tuple[str, ...] = ()


def run(module: nn.Module, inputs: Any, *, gradients: bool = False) -> list[Tensor]:
    """The output tensors of one forward, with the random generator of torch set aside and seeded."""
    args, kwargs = bind(inputs)
    devices = {tensor.device for tensor in tensors_in([args, kwargs]) if tensor.is_cuda}
    exact = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)
    aside = torch.random.fork_rng(sorted({d.index or 0 for d in devices}))
    with torch.set_grad_enabled(gradients), _no_fused_attention(), aside, exact:
        torch.manual_seed(0)
        return [tensor.detach() for tensor in tensors_in(module(*args, **kwargs))]


def capture(
    make: Callable[[], nn.Module], inputs: Any, skipped: Sequence[Opaque] = (), *, on_meta: bool = False
) -> Capture:
    """Record the forward of a module.

    Args:
        make: Gives a fresh copy of the module, in eval mode; its buffers and attributes may change.
        inputs: As for ``bind``.
        skipped: Modules not to follow inside.
        on_meta: Whether a network like it was recorded on the meta device, so that a failure there is an answer.

    Raises:
        Unfollowed: If the forward depends on the values of tensors or cannot be recorded for another reason.
    """
    module, recorder = make(), _Recorder(torch.device("meta"))
    try:
        return _record(module, inputs, _on_meta, recorder, skipped)
    except Exception as error:  # such as a forward that makes tensors on a device of its own
        if on_meta:
            raise Unfollowed(module, recorder.path[-1], explain(error)) from error
        _LOG.debug("%s does not run on the meta device; recording on fake tensors", type(module).__name__)
    module, fake, recorder = make(), FakeTensorMode(allow_non_fake_inputs=True), _Recorder()
    try:
        with fake, _failures_unreported():
            return _record(module, inputs, fake.from_tensor, recorder, skipped)
    except Exception as error:  # whatever a user's forward may raise on tensors without values
        raise Unfollowed(module, recorder.path[-1], explain(error)) from error


@contextmanager
def _failures_unreported() -> Iterator[None]:
    """While it lasts, PyTorch does not log operators that fail on fake tensors: here a failure is an answer."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _on_meta(tensor: Tensor) -> Tensor:
    """A tensor on the meta device, which is much quicker than a fake one but does not know where it would be."""
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _record(
    module: nn.Module,
    inputs: Any,
    empty: Callable[[Tensor], Tensor],
    recorder: _Recorder,
    skipped: Sequence[Opaque],
) -> Capture:
    narrow_all(module)
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    state = {name: recorder.placeholder(empty(tensor)) for name, tensor in named.items()}
    args, kwargs = map_tensors(lambda tensor: recorder.placeholder(empty(tensor)), bind(inputs))
    for part in skipped:
        _replace_forward(module.get_submodule(part.path), part, recorder, state)
    with whole_operators(), _module_calls(module, recorder), recorder:
        output = torch.func.functional_call(module, state, args, kwargs)
    recorder.graph.output(tuple(recorder.node(tensor) for tensor in tensors_in(output)))
    lives = find_lives(list(recorder.graph.nodes), len(named))
    steps = tuple(recorder.modules[node] for node in recorder.graph.nodes if is_step(node))
    calls, lives = _without_copies(recorder.graph, recorder.calls, lives)
    record = Capture(recorder.graph, tuple(named), recorder.modules, recorder.constants, calls, tuple(skipped))
    needed = set(live(record))
    lives = tuple(life for life in lives if life.node in needed)
    return replace(record, on_meta=recorder.device is not None, lives=lives, steps=steps)


def _without_copies(
    graph: fx.Graph, calls: Sequence[ModuleCall], lives: Sequence[Life]
) -> tuple[tuple[ModuleCall, ...], tuple[Life, ...]]:
    """Take calls of ``contiguous`` out of a graph: PyTorch runs it or not as the sizes happen to be.

    Those stay whose result is changed in place, because then it matters whether it is a copy.
    """
    source: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        before = node.args[0] if node.target is torch.ops.aten.contiguous.default else None
        if isinstance(before, fx.Node) and not any(mutates(user) for user in (*node.users, *before.users)):
            node.replace_all_uses_with(before)
            source[node] = before
    for node in source:
        graph.erase_node(node)

    def kept(nodes: tuple[fx.Node, ...]) -> tuple[fx.Node, ...]:
        return tuple(source.get(node, node) for node in nodes)

    return (
        tuple(replace(call, inputs=kept(call.inputs), outputs=kept(call.outputs)) for call in calls),
        tuple(replace(life, node=source.get(life.node, life.node)) for life in lives),  # a copy is as large
    )


def _replace_forward(module: nn.Module, part: Opaque, recorder: _Recorder, state: Mapping[str, Tensor]) -> None:
    """Let the module's forward, with its hooks, be one operator; the module is a copy made for this record."""
    module._forward_hooks.clear()
    module._forward_pre_hooks.clear()
    calls = iter(range(len(part.calls)))

    def forward(*args: Any, **kwargs: Any) -> Any:
        held = [*module.parameters(), *module.buffers(), *(state[name] for name in part.reads)]
        number = next(calls, None)
        if number is None:
            raise IndexError(f"{part.path} is called more often than in the dense network")
        return recorder.opaque(part, number, [args, kwargs], held)

    module.forward = forward


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator that a forward runs."""

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device  # where tensors are while recording, if not where they would be
        self._silent = False
        self.graph = fx.Graph()
        self.modules: dict[fx.Node, str] = {}
        self.constants: dict[fx.Node, Tensor] = {}
        self.calls: list[ModuleCall] = []
        self.path = [""]  # modules that are running, outermost first
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Tensor] = []  # so that no two tensors have one id

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator imports PyTorch's compiler, which takes seconds

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

    def opaque(self, part: Opaque, number: int, given: Any, held: Sequence[Tensor]) -> Any:
        """Note one call of a module that is not followed inside, and give what it returns, without values."""
        call = part.calls[number]
        leaves = [self._arguments(leaf) for leaf in leaves_in(given)]
        arguments: Any = (part, number, leaves, [self.node(tensor) for tensor in held])
        node = self.graph.call_function(opaque, arguments)
        self.modules[node] = part.path
        self._silent = True
        tensors = [leaf.empty(self.device) for leaf in call.leaves if isinstance(leaf, TensorSpec)]
        self._silent = False
        self._outputs(node, tensors)
        return call.output(tensors)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        output = shaped(func, args, given)
        if output is None:
            output = func(*args, **given)
        if self._silent:
            return output
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
def whole_operators() -> Iterator[None]:
    """Without gradients, so that composite operators arrive whole, and without fused layers of attention."""
    with _no_fused_attention(), torch.inference_mode():
        yield


@contextmanager
def _no_fused_attention() -> Iterator[None]:
    """Without PyTorch's fused encoder layers, whose outputs at padded positions are others than those of the parts."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
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
            while recorder.path.pop() != path:  # a forward may have caught what a module inside raised
                pass
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
    """The name of the operator that a node calls or takes an output of."""
    if is_item(node) and isinstance(node.args[0], fx.Node):
        return operator_name(node.args[0])
    return target_name(node.target)


def target_name(target: Any) -> str:
    """``relu`` for aten.relu_.default; other namespaces keep theirs; forms that write to ``out`` say so."""
    if not isinstance(target, torch._ops.OpOverload):
        return str(getattr(target, "__name__", target))
    namespace, _, name = target._schema.name.partition("::")
    if namespace != "aten":
        return f"{namespace}::{name}"
    if target._overloadname == "out" or target._overloadname.endswith("_out"):
        return f"{name}.out"
    return name if name.startswith("__") else name.rstrip("_")
