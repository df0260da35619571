"""The verbs of ``import ecc``: plain arguments in, values out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ecc.api.adaptive import measure
from ecc.api.compressing import Compression, job_of
from ecc.api.fronts import front_of
from ecc.api.job import Job
from ecc.api.keeping import Loaded, load
from ecc.api.keeping import verify as verify_loaded
from ecc.api.named import batch_of
from ecc.api.recipe import Recipe
from ecc.api.ruler import Meters
from ecc.api.targets import demand_single, sets_of
from ecc.api.weight_job import WeightJob
from ecc.api.weight_recipe import AnyRecipe, recipe_of
from ecc.core.budget import Budget
from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.problem import Batches, Progress, Task
from ecc.core.table import ProfileTable
from ecc.data.values import accuracy, first_examples
from ecc.fronts import Fronts
from ecc.network.tracing import trace
from ecc.profiler.store import Store
from ecc.verification import Verification

__all__ = ["compress", "compress_path", "front", "profile", "verify"]


def profile(
    model: nn.Module,
    example_inputs: Any,
    *,
    metrics: Sequence[str] = ("latency",),
    samples: int = 200,
    store: Store | str | Path | None = None,
    device: str = "cpu",
    runtime: str = "eager",
    threads: int = 1,
    cores: Sequence[int] = (),
    step: int | None = None,
    energy_source: str = "auto",
    meters: Meters = (),
    adaptive: bool = False,
    max_seconds: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    wait: bool = True,
) -> ProfileTable:
    """Measure random widths of a network on a device, each in turn with the dense network.

    Args:
        example_inputs: The batch that is timed: a tensor, a tuple of positional arguments or a dict of keyword ones;
            these may be nested, as for ``trace``.
        metrics: ``latency``, ``energy``.
        runtime: How networks are run: ``eager``, ``compile``, ``cudagraph``, ``onnxruntime`` or ``openvino``.
        samples: Width vectors, at most where the profile is adaptive.
        store: File that keeps every row as it is measured; what it holds is not measured again. In memory when None.
        threads: Intra-op threads of a CPU.
        cores: Of a CPU, to measure on; as many as threads, one per physical core, when empty.
        step: Channels that widths are multiples of; what suits the device when None.
        energy_source: ``auto``, or ``counter`` or ``power`` where a GPU has both and they disagree.
        meters: One or several of your own, for their metrics instead of the device's; these are measured anyway.
            An object with ``begin_window`` and ``end_window``, such as a ZeusMonitor, is one of energy.
        adaptive: Measure where the fit is least certain, and stop when its held-out error falls no more.
        max_seconds: Limit of an adaptive profile.
        wait: Wait while another process measures on the device; refuse otherwise.
    Raises:
        InputError: If the input makes no sense, or the store belongs to something else.
        UnavailableError: If the device or a meter is not here.
    """
    result, _ = measure(
        model,
        trace(model, example_inputs),
        example_inputs,
        adaptive=adaptive,
        max_seconds=max_seconds,
        metrics=metrics,
        samples=samples,
        device=device,
        runtime=runtime,
        threads=threads,
        cores=cores,
        step=step,
        energy_source=energy_source,
        meters=meters,
        store=store,
        network=type(model).__name__,
        seed=seed,
        progress=progress,
        wait=wait,
    )
    return result.table


def compress(
    model: nn.Module,
    train: Batches,
    validation: Batches,
    *,
    budgets: Sequence[Budget | str] | Budget | str,
    costs: Sequence[CostModel] = (),
    method: str = "admm",
    then: str | None = None,
    epochs: int = 20,
    distill: float | None = None,
    lr: float | None = None,
    rounds: int | None = None,
    chance: float | None = None,
    options: Mapping[str, Any] | None = None,
    test: Batches | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    score: Callable[[Tensor, Tensor], float] = accuracy,
    example_inputs: Any = None,
    device: str | None = None,
    meters: Meters = (),
    folder: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Compression:
    """Compress a trained network until its budgets hold, measured where their cost models were measured.

    Args:
        model: The dense, trained network; left as it is.
        train: Batches of (inputs, targets), repeatable.
        budgets: ``latency<=60%``, ``latency<=5ms``, ``macs<=0.5`` …; several hold together. Budgets on counts need no
            cost model.
        costs: One cost model per measured budget, or a SystolicCost for a budget on what an accelerator would take.
        method: How widths are chosen: a name of ``ecc.api.recipe.METHODS``; or how single weights are, under budgets on
            ``energy`` of a systolic array and ``params``: a name of ``ecc.api.weight_recipe.WEIGHT_METHODS``.
        then: A method of the latter kind, for the network that one of the former kind has left.
        epochs: Of training in all.
        distill: Weight of the dense network's logits in the loss; the method's own when None.
        lr: Step size of the optimiser; the method's own when None.
        rounds: How often widths may be measured and corrected, 6 when None.
        chance: Probability with which the cost models' predictions keep each budget, such as 0.95; None budgets what
            they expect, and leaves the rest to the measurements.
        options: Further settings of training and of the method, ``train.optimizer``, ``admm.rho`` …: those of
            ``ecc compress --set``; optimisers and schedules may be factories of your own.
        test: Where the two accuracies are computed; ``validation`` when None.
        example_inputs: The batch that is timed; the first validation examples when None.
        device: Where to train; where the model is when None.
        meters: One or several of your own, for their metrics instead of the device's.
        folder: Keeps the job's state, so that the same call goes on after an interrupt.
    Raises:
        InputError: If the input makes no sense, or the budgets cannot be reached together.
    """
    recipe = recipe_of(
        method,
        then=then,
        epochs=epochs,
        distill=distill,
        lr=lr,
        rounds=rounds,
        chance=chance,
        options=options,
        seed=seed,
        device=device,
    )
    sets = [demand_single(_sets(budgets))]
    job = _job(model, Task(train, validation, loss, score), sets, costs, example_inputs, recipe)
    (result,) = job(test=test, folder=folder, meters=meters, progress=progress).run()
    return result


def compress_path(
    model: nn.Module,
    train: Batches,
    validation: Batches,
    *,
    budgets: Sequence[Budget | str] | Budget | str,
    costs: Sequence[CostModel] = (),
    recipe: AnyRecipe | None = None,
    test: Batches | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    score: Callable[[Tensor, Tensor], float] = accuracy,
    example_inputs: Any = None,
    meters: Meters = (),
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Iterator[Compression]:
    """One network for each limit of ``latency<=0.7,0.5,0.3``, from loose to tight, in one run.

    A method that trains goes on from one budget to the next with its weights and duals; each network is then slimmed,
    tuned and measured like that of ``compress``. Results come one by one, as they are finished; what is wrong with any
    of the budgets is said at once.

    Args:
        budgets: Several lists of limits are taken step by step; a list of one limit holds at every step.
        recipe: How to run the job: method, epochs, rounds, options …
        folder: Keeps the job's state, so that the same call goes on after an interrupt.
        model: This and the others are as of ``compress``.
    Raises:
        InputError: If the input makes no sense, or a set of budgets cannot be reached.
    """
    task = Task(train, validation, loss, score)
    job = _job(model, task, _sets(budgets), costs, example_inputs, recipe or Recipe())
    return job(test=test, folder=folder, meters=meters, progress=progress).run()


def _sets(budgets: Sequence[Budget | str] | Budget | str) -> list[tuple[Budget, ...]]:
    given = [budgets] if isinstance(budgets, Budget | str) else budgets
    if not isinstance(given, Sequence) or (odd := [each for each in given if not isinstance(each, Budget | str)]):
        shown = budgets if not isinstance(given, Sequence) else odd[0]
        raise InputError(f"budgets must be texts such as 'latency<=60%', or Budget objects, got {shown!r}")
    return sets_of([(each,) if isinstance(each, Budget) else Budget.parse_list(each) for each in given])


def _job(
    model: nn.Module,
    task: Task,
    sets: Sequence[tuple[Budget, ...]],
    costs: Sequence[CostModel],
    example_inputs: Any,
    recipe: AnyRecipe,
) -> Callable[..., Job | WeightJob]:
    """``job_of`` but for the options that are left, on the batch that the cost models were made for."""
    if not isinstance(costs, Sequence) or not all(hasattr(each, "metric") for each in costs):
        raise InputError(f"costs must be a list of cost models, such as [ecc.load_cost('cost.json')], got {costs!r}")
    inputs = first_examples(task.validation, batch_of(costs)) if example_inputs is None else example_inputs
    return partial(job_of, model, trace(model, inputs), task, sets, costs, inputs, recipe=recipe)


def verify(
    artefact: Loaded | str | Path,
    *,
    device: str | None = None,
    seconds: float | None = None,
    meters: Meters = (),
    progress: Progress | None = None,
) -> Verification:
    """Measure an artefact against its dense network and judge its budgets, as ``compress`` did at its end.

    Args:
        seconds: Longest time of the measurement, which makes intervals narrower; that of the compression when None.
        meters: One or several of your own, for their metrics instead of the device's.
    Raises:
        InputError: If it is not a sound artefact.
        UnavailableError: If ``device`` is not the one that the budgets are for.
    """
    loaded = artefact if isinstance(artefact, Loaded) else load(artefact)
    return verify_loaded(loaded, device=device, seconds=seconds, meters=meters, progress=progress)[0]


def front(artefacts: Sequence[str | Path], *, x: str | None = None) -> Fronts:
    """Finished artefacts as points that can be compared; networks, data sets and devices have axes of their own.

    Args:
        artefacts: Folders of artefacts, and folders that hold some, such as that of a sweep.
        x: ``latency``, ``energy``, ``macs``, ``params``, ``memory`` or ``bytes``; the metric of the first budget when
            None.
    Raises:
        InputError: If a folder is neither, or what is named is not sound or lacks the axis.
    """
    return front_of(artefacts, x=x)
