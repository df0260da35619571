"""demo: the whole story on embedded data: train, trace, profile, fit, compress by three methods, pack, compare."""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ecc.api.compressing import compress
from ecc.api.describing import Source
from ecc.api.fitting import judge
from ecc.api.fronts import front_of
from ecc.api.keeping import load
from ecc.api.measuring import measure_widths
from ecc.api.packing import Packing, code_of
from ecc.api.recipe import Recipe
from ecc.api.stage_options import stages_of
from ecc.api.stage_start import start_of_artefact
from ecc.api.staging import StageJob
from ecc.api.workshop import Training
from ecc.artefact import Artefact
from ecc.artefact import read as read_artefact
from ecc.cli.command import Command, Outcome
from ecc.cli.fitting import fit_text
from ecc.cli.packing import staged_text
from ecc.cli.progress import ProgressLine
from ecc.cli.text import percent
from ecc.core.budget import Budget
from ecc.core.errors import EccError, InputError
from ecc.data.loading import load_data
from ecc.data.values import Data
from ecc.energy_models.judging import Fit
from ecc.network.graph import WidthGraph
from ecc.network.tracing import trace
from ecc.profiler.devices import current_device
from ecc.profiler.meters import METRICS, meter_for
from ecc.profiler.window import Window
from ecc.report.page import Report
from ecc.report.saving import report_of, save, trials_of, write_page
from ecc.report.style import quantity
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import evaluate, train
from ecc.zoo.loading import load_model

__all__ = ["COMMANDS", "COMPARED"]

_METHODS = ("admm", "uniform", "magnitude")
_STAGES = ("deep-compression", "entropy")
COMPARED = ("admm", "uniform", "magnitude")
"""The methods of the demo."""

