"""Rounds of weights and masks as published: train the weights, then masks with the weights frozen, then weights …"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pandas as pd
from torch import Tensor, nn

from ecc.core.problem import Checkpoint, Progress
from ecc.core.weights import Masks, WeightProblem, WeightSolution
from ecc.network.input_masks import masked_inputs
from ecc.solvers.checkpoints import pack, unpack
from ecc.solvers.distributed import join
from ecc.solvers.evaluation import device_of, evaluate, forward
from ecc.solvers.hooks import Hook
from ecc.solvers.resuming import identity
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import Step, train
from ecc.solvers.weights.input_masks import (
    InputMasks,
    first_inputs,
    least_spent,
    limits_of,
    masked_layers,
    without_influence,
)
from ecc.solvers.weights.limits import WeightLimits, weight_solution
from ecc.solvers.weights.projected_sgd import ProjectedSgd, Projecting

__all__ = ["MaskCut", "Rounds", "solve_rounds"]

_LESS = 0.1  # of all entries goes in each round


class Rounds(Protocol):
    """Settings; those of ``MaskedProjectedSgd``."""

    @property
    def training(self) -> TrainConfig:
        """Of the weights, in all rounds together."""

    @property
    def weights(self) -> ProjectedSgd:
        """How weights are projected."""

    @property
    def inputs(self) -> float:
        """Part of what the budget leaves that inputs may take."""

    @property
    def rounds(self) -> int:
        """Most rounds of masks."""

    @property
    def mask_epochs(self) -> int:
        """Of each training of masks."""

    @property
    def every(self) -> int:
        """Steps between projections."""


@dataclass(slots=True)
class _State:
    """How far the rounds are: the network and its masks, and the best of both so far."""

    model: nn.Module
    masks: Masks
    rows: list[dict[str, Any]] = field(default_factory=list)
    part: int = 0
    score: float = -math.inf
    best: dict[str, Any] = field(default_factory=dict)

    def packed(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "model": dict(self.model.state_dict()),
            "masks": dict(self.masks),
            "rows": self.rows,
            "part": self.part,
            "score": self.score,
            "best": self.best,
        }

    def unpack(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.model.load_state_dict(state["model"])
        device = device_of(self.model)
        self.masks = {name: mask.to(device) for name, mask in state["masks"].items()}
        self.rows, self.part = list(state["rows"]), state["part"]
        self.score, self.best = state["score"], state["best"]

    def close(self, score: float) -> bool:
        """Take the score of a trained network; False where it is no better than the best."""
        if score <= self.score:
            return False
        self.score = score
        weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.best = {"model": weights, "masks": dict(self.masks)}
        return True


class _Part:
    """A checkpoint of one training among several: the state of the rounds where it began, and its own."""

    def __init__(self, whole: Checkpoint, key: str, began: Mapping[str, Any]) -> None:
        self._whole, self._key, self._began = whole, key, began

    def load(self) -> dict[str, Any] | None:
        """The state of this training, if it is the one that was saved."""
        state = self._whole.load()
        if state is None or state.get("rounds_key") != self._key or state["began"]["part"] != self._began["part"]:
            return None
        found: dict[str, Any] = state["train"]
        return found

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep it with where it began."""
        self._whole.save({"rounds_key": self._key, "began": self._began, "train": dict(state)})


class MaskCut:
    """Masks after each step of their training: clamped, and now and then the largest of them only; a hook of ``train``.

    Args:
        inputs: The masks in training.
        count: Of entries that stay.
        every: Steps between projections.
    """

    def __init__(self, inputs: InputMasks, count: int, every: int) -> None:
        self._inputs, self._count, self._every = inputs, count, every

    @property
    def key(self) -> str:
        """Settings and start."""
        return json.dumps([self._inputs.key, self._count, self._every])

    def after_step(self, step: Step) -> bool:
        """Clamp, and project where it is time."""
        self._inputs.note()
        self._inputs.clamp()
        if (step.index + 1) % self._every == 0 or step.index + 1 == step.total:
            self._inputs.keep_largest(self._count)
        return False

    def figures(self) -> Mapping[str, float]:
        """The mean of all mask entries."""
        return {"inputs": self._inputs.kept}

    def state(self) -> dict[str, Any]:
        """Masks and scores."""
        return self._inputs.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        self._inputs.restore(state)


