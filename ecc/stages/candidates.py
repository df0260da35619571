"""Candidates: one tensor in all the ways in which stages could encode it, each as it would be in the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ecc.core.code import Code, Stage, State, Stored, Workshop
from ecc.core.errors import InputError, NothingToDo
from ecc.stages.code import PackedCode, packed, weight_names
from ecc.stages.nodes import Node, shape_of

__all__ = [
    "LEFT",
    "Candidate",
    "DepartingStage",
    "ForeseenStage",
    "Plan",
    "Steps",
    "TensorStage",
    "applied",
    "candidates",
]

LEFT = "as it was"
"""Said of a tensor that a stage has not changed, among the departures from its options."""

_MOST_ELEMENTS = 1 << 25  # of one tensor in all candidates; the choices are thinned out beyond
_FEWEST = 6


@runtime_checkable
class TensorStage(Protocol):
    """A stage that works tensor by tensor and has several settings to choose from for each.

    A setting is a small frozen dataclass with a ``label``, whose fields are named as the stage's options that they
    stand for.
    """

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names or patterns of the weights; all where empty."""

    def choices(self, name: str, node: Node) -> Sequence[Any]:
        """Settings for a tensor, the one of the fewest bytes first."""

    def encode_node(self, name: str, node: Node, setting: Any) -> Node:
        """The tensor by a setting, without training; the same node where the stage has nothing to do in it."""

    def encode(
        self, state: State | Code, workshop: Workshop | None = None, *, chosen: Mapping[str, Any] | None = None
    ) -> Code:
        """As of every stage.

        Args:
            chosen: Settings by name of a tensor, in the place of the stage's own options.
        """


@runtime_checkable
class DepartingStage(Protocol):
    """A stage that does not treat every tensor by its options."""

    def departures(self, before: PackedCode, after: PackedCode) -> Mapping[str, str]:
        """What was done to such tensors instead, for people, by their names."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One tensor behind all stages.

    Attributes:
        settings: One per stage; None where that has no choice for the tensor.
        node: What is stored.
        stored: Its price.
    """

    settings: tuple[Any, ...]
    node: Node
    stored: Stored

    @property
    def label(self) -> str:
        """The settings' labels."""
        return " ".join(setting.label for setting in self.settings if setting is not None)


@runtime_checkable
class ForeseenStage(Protocol):
    """A stage that needs data to encode, and can tell without them what it will take."""

    def foreseen(self, code: PackedCode) -> PackedCode:
        """A code of the size that ``encode`` makes of this one, up to what training changes.

        Raises:
            InputError: As ``encode``, but for what is wrong with data.
        """


Plan = Mapping[str, tuple[Any, ...]]
"""By name of a tensor, its setting per stage."""

Steps = Sequence[tuple[Stage, TensorStage | None]]
"""Stages in their order, each beside itself again where its settings are chosen, and beside None where not."""


def candidates(code: PackedCode, steps: Steps) -> dict[str, list[Candidate]]:
    """All candidates of the tensors for which at least one stage has several settings.

    Raises:
        InputError: If there is no such tensor.
    """
    covers = [frozenset(weight_names(code, each.layers)) if each is not None else frozenset() for _, each in steps]
    names = [name for name in code.nodes if any(name in cover for cover in covers)]
    found = {name: _candidates(name, code.nodes[name], steps, covers) for name in names}
    chosen = {name: each for name, each in found.items() if len(each) > 1}
    if not chosen:
        named = ", ".join(stage.name for stage, each in steps if each is not None)
        raise InputError(
            f"{named} leaves no choice for any tensor, and a limit cannot be shared out; apply it to weights that are "
            "not coded yet"
        )
    return chosen


def applied(code: PackedCode, steps: Steps, plan: Plan) -> PackedCode:
    """The code behind stages, without training: by the plan, or as stages do on their own where nothing is chosen."""
    for place, (stage, choosing) in enumerate(steps):
        if choosing is None:
            with suppress(NothingToDo):
                code = _alone_encoded(stage, code)
            continue
        nodes = {
            name: choosing.encode_node(name, code.nodes[name], settings[place])
            for name, settings in plan.items()
            if settings[place] is not None
        }
        code = replace(code, nodes={**code.nodes, **nodes})
    return code


def _candidates(name: str, node: Node, steps: Steps, covers: Sequence[frozenset[str]]) -> list[Candidate]:
    count = sum(name in cover for cover in covers)
    most = max(_FEWEST, _MOST_ELEMENTS // max(int(np.prod(shape_of(node), dtype=np.int64)), 1))
    each = max(2, int(most ** (1 / count)))
    found: list[tuple[Node, tuple[Any, ...]]] = [(node, ())]
    for (stage, choosing), cover in zip(steps, covers, strict=True):
        one = choosing if name in cover else None
        found = [
            (after, (*settings, setting))
            for node, settings in found
            for after, setting in (_alone(name, node, stage) if choosing is None else _by_choice(name, node, one, each))
        ]
    return [Candidate(settings, node, PackedCode({name: node}).stored()[name]) for node, settings in found]


def _by_choice(name: str, node: Node, stage: TensorStage | None, most: int) -> Iterator[tuple[Node, Any]]:
    """The tensor at each setting; as it is where there is none."""
    choices = [] if stage is None else _thinned(stage.choices(name, node), most)
    if stage is None or not choices:
        yield node, None
        return
    for setting in choices:
        yield stage.encode_node(name, node, setting), setting


def _alone(name: str, node: Node, stage: Stage) -> Iterator[tuple[Node, Any]]:
    """The tensor as a stage encodes it on its own; as it is where that finds nothing to do."""
    try:
        yield _alone_encoded(stage, PackedCode({name: node})).nodes[name], None
    except InputError:
        yield node, None


def _alone_encoded(stage: Stage, code: PackedCode) -> PackedCode:
    """What a stage makes of a code by its own options, without data."""
    return stage.foreseen(code) if isinstance(stage, ForeseenStage) else packed(stage.encode(code))


def _thinned(choices: Sequence[Any], most: int) -> list[Any]:
    """At most so many, evenly, the first and the last among them."""
    if len(choices) <= most:
        return list(choices)
    return [choices[round(place)] for place in np.linspace(0, len(choices) - 1, most)]
