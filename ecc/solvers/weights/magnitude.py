"""Magnitude pruning of single weights to a budget: the smallest go, at once or by and by, and never come back.

Each tensor keeps its largest weights; how many is found by bisection, so that the cost of what is kept meets every
limit and one weight more would not. All train on the same loop as ``ProjectedSgd``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.core.problem import Checkpoint, Progress
from ecc.core.rules import demand_rules
from ecc.core.weights import WeightProblem, WeightSolution
from ecc.solvers.distributed import Ranks
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import Step
from ecc.solvers.weights.falls import FALLS, Fall, FallKind, due
from ecc.solvers.weights.limits import WeightLimits
from ecc.solvers.weights.runs import prune_in_training

__all__ = ["WeightIterative", "WeightMagnitude", "WeightUniform"]

_LARGEST = 0x7F800000  # the bits of float32's infinity; positive floats are in the order of their bits


def _training() -> TrainConfig:
    return TrainConfig(epochs=10, dropout=False)


@dataclass(frozen=True, slots=True)
class WeightMagnitude:
    """The smallest weights of all tensors together go before training.

    Attributes:
        training: How the weights that are kept are trained; ``seed`` is replaced by the problem's.
        min_fraction: Least fraction of each tensor that is kept, as far as the budgets allow; 0 is plain magnitude.

    Raises:
        InputError: If a value makes no sense.
    """

    training: TrainConfig = field(default_factory=_training)
    min_fraction: float = 0.02
    name: str = field(default="weight-magnitude", init=False)

    def __post_init__(self) -> None:
        _demand_fraction("WeightMagnitude", self.min_fraction)

    def solve(
        self, problem: WeightProblem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> WeightSolution:
        """Choose weights and train them.

        Raises:
            InputError: If a budget cannot be met, before any training.
            EccError: If training diverges.
            Interrupted: If the user pressed Ctrl-C; the state is saved.
        """
        return _solve(self, problem, globally_largest, self.min_fraction, None, progress, checkpoint)


@dataclass(frozen=True, slots=True)
class WeightUniform:
    """Every tensor keeps the same share of its weights, the largest ones; the others go before training.

    Attributes:
        training: As of ``WeightMagnitude``.
    """

    training: TrainConfig = field(default_factory=_training)
    name: str = field(default="weight-uniform", init=False)

    def solve(
        self, problem: WeightProblem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> WeightSolution:
        """As of ``WeightMagnitude``."""
        return _solve(self, problem, uniformly_largest, 0.0, None, progress, checkpoint)


@dataclass(frozen=True, slots=True)
class WeightIterative:
    """The smallest weights of all tensors together go by and by, while the others are trained.

    Attributes:
        training: As of ``WeightMagnitude``.
        every: Steps between two prunings; fewer in short runs, as of ``ProjectedSgd``.
        schedule: How the limits fall, see ``Fall``.
        continuation: Part of the steps over which they do.
        min_fraction: As of ``WeightMagnitude``.

    Raises:
        InputError: If a value makes no sense.
    """

    training: TrainConfig = field(default_factory=_training)
    every: int = 10
    schedule: FallKind = "geometric"
    continuation: float = 0.5
    min_fraction: float = 0.02
    name: str = field(default="weight-iterative", init=False)

    def __post_init__(self) -> None:
        _demand_fraction("WeightIterative", self.min_fraction)
        rules = {
            "every": (self.every >= 1, "must be 1 or more"),
            "schedule": (self.schedule in FALLS, f"must be {', '.join(FALLS[:-1])} or {FALLS[-1]}"),
            "continuation": (0 <= self.continuation <= 1, "must be in [0, 1]"),
        }
        demand_rules(self, rules)

    def solve(
        self, problem: WeightProblem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> WeightSolution:
        """As of ``WeightMagnitude``."""
        return _solve(self, problem, globally_largest, self.min_fraction, self, progress, checkpoint)


Choose = Callable[[WeightLimits, Sequence[float]], list[Tensor]]
"""(constraints, limits) → which weights of each tensor are kept, bool, of the shapes of the tensors."""


def _solve(
    rules: WeightMagnitude | WeightUniform | WeightIterative,
    problem: WeightProblem,
    choose: Choose,
    min_fraction: float,
    falling: WeightIterative | None,
    progress: Progress | None,
    checkpoint: Checkpoint | None,
) -> WeightSolution:
    return prune_in_training(
        problem,
        rules.training,
        rules.name,
        min_fraction,
        lambda limits, _model, ranks: _Pruning(rules.training.epochs, limits, choose, falling, ranks),
        progress,
        checkpoint,
    )


class _Pruning:
    """Weights that are zero stay zero, and more may become zero on the way; a hook of ``train``."""

    def __init__(
        self, epochs: int, limits: WeightLimits, choose: Choose, falling: WeightIterative | None, ranks: Ranks
    ) -> None:
        self._epochs, self._limits, self._choose, self._falling, self._ranks = epochs, limits, choose, falling, ranks
        self._fall: Fall | None = None
        if falling is None:
            self.prune(limits.limits)
        else:
            start, end, constants = tuple(limits.spent(limits.counts())), tuple(limits.limits), tuple(limits.constants)
            self._fall = Fall(start, end, constants, falling.schedule, falling.continuation)
        self._kept = [tensor != 0 for tensor in limits.tensors.values()]

    @property
    def key(self) -> str:
        """Settings and constraints; weights that went at once are zero in the network already."""
        falling, limits = self._falling, self._limits
        rules = [falling.every, falling.schedule, falling.continuation] if falling is not None else []
        return json.dumps([rules, limits.key])

    @torch.no_grad()
    def after_step(self, step: Step) -> bool:
        """Put weights that went back to zero, and prune if it is time."""
        for tensor, kept in zip(self._limits.tensors.values(), self._kept, strict=True):
            tensor.mul_(kept)
        if (
            self._fall is not None
            and self._falling is not None
            and due(step, self._falling.every, self._epochs, self._falling.continuation)
        ):
            self.prune(self._fall.at(step))
        return False

    @torch.no_grad()
    def prune(self, limits: Sequence[float]) -> None:
        """Keep what the limits allow; nothing happens where weights are not finite, of which the training loop says."""
        if not self._limits.finite():
            return
        self._kept = self._choose(self._limits, limits)
        for tensor, kept in zip(self._limits.tensors.values(), self._kept, strict=True):
            tensor.mul_(kept)
        self._ranks.share(list(self._limits.tensors.values()))

    def finish(self) -> None:
        """Prune to the budgets themselves."""
        self.prune(self._limits.limits)

    def figures(self) -> Mapping[str, float]:
        """Relative costs, worst violation and the share of the weights that is not zero."""
        return self._limits.figures(self._limits.counts())

    def state(self) -> dict[str, Any]:
        """Nothing: what went is zero in the network."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``: what is zero in the network has gone."""
        self._kept = [tensor != 0 for tensor in self._limits.tensors.values()]


