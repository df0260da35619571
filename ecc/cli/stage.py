"""stage: the weights of an artefact, or of any network, in fewer bytes."""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ecc.api.analytic import SYSTOLIC_PREFIX
from ecc.api.describing import Source
from ecc.api.keeping import load
from ecc.api.named import data_name, lasting
from ecc.api.stage_limits import StageLimits
from ecc.api.stage_options import TRAINING, stage_options, stages_of
from ecc.api.stage_start import Start, start_of_artefact, start_of_network
from ecc.api.staging import StageJob
from ecc.api.workshop import Training
from ecc.artefact import check_target
from ecc.cli.arguments import (
    add_data,
    add_input,
    add_model,
    example_inputs,
    pairs,
    the_data,
    the_model,
)
from ecc.cli.command import Command, Outcome
from ecc.cli.outputs import work_folder
from ecc.cli.packing import staged_text
from ecc.cli.progress import ProgressLine
from ecc.cli.settings import add_settings, settings_of_texts
from ecc.core.budget import Budget
from ecc.core.errors import EccError, InputError
from ecc.data.values import Data
from ecc.profiler.devices import current_device
from ecc.report.saving import save
from ecc.stages.methods import STAGES

__all__ = ["COMMANDS"]


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, what="DIR|MODEL", of="folder of an artefact; or, of a network that ecc has not compressed, ")
    parser.add_argument(
        "--apply",
        metavar="STAGE",
        action="append",
        required=True,
        help=f"in the order in which they are given, repeatable: {', '.join(STAGES)}",
    )
    parser.add_argument(
        "--set",
        metavar="STAGE.OPTION=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="an option of a stage, or of the training of all (train.optimizer=adamw); repeatable. Lists are joined by "
        "commas: codebook.layers=fc1.weight,fc2.weight. They are listed below",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR2", help="folder of the new artefact; an older one is replaced at the end"
    )
    limits = parser.add_argument_group("limits, kept by settings that are chosen tensor by tensor")
    limits.add_argument(
        "--bytes",
        metavar="SIZE",
        help="size of the file of the weights: 50KB, 1.5MiB, 50000, or 10x or 5%% of the dense network's floats",
    )
    limits.add_argument(
        "--budget",
        metavar="energy=LIMIT",
        action="append",
        default=[],
        help="energy of the weights as they are stored, as a fraction of the dense network's; needs --cost",
    )
    limits.add_argument("--cost", metavar="systolic:ARRAY", help="the accelerator of --budget: a preset or a TOML file")
    add_data(parser, required=False)
    add_input(parser)
    group = parser.add_argument_group("training")
    group.add_argument("--effort", type=float, default=1.0, metavar="X", help="multiplies all epochs (default 1)")
    group.add_argument(
        "--distill",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="weight of the logits of the network as it came in (default 0.5)",
    )
    group.add_argument("--device", metavar="D", help="where to train (default: the CPU)")
    add_settings(parser, stage_options())


@dataclass(frozen=True, slots=True)
class _Given:
    """What the arguments name: what stages begin with, and the data, or why there are none."""

    start: Start
    data: Data | None
    reason: str


def _run(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    settings = settings_of_texts(arguments.settings, "codebook.bits=4")
    names = [name for text in arguments.apply for name in text.split(",")]
    stages = tuple(stages_of(names, settings, seed=arguments.seed))
    own = {name: value for name, value in settings.items() if name.startswith(f"{TRAINING}.")}
    device = current_device(arguments.device or "cpu").torch_name
    training = Training(arguments.effort, arguments.distill, arguments.seed, device, own)
    target = _target(arguments)
    given = _given(arguments)
    if given.start.manifest is None:
        raise InputError(f"no artefact can be written of this network: {given.start.reason}")
    if given.data is None:
        progress.say(f"accuracy is not computed, and nothing is trained: {given.reason}")
    work = work_folder(target)
    limits = StageLimits.of(
        given.start,
        arguments.bytes,
        tuple(Budget.parse(text) for text in arguments.budget),
        _array(arguments.cost),
    )
    job = StageJob(
        given.start,
        stages,
        training,
        None if given.data is None else given.data.task(),
        None if given.data is None else given.data.test,
        reason=given.reason,
        folder=work,
        progress=progress,
        limits=limits,
        given=settings,
    )
    result = job.run()
    artefact = save(result, target)
    shutil.rmtree(work, ignore_errors=True)
    value = result.to_json() | {"artefact": str(artefact.path), "report": str(artefact.path / "report.html")}
    text = [staged_text(result), f"artefact: {artefact.path}", f"report:   {artefact.path / 'report.html'}"]
    return Outcome(value, "\n".join(text), exit_code=int(any(check.met is False for check in result.budgets)))


def _array(cost: str | None) -> str | None:
    """The array that a cost names."""
    if cost is None or cost.startswith(SYSTOLIC_PREFIX):
        return None if cost is None else cost.removeprefix(SYSTOLIC_PREFIX)
    raise InputError(
        f"--cost {cost!r:.80} knows nothing of how weights are stored; give {SYSTOLIC_PREFIX}eyeriss, another preset, "
        f"or {SYSTOLIC_PREFIX}FILE.toml"
    )


def _target(arguments: argparse.Namespace) -> Path:
    """The folder of the new artefact, refused at once where it cannot be written or is the one that is read."""
    target = check_target(arguments.out)
    if target == Path(os.path.abspath(Path(arguments.model).expanduser())):
        raise InputError(f"--out {arguments.out!r} is the artefact that is read; choose another folder")
    return target


def _given(arguments: argparse.Namespace) -> _Given:
    if ":" in arguments.model and not Path(arguments.model).exists():
        return _of_network(arguments)
    for name in ("options", "weights", "input"):
        if getattr(arguments, name):
            shown = "KEY=VALUE" if name == "options" else f"--{name}"
            raise InputError(f"{shown} is of a MODEL, and {arguments.model!r} is an artefact, which knows its own")
    loaded = load(arguments.model)
    name = arguments.data or loaded.manifest.data
    return _Given(start_of_artefact(loaded), *_data(arguments, name, "the artefact does not name its data"))


def _of_network(arguments: argparse.Namespace) -> _Given:
    loaded = the_model(arguments)
    name = data_name(arguments.data, loaded) if arguments.data else ""
    data, reason = _data(arguments, name, "no --data is given")
    inputs = example_inputs(loaded, arguments.input) if arguments.input or data is None else data.example(1)
    weights = arguments.weights or f"fresh, seed {arguments.seed}"
    source = Source(lasting(arguments.model), pairs(arguments.options), str(weights), lasting(name), loaded.name)
    return _Given(start_of_network(loaded.module, inputs, source=source, seed=arguments.seed), data, reason)


def _data(arguments: argparse.Namespace, name: str, nameless: str) -> tuple[Data | None, str]:
    """The data, or why there are none; those that the user has named must be there."""
    if not name:
        return None, nameless
    try:
        return the_data(arguments, name), ""
    except EccError as error:
        if arguments.data:
            raise
        return None, str(error)


COMMANDS = (
    Command(
        "stage",
        "ecc stage resnet20-half --apply deep-compression --apply entropy --out resnet20-packed",
        _arguments,
        _run,
        resumes=True,
    ),
)
