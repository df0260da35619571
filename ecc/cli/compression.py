"""compress and verify: from a trained network and its budgets to an artefact, and from an artefact to a verdict."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ecc.api.compressing import Compression, job_of
from ecc.api.dense import demand_trained, pretrain
from ecc.api.describing import Source
from ecc.api.executing import sparse_execution
from ecc.api.fronts import front_of
from ecc.api.keeping import load, verify
from ecc.api.named import Costs, data_name, lasting
from ecc.api.recipe import METHODS, options_of
from ecc.api.targets import labels_of, sets_of
from ecc.api.weight_costs import demand_weight_metrics
from ecc.api.weight_recipe import WEIGHT_METHODS, AnyRecipe, WeightRecipe, recipe_of, weight_options_of
from ecc.artefact import check_target
from ecc.cli.arguments import add_data, add_model, pairs, the_data, the_model
from ecc.cli.command import Command, Outcome
from ecc.cli.outputs import work_folder
from ecc.cli.progress import ProgressLine
from ecc.cli.settings import add_settings, settings_of_texts
from ecc.cli.sparsity import execution_text, sparsity_lines
from ecc.cli.text import percent, probability
from ecc.core.budget import Budget
from ecc.core.errors import InputError
from ecc.core.verdict import BudgetCheck, all_met, joint_confidence
from ecc.energy_models.systolic.array import PRESETS
from ecc.profiler.devices import current_device
from ecc.report.saving import save, write_front
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.distributed import join
from ecc.solvers.event_files import EventFiles
from ecc.zoo.loading import load_model

__all__ = ["COMMANDS"]

_MEND = "give its trained weights with --weights, or train it first with --pretrain EPOCHS"


def _compress_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_data(parser, required=True)
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="folder of the artefact, or, of several limits, of one artefact for each (DIR/latency-0.70 …); an older "
        "one there is replaced at the end",
    )
    _budget_arguments(parser.add_argument_group("budgets"))
    _method_arguments(parser.add_argument_group("method and training"))
    every = [*map(options_of, METHODS), *map(weight_options_of, WEIGHT_METHODS)]
    add_settings(parser, {part: names for parts in every for part, names in parts.items()})


def _budget_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--budget",
        metavar="METRIC=LIMIT[,LIMIT…]",
        action="append",
        required=True,
        help="latency=0.6, latency=5ms, energy=12mJ, macs=1.2GMAC, params=50%%, memory=2MB; repeatable: all hold "
        "together. latency=0.7,0.5,0.3 makes a network for each limit, from loose to tight, in one run",
    )
    group.add_argument(
        "--cost",
        metavar="COST.json|systolic:ARRAY",
        action="append",
        default=[],
        help=f"cost model of a measured metric, or a systolic array ({', '.join(PRESETS)}, or a TOML file) for budgets "
        "on its energy or latency; repeatable",
    )
    group.add_argument(
        "--chance",
        type=float,
        metavar="P",
        help="probability with which the predictions of the cost models keep each budget, for example 0.95: budgets "
        "are set against the upper end of the interval (default: against the prediction; measurements do the rest)",
    )
    group.add_argument(
        "--rounds", type=int, metavar="N", help="of measuring and correcting widths, at most (default 6)"
    )


def _method_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--method",
        choices=(*METHODS, *WEIGHT_METHODS),
        default=METHODS[0],
        help=f"removes channels: {', '.join(METHODS)}; or zeroes single weights under energy (of a systolic array) and "
        f"params: {', '.join(WEIGHT_METHODS)} (default {METHODS[0]})",
    )
    group.add_argument(
        "--then",
        choices=WEIGHT_METHODS,
        help="zero single weights of the network that a method of the former kind has left",
    )
    group.add_argument("--epochs", type=int, default=20, metavar="N", help="of training in all (default 20)")
    group.add_argument("--pretrain", type=int, default=0, metavar="N", help="first train the dense network N epochs")
    group.add_argument(
        "--lr", type=float, metavar="X", help="step size of the optimiser (default: the method's own, mostly 1e-3)"
    )
    group.add_argument(
        "--distill",
        type=float,
        metavar="SHARE",
        help="weight of the dense network's logits (default: the method's own, mostly 0.5)",
    )
    group.add_argument("--device", metavar="D", help="where to train (default: cuda where there is one)")
    group.add_argument("--tensorboard", metavar="DIR", help="write every figure of every epoch there, for TensorBoard")
    group.add_argument(
        "--set",
        metavar="PART.OPTION=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="a setting of training (train.optimizer=adamw; solve.… and tune.… for the method's training or that of "
        "the slim network alone) or of the method (admm.rho=5); repeatable. They are listed below",
    )


def _compress(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    ranks, device = join(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"), torch.device("cpu"))
    sets = sets_of([Budget.parse_list(text) for text in arguments.budget])
    if arguments.pretrain < 0:
        raise InputError(f"--pretrain must be a number of epochs from 0, got {arguments.pretrain}")
    if arguments.tensorboard == "":
        raise InputError("--tensorboard must name a folder, got nothing; leave it out to write no event files")
    recipe = _recipe(arguments, device)
    if isinstance(recipe, WeightRecipe):
        demand_weight_metrics(sets[0], recipe.method)  # before an array is found not to suit such a budget
    named = Costs.of(arguments.cost)
    # Only the first of several processes writes; whether it can is for it alone to see.
    root, targets, work = _places(arguments.out, labels_of(sets)) if ranks.first else (Path(), [], Path())
    loaded = the_model(arguments)
    data = the_data(arguments, name := data_name(arguments.data, loaded))
    inputs, graph = named.traced(loaded.module, data)
    costs = named.models(loaded.module, graph, sets[0])
    job = partial(job_of, loaded.module, graph, data.task(), sets, costs, inputs)
    job(recipe=recipe)  # refuses before any training
    events = arguments.tensorboard if ranks.first else None
    watched = progress if events is None else EventFiles(events, progress)
    pretrain(loaded.module, data, arguments.pretrain, recipe, FileCheckpoint(work / "pretrain.safetensors"), watched)
    if ranks.first:
        demand_trained(loaded.module, data, mend=_MEND)
    source = Source(lasting(arguments.model), pairs(arguments.options), _origin(arguments), lasting(name), loaded.name)
    # The job is made anew, because blocks of units are of the weights as they are now.
    results = job(recipe=recipe, test=data.test, network=loaded.name, folder=work, progress=watched).run()
    if not ranks.first:
        return Outcome({}, "", _exit_code(list(results)))
    done = []
    for result, target in zip(results, targets, strict=True):
        artefact = save(result, target, source=source)
        done.append((result, artefact.path))
        if len(targets) > 1:
            progress.say(_headline(result))
    shutil.rmtree(work, ignore_errors=True)
    return _one(*done[0]) if len(done) == 1 else _many(done, root)


def _recipe(arguments: argparse.Namespace, device: str | None) -> AnyRecipe:
    """What the arguments say of method and training."""
    return recipe_of(
        arguments.method,
        then=arguments.then,
        epochs=arguments.epochs,
        distill=arguments.distill,
        lr=arguments.lr,
        rounds=arguments.rounds,
        chance=arguments.chance,
        options=settings_of_texts(arguments.settings, "train.optimizer=adamw"),
        seed=arguments.seed,
        device=current_device(device or "cpu").torch_name,
    )


def _places(out: str, labels: Sequence[str]) -> tuple[Path, list[Path], Path]:
    """The folder, where each artefact goes, and where the job's state is kept; refused where one cannot be written."""
    root, targets = _targets(out, labels)
    return root, targets, work_folder(root)


