"""Codes: a network's state as the bytes that are stored, and the stages that make it so.

A stage turns the state of a compact network into a code, or a code into a smaller one. What is stored must be
everything that decoding needs; ``nbytes`` is the size of the file and not of an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from ecc.core.problem import Progress, Task

__all__ = ["Code", "Stage", "State", "Stored", "Trainer", "Workshop"]

State = Mapping[str, Tensor]
"""A network's ``state_dict``."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What one tensor is stored in; the prices of weights follow from it.

    Attributes:
        size: Elements of the decoded tensor.
        entries: Those that are stored: of a sparse tensor the ones that are not zero, else all.
        bits: That an entry has where it is multiplied: of its code, or of a float.
        nbytes: In the file, with codebooks and index.
    """

    size: int
    entries: int
    bits: float
    nbytes: int


class Code(Protocol):
    """A state in the form in which it is stored."""

    def decode(self) -> dict[str, Tensor]:
        """The state, on the CPU, every name of it; tied names share one tensor."""

    @property
    def nbytes(self) -> int:
        """Size of the file."""

    def stored(self) -> Mapping[str, Stored]:
        """By name of a tensor."""


class Trainer(Protocol):
    """Trains a network in place, by the loop that all methods share."""

    def __call__(
        self,
        model: nn.Module,
        *,
        epochs: int,
        lr: float,
        phase: str,
        l2: float = 0.0,
        each_step: Callable[[float], None] | None = None,
    ) -> None:
        """Train the parameters that require gradients.

        Args:
            epochs: Over ``task.train``.
            lr: Peak learning rate of Adam.
            phase: Names what is done, for progress and checkpoints; another one for each call.
            l2: Weight decay.
            each_step: Called behind every step with the share of the training that is done, in (0, 1]. What it changes
                has to be in the state of ``model``, or a run that is resumed does not know of it.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Workshop:
    """What a stage may use that looks at data or trains.

    Attributes:
        model: The network whose state is encoded, with its weights, in eval mode; stages work on copies.
        task: Training and validation data, loss and score.
        train: Trains a network on ``task``.
        evaluate: A network's mean loss and its score in [0, 1] on the validation data.
        inputs: A batch of inputs to run the network with: what ``model(*inputs)`` takes.
        seed: Of every random choice.
        progress: Told of long work.
    """

    model: nn.Module
    task: Task
    train: Trainer
    evaluate: Callable[[nn.Module], tuple[float, float]]
    inputs: tuple[Any, ...]
    seed: int = 0
    progress: Progress | None = None


class Stage(Protocol):
    """One way to make a network's state smaller; found by ``name``."""

    @property
    def name(self) -> str:
        """As on the command line."""

    def encode(self, state: State | Code, workshop: Workshop | None = None) -> Code:
        """A smaller code of the state.

        Args:
            state: A ``state_dict``, or what an earlier stage made.
            workshop: Data and training, for stages that can use them; those that cannot do without refuse None.

        Raises:
            InputError: If there is nothing in the state that the stage could encode, or ``workshop`` is needed.
        """
