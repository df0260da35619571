"""Tracing: a module and example inputs → its width graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ecc.core.errors import InputError
from ecc.core.layers import Side
from ecc.network.arguments import demand_model, demand_step
from ecc.network.attention import head_counts
from ecc.network.axes import propagate
from ecc.network.blocks import aligned_steps, in_blocks
from ecc.network.calls import find_calls
from ecc.network.capture import Capture, capture
from ecc.network.checking import refuse_failing
from ecc.network.choosing import Patterns, choose
from ecc.network.copying import copy_sharing
from ecc.network.declared import Declared, axes_of, confirm, declare, is_inside, parse
from ecc.network.depth import find_blocks
from ecc.network.examining import examine, is_meta, random_operators
from ecc.network.folding import rescaled
from ecc.network.following import follow
from ecc.network.graph import InputSpec, SizeAttribute, TensorAxes, WidthGraph
from ecc.network.grouping import Grouping, group_channels
from ecc.network.hooks import unobserved
from ecc.network.memory import find_activations
from ecc.network.nesting import bind, map_tensors, tensors_in
from ecc.network.replay import Replay
from ecc.network.sizes import Shared, shared_sizes, tie_sizes

__all__ = ["trace"]


def trace(
    model: nn.Module,
    example_inputs: Any,
    *,
    include: Patterns = (),
    exclude: Patterns = (),
    groups: Mapping[str, Any] | None = None,
    step: int = 1,
    renormalise: bool = False,
    check: bool = True,
) -> WidthGraph:
    """Find which channels of a network can only go together.

    Forward hooks are followed too, unless they change no output: such observers are called once or twice and set aside.

    Modules whose forward cannot be followed (it depends on the values of tensors, calls an extension …) stay dense with
    all that they touch, and the notes of the graph say so, unless ``groups`` declares what goes together in them.

    Args:
        model: Any module; it is not changed, and looked at in eval mode.
        example_inputs: A tensor, a tuple of positional arguments, or a dict of keyword arguments; nested containers and
            other values among the tensors are fine. Axis 0 of the first tensor is the batch.
        include: Which layers' channels may be pruned; all when empty. A glob of the names of layers or of modules that
            hold them (``layer1``, ``layer1.*``), ``type:NAME`` with a class name, or a class; or a list of these.
        exclude: Which layers' channels stay; as ``include``.
        groups: Channels that the user declares to go together, by name, as the parameter axes that lie along them:
            ``{"hidden": {"writes": ["fc1.weight:0", "fc1.bias:0"], "reads": ["fc2.weight:1"]}}``. In modules that
            cannot be followed they are all that can be pruned; elsewhere they are ties on top of those found.
        step: Channels that widths shall be multiples of; groups too narrow for that get the longest step that suits.
        renormalise: Whether channels may go that layer norms take their statistics over, or spectral norms and their
            kin a sum of the weights that read them. These then run over what stays, and so they do in the masked
            network that a slim one has to equal.
        check: Whether to prune a copy at random, compare it with the masked network, and keep dense what fails. A
            declared group in a module that cannot be followed is an error if it fails.

    Raises:
        InputError: If the model does not run on the inputs, its own forward cannot be recorded, a pattern matches
            nothing, or a declared group is wrong.
    """
    demand_model(model)
    demand_step(step)
    bind(example_inputs)
    # What trace makes may be trained later, so it must not be made under the caller's inference mode.
    with torch.inference_mode(False), unobserved(model, example_inputs) as quiet:
        graph = _traced(quiet, example_inputs, include, exclude, groups or {}, renormalise, check)
        return graph if step == 1 else in_blocks(graph, quiet, aligned_steps(graph, step))


def _traced(
    model: nn.Module,
    example_inputs: Any,
    include: Patterns,
    exclude: Patterns,
    groups: Mapping[str, Any],
    renormalise: bool,
    check: bool,
) -> WidthGraph:
    """The graph of a network without hooks that only observe, in steps of one unit."""
    declared = parse(model, groups)
    shared = {id(parameter): parameter for parameter in model.parameters()}
    inputs = map_tensors(lambda tensor: tensor.to("meta"), example_inputs) if is_meta(model) else example_inputs

    def fresh() -> nn.Module:
        return copy_sharing(model, shared).eval()

    examine(model, fresh, inputs)
    captured = capture(fresh, inputs) if is_meta(model) else follow(fresh, inputs, axes_of(declared))
    training, note = _training(model, captured, shared, inputs)
    tracer = _Tracer(model, captured, training, declared, inputs, include, exclude, renormalise, check)
    as_found, graph = tracer.widest()
    if check:
        inside = [group for group in declared if is_inside(group, captured.opaque)]
        graph = confirm(model, as_found, graph, inside, inputs)
    prunable = {group.name for group in graph.prunable}
    renormalised = [name for name in graph.renormalised if graph.parameters[name].sides[0].groups & prunable]
    graph = replace(graph, renormalised=tuple(renormalised))
    graph = replace(graph, notes=(*graph.notes, note) if note else graph.notes)
    return replace(graph, blocks=find_blocks(model, captured, graph, inputs, check=check))


@dataclass(frozen=True, slots=True, eq=False)
class _Tracer:
    """A record and how it is to be understood; the fields are those of ``trace``."""

    model: nn.Module
    captured: Capture
    training: Capture | None
    declared: Sequence[Declared]
    inputs: Any
    include: Patterns
    exclude: Patterns
    renormalise: bool
    check: bool

    def widest(self) -> tuple[WidthGraph, WidthGraph]:
        """The graph as found and as checked; where groups fail, perhaps one with axes tied that share a size."""
        found, checked, grouping = self.attempt(())
        refused = {group.name for group in found.prunable} - {group.name for group in checked.prunable}
        shared = shared_sizes(self.model, grouping.sizes, refused) if refused else ()
        other = self.attempt(shared) if shared else None
        return other[:2] if other and _reach(other[1]) > _reach(checked) else (found, checked)

    def attempt(self, shared: Collection[Shared]) -> tuple[WidthGraph, WidthGraph, Grouping]:
        """The graph as found and as checked, and what it was made from, with axes tied that share a size."""
        model, first = self.model, next(tensors_in(list(bind(self.inputs))))
        batch = first.shape[0] if first.ndim else 1
        propagation = propagate(self.captured, batch, renormalise=self.renormalise, training=self.training)
        declare(propagation, self.declared)
        tie_sizes(propagation.ledger, shared)
        grouping, specs = group_channels(propagation), _specs(self.inputs)
        found = WidthGraph(
            groups=choose(model, grouping.groups, self.include, self.exclude),
            layers=grouping.layers,
            parameters={name: _axes(parameter, grouping.sides[name]) for name, parameter in model.named_parameters()},
            buffers={name: _axes(buffer, grouping.sides[name]) for name, buffer in model.named_buffers()},
            input_shapes=tuple(spec.shape for spec in specs),
            notes=tuple(dict.fromkeys((*propagation.ledger.notes, *_notes(self.captured)))),
            inputs=specs,
            sizes=(*_unused_sizes(model, grouping.sizes), *head_counts(model, grouping.sizes, grouping.sides)),
            arguments=_arguments(self.inputs),
            rescales=tuple(part for fold, side in grouping.folds if fold.certain for part in rescaled(fold, side)),
            directions=propagation.directions,
            renormalised=tuple(propagation.ledger.renormalised),
            calls=find_calls(self.captured, propagation, grouping.groups, grouping.side_of),
            activations=find_activations(self.captured, propagation.values, grouping.side_of),
            steps=self.captured.steps,
            declared={group.name: group.sides() for group in self.declared},
        )
        if not self.check:
            return found, found, grouping
        replay = Replay(self.captured, propagation, grouping.units, grouping.folds)
        return found, refuse_failing(model, found, self.inputs, replay, grouping.sizes), grouping


def _training(
    model: nn.Module, captured: Capture, shared: Mapping[int, Tensor], inputs: Any
) -> tuple[Capture | None, str]:
    """A record in train mode if parameters have no use in eval mode: heads that only training has must fit too.

    Batch norms refuse to train on one value per channel, so one example is taken twice if it does not do.
    """
    placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
    used = {name for name, node in zip(captured.tensors, placeholders, strict=False) if node.users}
    idle = next((name for name, _ in model.named_parameters() if name not in used), "")
    reason = ""
    for tensors in (inputs, map_tensors(_twice, inputs)) if idle else ():
        try:
            return capture(lambda: copy_sharing(model, shared).train(), tensors, captured.opaque, on_meta=True), ""
        except InputError as error:
            reason = str(error)
    note = f"{idle} has no use in eval mode and train mode is not followed, so it keeps its size there ({reason})"
    return None, note if reason else ""


def _axes(tensor: Tensor, sides: tuple[Side, ...]) -> TensorAxes:
    return TensorAxes(tuple(tensor.shape), sides, tensor.element_size())


def _twice(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor]) if tensor.ndim else tensor


def _reach(graph: WidthGraph) -> int:
    """How many tensor axes get smaller with the widths."""
    return sum(len(group.slots) for group in graph.prunable)


def _specs(inputs: Any) -> tuple[InputSpec, ...]:
    """A description of every tensor; those that are keyword arguments carry their names."""
    args, kwargs = bind(inputs)
    named = ((name, tensor) for name, value in kwargs.items() for tensor in tensors_in(value))
    return (*map(InputSpec.of, tensors_in(args)), *(InputSpec.of(tensor, name) for name, tensor in named))


def _arguments(inputs: Any) -> Any:
    """The inputs without values, if they are more than a tuple or a dict of tensors."""
    args, kwargs = bind(inputs)
    if all(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        return None
    return map_tensors(lambda tensor: torch.empty_like(tensor, device="meta"), kwargs or args)


def _notes(captured: Capture) -> list[str]:
    """What the record itself says: modules that it does not follow, and random numbers."""
    notes = [f"{part.reason}; what it touches stays dense" for part in captured.opaque]
    random = random_operators(captured)
    if random:
        notes.append(
            f"the forward draws random numbers in eval mode too ({', '.join(random[:3])}), which change with the "
            "widths, so that channels may stay dense; let it draw only if self.training"
        )
    return notes


def _unused_sizes(model: nn.Module, candidates: Sequence[tuple[str, int, Side]]) -> tuple[SizeAttribute, ...]:
    """The number of channels of norms that have no tensor to tell it; they warn when it is wrong."""
    modules = dict(model.named_modules())
    return tuple(
        SizeAttribute(path, "num_features", value, side)
        for path, value, side in candidates
        if isinstance(module := modules[path], _NormBase) and not [*module.parameters(), *module.buffers()]
        if module.num_features == value
    )
