"""JointProjection: inputs and weights projected side by side while the budget falls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from ecc.core.weights import WeightProblem
from ecc.solvers.distributed import Ranks
from ecc.solvers.training import Step
from ecc.solvers.weights.falls import Fall, due
from ecc.solvers.weights.input_masks import InputMasks, first_inputs, least_spent, without_influence
from ecc.solvers.weights.limits import WeightLimits
from ecc.solvers.weights.projected_sgd import ProjectedSgd, Projecting

__all__ = ["JointProjection", "Shares"]

_LOOKS = 10  # at what has lost its influence, in a run


class Shares(Protocol):
    """Settings; those of ``MaskedProjectedSgd``."""

    @property
    def inputs(self) -> float:
        """Part of what a budget leaves that inputs may take."""

    @property
    def weights(self) -> ProjectedSgd:
        """How weights are projected, and when."""


class JointProjection:
    """Masks chosen before each projection of the weights; a hook of ``train``.

    What the inputs may take falls from all of them to their part of the budget by the same factor at each projection;
    weights get what they leave. No schedule of the whole budget falls faster, so that weights always have room.

    Args:
        rules: Settings.
        problem: Of which ``model`` is a copy in training.
        masks: Where to start.
        limits: Of the problem; priced by the masks as they change.
        model: The network, which runs with ``inputs.values``.
    """

    def __init__(
        self,
        rules: Shares,
        problem: WeightProblem,
        inputs: InputMasks,
        limits: WeightLimits,
        model: nn.Module,
        ranks: Ranks,
    ) -> None:
        self._rules, self._ranks, self._model = rules, ranks, model
        self._inputs, self._limits = inputs, limits
        limits.reprice(inputs.masks)
        self._floors = [least_spent(constraint, inputs.masks) for constraint in problem.constraints]
        self._projection = Projecting(rules.weights, limits, model, ranks, constants=self._floors)
        ends = [
            rules.inputs * (each.limit - floor) for each, floor in zip(problem.constraints, self._floors, strict=True)
        ]
        begins = [max(0.0, c - floor) for c, floor in zip(inputs.constants(), self._floors, strict=True)]
        ends = [min(pair) for pair in zip(begins, ends, strict=True)]
        nothing = (0.0,) * len(ends)
        self._fall = Fall(tuple(begins), tuple(ends), nothing, "geometric", rules.weights.continuation)
        self._example = first_inputs(problem.task.train, problem.seed)
        self._settled = False

    @property
    def key(self) -> str:
        """Settings, the entries that may be kept, and those of the projection of the weights."""
        return json.dumps([self._rules.inputs, self._inputs.key, self._projection.key])

    def after_step(self, step: Step) -> bool:
        """Choose masks, where it is time for that, then weights."""
        self._inputs.note()
        weights, done = self._rules.weights, step.index + 1
        last = done == step.total
        if not self._settled and (last or due(step, weights.every, weights.training.epochs)):
            self._mask(step)
            self._settle(last or done >= weights.continuation * step.total)
        if self._settled and (last or done % max(1, step.total // _LOOKS) == 0):
            self.tighten()
        return self._projection.after_step(step)

    def tighten(self) -> None:
        """Drop what has no influence, of weights and of inputs."""
        names = list(self._limits.tensors)
        fewer = without_influence(self._model, names, self._inputs.masks, self._example)
        if fewer is not None:
            self._inputs.drop(fewer)
        self._share()

    def figures(self) -> Mapping[str, float]:
        """Those of the weights, and the share of the mask entries that is kept."""
        return {**self._projection.figures(), "inputs": self._inputs.kept}

    def state(self) -> dict[str, Any]:
        """Masks, and what the projection of the weights holds."""
        return {"inputs": self._inputs.state(), "settled": self._settled, "projection": self._projection.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        self._inputs.restore(state["inputs"])
        self._settle(state["settled"])
        self._limits.reprice(self._inputs.masks)
        self._projection.restore(state["projection"])

    def _settle(self, settled: bool) -> None:
        """Whether the inputs that are kept have been chosen for good."""
        self._settled = settled
        if settled:
            self._inputs.freeze()

    def _mask(self, step: Step) -> None:
        """Bring the inputs down as far as they have to be behind a step."""
        limits = [floor + room for floor, room in zip(self._floors, self._fall.at(step), strict=True)]
        self._inputs.keep(limits)
        self._share()

    def _share(self) -> None:
        """Masks and weights are those of the first process in all of them, and prices those of the masks."""
        with torch.no_grad():
            self._ranks.share([*self._inputs.values.values(), *self._limits.tensors.values()])
        self._limits.reprice(self._inputs.masks)
