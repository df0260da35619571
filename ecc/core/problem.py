"""Problem → Solution: what a solver gets and what it gives back.

A solver sees the trainable network with its coupled groups, the data, the loss and the constraints. It cannot reach a
device or a file; progress and checkpoints go through the ``Progress`` and ``Checkpoint`` that it is handed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import pandas as pd
from torch import Tensor, nn

from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.widths import Kept, WidthGroup, Widths, WidthSpace

__all__ = [
    "Batches",
    "Checkpoint",
    "Constraint",
    "Depth",
    "PathSolver",
    "Problem",
    "Progress",
    "Solution",
    "Solver",
    "Status",
    "Task",
]

Batches = Iterable[tuple[Any, Tensor]]
"""A loader: yields (inputs, targets); can be iterated again and again. Inputs are a tensor or a tuple of tensors."""


@dataclass(frozen=True, slots=True)
class Task:
    """What the network is for.

    Attributes:
        train: Training batches.
        validation: Validation batches; nothing is fitted on them.
        loss: (outputs, targets) → scalar.
        score: (all outputs, all targets) → the figure of merit in [0, 1]; accuracy for classification.
    """

    train: Batches
    validation: Batches
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]


@dataclass(frozen=True, slots=True)
class Constraint:
    """cost(widths) ≤ limit, with the limit in the unit of the cost's metric."""

    cost: CostModel
    limit: float


@dataclass(frozen=True, slots=True, eq=False)
class Depth:
    """Residual blocks that may go whole, as variables behind the widths.

    Attributes:
        blocks: Each with the groups that go with it, in the order of ``space``.
        space: The groups of the problem, then one group per block: 2 where the block stays, 1 where it goes.
        constraints: Those of the problem, their costs over this space; groups that go with a block cost nothing then.
    """

    blocks: Mapping[str, tuple[str, ...]]
    space: WidthSpace
    constraints: tuple[Constraint, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Minimise the task's loss over weights and widths, subject to the constraints.

    Attributes:
        model: The dense, trained network; a solver works on a copy.
        groups: The prunable groups, in the order of ``space``.
        space: Admissible widths.
        task: Data, loss and score.
        constraints: All must hold at the solution's widths.
        seed: Of every random choice.
        least: Fewest channels of a group that a solver may keep; one unit where a group is not named.
        depth: Blocks that a solver which can may remove beside; None where none may go.
    """

    model: nn.Module
    groups: tuple[WidthGroup, ...]
    space: WidthSpace
    task: Task
    constraints: tuple[Constraint, ...]
    seed: int = 0
    least: Widths = field(default_factory=dict)
    depth: Depth | None = None

    def __post_init__(self) -> None:
        if tuple(group.name for group in self.groups) != self.space.names:
            raise InputError("Problem(groups=...) must be the groups of space, in its order")
        if not self.groups:
            raise InputError("the network has no prunable group; see the reasons that the width graph gives")
        for constraint in self.constraints:
            if constraint.cost.space != self.space:
                raise InputError(
                    f"the {constraint.cost.metric} cost model belongs to another network: its groups differ; "
                    "profile and fit this network"
                )
        self.space.vector(self.least)  # refuses what is not admissible
        if self.depth is not None:
            _demand_depth(self.depth, self.space, len(self.constraints))


def _demand_depth(depth: Depth, space: WidthSpace, constraints: int) -> None:
    """Refuse blocks that are not variables behind the groups of ``space``."""
    groups, blocks = len(space), len(depth.blocks)
    ends = depth.space.dense[groups:], depth.space.step[groups:]
    if depth.space.names[:groups] != space.names or ends != ((2,) * blocks, (1,) * blocks):
        raise InputError("Depth(space=...) must be the groups of the problem, then one of width 2 per block")
    if len(depth.constraints) != constraints or any(each.cost.space != depth.space for each in depth.constraints):
        raise InputError("Depth(constraints=...) must be those of the problem, of costs over Depth(space=...)")


class Status(Enum):
    """How a solve ended; the value is the message."""

    MET = ""
    INFEASIBLE = "no admissible widths meet the budget"
    MAX_STEPS = "the step limit was reached before the budget; allow more epochs"


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What a solver found.

    Attributes:
        model: Trained copy of the dense network in which every slice of a dropped unit is zero.
        kept: Unit indices kept per group.
        widths: Channels kept per group.
        predicted: Cost of ``widths`` per metric.
        status: MET when every constraint holds.
        history: One row per epoch: ``phase``, ``epoch``, ``loss``, ``score``, cost and dual per metric.
        removed: Residual blocks that go whole; ``kept`` and ``widths`` do not name the groups that go with them.
    """

    model: nn.Module
    kept: Kept
    widths: Mapping[str, int]
    predicted: Mapping[str, float]
    status: Status
    history: pd.DataFrame
    removed: tuple[str, ...] = ()


class Progress(Protocol):
    """Where long work reports how far it is; called often, cheap, never raises."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """``done`` of ``total`` units of ``stage`` are finished; ``note`` is one short line of figures."""


class Checkpoint(Protocol):
    """Keeps the state of long work so that an interrupted run goes on where it stopped."""

    def load(self) -> dict[str, Any] | None:
        """The last saved state (tensors, numbers, strings, nested dicts and lists), or None."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state, atomically."""


class Solver(Protocol):
    """One method; found by ``name``."""

    @property
    def name(self) -> str:
        """As on the command line."""

    def solve(
        self, problem: Problem, *, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Find weights and widths that meet the constraints at little loss."""


@runtime_checkable
class PathSolver(Protocol):
    """A method that goes from one budget to a tighter one with what it has found and trained."""

    def solve_path(
        self,
        problem: Problem,
        budgets: Sequence[Sequence[Constraint]],
        *,
        progress: Progress | None = None,
        keeper: Callable[[str], Checkpoint | None] | None = None,
    ) -> Iterator[Solution]:
        """One solution per budget, from loose to tight; the constraints of the problem play no part."""
