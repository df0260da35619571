"""stage: secondary stages one after the other, from a network or an artefact to a packed one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.api.keeping import Loaded, load
from ecc.api.packing import with_code
from ecc.api.result import Compression
from ecc.api.stage_limits import StageLimits
from ecc.api.stage_options import TRAINING, settings_of, stages_of
from ecc.api.stage_order import FROM_NETWORK, demand_order
from ecc.api.stage_outputs import demand_finite
from ecc.api.stage_start import Start, start_of_artefact, start_of_network
from ecc.api.staged import Staged, manifest_of_staged
from ecc.api.workshop import Shop, Training, bare_workshop
from ecc.artefact import StageRecord
from ecc.core.budget import Budget
from ecc.core.code import Stage
from ecc.core.errors import InputError, NothingToDo
from ecc.core.factories import kind_of
from ecc.core.problem import Batches, Progress, Task
from ecc.core.verdict import BudgetCheck
from ecc.data.values import accuracy, first_examples
from ecc.energy_models.systolic.array import SystolicArray
from ecc.network.copying import copy_sharing
from ecc.profiler.devices import current_device
from ecc.solvers.evaluation import demand_fitting, evaluate
from ecc.solvers.optimisers import demand_trainable
from ecc.stages.bits import Sharing
from ecc.stages.candidates import DepartingStage
from ecc.stages.code import REMOVE, PackedCode, packed

__all__ = ["StageJob", "stage"]

_LOG = logging.getLogger("ecc")
_SHOWN = 3  # names in a note


@dataclass(frozen=True, eq=False)
class StageJob:
    """One call of ``stage``, refused at construction where its stages cannot work in that order.

    Attributes:
        start: What they begin with.
        stages: In their order.
        training: How they train.
        task: Data, loss and score; None where there are none.
        test: Where accuracies are computed; the task's validation batches when None.
        reason: Why there are no data.
        folder: Keeps the states of training, so that the same call goes on after an interrupt.
        progress: Told of long work.
        limits: That what comes out keeps, by settings that are chosen tensor by tensor; None for none.
        given: Options of the stages that the user has set, ``STAGE.OPTION``; these are not chosen.
        examples: Of the training data, on which is judged what settings lose.
    """

    start: Start
    stages: tuple[Stage, ...]
    training: Training
    task: Task | None = None
    test: Batches | None = None
    reason: str = ""
    folder: Path | None = None
    progress: Progress | None = None
    limits: StageLimits | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    examples: int = 512

    def __post_init__(self) -> None:
        if self.training.device is not None:
            current_device(self.training.device)
        demand_order(self.stages, self.start.code)
        if self.task is not None:
            demand_fitting(self.start.model, self.task)
            if any(getattr(stage, "epochs", 0) for stage in self.stages):
                demand_trainable(self.start.model, self.training.config(1, 1e-3).optimizer)
        if self._sharing is not None:
            self._sharing.demand_reachable(*self._folded())

    def _folded(self) -> tuple[PackedCode, tuple[Stage, ...]]:
        """What is known before any training: the code behind the first stages that need the network alone, and the
        other stages.
        """
        code, stages = self.start.code, self.stages
        while len(stages) > 1 and stages[0].name in FROM_NETWORK and self.start.inputs:
            with suppress(NothingToDo):
                code = packed(stages[0].encode(code, bare_workshop(self.start.model, self.start.inputs)))
            stages = stages[1:]
        return code, stages

    @cached_property
    def _sharing(self) -> Sharing | None:
        if self.limits is None:
            return None
        return self.limits.sharing(self.stages, self.start.code, self.given, self.examples)

    def run(self) -> Staged:
        """Apply the stages.

        Raises:
            InputError: If a stage has nothing to encode, or needs data and there are none; if the network that comes
                out gives NaN or infinity where the one that came in did not.
            Interrupted: If the user pressed Ctrl-C; the state of training is in ``folder``.
        """
        started = time.monotonic()
        self._tell_left()
        model = copy_sharing(self.start.model, {}).eval()
        if self.training.device is not None:
            model.to(self.training.device)
        shop = self._shop(model)
        before, code, records = self._accuracy(model), self.start.code, list[StageRecord]()
        notes: list[str] = []
        for place, stage in enumerate(self.stages):
            began = time.monotonic()
            self._tell(stage, 0)
            choices: dict[str, str] = {}
            try:
                code, choices = self._apply(place, code, model, shop)
            except NothingToDo as nothing:
                notes.append(self._note(stage, nothing, notes))
            model = with_code(model, code)
            score = self._accuracy(model)
            records.append(
                StageRecord(stage.name, settings_of(stage), code.nbytes, score, time.monotonic() - began, choices)
            )
            self._tell(stage, 1, f"{code.nbytes:,} bytes")
        model = model.to("cpu")
        if inputs := self.start.inputs or (() if shop is None else shop.inputs):
            demand_finite(self.start.model, model, inputs, self.stages[-1].name)
        rows = [] if shop is None else shop.rows
        return Staged(
            model=model,
            code=code,
            stages=tuple(records),
            accuracy_before=before,
            accuracy=records[-1].accuracy,
            reason=self._why_not,
            budgets=self._budgets(model, code),
            seconds=time.monotonic() - started,
            history=_joined([self.start.history, *rows]),
            notes=tuple(notes),
            training=self.training,
            start=self.start,
            limits=self.limits,
        )

    def _note(self, stage: Stage, nothing: NothingToDo, earlier: Sequence[str]) -> str:
        """That the chain goes on without a stage; refused where the user meant certain layers, or no stage is left."""
        if getattr(stage, "layers", ()) or len(earlier) + 1 == len(self.stages):
            raise nothing
        _LOG.warning("stage %s changes nothing: %s", stage.name, nothing)
        return f"{stage.name} changes nothing: {nothing}"

    def _tell(self, stage: Stage, done: int, note: str = "") -> None:
        if self.progress is not None:
            self.progress(stage.name, done, 1, note)

    def _tell_left(self) -> None:
        """Name the tensors that stages leave as they are."""
        if left := sorted(self.start.code.left):
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            _LOG.warning(
                "stages leave %s%s as they are, because parametrised weights are computed from them; to encode these, "
                "%s",
                ", ".join(left[:_SHOWN]),
                more,
                REMOVE,
            )

    def _budgets(self, model: nn.Module, code: PackedCode) -> tuple[BudgetCheck, ...]:
        """Those that came in and those of this call, which stand in for older ones on the same metric."""
        own = () if self.limits is None else self.limits.checks(code)
        return (*(each for each in self.start.budgets(model, code) if each.metric not in {o.metric for o in own}), *own)

    @property
    def _why_not(self) -> str:
        """Why accuracies are missing."""
        return "" if self.task is not None else self.reason or "no data were given"

    def _accuracy(self, model: nn.Module) -> float | None:
        if self.task is None:
            return None
        return evaluate(model, self.task.validation if self.test is None else self.test, self.task.score)

    def _settings(self, stage: Stage) -> str:
        """What a stage's training depends on beside the network that it begins with."""
        limits = self.limits
        energy = None if limits is None or limits.energy is None else limits.energy.limit
        return repr((settings_of(stage), None if limits is None else limits.nbytes, energy))

    def _shop(self, model: nn.Module) -> Shop | None:
        if self.task is None:
            return None
        teacher = copy_sharing(model, {}).eval().requires_grad_(False)
        inputs = first_examples(self.task.validation, 1)
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        return Shop(self.task, teacher, given, self.training, self.folder, self.progress)

    def _apply(
        self, place: int, code: PackedCode, model: nn.Module, shop: Shop | None
    ) -> tuple[PackedCode, dict[str, str]]:
        """The code that a stage makes, and what was chosen for each tensor."""
        stage = self.stages[place]
        workshop = None if shop is None else shop.workshop(model, stage.name, place, self._settings(stage))
        if self._sharing is not None and self._sharing.chooses(stage):
            code, share = self._sharing.encode(code, stage, self.stages[place + 1 :], workshop)
            return code, dict(share.labels)
        if workshop is None and stage.name in FROM_NETWORK and self.start.inputs:
            workshop = bare_workshop(model, self.start.inputs, seed=self.training.seed)
        try:
            made = packed(stage.encode(code, workshop))
            return made, dict(stage.departures(code, made)) if isinstance(stage, DepartingStage) else {}
        except NothingToDo:
            raise
        except InputError as error:
            if self.task is not None or not self.reason:
                raise
            raise InputError(f"{error} ({self.reason})") from error


