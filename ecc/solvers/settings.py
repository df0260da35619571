"""TrainConfig: how to train, refused at construction where it makes no sense."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ecc.core.errors import InputError

__all__ = ["TrainConfig"]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to train.

    Attributes:
        epochs: Passes over the training batches.
        lr: Step size after warm-up.
        optimizer: ``adam`` (L2 decay in the gradient), ``adamw`` (decoupled decay) or ``sgd``.
        weight_decay: Of all parameters.
        momentum: Of ``sgd``; unused by the others.
        schedule: ``cosine`` falls from ``lr`` to 0 over all steps; ``constant`` stays.
        warmup_epochs: The step size first rises linearly over so many epochs.
        distill: Weight d of the distillation loss d·MSE(logits, teacher's logits) + (1 - d)·task loss (ECC); in force
            where a teacher is given.
        clip_norm: Largest norm of the whole gradient; None for no limit.
        dropout: Whether dropout layers drop; ECC switches them off in the student.
        mixed_precision: Autocast to bfloat16, on CUDA devices that lack it to float16 with loss scaling.
        checkpoint_every_s: Least time between two saved states.
        seed: Of every random draw.
        device: Where to train; None for where the model is.
    """

    epochs: int = 10
    lr: float = 1e-3
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    distill: float = 0.5
    clip_norm: float | None = None
    dropout: bool = True
    mixed_precision: bool = False
    checkpoint_every_s: float = 60.0
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        rules = {
            "epochs": (self.epochs >= 0, "must be 0 or more"),
            "lr": (0 < self.lr < math.inf, "must be positive"),
            "optimizer": (self.optimizer in ("adam", "adamw", "sgd"), "must be adam, adamw or sgd"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "must be 0 or more"),
            "momentum": (0 <= self.momentum < 1, "must be in [0, 1)"),
            "schedule": (self.schedule in ("cosine", "constant"), "must be cosine or constant"),
            "warmup_epochs": (0 <= self.warmup_epochs < math.inf, "must be 0 or more"),
            "distill": (0 <= self.distill <= 1, "must be in [0, 1]"),
            "clip_norm": (self.clip_norm is None or self.clip_norm > 0, "must be positive or None"),
            "checkpoint_every_s": (self.checkpoint_every_s >= 0, "must be 0 or more"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise InputError(f"TrainConfig({name}=...) {rule}, got {getattr(self, name)!r}")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Step size of optimiser step ``step`` (from 0)."""
        warm = self.warmup_epochs * steps_per_epoch
        rising = min(1.0, (step + 1) / warm) if warm > 0 else 1.0
        if self.schedule == "constant":
            return self.lr * rising
        done = max(0.0, step - warm) / max(1.0, self.epochs * steps_per_epoch - warm)
        return self.lr * rising * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
