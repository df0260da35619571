"""What a weight costs that is kept, and pruning weights under budgets of such costs: what a solver gets and gives back.

Channels go whole and change shapes; single weights become zero and shapes stay. A cost of weights is separable: every
weight that is not zero has a price, whatever the others are, but that the largest of a tensor may be cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pandas as pd
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.problem import Checkpoint, Progress, Status, Task

__all__ = [
    "Masks",
    "Price",
    "Prices",
    "WeightConstraint",
    "WeightCost",
    "WeightProblem",
    "WeightSolution",
    "WeightSolver",
]

Masks = Mapping[str, Tensor]
"""By layer, which of its inputs are kept: 1 or 0, of the shape of one example's input; all are where none is named."""


@dataclass(frozen=True, slots=True)
class Price:
    """What the weights of one tensor cost that are kept.

    Attributes:
        first: Of each of the ``held`` largest by magnitude; positive.
        rest: Of each other; not below ``first``.
        held: How many are cheaper; without a meaning where the two are equal.
    """

    first: float
    rest: float
    held: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.rest < math.inf:
            raise InputError(
                f"Price(first=..., rest=...) must be positive, rest not below first, got {self.first} and {self.rest}"
            )
        if self.held < 0:
            raise InputError(f"Price(held=...) must be 0 or more, got {self.held}")

    def of(self, kept: int) -> float:
        """What so many kept weights cost together."""
        cheap = min(kept, self.held)
        return self.first * cheap + self.rest * (kept - cheap)


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of a network's weights while its input masks are as they are.

    Attributes:
        tensors: By name of a parameter, in the order of the network.
        constant: What is spent with all these weights zero.
    """

    tensors: Mapping[str, Price]
    constant: float

    def of(self, kept: Mapping[str, int]) -> float:
        """What so many kept weights of each tensor cost, with the constant."""
        return self.constant + math.fsum(price.of(kept[name]) for name, price in self.tensors.items())


class WeightCost(Protocol):
    """A metric of one inference as a function of which weights, and which inputs of layers, are not zero."""

    @property
    def metric(self) -> str:
        """What budgets call it."""

    @property
    def unit(self) -> str:
        """Of all values."""

    @property
    def source(self) -> str:
        """The analytic model of an accelerator that values are of; empty for counts."""

    @property
    def dense(self) -> float:
        """The upper bound with all weights and inputs kept, which budgets are fractions of."""

    @property
    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """The layers whose inputs may be masked, by path of the module, with the shape of one example's input."""

    def prices(self, masks: Masks) -> Prices:
        """The upper bound that a projection works with; its sum over the kept weights is never below ``exact``."""

    def input_prices(self, masks: Masks) -> Mapping[str, Tensor]:
        """By layer of ``inputs``, what masking an input that is kept takes off the constant of ``prices``, about.

        Float64, of the shape of the layer's inputs, 0 or more. Prices of several inputs need not add up exactly:
        ``prices`` says what a choice of masks spends.
        """

    def exact(self, model: nn.Module, masks: Masks) -> float:
        """The metric of the weights as they are."""

    def table(self, model: nn.Module, masks: Masks) -> pd.DataFrame:
        """``exact`` split, a row per layer; index ``name``, one column the count of its weights left, ``nonzeros``."""


@dataclass(frozen=True, slots=True)
class WeightConstraint:
    """The upper bound of the cost ≤ limit, in the unit of the cost."""

    cost: WeightCost
    limit: float


@dataclass(frozen=True, slots=True, eq=False)
class WeightProblem:
    """Minimise the task's loss over weights and input masks, subject to the constraints.

    Attributes:
        model: The trained network; a solver works on a copy.
        task: Data, loss and score.
        constraints: All must hold at the solution, one or two.
        seed: Of every random choice.
        masks: Of a network some of whose inputs are masked already.
        teacher: Whose outputs the network learns from; its own as it was when None.
    """

    model: nn.Module
    task: Task
    constraints: tuple[WeightConstraint, ...]
    seed: int = 0
    masks: Masks = field(default_factory=dict)
    teacher: nn.Module | None = None

    @property
    def taught_by(self) -> nn.Module:
        """The teacher."""
        return self.model if self.teacher is None else self.teacher


@dataclass(frozen=True, slots=True, eq=False)
class WeightSolution:
    """What a solver found.

    Attributes:
        model: Trained copy with zeros where weights went; inputs are not masked by it itself.
        masks: Of 0 and 1; empty where the method masks no inputs.
        spent: The upper bound of each cost, by metric.
        status: MET when every constraint holds.
        history: One row per epoch, as of ``Solution``, with the share of the weights that is not zero.
    """

    model: nn.Module
    masks: Masks
    spent: Mapping[str, float]
    status: Status
    history: pd.DataFrame


class WeightSolver(Protocol):
    """One method; found by ``name``."""

    @property
    def name(self) -> str:
        """As on the command line."""

    def solve(
        self, problem: WeightProblem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> WeightSolution:
        """Find weights, and masks if the method has any, that meet the constraints at little loss."""
