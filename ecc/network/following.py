"""Following: record a forward as far as it can be, and learn from one real run what the other parts return.

Nothing here runs unless a record failed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from ecc.network.axes_layers import LAYERS
from ecc.network.axes_sequence import SEQUENCE
from ecc.network.capture import Capture, capture, run, target_name, whole_operators
from ecc.network.nesting import tensors_in
from ecc.network.opaque import InnerCost, Opaque, OpaqueCall, ParameterAxis, TensorSpec
from ecc.network.stopping import Unfollowed
from ecc.network.values import Axes, Axis, Call, Ledger, Value

__all__ = ["follow"]

_LOG = logging.getLogger("ecc")


def follow(make: Callable[[], nn.Module], inputs: Any, free: frozenset[ParameterAxis] = frozenset()) -> Capture:
    """Record the forward of a module; parts that cannot be recorded become opaque, the innermost ones that do.

    Args:
        make: Gives a fresh copy of the module, in eval mode.
        inputs: As for ``capture.bind``.
        free: Parameter axes that the user declared; only then may the whole network be opaque.

    Raises:
        Unfollowed: If the network's own forward cannot be recorded.
    """
    skipped: tuple[Opaque, ...] = ()
    whys: dict[str, str] = {}
    while True:
        try:
            return capture(make, inputs, skipped)
        except Unfollowed as stop:
            path = stop.path
            while path in whys and path:  # what it returned does not fit the second time
                path = path.rpartition(".")[0]
            if path in whys or not (path or free):
                raise
            whys[path] = stop.why
            skipped = _learn(make, inputs, whys, free)
            _LOG.debug("not followed inside: %s", ", ".join(whys))


def _learn(
    make: Callable[[], nn.Module], inputs: Any, whys: dict[str, str], free: frozenset[ParameterAxis]
) -> tuple[Opaque, ...]:
    """What these modules return in a real run; ``whys`` is left with the modules that are opaque in the end."""
    while True:
        for path in [path for path in whys if any(_inside(path, other) for other in whys)]:
            del whys[path]
        module = make()
        lesson = _Lesson(module, whys)
        try:
            with whole_operators(), lesson.hooks(), lesson:
                run(module, inputs)
        except Exception as error:  # whatever a user's forward may raise, such as one that needs gradients
            raise Unfollowed(module, "", f"{'; '.join(whys.values())}, and while watched it fails: {error}") from error
        improper = lesson.improper
        if not improper:
            return tuple(lesson.opaque(path, why, free) for path, why in whys.items())
        for path, how in improper.items():
            parent, kind, why = path.rpartition(".")[0], type(module.get_submodule(path)).__name__, whys.pop(path)
            whys[parent] = f"{path} ({kind}) in it {how}, and {why}" if how else why
            if not (parent or free):
                raise Unfollowed(module, parent, whys[parent])


def _inside(path: str, other: str) -> bool:
    return path != other and (not other or path.startswith(f"{other}."))


class _Lesson(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches a real run: what modules return, what they compute, and whether they use or leave more than they say."""

    def __init__(self, module: nn.Module, paths: Mapping[str, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._improper: dict[str, str] = {}
        self._module = module
        self._paths = tuple(paths)
        self._names = {id(t): name for name, t in (*module.named_parameters(), *module.named_buffers())}
        self._calls: dict[str, list[OpaqueCall]] = {path: [] for path in paths}
        self._reads: dict[str, dict[str, None]] = {path: {} for path in paths}
        self._running: list[str] = []  # opaque modules, outermost first
        self._given: set[int] = set()  # tensors that the running one got
        self._homes: dict[int, str | None] = {}  # the opaque module that made a tensor and has not returned it
        self._alive: list[Tensor] = []  # so that no two tensors have one id
        self._costs: list[InnerCost] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator imports PyTorch's compiler, which takes seconds

    @property
    def improper(self) -> dict[str, str]:
        """Modules that cannot be opaque, with how; for one whose forward is never called, like a list, nothing."""
        return {**self._improper, **{path: "" for path, calls in self._calls.items() if not calls}}

    def opaque(self, path: str, why: str, free: frozenset[ParameterAxis]) -> Opaque:
        """What was learned of one module."""
        part = self._module.get_submodule(path)
        own = {id(tensor) for tensor in (*part.parameters(), *part.buffers())}
        named = {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}
        reads = tuple(name for name in self._reads[path] if id(named[name]) not in own)
        reason = f"{path or 'the network'} ({type(part).__name__}) is not followed inside: {why}"
        return Opaque(path, reason, tuple(self._calls[path]), reads, free)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Know when the modules run."""
        handles = []
        for path in self._paths:
            part = self._module.get_submodule(path)
            handles.append(part.register_forward_pre_hook(self._enter(path), with_kwargs=True, prepend=True))
            handles.append(part.register_forward_hook(self._leave(path)))  # the user's hooks are a part of it
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._running:
                given = list(tensors_in([args, kwargs]))
                self._alive += given
                self._given = {id(tensor) for tensor in given}
                self._costs = []
            self._running.append(path)

        return hook

    def _leave(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            self._running.pop()
            if self._running:
                return  # it called itself
            leaves, structure = tree_flatten(output)
            if not all(_is_plain(leaf) for leaf in leaves):
                self._improper.setdefault(path, "returns more than tensors")
                leaves = [leaf for leaf in leaves if _is_plain(leaf)]
            for tensor in tensors_in(output):
                self._homes[id(tensor)] = None
                self._alive.append(tensor)
            specs = tuple(TensorSpec.of(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
            self._calls[path].append(OpaqueCall(structure, specs, tuple(self._costs)))

        return hook

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        scope = self._running[0] if self._running else None
        for tensor in tensors_in([args, kwargs or {}]):
            self._uses(tensor, scope)
        output = func(*args, **(kwargs or {}))
        if scope is not None:
            self._costs += _costs(func, args, kwargs or {}, output, scope, self._names)
        for tensor in tensors_in(output):
            if id(tensor) not in self._names:
                self._homes.setdefault(id(tensor), scope)
                self._alive.append(tensor)
        return output

    def _uses(self, tensor: Tensor, scope: str | None) -> None:
        name, home = self._names.get(id(tensor)), self._homes.get(id(tensor))
        if name is not None:
            if scope is not None:
                self._reads[scope].setdefault(name)
        elif home is not None and home != scope:
            self._improper.setdefault(home, "keeps tensors that are used elsewhere")
        elif scope is not None and home is None and id(tensor) in self._homes and id(tensor) not in self._given:
            self._improper.setdefault(scope, "uses tensors that it is not given")


def _is_plain(leaf: Any) -> bool:
    """Whether a value that a module returns is the same at all widths, or a dense tensor."""
    if isinstance(leaf, Tensor):
        return leaf.layout == torch.strided and not leaf.is_nested
    return leaf is None or isinstance(leaf, str)


def _costs(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, scope: str, names: Mapping[int, str]
) -> list[InnerCost]:
    """What an operator computes, by the same rules as where it can be followed."""
    rule = LAYERS.get(target_name(func)) or SEQUENCE.get(target_name(func))
    if rule is None or not isinstance(func, torch._ops.OpOverload):
        return []
    axes: dict[ParameterAxis, Axis] = {}

    def convert(value: Any) -> Any:
        if isinstance(value, Tensor):
            own: Axes = [
                Axis(None, True, (names[id(value)], i) if id(value) in names else None) for i in range(value.ndim)
            ]
            axes.update((axis.source, axis) for axis in own if axis.source)
            return Value(tuple(value.shape), own)
        return [convert(item) for item in value] if isinstance(value, list | tuple) else value

    arguments = {
        argument.name: convert(args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value))
        for i, argument in enumerate(func._schema.arguments)
    }
    call = Call(target_name(func), scope, arguments, [tuple(t.shape) for t in tensors_in(output)], Ledger())
    try:
        rule(call)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        _LOG.debug("%s is not counted: %r", call.place, error)
    sides = {role: tuple(a for a in axes if call.ledger.roles.get(a) == role) for role in ("read", "write")}
    return [InnerCost(cost.name, cost.kind, cost.macs, sides["read"], sides["write"]) for cost in call.ledger.costs]