def _targets(out: str, labels: Sequence[str]) -> tuple[Path, list[Path]]:
    """The folder and where each artefact goes; refused at once where one cannot be written, without making any."""
    root = Path(os.path.abspath(Path(out).expanduser()))
    if labels == [""]:
        return root, [check_target(root)]
    if not root.name or (root / "manifest.json").exists():
        raise InputError(f"--out {out!r} cannot hold several artefacts; choose another folder")
    if root.exists() and root.is_dir():
        return root, [check_target(root / label) for label in labels]
    check_target(root)
    return root, [root / label for label in labels]


def _one(result: Compression, path: Path) -> Outcome:
    value = result.to_json() | {"artefact": str(path), "report": str(path / "report.html")}
    return Outcome(value, _compress_text(result, path), _exit_code([result]))


def _many(done: Sequence[tuple[Compression, Path]], out: Path) -> Outcome:
    """All results of one run, compared along the axis of their first budget."""
    results = [result for result, _ in done]
    axis = next((check.metric for check in results[0].budgets if check.measured is not None), "macs")
    front = front_of([path for _, path in done], x=axis)
    page = write_front(front, out / "front.html").page
    value = {
        "method": results[0].recipe.method,
        "met": all_met(result.met for result in results),
        "accuracy_dense": results[0].accuracy_dense,
        "seconds": sum(result.seconds for result in results),
        "front": str(page),
        "hypervolume": front.hypervolume,
        "results": [
            result.to_json() | {"label": result.label, "artefact": str(path), "report": str(path / "report.html")}
            for result, path in done
        ],
    }
    text = "\n\n".join(_compress_text(result, path) for result, path in done)
    return Outcome(value, f"{text}\n\nall together: {page}", _exit_code(results))


