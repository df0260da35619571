"""compress and verify: from a trained network and its budgets to an artefact, and from an artefact to a verdict."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecc.api.analytic import SYSTOLIC_PREFIX, systolic_costs
from ecc.api.compressing import Compression, compress
from ecc.api.constraints import constraints_of, graph_of_costs
from ecc.api.keeping import Source, load, verify
from ecc.api.recipe import METHODS, Recipe
from ecc.artefact import check_target
from ecc.cli.arguments import add_data, add_model, lasting, pairs, the_data, the_model
from ecc.cli.command import Command, Outcome
from ecc.cli.progress import ProgressLine
from ecc.cli.text import percent
from ecc.core.budget import Budget
from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.core.problem import Checkpoint, Progress
from ecc.data.values import Data
from ecc.energy_models.loading import load_cost
from ecc.energy_models.systolic.array import PRESETS, SystolicArray
from ecc.network.tracing import trace
from ecc.profiler.devices import current_device
from ecc.report.saving import save
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.training import evaluate, train
from ecc.zoo.loading import load_model

__all__ = ["COMMANDS"]

_LEARNED = 0.1  # of the way from chance to 1: random weights get that far by luck


def _compress_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_data(parser, required=True)
    parser.add_argument(
        "--budget",
        metavar="METRIC=LIMIT",
        action="append",
        required=True,
        help="latency=0.6, latency=5ms, energy=12mJ, macs=1.2GMAC, params=50%%, memory=2MB; may be repeated",
    )
    parser.add_argument(
        "--cost",
        metavar="COST.json|systolic:ARRAY",
        action="append",
        default=[],
        help=f"cost model of a measured metric, or a systolic array ({', '.join(PRESETS)}, or a TOML file) for budgets "
        "on its energy or latency; repeatable",
    )
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help=f"default {METHODS[0]}")
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="of training in all (default 20)")
    parser.add_argument("--pretrain", type=int, default=0, metavar="N", help="first train the dense network N epochs")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of Adam (default 1e-3)")
    parser.add_argument("--distill", type=float, default=0.5, help="weight of the dense network's logits (default 0.5)")
    parser.add_argument("--device", metavar="D", help="where to train (default: cuda where there is one)")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder of the artefact; an older one there is replaced at the end"
    )


def _compress(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    budgets = [Budget.parse(text) for text in arguments.budget]
    if arguments.pretrain < 0:
        raise InputError(f"--pretrain must be a number of epochs from 0, got {arguments.pretrain}")
    recipe = Recipe(
        method=arguments.method,
        epochs=arguments.epochs,
        distill=arguments.distill,
        lr=arguments.lr,
        seed=arguments.seed,
        device=current_device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")).torch_name,
    )
    costs = [load_cost(path) for path in arguments.cost if not path.startswith(SYSTOLIC_PREFIX)]
    arrays = [
        SystolicArray.parse(text.removeprefix(SYSTOLIC_PREFIX))
        for text in arguments.cost
        if text.startswith(SYSTOLIC_PREFIX)
    ]
    target = check_target(arguments.out)
    work = _work_folder(target)
    loaded, data = the_model(arguments), the_data(arguments)
    inputs = data.example(_batch(costs))
    graph = trace(loaded.module, inputs)
    blocks = graph_of_costs(graph, loaded.module, costs)
    for array in arrays:
        costs += systolic_costs(blocks, array, budgets, costs)
    constraints_of(blocks, budgets, costs)  # refuse before any training
    _pretrain(loaded.module, data, arguments.pretrain, recipe, FileCheckpoint(work / "pretrain.safetensors"), progress)
    _refuse_untrained(loaded.module, data, arguments)
    result = compress(
        loaded.module,
        graph,
        data.task(),
        budgets,
        costs,
        inputs,
        recipe=recipe,
        test=data.test,
        folder=work,
        progress=progress,
    )
    source = Source(
        lasting(arguments.model), pairs(arguments.options), _origin(arguments), lasting(arguments.data), loaded.name
    )
    artefact = save(result, target, source=source)
    shutil.rmtree(work, ignore_errors=True)
    value = result.to_json() | {"artefact": str(artefact.path), "report": str(artefact.path / "report.html")}
    return Outcome(value, _compress_text(result, artefact.path), exit_code=int(result.met is False))


def _work_folder(target: Path) -> Path:
    """Where the job's state is kept, beside the artefact; refused at once where it cannot be written."""
    work = target.with_name(f".{target.name}.work")
    try:
        if not work.exists():
            work.mkdir(parents=True)
            work.rmdir()  # a job that is refused leaves nothing behind
    except OSError as error:
        raise InputError(f"--out {str(target)!r} cannot be written: {error.strerror}; choose another folder") from error
    return work


