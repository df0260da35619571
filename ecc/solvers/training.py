"""The training loop that all solvers share: distillation, schedules, checkpoints, precision, several processes, and a
guard against NaN, data and devices that fail.

Every random draw follows from the seed, the epoch and the batch, so a run that was interrupted and resumed ends with
the same weights, bit for bit on one thread, as a run that was not. (Loaders that draw from generators of their own
must seed them themselves.)
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NoReturn

import pandas as pd
import torch
from torch import Tensor, nn

from ecc.core.errors import EccError, InputError, Interrupted, UnavailableError
from ecc.core.problem import Batches, Checkpoint, Progress, Task
from ecc.solvers.distributed import join
from ecc.solvers.evaluation import device_of, eval_mode, evaluate, kept_modes, moved, recalibrate, switch_off_dropout
from ecc.solvers.failures import Failure, failure_of, told
from ecc.solvers.hooks import EpochObserver, Hook, Step
from ecc.solvers.interrupts import deferred_interrupt
from ecc.solvers.randomness import kept_generators, seed_generators
from ecc.solvers.resuming import States, identity
from ecc.solvers.settings import TrainConfig
from ecc.solvers.sharding import shard
from ecc.solvers.stepping import Stepper

__all__ = ["EpochObserver", "Hook", "Step", "TrainConfig", "evaluate", "recalibrate", "train"]

_LOG = logging.getLogger("ecc")
_CHECK_STEPS = 25  # steps between looks at the loss; each look waits for the device
_COLUMNS = ("phase", "epoch", "loss", "score", "lr", "seconds")


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

    Under torchrun, or in a process group that the program has made, every process makes the same call; gradients are
    averaged, each takes every so many-th batch, and the first one evaluates, reports and keeps the checkpoint.

    Args:
        teacher: Its outputs, in eval mode, are the target of distillation.
        stage: Names the phase in the history and for ``progress``.
        progress: Told of every step, and of every epoch if it is an ``EpochObserver``.
        checkpoint: Where the state is kept; a state of the same start and settings is resumed, another one replaced.

    Returns:
        One row per epoch: phase, epoch (from 1), loss (mean over the epoch), score (of ``task.validation``), lr,
        the hook's figures, seconds.

    Raises:
        InputError: If the loader yields nothing or no parameter can be trained.
        InputError: If the loss or a weight is no longer finite; the model then holds the last good weights.
        InputError: If the loader fails; the model holds the weights of the step before, and the state is saved.
        UnavailableError: If the device is lost or its memory is full; the model then holds the last good weights, on
            the CPU if its device is lost, and their state is saved.
        Interrupted: If the user pressed Ctrl-C or the process was told to end (SIGTERM); the state is saved.
    """
    run = _Run(model, task, config, teacher if config.distill > 0 else None, hook, stage, progress, checkpoint)
    run.execute()
    return pd.DataFrame(run.rows, columns=list(run.rows[0]) if run.rows else list(_COLUMNS))


