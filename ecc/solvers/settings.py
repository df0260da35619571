"""TrainConfig: how to train, refused at construction where it makes no sense."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields
from typing import Any

from ecc.core.errors import InputError
from ecc.core.rules import demand_rules
from ecc.solvers.optimisers import OPTIMIZERS, OptimizerFactory, Settings
from ecc.solvers.schedules import SCHEDULES, ScheduleFactory, Shape

__all__ = ["TrainConfig"]

_OPTIONAL = ("temperature", "clip_norm", "ema")
_NUMBERS = ("epochs", "lr", "weight_decay", "momentum", "step_factor", "warmup_epochs", "distill", *_OPTIONAL,
            "checkpoint_every_s")  # fmt: skip
_WITHOUT_EFFECT = ("checkpoint_every_s", "device")  # on the result


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to train.

    Attributes:
        epochs: Passes over the training batches.
        lr: Step size after warm-up; unused where ``optimizer`` is the user's own.
        optimizer: ``adam`` (L2 decay in the gradient), ``adamw`` (decoupled decay), ``nadam``, ``radam``, ``rmsprop``,
            ``sgd``, ``nesterov``, or a factory.
        weight_decay: Of all parameters.
        momentum: Of ``sgd``, ``nesterov`` and ``rmsprop``; unused by the others.
        schedule: ``cosine`` and ``linear`` fall from ``lr`` to 0 over all steps; ``constant`` stays; ``step`` falls at
            ``step_at``; ``one-cycle`` rises to ``lr`` and falls to nearly 0 (torch's OneCycleLR without its momentum);
            or a factory.
        step_at: Shares of all steps, rising, at which ``step`` falls.
        step_factor: By how much ``step`` falls each time.
        warmup_epochs: The step size first rises linearly over so many epochs; with ``one-cycle``, the length of its
            rise (0 for 30 % of the steps). A factory brings its own.
        distill: Weight d of the distillation loss d·D(logits, teacher's logits) + (1 - d)·task loss; in force where a
            teacher is given.
        temperature: D is T²·KL(softmax(teacher/T) ‖ softmax(student/T)) (Hinton et al. 2015); None for the mean squared
            error of the logits (ECC).
        clip_norm: Largest norm of the whole gradient; None for no limit.
        ema: Decay per step of an exponential moving average of the weights, which is what is scored and what the model
            holds at the end; None for the weights themselves.
        dropout: Whether dropout layers drop; ECC switches them off in the student.
        sync_norms: Whether batch norms of several processes take the statistics of all their examples, so that these
            train as one process with all of them does; else each normalises its own part, as in PyTorch's DDP.
        mixed_precision: Autocast to bfloat16, on CUDA devices that lack it to float16 with loss scaling.
        checkpoint_every_s: Least time between two saved states.
        seed: Of every random draw.
        device: Where to train; None for where the model is.
    """

    epochs: int = 10
    lr: float = 1e-3
    optimizer: str | OptimizerFactory = "adam"
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: str | ScheduleFactory = "cosine"
    step_at: tuple[float, ...] = (0.5, 0.75)
    step_factor: float = 0.1
    warmup_epochs: float = 0.0
    distill: float = 0.5
    temperature: float | None = None
    clip_norm: float | None = None
    ema: float | None = None
    dropout: bool = True
    sync_norms: bool = False
    mixed_precision: bool = False
    checkpoint_every_s: float = 60.0
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        self._demand_numbers()
        optimizer, schedule = self.optimizer, self.schedule
        own_schedule = isinstance(schedule, ScheduleFactory)
        known = isinstance(optimizer, OptimizerFactory) or optimizer in OPTIMIZERS
        rules = {
            "epochs": (self.epochs >= 0, "must be 0 or more"),
            "lr": (0 < self.lr < math.inf, "must be positive"),
            "optimizer": (known, f"must be {', '.join(OPTIMIZERS)} or an OptimizerFactory"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "must be 0 or more"),
            "momentum": (0 <= self.momentum < 1, "must be in [0, 1)"),
            "schedule": (own_schedule or schedule in SCHEDULES, f"must be {', '.join(SCHEDULES)} or a ScheduleFactory"),
            "step_at": (_rising(self.step_at), "must be rising shares of the run in (0, 1)"),
            "step_factor": (0 < self.step_factor <= 1, "must be in (0, 1]"),
            "warmup_epochs": (0 <= self.warmup_epochs < math.inf, "must be 0 or more"),
            "distill": (0 <= self.distill <= 1, "must be in [0, 1]"),
            "temperature": (self.temperature is None or 0 < self.temperature < math.inf, "must be positive or None"),
            "clip_norm": (
                self.clip_norm is None or 0 < self.clip_norm < math.inf,
                "must be positive and finite, or None",
            ),
            "ema": (self.ema is None or 0 <= self.ema < 1, "must be in [0, 1) or None"),
            "checkpoint_every_s": (0 <= self.checkpoint_every_s < math.inf, "must be 0 or more and finite"),
        }
        demand_rules(self, rules)
        if optimizer == "nesterov" and not self.momentum:
            raise InputError("TrainConfig(optimizer='nesterov') needs a momentum above 0; 'sgd' does without")
        if own_schedule and self.warmup_epochs:
            raise InputError(
                f"TrainConfig(warmup_epochs=...) has no effect on a schedule of your own, got {self.warmup_epochs}; "
                "put the warm-up into its factory, as with torch's SequentialLR"
            )

    def _demand_numbers(self) -> None:
        """Refuse texts and the like where numbers are wanted, which could not even be compared."""
        for name in _NUMBERS:
            value = getattr(self, name)
            if not isinstance(value, int | float) and (value is not None or name not in _OPTIONAL):
                raise InputError(f"TrainConfig({name}=...) must be a number, got {value!r}")

    @property
    def settings(self) -> Settings:
        """What a named optimiser takes."""
        return Settings(self.lr, self.weight_decay, self.momentum)

    @property
    def identity(self) -> dict[str, Any]:
        """Every setting that the result depends on, as JSON values; factories go by their names."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _WITHOUT_EFFECT}
        for name in ("optimizer", "schedule"):
            if not isinstance(values[name], str):
                values[name] = [type(values[name]).__name__, values[name].name]
        if isinstance(self.schedule, ScheduleFactory):
            values["schedule"].append(self.schedule.every)
        return values

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """What a named schedule multiplies the step size of optimiser step ``step`` (from 0) with; 1 for a factory."""
        if isinstance(self.schedule, ScheduleFactory):
            return 1.0
        warm, total = self.warmup_epochs * steps_per_epoch, self.epochs * steps_per_epoch
        return SCHEDULES[self.schedule](step, Shape(warm, total, self.step_at, self.step_factor))

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Step size of optimiser step ``step`` (from 0) under a named optimiser and schedule."""
        return self.lr * self.factor(step, steps_per_epoch)


def _rising(shares: tuple[float, ...]) -> bool:
    bounds = (0.0, *shares, 1.0)
    return all(before < after for before, after in itertools.pairwise(bounds))
