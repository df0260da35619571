"""Checking a fresh width graph: prune at random, compare, and keep dense what fails.

The labels say what must go together; whether the forward itself follows a smaller tensor, or insists on
``view(n, 784)``, shows only when it runs.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ecc.core.layers import Side
from ecc.core.widths import Kept, WidthGroup
from ecc.network.capture import Capture, capture, run, whole_operators
from ecc.network.copying import copy_sharing
from ecc.network.equality import zero_then_remove
from ecc.network.examining import is_meta
from ecc.network.graph import SizeAttribute, WidthGraph
from ecc.network.nesting import map_tensors
from ecc.network.replay import Replay
from ecc.network.shapes import WithoutValues
from ecc.network.slimming import slim

__all__ = ["counting_attributes", "other_counts", "perturbed", "refuse_failing", "without_values"]

_LOG = logging.getLogger("ecc")

_LIMIT = 1e-3  # relative difference; rounding stays far below, a wrong channel is far above


def refuse_failing(
    model: nn.Module,
    graph: WidthGraph,
    inputs: Any,
    replay: Replay,
    candidates: Sequence[tuple[str, int, Side]] = (),
    *,
    seed: int = 0,
) -> WidthGraph:
    """The graph with every group that fails a trial kept dense, with the reason.

    Three trials, each dearer and finer than the one before: the pruned network runs at all; it does what the labels
    predict, operator for operator; its outputs are those of the masked network. Attributes that seem to count channels
    follow the widths if more groups pass so.

    Args:
        inputs: As given to trace.
        replay: The record of the dense network.
        candidates: Axes that attributes may count: module path, dense value and side of each.
        seed: Of the random units and of the perturbed weights.
    """
    if not graph.prunable:
        return graph
    replays, sizes = _Replays(model, inputs, replay), counting_attributes(model, candidates)
    options = [graph, *([replace(graph, sizes=(*graph.sizes, *sizes))] if sizes else [])]
    checked = next((option for option in options if _passes(option, seed, replays)), None)
    if checked is None:
        others = (replace(graph, sizes=(*graph.sizes, *other)) for other in other_counts(model, candidates))
        checked = next((option for option in others if _passes(option, seed, replays)), None)
    if checked is None:
        scaled = [graph for option in options for graph in replays.scaled(option, _draw(option, seed, 0))]
        checked = next((option for option in scaled if _passes(option, seed, replays)), None)
        options += scaled
    if checked is None:
        trials = [_Runs(without_values(model), inputs), replays]
        checked = max((_narrowed(option, seed, trials) for option in options), key=lambda option: len(option.prunable))
    if checked.prunable and not is_meta(model):
        checked = _narrowed(checked, seed, [_Equals(perturbed(model, seed), inputs)])
    prunable = {group.name for group in checked.prunable}
    return replace(
        checked,
        sizes=tuple(size for size in checked.sizes if size.side.groups & prunable),
        rescales=tuple(rescale for rescale in checked.rescales if rescale.side.groups & prunable),
    )


def counting_attributes(model: nn.Module, candidates: Sequence[tuple[str, int, Side]]) -> tuple[SizeAttribute, ...]:
    """Integer attributes of the user's modules whose value is that of an axis which their forward cuts out.

    Args:
        candidates: Module path, dense value and side of each such axis. Where two axes have one size, the words ``dim``
            and ``size`` in the attribute's name speak for the last, others for the first.
    """
    return tuple(
        SizeAttribute(*place, *(sides[-1] if re.search("dim|size", place[1]) else sides[0]))
        for place, sides in _counted(model, candidates).items()
    )


def other_counts(model: nn.Module, candidates: Sequence[tuple[str, int, Side]]) -> Iterator[tuple[SizeAttribute, ...]]:
    """What else the attributes may count: those of one name another axis of that size, or none (a shift of two)."""
    usual, found = counting_attributes(model, candidates), _counted(model, candidates)
    for name in dict.fromkeys(size.attribute for size in usual):
        mine = {size: found[size.module, size.attribute] for size in usual if size.attribute == name}
        if any(len(sides) > 1 for sides in mine.values()):
            swapped = {
                size: replace(size, side=next((side for _, side in sides if side != size.side), size.side))
                for size, sides in mine.items()
            }
            yield tuple(swapped.get(size, size) for size in usual)
        if len(mine) < len(usual):
            yield tuple(size for size in usual if size not in mine)


def _counted(
    model: nn.Module, candidates: Sequence[tuple[str, int, Side]]
) -> dict[tuple[str, str], list[tuple[int, Side]]]:
    """Module path and name of each attribute that holds the size of an axis, and the axes of that size."""
    found: dict[tuple[str, str], list[tuple[int, Side]]] = {}
    for path, value, side in candidates:
        module = model.get_submodule(path)
        if type(module).__module__.startswith("torch.nn."):
            continue
        for attribute, held in vars(module).items():
            if type(held) is int and held == value:
                found.setdefault((path, attribute), []).append((value, side))
    return found


def _narrowed(graph: WidthGraph, seed: int, trials: Sequence[_Trial]) -> WidthGraph:
    """The graph without the groups that fail a trial, repeated until what is left passes the last one."""
    while graph.prunable and not _passes(graph, seed, trials[-1]):
        before = graph
        for trial in trials:
            for draw in range(trial.draws):
                graph = _refused(graph, trial.failures(graph, _draw(graph, seed, draw)))
        if graph is before:  # whatever is wrong, it cannot be laid to one group
            return _refused(graph, {group.name: "the network fails the check when pruned" for group in graph.prunable})
    return graph


def _passes(graph: WidthGraph, seed: int, trial: _Trial) -> bool:
    return not any(trial.refusal(graph, _draw(graph, seed, draw)) for draw in range(trial.draws))


def _refused(graph: WidthGraph, reasons: Mapping[str, str]) -> WidthGraph:
    groups = [
        replace(group, prunable=False, reason=reasons[group.name]) if group.name in reasons else group
        for group in graph.groups
    ]
    return replace(graph, groups=tuple(groups)) if reasons else graph


def _draw(graph: WidthGraph, seed: int, draw: int) -> Kept:
    """Random units of every group, in such numbers that errors of two groups do not cancel.

    Within a module the groups are numbered from 1 to 7; in draw d those whose number has bit d keep one unit, the
    others a random number between two and almost all. So any two of them differ in some draw, and each is once at its
    smallest.
    """
    generator = np.random.default_rng([seed, draw])
    kept, seen = {}, Counter[str]()
    for group in graph.prunable:
        module = group.name.rpartition(".")[0]
        count = 1
        if not (seen[module] % 7 + 1) >> draw & 1:
            count = int(np.clip(round(group.units * generator.uniform(0.33, 0.8)), 2, max(2, group.units - 1)))
        seen[module] += 1
        kept[group.name] = np.sort(generator.choice(group.units, count, replace=False))
    return kept


def without_values(model: nn.Module) -> nn.Module:
    """A copy on the meta device: it shows in no time whether shapes fit."""
    replacements: dict[int, Tensor] = {}
    for parameter in model.parameters():
        replacements[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        replacements[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy_sharing(model, replacements).eval()


def perturbed(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose biases, norms and running statistics are moved off zero and one, so that they hide no error."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)

    def factor(tensor: Tensor) -> Tensor:
        return (0.5 + torch.rand(tensor.shape, generator=generator)).to(tensor.device, tensor.dtype)

    replacements: dict[int, Tensor] = {}
    for parameter in model.parameters():
        data = parameter.detach()
        if not data.is_floating_point() or not data.numel():
            continue
        scale = data.float().square().mean().sqrt().to(data.dtype)
        if data.ndim <= 1:
            data = data * factor(data) + 0.1 * noise(data) * (scale if scale > 0 else 1)
        elif scale == 0:
            data = 0.1 * noise(data)
        replacements[id(parameter)] = nn.Parameter(data, requires_grad=False)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            replacements[id(buffer)] = buffer * factor(buffer)
        elif name.endswith("running_mean"):
            replacements[id(buffer)] = buffer + 0.3 * noise(buffer)
    return copy_sharing(model, replacements).eval()


class _Trial(ABC):
    """A way to find out whether pruning to some units is right; ``draws`` random ones are tried."""

    draws = 3

    @abstractmethod
    def refusal(self, graph: WidthGraph, kept: Kept) -> str:
        """Why pruning to ``kept`` is wrong; empty if it is right."""

    def failures(self, graph: WidthGraph, kept: Kept) -> dict[str, str]:
        """Groups that are refused beside the ones that are accepted, with reasons; found by halving."""
        accepted: dict[str, Any] = {}
        failures: dict[str, str] = {}

        def admit(names: Sequence[str]) -> None:
            reason = self.refusal(graph, {**accepted, **{name: kept[name] for name in names}}) if names else ""
            if not reason:
                accepted.update((name, kept[name]) for name in names)
            elif len(names) == 1:
                failures[names[0]] = reason
            else:
                admit(names[: len(names) // 2])
                admit(names[len(names) // 2 :])

        admit(list(kept))
        return failures


class _Runs(_Trial):
    """The pruned network runs on tensors without values; passes all if the dense one does not."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self._model = model
        self._inputs = map_tensors(lambda tensor: tensor.to("meta"), inputs)
        self._able = not self._failure(model)[0]  # a meta model whose forward holds other tensors does not run

    def refusal(self, graph: WidthGraph, kept: Kept) -> str:
        return self._tried(graph, kept)[0]

    def failures(self, graph: WidthGraph, kept: Kept) -> dict[str, str]:
        """Only groups that fail alone; which of several is to blame for a failure of all is for the next trial.

        The groups of the module that fails are tried first, and all are halved only where it is none of those.
        """
        left, found = dict(kept), dict[str, str]()
        while left:
            reason, path = self._tried(graph, left)
            suspects = [name for name in left if _inside(graph.group(name), path)] if reason else []
            alone = {name: self.refusal(graph, {name: kept[name]}) for name in suspects}
            guilty = {name: why for name, why in alone.items() if why}
            if not guilty:
                return found | (self._halved(graph, left) if reason else {})
            found |= guilty
            left = {name: units for name, units in left.items() if name not in guilty}
        return found

    def _halved(self, graph: WidthGraph, kept: Kept) -> dict[str, str]:
        """The groups that fail alone, as far as a failure of a half leads to them."""
        reason = self.refusal(graph, kept) if kept else ""
        if not reason or len(kept) == 1:
            return dict.fromkeys(kept, reason) if reason else {}
        names = list(kept)
        halves = (names[: len(names) // 2], names[len(names) // 2 :])
        return {name: why for half in halves for name, why in self._halved(graph, {n: kept[n] for n in half}).items()}

    def _tried(self, graph: WidthGraph, kept: Kept) -> tuple[str, str]:
        return self._failure(slim(self._model, graph, kept, check=False)) if self._able else ("", "")

    def _failure(self, model: nn.Module) -> tuple[str, str]:
        """Why the forward fails and the path of the module where; two empty texts if it runs."""
        try:
            with whole_operators(), WithoutValues():  # type: ignore[no-untyped-call]
                run(model, self._inputs)
        except Exception as error:  # whatever a user's forward may raise
            return _insists(error), _place(model, error)
        return "", ""


def _inside(group: WidthGroup, path: str) -> bool:
    """Whether a layer of the group is the module at the path or inside it."""
    return any(f"{layer}.".startswith(f"{path}.") for layer in (group.name.partition("@")[0], *group.layers))


def _place(model: nn.Module, error: Exception) -> str:
    """Path of the innermost module whose method was running when the error was raised."""
    paths = {id(module): path for path, module in model.named_modules()}
    found, trace = "", error.__traceback__
    while trace is not None:
        found = paths.get(id(trace.tb_frame.f_locals.get("self")), found)
        trace = trace.tb_next
    return found


class _Replays(_Trial):
    """The pruned network does what the labels predict."""

    def __init__(self, model: nn.Module, inputs: Any, replay: Replay) -> None:
        self._model = copy_sharing(model, {id(parameter): parameter for parameter in model.parameters()}).eval()
        self._inputs = inputs
        self._replay = replay

    def refusal(self, graph: WidthGraph, kept: Kept) -> str:
        try:
            recorded = self._record(graph, kept)
        except Exception as error:  # whatever a user's forward may raise
            return _insists(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        return self._replay.mismatch(recorded, kept, graph.rescales)

    def scaled(self, graph: WidthGraph, kept: Kept) -> list[WidthGraph]:
        """The graph with factors that make up for scales which follow the widths, if there are such."""
        kept = {name: units for name, units in kept.items() if name in self._replay.scaling}
        try:
            rescales = self._replay.rescales(self._record(graph, kept), kept) if kept else ()
        except Exception as error:  # whatever a user's forward may raise
            _LOG.debug("no scale follows the widths: %s", _insists(error))
            return []
        return [replace(graph, rescales=(*graph.rescales, *rescales))] if rescales else []

    def _record(self, graph: WidthGraph, kept: Kept) -> Capture:
        return capture(
            lambda: slim(self._model, graph, kept, check=False),
            self._inputs,
            self._replay.opaque,
            on_meta=self._replay.on_meta,
        )


class _Equals(_Trial):
    """The pruned network gives the outputs of the masked one."""

    draws = 1

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self._model = model
        self._inputs = inputs

    def refusal(self, graph: WidthGraph, kept: Kept) -> str:
        try:
            difference = zero_then_remove(self._model, graph, kept, self._inputs)
        except Exception as error:  # whatever a user's forward may raise
            return _insists(error)
        return "" if difference <= _LIMIT else "removing its channels changes the output of the network"


def _insists(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    cure = ""
    if "is invalid for input of size" in text:
        cure = (
            "; count with the tensor's own shape or -1, or keep the size in an attribute of the module, rather than "
            "write it down or derive it from the input (C // heads)"
        )
    return f"the forward insists on its size: {text}{cure}"
