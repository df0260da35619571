"""A workshop of the shared training loop on a small task, for stages that train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ecc.core.code import Workshop
from ecc.core.problem import Task
from ecc.solvers.hooks import Step
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train

__all__ = ["BlobShop", "blob_net"]

CLASSES, INPUTS = 5, 12


def blob_net(hidden: int = 40) -> nn.Sequential:
    """A perceptron for the blobs, with weights of seed 0."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, hidden), nn.ReLU(), nn.Dropout(0.4), nn.Linear(hidden, CLASSES))


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    centres = torch.randn(CLASSES, INPUTS, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % CLASSES
    return centres[targets] + 0.7 * torch.randn(count, INPUTS, generator=generator), targets


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs.argmax(1) == targets).double().mean())


@dataclass
class EachStep:
    told: Callable[[float], None]
    key: str = "each step"

    def after_step(self, step: Step) -> bool:
        self.told((step.index + 1) / step.total)
        return False

    def figures(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Any) -> None:
        pass


class BlobShop:
    """Trains on 20 batches of blobs and judges on others; counts the phases."""

    def __init__(self) -> None:
        inputs, targets = blobs(320, 2)
        self.task = Task(
            list(zip(inputs.split(16), targets.split(16), strict=True)), [blobs(200, 3)], F.cross_entropy, accuracy
        )
        self.phases: list[str] = []

    def train(
        self,
        model: nn.Module,
        *,
        epochs: int,
        lr: float,
        phase: str,
        l2: float = 0.0,
        each_step: Callable[[float], None] | None = None,
    ) -> None:
        self.phases.append(phase)
        hook = None if each_step is None else EachStep(each_step)
        train(model, self.task, TrainConfig(epochs=epochs, lr=lr, weight_decay=l2, distill=0.0), hook=hook, stage=phase)

    def judge(self, model: nn.Module) -> tuple[float, float]:
        ((inputs, targets),) = self.task.validation
        with torch.no_grad():
            outputs = model.eval()(inputs)
        return float(F.cross_entropy(outputs, targets)), accuracy(outputs, targets)

    def trained(self) -> nn.Sequential:
        model = blob_net()
        self.train(model, epochs=4, lr=1e-2, phase="dense")
        return model.eval()

    def workshop(self, model: nn.Module) -> Workshop:
        ((inputs, _),) = self.task.validation
        return Workshop(model, self.task, self.train, self.judge, (inputs[:2],))