class _Frozen(nn.Module):
    """A network whose masks alone are trained: its weights and the statistics of its batch norms stay."""

    def __init__(self, network: nn.Module, inputs: InputMasks) -> None:
        super().__init__()
        self.network = network
        self.masks = nn.ParameterList(inputs.values.values())

    def train(self, mode: bool = True) -> _Frozen:
        """The network stays in eval mode, so that batch norms use what they know and dropout does nothing."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, *inputs: Any) -> Tensor:
        """The network's outputs."""
        return forward(self.network, inputs)


def solve_rounds(
    rules: Rounds, problem: WeightProblem, progress: Progress | None, checkpoint: Checkpoint | None
) -> WeightSolution:
    """Weights and masks in turn, from the weights where the budget can be met without masks, else from the masks.

    A round that ends with a validation score no better than the best so far is the last, and the best one is returned.

    Raises:
        InputError: If the constraints cannot be met with all inputs masked, or nothing can be masked.
    """
    return _Solve(rules, problem, progress, checkpoint).run()


class _Solve:
    """One call of ``solve_rounds``."""

    def __init__(
        self, rules: Rounds, problem: WeightProblem, progress: Progress | None, checkpoint: Checkpoint | None
    ) -> None:
        self.rules, self.problem, self.progress, self.checkpoint = rules, problem, progress, checkpoint
        self.ranks, device = join(rules.training.device, device_of(problem.model))
        self.example = first_inputs(problem.task.train, problem.seed)
        masks = masked_layers(problem, self.example)
        model = copy.deepcopy(problem.model)
        self.ranks.share(list(model.state_dict().values()))
        model.to(device)
        masks = {name: mask.to(device_of(model)) for name, mask in masks.items()}
        fraction = rules.weights.min_fraction
        self.names = list(limits_of(problem, masks, model, part=1 - rules.inputs, min_fraction=fraction).tensors)
        self.floors = [least_spent(constraint, masks) for constraint in problem.constraints]
        self.state = _State(model, masks)
        self.start = masks
        whole = [constraint.cost.prices(masks).constant for constraint in problem.constraints]
        limits = [constraint.limit for constraint in problem.constraints]
        self.without = all(constant < limit for constant, limit in zip(whole, limits, strict=True))
        self.key = ""
        if checkpoint is not None:
            weights, kept = rules.weights, InputMasks(problem.constraints, masks, device_of(model)).key
            settings = [
                rules.training.identity,
                rules.inputs,
                rules.rounds,
                rules.mask_epochs,
                rules.every,
                limits,
                kept,
            ]
            settings += [weights.schedule, weights.continuation, weights.profit, weights.min_fraction]
            self.key = identity(settings, [problem.model])

    def run(self) -> WeightSolution:
        """All rounds, or what is left of them."""
        saved = self.checkpoint.load() if self.checkpoint is not None and self.ranks.first else None
        began = saved["began"] if saved is not None and saved.get("rounds_key") == self.key else None
        if self.ranks.world > 1:
            payload = self.ranks.share_bytes(pack(began) if began is not None else b"")
            began = unpack(payload) if payload else None
        if began is not None:
            self.state.unpack(began)
        parts = [stage for stage in self._parts() if stage[0] >= self.state.part]
        for number, kind, number_of_kind in parts:
            self.state.part = number
            if kind == "masks":
                self._train_masks(number_of_kind)
            elif not self._train_weights(number_of_kind):
                break
        best = self.state.best
        self.state.model.load_state_dict(best["model"])
        device = device_of(self.state.model)
        problem = replace(self.problem, masks={name: mask.to(device) for name, mask in best["masks"].items()})
        limits = WeightLimits(problem, self.state.model)
        return weight_solution(problem, self.state.model, limits, pd.DataFrame(self.state.rows))

    def _parts(self) -> Iterator[tuple[int, str, int]]:
        """Number, kind and round of each training."""
        number = 0
        for turn in range(0 if self.without else 1, self.rules.rounds + 1):
            if turn:
                yield number, "masks", turn
                number += 1
            yield number, "weights", turn
            number += 1

    def _epochs(self, turn: int) -> int:
        """Of the weights in a round; those that do not divide are in the last ones."""
        first = 0 if self.without else 1
        turns = self.rules.rounds + 1 - first
        return max(1, (self.rules.training.epochs + turn - first) // turns)

    def _train_weights(self, turn: int) -> bool:
        """The weights with the masks as they are; False where that is no better than what was found before."""
        state, rules = self.state, self.rules
        problem = replace(self.problem, masks=state.masks)
        training = replace(rules.training, epochs=self._epochs(turn), seed=self.problem.seed)
        weights = replace(rules.weights, training=training)
        hook = Projecting(weights, WeightLimits(problem, state.model, weights.min_fraction), state.model, self.ranks)
        with self._masked(state.masks):
            history = self._train(state.model, training, hook, f"weights-{turn}")
            hook.project(hook.limits.limits)
            fewer = without_influence(state.model, self.names, state.masks, self.example)
            own = evaluate(state.model, self.problem.task.validation, self.problem.task.score)
        state.rows += history
        state.masks = state.masks if fewer is None else fewer
        return state.close(self.ranks.first_says(own)[0])

    def _train_masks(self, turn: int) -> None:
        """The masks with the weights as they are, rounded, within their part of the budget."""
        state, rules = self.state, self.rules
        inputs = InputMasks(self.problem.constraints, self.start, device_of(state.model))
        inputs.drop(state.masks)
        entries = sum(mask.numel() for mask in self.start.values())
        hook = MaskCut(inputs, math.floor(entries * (1 - _LESS * turn) + 1e-9), rules.every)
        training = replace(
            rules.training,
            epochs=rules.mask_epochs,
            lr=1e-4,
            optimizer="adam",
            weight_decay=1e-5,
            schedule="constant",
            warmup_epochs=0.0,
            ema=None,
            seed=self.problem.seed + turn,
        )
        with _frozen(state.model), self._masked(inputs.values):
            state.rows += self._train(_Frozen(state.model, inputs), training, hook, f"masks-{turn}")
        inputs.round()
        limits = [
            floor + rules.inputs * (constraint.limit - floor)
            for floor, constraint in zip(self.floors, self.problem.constraints, strict=True)
        ]
        over = zip(inputs.constants(), limits, strict=True)
        if any(constant > limit for constant, limit in over):
            inputs.keep(limits, revive=False)
        self.ranks.share(list(inputs.values.values()))
        state.masks = inputs.masks
        with self._masked(state.masks):
            fewer = without_influence(state.model, self.names, state.masks, self.example)
        state.masks = state.masks if fewer is None else fewer

    def _train(self, model: nn.Module, training: TrainConfig, hook: Hook, stage: str) -> list[dict[str, Any]]:
        kept = self.checkpoint
        history = train(
            model,
            self.problem.task,
            training,
            teacher=self.problem.taught_by,
            hook=hook,
            stage=stage,
            progress=self.progress,
            checkpoint=None if kept is None else _Part(kept, self.key, copy.deepcopy(self.state.packed())),
        )
        return [{str(name): value for name, value in row.items()} for row in history.to_dict("records")]

    def _masked(self, masks: Masks) -> AbstractContextManager[None]:
        return masked_inputs(self.state.model, masks)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter takes gradients within."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