def _origin(arguments: argparse.Namespace) -> str:
    """Where the dense weights came from."""
    given = arguments.weights or f"fresh, seed {arguments.seed}"
    return f"{given}, then trained {arguments.pretrain} epochs" if arguments.pretrain else str(given)


def _batch(costs: list[CostModel]) -> int:
    """Examples per run of the cost models; 1 where nothing is measured."""
    places = [cost.provenance for cost in costs if cost.provenance is not None]
    return places[0].input_shape[0] if places and places[0].input_shape else 1


def _pretrain(
    model: nn.Module, data: Data, epochs: int, recipe: Recipe, checkpoint: Checkpoint | None, progress: Progress | None
) -> None:
    """Train the dense network from where it is, as the method's tuning does but without a teacher."""
    if epochs < 1:
        return
    config = replace(recipe.tuning(epochs), distill=0.0)
    train(model, data.task(), config, stage="pretrain", progress=progress, checkpoint=checkpoint)


def _chance(data: Data) -> float:
    """Score of guessing."""
    return 1 / data.classes if data.kind == "classification" else 0.0


def _refuse_untrained(model: nn.Module, data: Data, arguments: argparse.Namespace) -> None:
    score = evaluate(model, data.validation, data.score)
    floor = _chance(data)
    if not score > floor + _LEARNED * (1 - floor):
        raise InputError(
            f"the dense network scores {percent(score)} on {data.name}, hardly better than chance; "
            "give its trained weights with --weights, or train it first with --pretrain EPOCHS"
        )


def _compress_text(result: Compression, folder: Path) -> str:
    lines = [
        f"{result.recipe.method}: test accuracy {percent(result.accuracy_dense)} → {percent(result.accuracy)}, "
        f"{percent(result.nonzero_fraction)} of the parameters, {result.rounds} round(s), {result.seconds:.0f} s",
        *map(str, result.budgets),
        f"artefact: {folder}",
        f"report:   {folder / 'report.html'}",
    ]
    return "\n".join(lines)


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artefact", metavar="DIR", help="folder that ecc compress has written")
    parser.add_argument("--device", metavar="D", help="where to measure (default: the device of the profile)")
    parser.add_argument("--model", metavar="MODEL", help="the dense network, where the artefact's own name fails")
    parser.add_argument("--data", metavar="DATA", help="what to score it on, instead of what the artefact names")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data sets; default: $ECC_DATA")


def _verify(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    dense = None if arguments.model is None else load_model(arguments.model).module
    kept = load(arguments.artefact, model=dense)
    found, why = verify(
        kept, device=arguments.device, data=arguments.data, data_dir=arguments.data_dir, progress=progress
    )
    accuracy = (
        f"test accuracy {percent(found.accuracy)}" if found.accuracy is not None else f"accuracy not measured: {why}"
    )
    value: dict[str, Any] = found.to_json() | {"artefact": arguments.artefact, "accuracy_reason": why}
    exit_code = 3 if found.met is None else int(not found.met)
    return Outcome(value, f"{found}\n{accuracy}", exit_code=exit_code)


COMMANDS = (
    Command(
        "compress",
        "ecc compress zoo:resnet20 --weights resnet20.safetensors --data cifar10 --budget latency=0.5 "
        "--cost latency.json --out resnet20-half",
        _compress_arguments,
        _compress,
    ),
    Command(
        "verify",
        "ecc verify resnet20-half",
        _verify_arguments,
        _verify,
    ),
)