_NETWORK = "zoo:digits-resnet"
_SOURCE = Source(model=_NETWORK, weights="trained by the demo", data="digits", network="digits-resnet")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work the demo does.

    Attributes:
        pretrain: Epochs of the dense network.
        samples: Width vectors that are profiled.
        batch: Examples per timed run; large enough that arithmetic, not the overhead per operator, is what is timed.
        epochs: Of each compression in all.
        effort: Of the secondary stages: what multiplies their epochs.
        measure_s: Longest time of a measurement.
        window: How long to measure each configuration.
    """

    pretrain: int
    samples: int
    batch: int
    epochs: int
    effort: float
    measure_s: float
    window: Window


_FULL = Scale(20, 100, 32, 24, 2.0, 10.0, Window(pairs=8, burst=3, max_blocks=4, max_s=60.0))
_QUICK = Scale(6, 30, 32, 6, 0.5, 3.0, Window(pairs=4, burst=3, max_blocks=3, max_s=15.0))
_GPU_BATCH = 4096  # a GPU needs that many of these small images before channels cost time


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="ecc-demo", metavar="DIR", help="folder of everything (default ecc-demo)")
    parser.add_argument("--budget", default="0.5", metavar="F", help="latency as a fraction of dense (default 0.5)")
    parser.add_argument("--device", metavar="cpu|cuda", help="default: cuda where there is one")
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer rows and epochs, lower accuracy")


def _run(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    started = time.monotonic()
    budget = Budget.parse(f"latency={arguments.budget}")
    if not budget.relative or budget.limit >= 1:
        raise InputError(f"--budget must be a fraction of the dense latency below 1, got {arguments.budget!r}")
    device = current_device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")).torch_name
    demo = _Demo(
        out=_folder(arguments.out),
        budget=budget,
        device=device,
        scale=_QUICK if arguments.quick else _FULL,
        seed=arguments.seed,
        progress=progress,
    )
    return demo.run(started)


def _folder(path: str) -> Path:
    """The output folder, made; refused where it cannot be written."""
    out = Path(path).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".ecc-writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--out {path!r} cannot be written: {error.strerror}; choose another folder") from error
    return out


@dataclass(frozen=True, slots=True)
class _Demo:
    """One run of the demo; every stage goes on from what an earlier run left in ``out``."""

    out: Path
    budget: Budget
    device: str
    scale: Scale
    seed: int
    progress: ProgressLine

    def run(self, started: float) -> Outcome:
        data = load_data("digits", batch_size=64)
        torch.manual_seed(self.seed)
        model = load_model(_NETWORK).module
        self._train(model, data)
        validation = evaluate(model, data.validation, data.score)
        self.progress.say(f"dense network: {percent(validation)} of the validation digits are right")
        graph = trace(model, data.example(self._batch))
        self.progress.say(repr(graph))
        fits, unmeasured = self._profile(model, graph, data)
        artefacts = [self._compress(method, model, graph, data, fits[0]) for method in _METHODS]
        packed = self._stage(artefacts[0], data)
        report = self._report(artefacts, packed, graph, fits, unmeasured)
        page = write_page(report, self.out.resolve() / "report.html")["page"]
        return _outcome(artefacts[0], packed, fits[0], validation, self.budget, page, time.monotonic() - started)

    @property
    def _batch(self) -> int:
        return _GPU_BATCH if self.device.startswith("cuda") else self.scale.batch

    def _train(self, model: nn.Module, data: Data) -> None:
        config = TrainConfig(
            epochs=self.scale.pretrain,
            lr=3e-3,
            warmup_epochs=2,
            seed=self.seed,
            checkpoint_every_s=5.0,
            device=self.device,
        )
        checkpoint = FileCheckpoint(self.out / "work" / "dense.safetensors")
        train(model, data.task(), config, stage="train dense", progress=self.progress, checkpoint=checkpoint)
        save_file(model.state_dict(), self.out / "dense.safetensors")  # for runs of one's own, with --weights

    def _profile(self, model: nn.Module, graph: WidthGraph, data: Data) -> tuple[list[Fit], dict[str, str]]:
        """A judged cost model per metric that has a meter, latency first; why the others are missing."""
        fits: list[Fit] = []
        unmeasured: dict[str, str] = {}
        for metric in METRICS:
            probe = meter_for(metric, self.device).probe()
            if not probe.available:
                unmeasured[metric] = probe.reason
                self.progress.say(f"{metric} is not measured: {probe.reason}")
                continue
            window, samples = self.scale.window, self.scale.samples
            if metric == "energy":  # its windows take seconds
                window, samples = replace(window, blocks=1, max_blocks=1), min(samples, 24)
            result = measure_widths(
                model,
                graph,
                data.example(self._batch),
                metrics=[metric],
                samples=samples,
                device=self.device,
                window=window,
                store=self.out / f"profile-{metric}.db",
                network="digits-resnet",
                seed=self.seed,
                progress=self.progress,
            )
            fit = judge(result.table, metric, seed=self.seed, progress=self.progress)
            fits.append(fit)
            fit.cost.save(self.out / f"cost-{metric}.json")
            self.progress.say(fit_text(fit, str(self.out / f"cost-{metric}.json")))
        return fits, unmeasured

    def _compress(self, method: str, model: nn.Module, graph: WidthGraph, data: Data, fit: Fit) -> Artefact:
        recipe = Recipe(
            method=method,
            epochs=self.scale.epochs,
            lr=2e-3,
            seed=self.seed,
            measure_s=self.scale.measure_s,
            device=self.device,
        )
        source = replace(_SOURCE, weights=f"trained by ecc demo, {self.scale.pretrain} epochs, seed {self.seed}")
        folder = self.out / method
        done = self._finished(folder, recipe, source, fit)
        if done is not None:
            self.progress.say(f"{method}: finished before, in {folder}")
            return done
        result = compress(
            model,
            graph,
            data.task(),
            [self.budget],
            [fit.cost],
            data.example(self._batch),
            recipe=recipe,
            test=data.test,
            network="digits-resnet",
            folder=self.out / "work" / method,
            progress=self.progress,
        )
        self.progress.say(
            f"{method}: accuracy {percent(result.accuracy_dense)} → {percent(result.accuracy)}; {result.budgets[0]}"
        )
        artefact = save(result, folder, source=source, fits=[fit])
        shutil.rmtree(self.out / "work" / method, ignore_errors=True)
        return artefact

    def _finished(self, folder: Path, recipe: Recipe, source: Source, fit: Fit) -> Artefact | None:
        """The artefact of an earlier run of the same settings on the same device, if there is one."""
        artefact = _artefact_in(folder)
        if artefact is None:
            return None
        manifest, place = artefact.manifest, fit.cost.provenance
        same = (
            dict(manifest.settings) == recipe.settings
            and manifest.weights == source.weights
            and all(math.isclose(check.budget.limit, self.budget.limit) for check in manifest.budgets)
            and place is not None
            and manifest.device_fingerprint == place.device_fingerprint
            and manifest.input_shapes == (place.input_shape,)
        )
        return artefact if same else None

    def _stage(self, artefact: Artefact, data: Data) -> Artefact:
        """The network of an artefact in fewer bytes, by secondary stages."""
        folder, work = self.out / "packed", self.out / "work" / "packed"
        training = Training(effort=self.scale.effort, seed=self.seed, device=self.device)
        done = self._packed_before(folder, artefact, training)
        if done is not None:
            self.progress.say(f"{' and '.join(_STAGES)}: finished before, in {folder}")
            return done
        start = start_of_artefact(load(artefact.path))
        job = StageJob(
            start, tuple(stages_of(_STAGES)), training, data.task(), data.test, folder=work, progress=self.progress
        )
        result = job.run()
        self.progress.say(staged_text(result))
        packed = save(result, folder)
        shutil.rmtree(work, ignore_errors=True)
        return packed

    def _packed_before(self, folder: Path, source: Artefact, training: Training) -> Artefact | None:
        """What an earlier run has made of the same artefact, if it has."""
        artefact = _artefact_in(folder)
        if artefact is None:
            return None
        manifest, before = artefact.manifest, source.manifest
        same = (
            manifest.settings == {**before.settings, **training.settings}
            and [stage.name for stage in manifest.stages] == list(_STAGES)
            and [check.to_json() for check in manifest.budgets] == [check.to_json() for check in before.budgets]
        )
        return artefact if same else None

    def _report(
        self,
        artefacts: Sequence[Artefact],
        packed: Artefact,
        graph: WidthGraph,
        fits: Sequence[Fit],
        unmeasured: Mapping[str, str],
    ) -> Report:
        best = artefacts[0]
        report = report_of(
            best.manifest,
            packed.history(),
            trials=trials_of(best),
            packing=Packing.of(packed.manifest, code_of(packed)),
            fits=fits,
            graph=graph,
            notes=graph.notes,
        )
        (front,) = front_of([artefact.path for artefact in artefacts])
        return replace(report, title="ecc demo: digits-resnet on this device", front=front, unmeasured=unmeasured)


def _outcome(
    artefact: Artefact, packed: Artefact, fit: Fit, validation: float, budget: Budget, page: Path, seconds: float
) -> Outcome:
    manifest = artefact.manifest
    bytes_before, nbytes = artefact.weights.bytes, packed.weights.bytes
    (check,) = manifest.budgets
    value: dict[str, Any] = {
        "accuracy_dense": manifest.accuracy_dense,
        "accuracy": manifest.accuracy,
        "accuracy_dense_validation": validation,
        "budget": budget.limit,
        "predicted": _share(check.predicted, check.dense),
        "measured": _share(check.measured, check.dense),
        "measured_interval": [_share(check.low, check.dense), _share(check.high, check.dense)],
        "verified": check.met,
        "budgets": [check.to_json()],
        "cost_model": {"mape": fit.holdout["mape"], "noise_floor": fit.to_json()["noise_floor"], "form": fit.form},
        "widths": dict(manifest.widths),
        "artefact": str(artefact.path),
        "staged": {
            "artefact": str(packed.path),
            "bytes_before": bytes_before,
            "bytes": nbytes,
            "ratio": bytes_before / nbytes,
            "accuracy": packed.manifest.accuracy,
            "stages": [stage.to_json() for stage in packed.manifest.stages],
        },
        "report": str(page),
        "seconds": seconds,
    }
    text = [
        f"accuracy {percent(manifest.accuracy_dense or 0.0)} → {percent(manifest.accuracy or 0.0)} on the test digits",
        str(check),
        f"{' and '.join(_STAGES)}: {quantity(bytes_before, 'B')} → {quantity(nbytes, 'B')} on disk "
        f"({bytes_before / nbytes:.0f} times less), accuracy {percent(packed.manifest.accuracy or 0.0)}",
        f"artefact: {artefact.path}, packed: {packed.path}",
        f"report:   {page}",
        f"{seconds:.0f} s",
    ]
    return Outcome(value, "\n".join(text), exit_code=int(check.met is False))


def _share(value: float | None, dense: float) -> float | None:
    return None if value is None else value / dense


def _artefact_in(folder: Path) -> Artefact | None:
    """The artefact in a folder, if there is a sound one."""
    try:
        return read_artefact(folder)
    except EccError:
        return None


COMMANDS = (Command("demo", "ecc demo --out demo", _arguments, _run, resumes=True),)