class _Run:
    """One call of ``train``: how far it is, and what a checkpoint holds."""

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
        self.ranks, device = join(config.device, device_of(model))
        if device is not None:
            model.to(device)
        self.model, self.task, self.config, self.teacher = model, task, config, teacher
        self.hook, self.stage, self.progress = hook, stage, progress if self.ranks.first else None
        self.device = device_of(model)
        self.batches = math.ceil(_count(task.train, self.device) / self.ranks.world)
        self.train = shard(task.train, self.ranks)
        self.ranks.share(list(model.state_dict().values()))
        self.stepper = Stepper(model, task, config, teacher, self.ranks, self.batches)
        settings = [config.identity, stage, self.batches, self.ranks.world, hook and hook.key]
        key = identity(settings, [model, teacher]) if checkpoint is not None else ""
        self.states = States(checkpoint, key, self.ranks, config.checkpoint_every_s, stage)
        self.rows: list[dict[str, Any]] = []
        self.epoch = self.batch = self.examples = 0
        self.loss = torch.zeros((), device=self.device)
        self.seconds = 0.0
        self.stopped = False
        self.at_boundary = True
        self.note = ""

    def execute(self) -> None:
        """Train until the epochs are over or the hook stops."""
        self._resume()
        try:
            with (
                kept_modes(self.model),
                eval_mode(self.stepper.teacher),
                nullcontext() if self.config.dropout else switch_off_dropout(self.model),
                kept_generators(self.device),
                deferred_interrupt() as interrupted,
            ):
                # An interrupt can come between the step that ends training and the end of its epoch.
                while self.epoch < self.config.epochs and (self.batch or not self.stopped):
                    self._run_epoch(interrupted)
        except KeyboardInterrupt:
            raise self._interrupted() from None
        except (RuntimeError, MemoryError) as error:
            failure = failure_of(error)
            if failure is None:
                raise
            raise self._failed(failure, error) from error
        if self.stepper.average is not None and self.epoch:
            self.stepper.average.install()

    def _run_epoch(self, interrupted: Callable[[], bool]) -> None:
        started = time.monotonic() - self.seconds
        batches = _lazily(self.train)
        self.model.train()
        behind = self._skip(batches)
        while not self.stopped and self._take_step(behind or self._fetch(batches, self.batch)):
            self.seconds = time.monotonic() - started
            self._pause(interrupted())
        if not self.batch:
            raise InputError(
                f"the training batches of epoch {self.epoch + 1} are empty; give a loader that can be repeated"
            )
        self._close_epoch(started)

    def _skip(self, batches: Iterator[tuple[Any, Tensor]]) -> Exception | None:
        """Pass the batches that a resumed epoch has seen; the loader's error if it fails at one of them."""
        for number in range(self.batch):
            passed = self._fetch(batches, number)
            if isinstance(passed, Exception):
                return passed
        return None

    def _fetch(self, batches: Iterator[tuple[Any, Tensor]], number: int) -> tuple[Any, Tensor] | Exception | None:
        """A batch; None behind the last one; the loader's error if it fails."""
        seed_generators(self.device, self.config.seed, self.epoch, number)
        try:
            inputs, targets = next(batches)
        except StopIteration:
            return None
        except Exception as error:
            if failure_of(error) is not None:
                raise
            return error
        return inputs, targets

    def _take_step(self, fetched: tuple[Any, Tensor] | Exception | None) -> bool:
        """One step of the optimiser and of the hook; False behind the last batch of all processes."""
        self.at_boundary = False
        batch = fetched if isinstance(fetched, tuple) else None
        self.stepper.clear()
        count, refusal = 0, fetched if isinstance(fetched, Exception) else None
        counts = self._counts(batch, refusal)
        if batch is not None and counts is not None:
            try:
                count = self._backward(*batch, counts)
            except (IndexError, ValueError) as error:  # targets that are no class, or of another shape
                if isinstance(error, EccError):
                    raise
                if counts:  # others wait in the middle of a network for what this process will never send
                    raise InputError(
                        f"the network and the loss of {self.stage} do not take batch {self.batch + 1} of epoch "
                        f"{self.epoch + 1} ({told(error)}); the last saved state stands"
                    ) from error
                refusal = error
        elif counts:
            self.stepper.sit_out(counts)
        present = [float(p.grad is not None) for p in self.stepper.parameters] if self.ranks.world > 1 else []
        failures, holders, examples, *present = self.ranks.total(
            [refusal is not None, batch is not None, count, *present]
        )
        if failures or not holders:
            self.at_boundary = True
            if failures:
                self._raise_data_error(refusal, failed_to_load=batch is None)
            return False
        self.stepper.combine(present, count / max(examples, 1.0))
        index, total = self.epoch * self.batches + self.batch, self.config.epochs * self.batches
        rate = self.stepper.update(index)
        self.batch += 1
        self.examples += int(examples)
        if self.hook is not None:
            self.stopped = self.hook.after_step(Step(self.stepper.optimizer, rate, index, total))
        if self.stepper.average is not None:
            self.stepper.average.update()
        self.at_boundary = True
        self._report(index + 1, total)
        return True

    def _counts(self, batch: tuple[Any, Tensor] | None, refusal: Exception | None) -> list[int] | None:
        """Examples of each process in this step where norms are synced, else none; None if a loader has failed."""
        if self.stepper.norms is None:
            return []
        own = [0.0] * self.ranks.world
        own[self.ranks.rank] = float(0 if batch is None else len(batch[1]))
        failed, *counts = self.ranks.total([refusal is not None, *own])
        return None if failed else [int(count) for count in counts]

    def _backward(self, inputs: Any, targets: Tensor, counts: list[int]) -> int:
        """Gradients of one batch; its number of examples."""
        count = len(targets)
        seed_generators(self.device, self.config.seed, self.epoch, self.batch, 1 + self.ranks.rank)
        loss = self.stepper.backward(moved(inputs, self.device), targets.to(self.device), counts)
        self.loss += loss.float() * count
        return count

    def _pause(self, pressed: bool) -> None:
        """Between two steps: end, save or go on, in all processes alike."""
        decided = (self.stopped, self.states.due) if self.ranks.first else (False, False)
        presses, stopped, due = self.ranks.total([pressed, *decided])
        self.stopped = bool(stopped)
        if self.stopped:
            return
        if presses:
            if self.ranks.world > 1:
                self._save()
            raise KeyboardInterrupt
        if due:
            self._save()

    def _report(self, done: int, total: int) -> None:
        if done % _CHECK_STEPS == 0:
            loss = self._guard(weights=False)
            if not self.rows:
                self.note = f"loss {loss / max(self.examples, 1):.4g}"
        if self.progress is not None:
            self.progress(self.stage, done, total, self.note)

    def _guard(self, *, weights: bool) -> float:
        """The summed loss; raises, with the last good weights restored, unless it (and the weights) are finite."""
        total = self._total_loss()
        finite = total.isfinite()
        if weights:
            checks = [p.isfinite().all() for p in self.model.parameters() if p.is_floating_point()]
            finite = finite & torch.stack(checks).all()
        if bool(finite):
            return float(total)
        kept = self.states.put_back(self.model, self.stepper.average)
        raise InputError(
            f"the loss of {self.stage} stopped being a finite number in epoch {self.epoch + 1} at learning rate "
            f"{self.stepper.rate:g}; {kept}: lower the learning rate, set clip_norm, or mend data that hold NaN"
        )

    def _total_loss(self) -> Tensor:
        """Summed over the examples of the epoch so far, of all processes."""
        if self.ranks.world == 1:
            return self.loss
        return torch.tensor(self.ranks.total([float(self.loss)])[0])

    def _close_epoch(self, started: float) -> None:
        self.at_boundary = False
        loss = self._guard(weights=True) / max(self.examples, 1)
        self.ranks.share(list(self.model.state_dict().values()))  # no process may drift away
        score = self._score_or_save()
        row = {"phase": self.stage, "epoch": self.epoch + 1, "loss": loss, "score": score, "lr": self.stepper.rate}
        row |= self.hook.figures() if self.hook is not None else {}
        self.stepper.close_epoch(score)
        self.rows.append(row | {"seconds": time.monotonic() - started})
        self._tell(row)
        self.epoch, self.batch, self.examples, self.seconds = self.epoch + 1, 0, 0, 0.0
        self.loss = torch.zeros_like(self.loss)
        self._remember()
        self.at_boundary = True
        finished = self.stopped or self.epoch == self.config.epochs
        if self.ranks.first_says(finished or self.states.due)[0]:
            self._save()

    def _score_or_save(self) -> float:
        """The score; if the data to score on fail, the state of the end of the epoch is saved."""
        try:
            return self._score()
        except InputError:
            if self.ranks.world == 1:
                self._save()
            raise

    def _score(self) -> float:
        """Of the validation batches, by the first process."""
        average = self.stepper.average
        own = 0.0
        with average.installed() if average is not None else nullcontext():
            if self.ranks.first:
                own = evaluate(self.model, self._validation(), self.task.score)
        return self.ranks.first_says(own)[0]

    def _validation(self) -> Iterator[tuple[Any, Tensor]]:
        """The validation batches; a loader that fails is told of."""
        try:
            yield from self.task.validation
        except Exception as error:
            if isinstance(error, EccError) or failure_of(error) is not None:
                raise
            raise InputError(
                f"the validation data of {self.stage} failed in epoch {self.epoch + 1} ({told(error)})"
                f"{'; the state is saved, and the same call goes on from there' if self.states.kept else ''}"
            ) from error

    def _tell(self, row: Mapping[str, Any]) -> None:
        """The row to the log, to the progress line and to whoever observes epochs."""
        _LOG.debug("%s", row)
        figures = {name: value for name, value in row.items() if name not in _COLUMNS}
        texts = [f"loss {row['loss']:.4g}", f"score {row['score']:.4f}", *(f"{k} {v:.3g}" for k, v in figures.items())]
        self.note = ", ".join(texts)
        watcher: object = self.progress
        if isinstance(watcher, EpochObserver):
            watcher.after_epoch(self.rows[-1])

    def _state(self) -> dict[str, Any]:
        """All that a checkpoint holds; made in all processes together."""
        return {
            **self.stepper.state(),
            "hook": self.hook.state() if self.hook is not None else {},
            "rows": self.rows,
            "epoch": self.epoch,
            "batch": self.batch,
            "examples": self.examples,
            "loss": self._total_loss(),
            "seconds": self.seconds,
            "stopped": self.stopped,
        }

    def _remember(self) -> None:
        position = {"epoch": self.epoch, "batch": self.batch}
        self.states.remember(self._state() if self.states.kept else self.stepper.weights() | position)

    def _save(self) -> None:
        if self.states.kept:
            self._guard(weights=True)
            self.states.save(self._state())

    def _resume(self) -> None:
        state = self.states.load()
        if state is not None:
            self.stepper.restore(state)
            if self.hook is not None:
                self.hook.restore(state["hook"])
            self.rows, self.epoch, self.batch = state["rows"], state["epoch"], state["batch"]
            self.examples, self.seconds, self.stopped = state["examples"], state["seconds"], state["stopped"]
            if self.ranks.first:
                self.loss = state["loss"].to(self.loss)
            _LOG.info("%s resumes in epoch %d", self.stage, self.epoch + 1)
        self._remember()

    def _interrupted(self) -> Interrupted:
        where = f"{self.stage} was interrupted in epoch {self.epoch + 1} of {self.config.epochs}"
        if not self.states.kept:
            return Interrupted(f"{where}; nothing is kept, because no checkpoint was asked for")
        # Halfway through a step the state saved before stands; several processes have saved together.
        if self.at_boundary and self.ranks.world == 1:
            self._save()
        return Interrupted(f"{where}; its state is saved, and the same call goes on from there")

    def _raise_data_error(self, error: Exception | None, *, failed_to_load: bool) -> NoReturn:
        """The loader, or the network on what it gave, failed here or in another process, behind a finished step."""
        self._save()
        if isinstance(error, EccError):
            raise error
        saved = "; the state is saved, and the same call goes on from there" if self.states.kept else ""
        place = f"batch {self.batch + 1} of epoch {self.epoch + 1}"
        where = f"the training data of {self.stage} failed at {place}"
        if error is not None and not failed_to_load:
            where = f"the network and the loss of {self.stage} do not take {place}"
        if error is not None:
            raise InputError(f"{where} ({told(error)}); the weights from before that batch are kept{saved}") from error
        raise InputError(f"{where} in another process{saved}")

    def _failed(self, failure: Failure, error: BaseException) -> UnavailableError:
        """The device failed: the last good weights go back to the model, and their state is saved."""
        kept = self.states.put_back(self.model, self.stepper.average, lost=failure is Failure.LOST)
        what = "ran out of memory" if failure is Failure.MEMORY else "was lost"
        return UnavailableError(
            f"device {self.device} {what} in epoch {self.epoch + 1} of {self.stage} ({told(error)}); "
            f"{kept}{self.states.rescue()}: {failure.value}"
        )


def _lazily(batches: Batches) -> Iterator[tuple[Any, Tensor]]:
    """An iterator that asks the loader for its own at the first batch, where its failures are expected."""
    yield from batches


def _count(batches: Batches, device: torch.device) -> int:
    """Batches per epoch; a loader without a length is run through once."""
    try:
        count = len(batches)  # type: ignore[arg-type]
    except TypeError:
        with kept_generators(device):
            count = sum(1 for _ in batches)
    if not count:
        raise InputError("the training data yields no batch; check the data and the batch size")
    return count
