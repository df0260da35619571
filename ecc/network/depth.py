"""Depth: residual blocks, the second kind of unit, are recognised in the record of a forward and removed whole.

A module is such a block if its output is its input plus branches. It can be removed if the branches are silent once its
parameters are zero, which ``zeros.deduce`` proves, and if the network without it does, operator for operator, what is
left of the dense one, which a record of the shortened network shows. So it is certain without running either of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ecc.core.layers import Layer
from ecc.network.capture import Capture, ModuleCall, capture, operator_name
from ecc.network.copying import copy_sharing
from ecc.network.graph import Block, WidthGraph, holder
from ecc.network.lives import storages
from ecc.network.matching import matched_tensors
from ecc.network.memory import holding
from ecc.network.replay import same_argument, same_constant
from ecc.network.zeros import Certain, Known, bounds, carriers, changed, deduce

__all__ = ["Skip", "bypassed", "find_blocks", "remove", "replace_blocks", "shortened", "silence"]


class Skip(nn.Module):
    """Gives back its first argument: what is left of a removed block that was called with several."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first argument."""
        return next(iter((*args, *kwargs.values())))


def find_blocks(
    model: nn.Module, captured: Capture, graph: WidthGraph, inputs: Any, *, check: bool = True
) -> tuple[Block, ...]:
    """The residual blocks of a network, none inside another, in order of execution.

    Args:
        model: It is not changed.
        captured: Record of its forward.
        graph: Its width graph, for what the blocks hold.
        inputs: As given to ``capture``.
        check: Whether to record the network without the removable blocks and compare.
    """
    record = _Record(model, captured, graph)
    residuals = _residuals(record)
    for residual in residuals:
        residual.reason = _ties(record, residual) or _noise(record, residual)
    _refuse_changed_inputs(record, [residual for residual in residuals if not residual.reason])
    if check:
        _try(model, captured, inputs, [residual for residual in residuals if not residual.reason])
    return _described(residuals, graph, captured)


def shortened(model: nn.Module, graph: WidthGraph, names: Collection[str]) -> nn.Module:
    """A copy without the named blocks that shares its tensors with the model; the model itself if none is named.

    Raises:
        InputError: If a block is unknown or not removable, or the graph belongs to another network.
    """
    if not names:
        return model
    matched_tensors(model, graph)
    return bypassed(model, {block.name: block.single for block in graph.removable(names)})


