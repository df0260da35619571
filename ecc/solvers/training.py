"""The training loop that all solvers share: distillation, schedules, checkpoints, precision, and a guard against NaN.

Every random draw of an epoch follows ``torch.manual_seed(seed + epoch)``, so a run that was interrupted and resumed
ends with the same weights, bit for bit on one thread, as a run that was not. (Loaders that draw from other generators
than torch's must seed them themselves.)
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from ecc.core.errors import InputError, Interrupted
from ecc.core.problem import Batches, Checkpoint, Progress, Task
from ecc.solvers.evaluation import (
    device_of,
    eval_mode,
    evaluate,
    forward,
    kept_modes,
    moved,
    recalibrate,
    switch_off_dropout,
)
from ecc.solvers.interrupts import deferred_interrupt
from ecc.solvers.optimisers import make_optimizer
from ecc.solvers.settings import TrainConfig

__all__ = ["Hook", "Step", "TrainConfig", "evaluate", "recalibrate", "train"]

_LOG = logging.getLogger("ecc")
_CHECK_STEPS = 25  # steps between looks at the loss; each look waits for the device


@dataclass(frozen=True, slots=True)
class Step:
    """An optimiser step that was just taken.

    Attributes:
        optimizer: Holds Adam's moments.
        rate: Its step size.
        index: From 0.
        total: Steps of the whole run.
    """

    optimizer: torch.optim.Optimizer
    rate: float
    index: int
    total: int


class Hook(Protocol):
    """What a solver does between the steps of training."""

    @property
    def key(self) -> str:
        """Text that identifies the hook's settings; a checkpoint of other settings is not resumed."""

    def after_step(self, step: Step) -> bool:
        """Act on the weights; True ends training."""

    def figures(self) -> Mapping[str, float]:
        """Columns of the epoch's row of the history."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""


def train(
    model: nn.Module,
    task: Task,
    config: TrainConfig,
    *,
    teacher: nn.Module | None = None,
    hook: Hook | None = None,
    stage: str = "train",
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> pd.DataFrame:
    """Train ``model`` in place (moved to ``config.device`` if that is given).

    Args:
        teacher: Its outputs, in eval mode, are the target of distillation.
        stage: Names the phase in the history and for ``progress``.
        checkpoint: Where the state is kept; a state of the same start and settings is resumed, another one replaced.

    Returns:
        One row per epoch: phase, epoch (from 1), loss (mean over the epoch), score (of ``task.validation``), lr,
        the hook's figures, seconds.

    Raises:
        InputError: If the loader yields nothing or no parameter can be trained.
        InputError: If the loss or a weight is no longer finite; the model then holds the last good weights.
        Interrupted: If the user pressed Ctrl-C; the state is saved.
    """
    if config.device is not None:
        model.to(config.device)
    run = _Run(model, task, config, teacher if config.distill > 0 else None, hook, stage, progress, checkpoint)
    run.execute()
    return pd.DataFrame(run.rows, columns=list(run.rows[0]) if run.rows else list(_COLUMNS))


_COLUMNS = ("phase", "epoch", "loss", "score", "lr", "seconds")


class _Run:
    """One call of ``train``; its attributes are what a checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        config: TrainConfig,
        teacher: nn.Module | None,
        hook: Hook | None,
        stage: str,
        progress: Progress | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.model, self.task, self.config, self.teacher = model, task, config, teacher
        self.hook, self.stage, self.progress, self.checkpoint = hook, stage, progress, checkpoint
        self.device = device_of(model)
        self.batches = _count(task.train)
        self.optimizer = make_optimizer(model, config.optimizer, config.settings)
        half = _half_precision(self.device) if config.mixed_precision else None
        self.autocast = torch.autocast(self.device.type, dtype=half or torch.bfloat16, enabled=half is not None)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half == torch.float16)
        if teacher is not None and device_of(teacher) != self.device:
            self.teacher = copy.deepcopy(teacher).to(self.device)
        self.rows: list[dict[str, Any]] = []
        self.epoch = self.batch = self.examples = 0
        self.loss = torch.zeros((), device=self.device)
        self.random: list[Tensor] = []
        self.seconds = 0.0
        self.stopped = False
        self.at_boundary = True
        self.good = _snapshot(model)
        self.key = self._identity() if checkpoint is not None else ""
        self.saved_at = time.monotonic()

    def execute(self) -> None:
        """Train until the epochs are over or the hook stops."""
        self._resume()
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with (
                kept_modes(self.model),
                eval_mode(self.teacher),
                nullcontext() if self.config.dropout else switch_off_dropout(self.model),
                torch.random.fork_rng(devices),
                deferred_interrupt() as interrupted,
            ):
                while self.epoch < self.config.epochs and not self.stopped:
                    self._run_epoch(interrupted)
        except KeyboardInterrupt:
            raise self._interrupted() from None

    def _run_epoch(self, interrupted: Callable[[], bool]) -> None:
        started = time.monotonic() - self.seconds
        torch.manual_seed(self.config.seed + self.epoch)
        batches = iter(self.task.train)
        if self.batch:
            next(itertools.islice(batches, self.batch - 1, None), None)  # a resumed epoch goes on behind these
            _set_random(self.random, self.device)
        self.model.train()
        for inputs, targets in batches:
            self._take_step(moved(inputs, self.device), targets.to(self.device))
            self.seconds = time.monotonic() - started
            if self.stopped:
                break
            if interrupted():
                raise KeyboardInterrupt
            if time.monotonic() - self.saved_at >= self.config.checkpoint_every_s:
                self._save()
        if not self.batch:
            raise InputError(
                f"the training batches of epoch {self.epoch + 1} are empty; give a loader that can be repeated"
            )
        self._close_epoch(started)

    def _take_step(self, inputs: Any, targets: Tensor) -> None:
        self.at_boundary = False
        index = self.epoch * self.batches + self.batch
        rate = self.config.rate(index, self.batches)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self.autocast:
            loss = self._loss(inputs, targets)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.config.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.loss += loss.detach().float() * len(targets)
        self.examples += len(targets)
        self.batch += 1
        if self.hook is not None:
            total = self.config.epochs * self.batches
            self.stopped = self.hook.after_step(Step(self.optimizer, rate, index, total))
        if self.checkpoint is not None:
            self.random = _get_random(self.device)
        self.at_boundary = True
        self._report(index + 1)

    def _loss(self, inputs: Any, targets: Tensor) -> Tensor:
        outputs = forward(self.model, inputs)
        loss = self.task.loss(outputs, targets)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            wanted = forward(self.teacher, inputs)
        d = self.config.distill
        return d * nn.functional.mse_loss(outputs.float(), wanted.float()) + (1 - d) * loss

    def _report(self, done: int) -> None:
        if done % _CHECK_STEPS == 0:
            self._guard(weights=False)
        if self.progress is not None:
            last = self.rows[-1] if self.rows else None
            note = f"loss {last['loss']:.4g}, score {last['score']:.4f}" if last is not None else ""
            self.progress(self.stage, done, self.config.epochs * self.batches, note)

    def _guard(self, *, weights: bool) -> None:
        """Raise, with the last good weights restored, unless the loss (and the weights) are finite."""
        finite = self.loss.isfinite()
        if weights:
            checks = [p.isfinite().all() for p in self.model.parameters() if p.is_floating_point()]
            finite = finite & torch.stack(checks).all()
        if bool(finite):
            return
        self.model.load_state_dict(self.good)
        raise InputError(
            f"the loss of {self.stage} stopped being a finite number in epoch {self.epoch + 1} at learning rate "
            f"{self.config.lr:g}; the weights from before that epoch are kept: lower the learning rate or set clip_norm"
        )

    def _close_epoch(self, started: float) -> None:
        self.at_boundary = False
        self._guard(weights=True)
        loss = float(self.loss) / max(self.examples, 1)
        score = evaluate(self.model, self.task.validation, self.task.score)
        row = {"phase": self.stage, "epoch": self.epoch + 1, "loss": loss, "score": score}
        row["lr"] = self.optimizer.param_groups[0]["lr"]
        row |= self.hook.figures() if self.hook is not None else {}
        self.rows.append(row | {"seconds": time.monotonic() - started})
        _LOG.debug("%s", row)
        self.epoch, self.batch, self.examples, self.seconds = self.epoch + 1, 0, 0, 0.0
        self.loss = torch.zeros_like(self.loss)
        self.good = _snapshot(self.model)
        self.at_boundary = True
        finished = self.stopped or self.epoch == self.config.epochs
        if finished or time.monotonic() - self.saved_at >= self.config.checkpoint_every_s:
            self._save()

    def _identity(self) -> str:
        """Hash of everything that decides the result: start weights, settings, hook, number of batches."""
        digest = hashlib.sha256(
            json.dumps([self.config.identity, self.stage, self.batches, self.hook and self.hook.key]).encode()
        )
        for network in (self.model, self.teacher):
            for name, tensor in network.state_dict().items() if network is not None else ():
                digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        self._guard(weights=True)
        self.checkpoint.save(
            {
                "key": self.key,
                "model": dict(self.model.state_dict()),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "hook": self.hook.state() if self.hook is not None else {},
                "rows": self.rows,
                "epoch": self.epoch,
                "batch": self.batch,
                "examples": self.examples,
                "loss": self.loss,
                "random": self.random,
                "seconds": self.seconds,
                "stopped": self.stopped,
            }
        )
        self.saved_at = time.monotonic()

    def _resume(self) -> None:
        state = self.checkpoint.load() if self.checkpoint is not None else None
        if state is None:
            return
        if state.get("key") != self.key:
            _LOG.warning("the checkpoint of %s belongs to other weights or settings; starting anew", self.stage)
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.hook is not None:
            self.hook.restore(state["hook"])
        self.rows, self.epoch, self.batch, self.examples = (
            state["rows"],
            state["epoch"],
            state["batch"],
            state["examples"],
        )
        self.loss = state["loss"].to(self.device)
        self.random, self.seconds, self.stopped = state["random"], state["seconds"], state["stopped"]
        self.good = _snapshot(self.model)
        _LOG.info("%s resumes in epoch %d", self.stage, self.epoch + 1)

    def _interrupted(self) -> Interrupted:
        where = f"{self.stage} was interrupted in epoch {self.epoch + 1} of {self.config.epochs}"
        if self.checkpoint is None:
            return Interrupted(f"{where}; nothing is kept, because no checkpoint was asked for")
        if self.at_boundary:  # else the weights are halfway through a step, and the state saved before stands
            self._save()
        return Interrupted(f"{where}; its state is saved, and the same call goes on from there")


def _half_precision(device: torch.device) -> torch.dtype:
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def _count(batches: Batches) -> int:
    """Batches per epoch; a loader without a length is run through once."""
    count = len(batches) if isinstance(batches, Sized) else sum(1 for _ in batches)
    if not count:
        raise InputError("the training data yields no batch; check the data and the batch size")
    return count


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _get_random(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