def globally_largest(limits: WeightLimits, within: Sequence[float]) -> list[Tensor]:
    """The weights above one magnitude, the smallest one with which they cost no more than ``within``.

    Floors are kept beside: the largest of each tensor. Weights of equal magnitude go together.
    """
    sizes = [tensor.abs().float() for tensor in limits.tensors.values()]
    bits = [size.view(torch.int32) for size in sizes]

    def counts(bound: int) -> list[int]:
        found = torch.stack([(each > bound).sum() for each in bits]).tolist()
        return [max(int(count), least) for count, least in zip(found, limits.least, strict=True)]

    if limits.met(counts(0), within):
        bound = 0
    else:
        low, high = 0, _LARGEST  # the floors alone are within
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if limits.met(counts(middle), within) else (middle, high)
        bound = high
    return [(each > bound) | _largest(size, least) for each, size, least in zip(bits, sizes, limits.least, strict=True)]


def uniformly_largest(limits: WeightLimits, within: Sequence[float]) -> list[Tensor]:
    """The largest weights of each tensor, of every one the same share, the greatest that costs no more than ``within``.

    A tensor has a whole number of weights, and at least those of its floor.
    """

    def counts(share: float) -> list[int]:
        return [max(int(share * size), least) for size, least in zip(limits.sizes, limits.least, strict=True)]

    low, high = 0.0, 1.0
    if limits.met(counts(1.0), within):
        low = 1.0
    else:
        while high - low > 1e-12:
            middle = (low + high) / 2
            low, high = (middle, high) if limits.met(counts(middle), within) else (low, middle)
    return [_largest(tensor.abs(), count) for tensor, count in zip(limits.tensors.values(), counts(low), strict=True)]


def _largest(sizes: Tensor, count: int) -> Tensor:
    """Marks so many of the largest, none that is zero."""
    marks = torch.zeros(sizes.numel(), dtype=torch.bool, device=sizes.device)
    marks[sizes.flatten().topk(count, sorted=False).indices] = True
    return marks.view(sizes.shape) & (sizes > 0)


def _demand_fraction(method: str, min_fraction: float) -> None:
    if not 0 <= min_fraction <= 1:
        raise InputError(f"{method}(min_fraction=...) must be in [0, 1], got {min_fraction!r}")