def bypassed(model: nn.Module, single: Mapping[str, bool]) -> nn.Module:
    """A copy without the modules at these paths that shares its tensors with the model; values as of ``Block.single``.

    Whether they can be removed is not looked at.
    """
    copied = copy_sharing(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    replace_blocks(copied, single)
    return copied


def remove(model: nn.Module, graph: WidthGraph, names: Collection[str]) -> None:
    """Put ``nn.Identity``, or ``Skip`` where a block is called with several arguments, in place of the named blocks.

    Raises:
        InputError: If a block is unknown or not removable.
    """
    replace_blocks(model, {block.name: block.single for block in graph.removable(names)})


def silence(model: nn.Module, graph: WidthGraph, names: Collection[str]) -> None:
    """Set all parameters of the named blocks to zero, in place; what zeros would be divided by stays.

    Raises:
        InputError: If a block is unknown or not removable.
    """
    paths, fixed = {block.name for block in graph.removable(names)}, _unzeroed(graph)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in fixed and holder(name, paths):
                parameter.zero_()


def _unzeroed(graph: WidthGraph) -> set[str]:
    """Parameters that a masked network keeps, because zeros there would be divided by."""
    return {slot.tensor for group in graph.groups for slot in group.slots if not slot.zeroed}


def replace_blocks(model: nn.Module, single: Mapping[str, bool]) -> None:
    """Replace the modules at these paths, wherever else they are registered too."""
    new: dict[int, nn.Module] = {}
    for path, alone in single.items():
        old = model.get_submodule(path)
        new[id(old)] = (nn.Identity() if alone else Skip()).train(old.training)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if id(child) in new:
                parent.register_module(name, new[id(child)])


@dataclass(slots=True, eq=False)
class _Residual:
    """A module whose output is its input plus something.

    Attributes:
        call: The only call of it.
        entry: The node of its input, before anything inside changed it in place.
        nodes: The nodes inside, in order of execution.
        shortcut: Those that are the input plus something.
        same: Those that equal the input once the parameters are zero.
        reason: Why it cannot be removed; empty if it can.
    """

    call: ModuleCall
    entry: fx.Node
    nodes: tuple[fx.Node, ...]
    shortcut: tuple[fx.Node, ...]
    same: frozenset[fx.Node] = frozenset()
    reason: str = ""

    @property
    def path(self) -> str:
        return self.call.path

    @property
    def output(self) -> fx.Node:
        return self.call.outputs[0]

    @property
    def sources(self) -> list[fx.Node]:
        """The nodes that those inside use."""
        return list(dict.fromkeys(source for node in self.nodes for source in node.all_input_nodes))

    def holds(self, name: str) -> bool:
        return name.startswith(f"{self.path}.")


class _Record:
    """What the record of a forward says about modules.

    Attributes:
        captured: The record.
        nodes: All nodes, in order of execution.
        order: Place of each.
        spans: Of each module, the places of the first and the last node inside.
        made: By the identity of a tensor the nodes that gave it: several where it was changed in place.
        names: Of the parameters and buffers behind nodes.
        tensors: These, by name.
        parameters: Names of the parameters in each module.
        owners: By each name of a parameter all of its names.
        zeroed: Names of the parameters that are zero once their block is.
    """

    def __init__(self, model: nn.Module, captured: Capture, graph: WidthGraph) -> None:
        self.captured = captured
        self.nodes = list(captured.graph.nodes)
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self.spans: dict[str, tuple[int, int]] = {}
        self.made: dict[int, list[fx.Node]] = {}
        for i, node in enumerate(self.nodes):
            self.made.setdefault(id(node.meta.get("val")), []).append(node)
            for path in _prefixes(captured.modules.get(node, "")):
                self.spans[path] = (self.spans.get(path, (i, i))[0], i)
        self.names = dict(zip(self.nodes, captured.tensors, strict=False))
        self.tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.parameters: dict[str, list[str]] = {}
        self.owners: dict[str, list[str]] = {}
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.owners[name] = names.setdefault(id(parameter), [])
            self.owners[name].append(name)
            for path in _prefixes(name.rpartition(".")[0]):
                self.parameters.setdefault(path, []).append(name)
        self.zeroed = graph.parameters.keys() - _unzeroed(graph)


def _prefixes(path: str) -> Iterator[str]:
    """The path of a module and of all modules that hold it, but the network."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _residuals(record: _Record) -> list[_Residual]:
    """Modules called once that have parameters and give their input plus something.

    Of nested ones the inner stands if the outer passes its input through it, as a sequence of blocks does; else it is a
    part of the outer's branch, and the outer stands.
    """
    calls = Counter(call.path for call in record.captured.calls)
    found: dict[str, _Residual] = {}
    inner: dict[str, list[str]] = {}  # of each module, the blocks found inside
    for call in record.captured.calls:  # inner modules return before those that hold them
        path = call.path
        if calls[path] > 1 or path not in record.parameters or path not in record.spans:
            continue
        residual, held = _residual(call, record), [name for name in inner.get(path, []) if name in found]
        if residual is None or any(found[name].output in residual.shortcut for name in held):
            continue
        for name in held:
            del found[name]
        found[path] = residual
        for prefix in _prefixes(path):
            inner.setdefault(prefix, []).append(path)
    return list(found.values())


def _residual(call: ModuleCall, record: _Record) -> _Residual | None:
    if len(call.outputs) != 1 or not call.inputs:
        return None
    given, output = call.inputs[0].meta.get("val"), call.outputs[0]
    made = output.meta.get("val")
    if not isinstance(given, Tensor) or not isinstance(made, Tensor):
        return None
    first, last = record.spans[call.path]
    before = [node for node in record.made[id(given)] if record.order[node] < first]
    if not before or given.shape != made.shape or given.dtype != made.dtype:
        return None
    entry, nodes = before[-1], tuple(record.nodes[first : last + 1])
    limits = bounds(entry)
    joined = {entry: False}  # whether something was added on the way
    for node in nodes:
        sources = [source for source in carriers(node, limits) if source in joined]
        if sources:
            joined[node] = operator_name(node) in ("add", "sub") or any(joined[source] for source in sources)
    shortcut = tuple(node for node in joined if node is not entry)
    return _Residual(call, entry, nodes, shortcut) if joined.get(output) else None


def _ties(record: _Record, residual: _Residual) -> str:
    """Which parameter the block shares with the rest of the network; empty if none."""
    for name in record.parameters[residual.path]:
        for other in record.owners[name]:
            if not residual.holds(other):
                return f"its parameter {name!r} is also {other!r}"
    inside = set(residual.nodes)
    for node in residual.sources:
        name = record.names.get(node, "")
        if isinstance(record.tensors.get(name), nn.Parameter):
            if not residual.holds(name):
                return f"it computes with {name!r}, a parameter from outside"
            if not inside.issuperset(node.users):
                return f"its parameter {name!r} is used outside of it"
    return ""


def _noise(record: _Record, residual: _Residual) -> str:
    """Why the block's output is not its input once its parameters are zero; empty if it is."""
    start: dict[fx.Node, Known] = {residual.entry: Certain.INPUT}
    for node in residual.sources:
        name, constant = record.names.get(node, ""), record.captured.constants.get(node)
        if name in record.zeroed and residual.holds(name):
            start[node] = Certain.ZERO
        elif type(constant) is Tensor and not constant.is_meta:
            start[node] = constant.detach().cpu()
    known = deduce(residual.nodes, start)
    residual.same = frozenset(node for node in residual.nodes if known.get(node) is Certain.INPUT)
    if residual.output in residual.same:
        return ""
    loud = next(node for node in residual.shortcut if node not in residual.same)
    ends = [source for source in loud.all_input_nodes if known.get(source) not in (Certain.ZERO, Certain.INPUT)]
    name = operator_name((ends or [loud])[0])
    return f"the branch that ends with {name} is not zero when all parameters of the block are"


def _refuse_changed_inputs(record: _Record, residuals: Sequence[_Residual]) -> None:
    """Refuse blocks whose output is changed in place while their input, which it would be, is still of use."""
    last_use: dict[int, int] = {}
    for i, node in enumerate(record.nodes):
        if node.op == "placeholder":
            last_use.update(dict.fromkeys(storages(node), len(record.nodes)))  # the caller's tensors, and parameters
        for source in node.all_input_nodes:
            for storage in storages(source):
                last_use[storage] = max(i, last_use.get(storage, i))
    made = {residual.output: residual for residual in residuals}
    one: dict[int, tuple[set[int], list[_Residual]]] = {}  # storages that removal makes one, and by which blocks
    for i, node in enumerate(record.nodes):
        places = changed(node)
        for storage in places & one.keys():
            if any(last_use.get(other, -1) > i for other in one[storage][0] - places):
                for residual in one[storage][1]:
                    residual.reason = (
                        f"its output is changed in place by {operator_name(node)} while its input is still of use"
                    )
        if node in made:
            before, after = storages(made[node].entry), storages(node)
            if before.isdisjoint(after):
                parts = [one.get(storage, ({storage}, [])) for storage in before | after]
                merged = (
                    set().union(*(part[0] for part in parts)),
                    [made[node], *(r for part in parts for r in part[1])],
                )
                one.update(dict.fromkeys(merged[0], merged))


def _try(model: nn.Module, captured: Capture, inputs: Any, residuals: Sequence[_Residual]) -> None:
    """Record the network without the blocks, and refuse those that keep it from being the rest of the dense one."""
    accepted: list[_Residual] = []

    def admit(candidates: Sequence[_Residual]) -> None:
        reason = _mismatch(model, captured, inputs, [*accepted, *candidates]) if candidates else ""
        if not reason:
            accepted.extend(candidates)
        elif len(candidates) == 1:
            candidates[0].reason = reason
        else:
            half = len(candidates) // 2
            admit(candidates[:half])
            admit(candidates[half:])

    admit(residuals)


def _mismatch(model: nn.Module, captured: Capture, inputs: Any, residuals: Sequence[_Residual]) -> str:
    """What the network without the blocks does otherwise than the rest of the dense one; empty if nothing."""
    shared = {id(parameter): parameter for parameter in model.parameters()}
    paths = {residual.path for residual in residuals}

    def make() -> nn.Module:
        copied = copy_sharing(model, shared).eval()
        replace_blocks(copied, {residual.path: residual.call.single for residual in residuals})
        return copied

    try:
        opaque = [part for part in captured.opaque if not holder(part.path, paths)]
        short = capture(make, inputs, opaque, on_meta=captured.on_meta)
    except Exception as error:  # whatever a user's forward may raise
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        text = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        return f"the forward outside looks into it: {text}"
    inside = {node for residual in residuals for node in residual.nodes}
    return _compare(captured, short, residuals, inside)


def _compare(dense: Capture, short: Capture, residuals: Iterable[_Residual], inside: Collection[fx.Node]) -> str:
    stays = set(short.tensors)
    paths = {residual.path for residual in residuals}
    gone = {name for name in dense.tensors if holder(name, paths)}
    if stays != set(dense.tensors) - gone:
        return "the network without it holds other tensors"
    lost = {node for name, node in zip(dense.tensors, dense.graph.nodes, strict=False) if name in gone}
    mine = [node for node in dense.graph.nodes if node not in inside and node not in lost]
    theirs = list(short.graph.nodes)
    if [(node.op, node.target if node.op == "call_function" else "") for node in mine] != [
        (node.op, node.target if node.op == "call_function" else "") for node in theirs
    ]:
        return "the rest of the network runs other operators without it"
    partner = dict(zip(mine, theirs, strict=True))
    for residual in residuals:  # in order of execution, so that the input has its partner already
        for node in residual.same:
            if residual.entry in partner:
                partner[node] = partner[residual.entry]
    for node in mine:
        twin = partner[node]
        if node.op == "get_attr" and not same_constant(dense.constants[node], short.constants[twin]):
            return "the rest of the network makes other constants without it"
        arguments = [*node.args, *node.kwargs.items()], [*twin.args, *twin.kwargs.items()]
        if not same_argument(*arguments, partner):
            return f"{operator_name(node)} in the rest of the network uses what it computes inside"
    return ""


def _described(residuals: Sequence[_Residual], graph: WidthGraph, captured: Capture) -> tuple[Block, ...]:
    paths = {residual.path for residual in residuals}
    layers: dict[str, list[Layer]] = {path: [] for path in paths}
    groups: dict[str, list[str]] = {path: [] for path in paths}
    params = dict.fromkeys(paths, 0)
    for layer in graph.layers:
        layers.get(holder(layer.name, paths), []).append(layer)
    for group in graph.groups:
        holders = {holder(slot.tensor, paths) for slot in group.slots}
        if len(holders) == 1:
            groups.get(holders.pop(), []).append(group.name)
    for name, axes in graph.parameters.items():
        if path := holder(name, paths):
            params[path] += axes.count({})
    return tuple(
        Block(
            name=residual.path,
            removable=not residual.reason,
            reason=residual.reason,
            layers=tuple(layer.name for layer in layers[residual.path]),
            groups=tuple(groups[residual.path]),
            macs=sum(layer.macs for layer in layers[residual.path]),
            params=params[residual.path],
            single=residual.call.single,
            through=(holding(captured, residual.entry), holding(captured, residual.output)),
        )
        for residual in residuals
    )
