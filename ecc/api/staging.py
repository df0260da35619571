"""stage: secondary stages one after the other, from a network or an artefact to a packed one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.api.keeping import Loaded, load
from ecc.api.packing import with_code
from ecc.api.stage_options import TRAINING, settings_of, stages_of
from ecc.api.stage_order import FROM_NETWORK, demand_order
from ecc.api.stage_start import Start, start_of_artefact, start_of_network
from ecc.api.staged import Staged, manifest_of_staged
from ecc.api.workshop import Shop, Training, bare_workshop
from ecc.artefact import StageRecord
from ecc.core.code import Stage, Workshop
from ecc.core.errors import InputError
from ecc.core.factories import kind_of
from ecc.core.problem import Batches, Progress, Task
from ecc.data.values import accuracy, first_examples
from ecc.network.copying import copy_sharing
from ecc.profiler.devices import current_device
from ecc.solvers.evaluation import demand_fitting, evaluate
from ecc.stages.candidates import Plan, TensorStage
from ecc.stages.code import PackedCode, packed
from ecc.stages.tuning import tuned

__all__ = ["StageJob", "by_settings", "stage"]


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
        plan: Settings by name of a tensor, one per stage, which stages that have such take instead of their own
            options; they leave tensors that are not named as they are. None for their own options.
    """

    start: Start
    stages: tuple[Stage, ...]
    training: Training
    task: Task | None = None
    test: Batches | None = None
    reason: str = ""
    folder: Path | None = None
    progress: Progress | None = None
    plan: Plan | None = None

    def __post_init__(self) -> None:
        if self.training.device is not None:
            current_device(self.training.device)
        demand_order(self.stages, self.start.code)
        if self.task is not None:
            demand_fitting(self.start.model, self.task)

    def run(self) -> Staged:
        """Apply the stages.

        Raises:
            InputError: If a stage has nothing to encode, or needs data and there are none.
            Interrupted: If the user pressed Ctrl-C; the state of training is in ``folder``.
        """
        started = time.monotonic()
        model = copy_sharing(self.start.model, {}).eval()
        if self.training.device is not None:
            model.to(self.training.device)
        shop = self._shop(model)
        before, code, records = self._accuracy(model), self.start.code, list[StageRecord]()
        for place, stage in enumerate(self.stages):
            began = time.monotonic()
            code, choices = self._apply(place, code, model, shop)
            model = with_code(model, code)
            score = self._accuracy(model)
            records.append(
                StageRecord(stage.name, settings_of(stage), code.nbytes, score, time.monotonic() - began, choices)
            )
        model = model.to("cpu")
        rows = [] if shop is None else shop.rows
        return Staged(
            model=model,
            code=code,
            stages=tuple(records),
            accuracy_before=before,
            accuracy=records[-1].accuracy,
            reason=self._why_not,
            budgets=self.start.budgets(model),
            seconds=time.monotonic() - started,
            history=_joined([self.start.history, *rows]),
            training=self.training,
            start=self.start,
        )

    @property
    def _why_not(self) -> str:
        """Why accuracies are missing."""
        return "" if self.task is not None else self.reason or "no data were given"

    def _accuracy(self, model: nn.Module) -> float | None:
        if self.task is None:
            return None
        return evaluate(model, self.task.validation if self.test is None else self.test, self.task.score)

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
        """The code that a stage makes, and what the plan had for each tensor."""
        stage = self.stages[place]
        workshop = None if shop is None else shop.workshop(model, stage.name, place)
        if self.progress is not None:
            self.progress(stage.name, 0, 1)
        chosen = {name: settings[place] for name, settings in (self.plan or {}).items() if settings[place] is not None}
        if self.plan is not None and isinstance(stage, TensorStage):
            return by_settings(stage, code, chosen, workshop), {name: each.label for name, each in chosen.items()}
        if workshop is None and stage.name in FROM_NETWORK and self.start.inputs:
            workshop = bare_workshop(model, self.start.inputs, seed=self.training.seed)
        try:
            return packed(stage.encode(code, workshop)), {}
        except InputError as error:
            if self.task is not None or not self.reason:
                raise
            raise InputError(f"{error} ({self.reason})") from error


def by_settings(
    stage: TensorStage, code: PackedCode, settings: Mapping[str, Any], workshop: Workshop | None = None
) -> PackedCode:
    """The code with tensors as a stage encodes them by these settings, tuned where the stage would tune its own.

    Args:
        settings: By name of a tensor; others stay as they are.
    """
    nodes = {name: stage.encode_node(name, code.nodes[name], setting) for name, setting in settings.items()}
    code = replace(code, nodes={**code.nodes, **nodes})
    epochs, lr = getattr(stage, "epochs", 0), getattr(stage, "lr", None)
    if workshop is None or not epochs or lr is None or not nodes:
        return code
    return tuned(code, workshop, epochs=epochs, lr=lr, phase="tune", l2=getattr(stage, "l2", 0.0))


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
    stages = tuple(stages_of(apply, settings))
    own = {name: value for name, value in settings.items() if name.startswith(f"{TRAINING}.")}
    training = Training(effort, distill, seed, device, own)
    if (train is None) != (validation is None):
        raise InputError("give train and validation together, or neither of them")
    task = None if train is None or validation is None else Task(train, validation, loss, score)
    inputs = first_examples(task.validation, 1) if example_inputs is None and task is not None else example_inputs
    start = _start(model, inputs, seed)
    where = None if folder is None else Path(folder)
    return StageJob(start, stages, training, task, test, folder=where, progress=progress).run()


def _start(model: nn.Module | Loaded | Staged | str | Path, inputs: Any, seed: int) -> Start:
    if isinstance(model, nn.Module):
        return start_of_network(model, inputs, seed=seed)
    if isinstance(model, Staged):
        return _start_of_staged(model)
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