def stage(
    model: nn.Module | Loaded | Staged | str | Path,
    apply: Sequence[str | Stage] | str | Stage,
    *,
    train: Batches | None = None,
    validation: Batches | None = None,
    test: Batches | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    score: Callable[[Tensor, Tensor], float] = accuracy,
    options: Mapping[str, Any] | None = None,
    nbytes: int | str | None = None,
    budgets: Sequence[Budget | str] = (),
    array: SystolicArray | str | Path | None = None,
    effort: float = 1.0,
    distill: float = 0.5,
    example_inputs: Any = None,
    device: str | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Staged:
    """Make the weights of a network smaller by secondary stages, in their order.

    Args:
        model: A trained network, which is left as it is; an artefact, or its folder; or what this function returned.
        apply: Names of stages (``ecc.stages.methods.STAGES``), or stages as objects: ``Codebook(bits=4)``.
        train: Batches of (inputs, targets), repeatable; stages that need no data do without.
        validation: For choosing; given where ``train`` is.
        test: Where accuracies are computed; ``validation`` when None.
        options: ``STAGE.OPTION`` → value for stages that are given by name, and ``train.OPTION`` for all training.
        nbytes: Size of the file that must not be exceeded, in bytes or as ``50KB``, ``10x``, ``5%``: settings of the
            stages are then chosen tensor by tensor, but for options that are given here or in objects.
        budgets: ``energy=0.1`` of the dense network's, on ``array``, kept the same way by weights as they are stored.
        array: The accelerator of a budget on energy: the name of a preset, or a TOML file.
        effort: Multiplies the epochs of every phase of training.
        distill: Weight of the logits of the network as it came in, in the loss of training.
        example_inputs: One batch to trace a network with, so that the result can be saved; the first validation example
            when None.
        device: Where to train; where the network is when None.
        folder: Keeps the states of training, so that the same call goes on after an interrupt.
    Raises:
        InputError: If a stage or an option is unknown, the order cannot work, or a stage needs data that are missing.
    """
    settings = dict(options or {})
    stages = tuple(stages_of(apply, settings, seed=seed))
    own = {name: value for name, value in settings.items() if name.startswith(f"{TRAINING}.")}
    training = Training(effort, distill, seed, device, own)
    if (train is None) != (validation is None):
        raise InputError("give train and validation together, or neither of them")
    task = None if train is None or validation is None else Task(train, validation, loss, score)
    inputs = first_examples(task.validation, 1) if example_inputs is None and task is not None else example_inputs
    start = _start(model, inputs, seed)
    where = None if folder is None else Path(folder)
    wanted = tuple(Budget.parse(each) if isinstance(each, str) else each for each in budgets)
    limits = StageLimits.of(start, nbytes, wanted, array)
    given = settings | _set_in_objects(apply)
    job = StageJob(start, stages, training, task, test, folder=where, progress=progress, limits=limits, given=given)
    return job.run()


def _set_in_objects(apply: Sequence[str | Stage] | str | Stage) -> dict[str, Any]:
    """Options of the stages that are given as objects, those that are not the defaults."""
    several: Sequence[Any] = [apply] if isinstance(apply, str) or not isinstance(apply, Sequence) else apply
    objects: list[Any] = [each for each in several if not isinstance(each, str) and is_dataclass(each)]
    return {
        f"{stage.name}.{option.name}": value
        for stage in objects
        for option in fields(stage)
        if (value := getattr(stage, option.name)) != option.default
    }


def _start(model: nn.Module | Loaded | Staged | str | Path, inputs: Any, seed: int) -> Start:
    if isinstance(model, nn.Module):
        return start_of_network(model, inputs, seed=seed)
    if isinstance(model, Staged):
        return _start_of_staged(model)
    if isinstance(model, Compression):
        raise InputError(
            "stage takes a network or an artefact, not a Compression; save it first with ecc.save(result, FOLDER) and "
            "give ecc.load(FOLDER), or give result.model, of which no budgets are known"
        )
    loaded: object = load(model) if isinstance(model, str | Path) else model
    if not isinstance(loaded, Loaded):
        raise InputError(f"stage takes a network or an artefact, not {kind_of(loaded)}; save it, and give its folder")
    return start_of_artefact(loaded)


def _start_of_staged(result: Staged) -> Start:
    """To go on with what an earlier call has made."""
    manifest = None if result.start.manifest is None else manifest_of_staged(result)
    return replace(
        result.start,
        model=result.model,
        code=result.code,
        nbytes=result.nbytes,
        manifest=manifest,
        history=result.history,
    )


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of all phases one after the other."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