def _exit_code(results: Sequence[Compression]) -> int:
    """1 if a budget is missed."""
    return int(any(result.met is False for result in results))


def _origin(arguments: argparse.Namespace) -> str:
    """Where the dense weights came from."""
    given = arguments.weights or f"fresh, seed {arguments.seed}"
    return f"{given}, then trained {arguments.pretrain} epochs" if arguments.pretrain else str(given)


def _compress_text(result: Compression, folder: Path) -> str:
    lines = [
        _headline(result),
        *([f"removed:  {', '.join(result.removed)}"] if result.removed else []),
        *([] if result.sparsity is None else [*sparsity_lines(result.sparsity), ""]),
        *map(str, result.budgets),
        *_together(result.budgets),
        f"artefact: {folder}",
        f"report:   {folder / 'report.html'}",
    ]
    return "\n".join(lines)


def _headline(result: Compression) -> str:
    named = f"{result.recipe.method}, {result.label}" if result.label else result.recipe.method
    return (
        f"{named}: test accuracy {percent(result.accuracy_dense)} → {percent(result.accuracy)}, "
        f"{percent(result.nonzero_fraction)} of the parameters, {result.rounds} round{'s'[: result.rounds != 1]}, "
        f"{result.seconds:.0f} s"
    )


def _together(checks: Sequence[BudgetCheck]) -> list[str]:
    """What is said of several measured budgets together."""
    measured = [check for check in checks if check.low is not None and check.low != check.high]
    sure = joint_confidence(checks)
    return (
        [f"all budgets together hold with a probability of at least {probability(sure)}"]
        if (len(measured) > 1 and sure is not None)
        else []
    )


def _open(checks: Sequence[BudgetCheck]) -> list[str]:
    """What to do about budgets that are within their intervals."""
    unsure = [check for check in checks if check.met is False and check.low is not None and check.low <= check.limit]
    return (
        [
            "not certain means that the limit lies within the 95 % interval, not that the budget is missed: measure "
            "longer with --seconds, or while less else runs"
        ]
        if unsure
        else []
    )


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artefact", metavar="DIR", help="folder that ecc compress or ecc stage has written")
    parser.add_argument("--device", metavar="D", help="where to measure (default: the device of the profile)")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="measure for so long at most (default: as long as ecc compress did at its end, 20); four times as long "
        "makes intervals about half as wide",
    )
    parser.add_argument("--model", metavar="MODEL", help="the dense network, where the artefact's own name fails")
    parser.add_argument("--data", metavar="DATA", help="what to score it on, instead of what the artefact names")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data sets; default: $ECC_DATA")
    parser.add_argument(
        "--csr",
        action="store_true",
        help="also measure, layer by layer, whether weights that are zero make this CPU faster when they are left out",
    )


def _verify(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    dense = None if arguments.model is None else load_model(arguments.model).module
    kept = load(arguments.artefact, model=dense)
    found, why = verify(
        kept,
        device=arguments.device,
        data=arguments.data,
        data_dir=arguments.data_dir,
        seconds=arguments.seconds,
        progress=progress,
    )
    accuracy = (
        f"test accuracy {percent(found.accuracy)}" if found.accuracy is not None else f"accuracy not measured: {why}"
    )
    value: dict[str, Any] = found.to_json() | {"artefact": arguments.artefact, "accuracy_reason": why}
    exit_code = 3 if found.met is None else int(not found.met)
    text = "\n".join([str(found), *_together(found.checks), *_open(found.checks), accuracy])
    if arguments.csr:
        execution = sparse_execution(kept.model, kept.inputs, seed=arguments.seed, progress=progress)
        value["csr"] = execution.to_json()
        text += f"\n{execution_text(execution)}"
    return Outcome(value, text, exit_code=exit_code)


COMMANDS = (
    Command(
        "compress",
        "ecc compress zoo:resnet20 --weights resnet20.safetensors --data cifar10 --budget latency=0.5 "
        "--cost latency.json --out resnet20-half",
        _compress_arguments,
        _compress,
        together=True,
        resumes=True,
    ),
    Command(
        "verify",
        "ecc verify resnet20-half",
        _verify_arguments,
        _verify,
    ),
)
