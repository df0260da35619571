"""Workshops: what secondary stages get of the data, and the loop in which they train."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.api.options import as_scalar, checked_options, part_of
from ecc.api.stage_options import TRAINING
from ecc.core.code import Workshop
from ecc.core.errors import InputError
from ecc.core.fields import Scalar
from ecc.core.problem import Progress, Task
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.evaluation import device_of, eval_mode, forward, moved
from ecc.solvers.hooks import Hook, Step
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train

__all__ = ["Shop", "Training", "bare_workshop"]

_OWN = ("epochs", "lr", "distill", "weight_decay", "seed", "device")  # of a phase, or of the whole call
_EVERY_S = 10.0  # between checkpoints


@dataclass(frozen=True, slots=True)
class Training:
    """How stages train, all of them alike.

    Attributes:
        effort: Multiplies the epochs of every phase.
        distill: Weight of the logits of the network as it came in, in [0, 1].
        seed: Of every random choice.
        device: Where to train; None for where the network is.
        options: Further settings, ``train.OPTION`` → value, of ``TrainConfig``.
    """

    effort: float = 1.0
    distill: float = 0.5
    seed: int = 0
    device: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.effort, bool) or not isinstance(self.effort, int | float) or not 0 < self.effort <= 1e6:
            raise InputError(f"effort must be a positive number that multiplies epochs, got {self.effort!r}")
        self.config(1, 1e-3)

    @property
    def settings(self) -> dict[str, Scalar]:
        """Of what the result depends on, for manifests; options by their names."""
        options = {f"stages.{name}": as_scalar(value) for name, value in self.options.items()}
        return {"stages.effort": self.effort, "stages.distill": self.distill, "stages.seed": self.seed, **options}

    def config(self, epochs: int, lr: float, l2: float = 0.0) -> TrainConfig:
        """The settings of one phase of so many epochs before the effort is taken into account."""
        own: dict[str, Any] = {"checkpoint_every_s": _EVERY_S}
        own |= checked_options(TrainConfig, TRAINING, part_of(self.options, TRAINING), _OWN)
        return TrainConfig(
            epochs=math.ceil(epochs * self.effort - 1e-9),
            lr=lr,
            weight_decay=l2,
            distill=self.distill,
            seed=self.seed,
            device=self.device,
            **own,
        )


@dataclass(frozen=True, eq=False)
class Shop:
    """Makes the workshops of the stages of one call.

    Attributes:
        task: Training and validation data, loss and score.
        teacher: The network as it came in, where it is trained.
        inputs: A tuple of the arguments.
        training: How.
        folder: Where the states of training are kept; None for nowhere.
        rows: The history: what training has said so far.
    """

    task: Task
    teacher: nn.Module
    inputs: tuple[Any, ...]
    training: Training
    folder: Path | None = None
    progress: Progress | None = None
    rows: list[pd.DataFrame] = field(default_factory=list)

    def workshop(self, model: nn.Module, stage: str, place: int = 0, settings: str = "") -> Workshop:
        """That of a stage.

        Args:
            model: The network whose state it encodes.
            stage: Its name.
            place: Among the stages of the call.
            settings: What else its training depends on; a state that was kept under others is not resumed.
        """
        phases = count(1)

        def train_phase(
            model: nn.Module,
            *,
            epochs: int,
            lr: float,
            phase: str,
            l2: float = 0.0,
            each_step: Callable[[float], None] | None = None,
        ) -> None:
            hook = _EachStep(each_step, f"each step of {settings}")
            shown = phase if phase.startswith(stage) else f"{stage}: {phase}"
            key = (
                f"{place + 1}-{next(phases)}-{shown}"  # a stage may train several times, and does so again on resuming
            )
            self._train(model, shown, key, self.training.config(epochs, lr, l2), hook)

        inputs = tuple(moved(self.inputs, device_of(model)))
        return Workshop(model, self.task, train_phase, self.judge, inputs, self.training.seed, self.progress)

    def judge(self, model: nn.Module) -> tuple[float, float]:
        """Mean loss and score of a network on the validation data."""
        return judge(model, self.task)

    def _train(self, model: nn.Module, phase: str, key: str, config: TrainConfig, hook: Hook) -> None:
        teacher = self.teacher if config.distill > 0 else None
        file = re.sub(r"[^A-Za-z0-9_.-]+", "-", key)
        checkpoint = None if self.folder is None else FileCheckpoint(self.folder / f"{file}.safetensors")
        rows = train(
            model,
            self.task,
            config,
            teacher=teacher,
            hook=hook,
            stage=phase,
            progress=self.progress,
            checkpoint=checkpoint,
        )
        self.rows.append(rows)


@dataclass(frozen=True, eq=False)
class _EachStep:
    """A hook that tells how much of the training is done; all state is the network's."""

    tell: Callable[[float], None] | None
    key: str

    def after_step(self, step: Step) -> bool:
        if self.tell is not None:
            self.tell((step.index + 1) / step.total)
        return False

    def figures(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


class _NoData:
    """Batches of a call without data: nothing that needs them can be done."""

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        raise InputError("there are no data; give --data (train and validation)")


def bare_workshop(model: nn.Module, inputs: tuple[Any, ...], *, seed: int = 0) -> Workshop:
    """A workshop without data, for stages that look at the network alone.

    Args:
        inputs: To run it with.
    """
    nothing = _NoData()

    def refuse_score(outputs: Tensor, targets: Tensor) -> float:
        raise InputError("there are no data to score on")

    task = Task(nothing, nothing, F.cross_entropy, refuse_score)
    training = Training(seed=seed)
    return Shop(task, model, inputs, training).workshop(model, "")


def judge(model: nn.Module, task: Task) -> tuple[float, float]:
    """Mean loss over the validation examples and score of a network in eval mode.

    Raises:
        InputError: If there is no batch.
    """
    device = device_of(model)
    total, outputs, targets = 0.0, [], []
    with eval_mode(model), torch.no_grad():
        for inputs, wanted in task.validation:
            found: Tensor = forward(model, moved(inputs, device))
            total += float(task.loss(found, wanted.to(device))) * len(wanted)
            outputs.append(found.float().cpu())
            targets.append(wanted.cpu())
    if not outputs:
        raise InputError("the validation data yields no batch; give a loader that can be repeated")
    every = torch.cat(targets)
    return total / len(every), float(task.score(torch.cat(outputs), every))
