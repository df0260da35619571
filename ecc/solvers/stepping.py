"""Stepper: everything that one step of the optimiser reads and changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ecc.core.errors import InputError
from ecc.core.problem import Task
from ecc.solvers.averaging import Average
from ecc.solvers.distillation import distance
from ecc.solvers.distributed import Ranks
from ecc.solvers.evaluation import device_of, forward, running_statistics
from ecc.solvers.norms import SyncedNorms
from ecc.solvers.optimisers import make_optimizer
from ecc.solvers.schedules import ScheduleFactory
from ecc.solvers.settings import TrainConfig

__all__ = ["Stepper"]


class Stepper:
    """The weights with their optimiser, step sizes, loss scaling and moving average.

    Args:
        teacher: Whose outputs are distilled; copied where it is on another device.
        batches: Steps of an epoch.

    Raises:
        InputError: If the optimiser or the schedule cannot be made.
    """

    def __init__(
        self, model: nn.Module, task: Task, config: TrainConfig, teacher: nn.Module | None, ranks: Ranks, batches: int
    ) -> None:
        self.model, self.task, self.config, self.ranks, self.batches = model, task, config, ranks, batches
        self.device = device_of(model)
        self.teacher = teacher
        if teacher is not None and device_of(teacher) != self.device:
            self.teacher = copy.deepcopy(teacher).to(self.device)
        self.optimizer = make_optimizer(model, config.optimizer, config.settings)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._scheduler = _scheduler(self.optimizer, config.schedule)
        half = _half_precision(self.device) if config.mixed_precision else None
        self._autocast = torch.autocast(self.device.type, dtype=half or torch.bfloat16, enabled=half is not None)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=half == torch.float16)
        self.average = Average(model, config.ema) if config.ema is not None else None
        self._statistics = running_statistics(model)
        self.norms = SyncedNorms(model, ranks) if config.sync_norms and ranks.world > 1 else None

    @property
    def rate(self) -> float:
        """Step size of the optimiser's first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def backward(self, inputs: Any, targets: Tensor, counts: Sequence[int] = ()) -> Tensor:
        """Gradients of one batch, scaled where the precision needs it; returns its loss.

        Args:
            counts: Examples of each process in this step; where norms are synced.
        """
        with self._synced(counts) as share:
            with self._autocast:
                loss = self._loss(inputs, targets)
            self._scaler.scale(share * loss if self.norms else loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def sit_out(self, counts: Sequence[int]) -> None:
        """Take part in a step without examples of one's own; where norms are synced."""
        with self._synced(counts):
            pass

    def _synced(self, counts: Sequence[int]) -> AbstractContextManager[float]:
        return self.norms.step(counts) if self.norms is not None else nullcontext(1.0)

    def clear(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def combine(self, present: list[float], weight: float) -> None:
        """Average gradients and batch-norm statistics over the processes.

        Args:
            present: For each parameter, in how many processes it has a gradient.
            weight: Share of this process in the examples of the step.
        """
        if self.ranks.world == 1:
            return
        gradients = []
        for parameter, holders in zip(self.parameters, present, strict=True):
            if holders:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                elif parameter.grad.layout is not torch.strided:
                    parameter.grad = parameter.grad.to_dense()
                gradients.append(parameter.grad)
        if self.norms is None:
            self.ranks.average([*gradients, *self._statistics], weight)
        else:  # gradients have their weights already
            self.ranks.average(gradients, 1.0)
            self.ranks.average(self._statistics, weight)

    def update(self, index: int) -> float:
        """Take step ``index`` (from 0) of the run; returns its size."""
        if self._scheduler is None:
            factor = self.config.factor(index, self.batches)
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * factor
        rate = self.rate
        if self.config.clip_norm is not None:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self._scheduler is not None and self._every == "step":
            self._scheduler.step()
        return rate

    def close_epoch(self, score: float) -> None:
        """Tell a schedule of epochs that one is over."""
        if self._scheduler is None or self._every != "epoch":
            return
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(score)
        else:
            self._scheduler.step()

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {
            **self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "schedule": self._scheduler.state_dict() if self._scheduler is not None else {},
        }

    def weights(self) -> dict[str, Any]:
        """The part of the state that the model needs."""
        average = self.average.state() if self.average is not None else {}
        return {"model": dict(self.model.state_dict()), "average": average}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.restore(state["average"])

    @property
    def _every(self) -> str:
        return self.config.schedule.every if isinstance(self.config.schedule, ScheduleFactory) else ""

    def _loss(self, inputs: Any, targets: Tensor) -> Tensor:
        outputs = forward(self.model, inputs)
        if self.teacher is None:
            return self.task.loss(outputs, targets)
        with torch.no_grad():
            wanted = forward(self.teacher, inputs)
        d = self.config.distill
        distilled = d * distance(outputs, wanted, self.config.temperature)
        return distilled + (1 - d) * self.task.loss(outputs, targets)


def _scheduler(optimizer: torch.optim.Optimizer, schedule: str | ScheduleFactory) -> LRScheduler | None:
    """The user's schedule; None for a named one."""
    if isinstance(schedule, str):
        return None
    made: object = schedule.make(optimizer)
    if not isinstance(made, LRScheduler):
        raise InputError(
            f"schedule {schedule.name!r} made a {type(made).__name__}; its factory must return a torch LRScheduler"
        )
    return made


def _half_precision(device: torch.device) -> torch.dtype:
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16
