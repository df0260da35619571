"""What a worker does with one unit of a sweep: train a dense network, or compress one and apply stages to it."""

from __future__ import annotations

import logging
import os
import random
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from ecc.api.compressing import job_of
from ecc.api.dense import demand_trained, pretrain
from ecc.api.describing import Source
from ecc.api.keeping import load
from ecc.api.named import Costs, data_name
from ecc.api.recipe import Recipe
from ecc.api.stage_options import TRAINING, stages_of
from ecc.api.stage_start import start_of_artefact
from ecc.api.staging import StageJob
from ecc.api.weight_recipe import recipe_of
from ecc.api.workshop import Training
from ecc.artefact import read as read_artefact
from ecc.core.budget import Budget
from ecc.core.errors import EccError, Interrupted
from ecc.core.factories import reason
from ecc.core.files import write_whole
from ecc.core.verdict import all_met
from ecc.data.loading import load_data
from ecc.data.values import Data
from ecc.profiler.cores import free_to_measure_on
from ecc.profiler.devices import current_device
from ecc.profiler.locking import lock_folder, measuring_by
from ecc.report.saving import save
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.training import evaluate
from ecc.sweeps.beacon import Beacon
from ecc.sweeps.engines.protocol import WORKER_CORES
from ecc.sweeps.gate import Gate
from ecc.sweeps.ledger import DONE, FAILED, Ledger, Record
from ecc.zoo.loading import LoadedModel, load_model, load_weights

__all__ = ["Runner"]

_LOG = logging.getLogger("ecc")
_MEND = "give the network its trained weights (weights), or train it first (pretrain = EPOCHS)"


class Runner:
    """The work of an engine: runs units one by one, and remembers data between them."""

    def __init__(self) -> None:
        self._data: dict[tuple[str, str, int], Data] = {}
        self._trained: set[str] = set()

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        """Run a unit and keep its record in the ledger; gives the record as a JSON object.

        Whatever goes wrong with the unit is in its record; only an interrupt is raised, once the state is saved.
        """
        ledger, part = Ledger(Path(unit["folder"])), _part(unit)
        started, waited = time.monotonic(), 0.0
        record, trace = Record(unit["id"], FAILED), ""
        try:
            session = _Session(unit, ledger.work(unit["id"], part))
            with session.training():
                make = self._train_dense if part == "dense" else self._compress
                record = make(unit, ledger, session)
            waited = session.waited_s
        except (Interrupted, KeyboardInterrupt):
            raise
        except EccError as error:
            record, trace = replace(record, error=str(error)), traceback.format_exc()
        except Exception as error:  # a unit that fails must not stop the rest
            record, trace = replace(record, error=reason(error)), traceback.format_exc()
        seconds = time.monotonic() - started
        record = replace(record, seconds=seconds, waited_s=waited, worker=f"process {os.getpid()}")
        ledger.write(record, part, trace=trace)
        return record.to_json()

    # -- dense networks

    def _train_dense(self, unit: Mapping[str, Any], ledger: Ledger, session: _Session) -> Record:
        loaded = self._model(unit)
        data = self._data_of(unit, data_name(unit["data"], loaded))
        epochs = unit["epochs"]
        recipe = Recipe(epochs=max(2, epochs), seed=unit["dense_seed"], device=session.device)
        checkpoint = FileCheckpoint(session.work / "pretrain.safetensors")
        _seed_all(unit["dense_seed"])
        pretrain(loaded.module, data, epochs, recipe, checkpoint, session.progress)
        model = loaded.module.to("cpu").eval()
        demand_trained(model, data, mend="give it more epochs (pretrain), or trained weights (weights)")
        state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
        write_whole(ledger.dense(unit["id"]), safetensors.torch.save(state))
        shutil.rmtree(session.work, ignore_errors=True)
        score = evaluate(model, data.test, data.score)
        return Record(unit["id"], DONE, accuracy=score, accuracy_dense=score)

    # -- jobs

    def _compress(self, unit: Mapping[str, Any], ledger: Ledger, session: _Session) -> Record:
        target = ledger.artefact(unit["id"])
        if not (target / "manifest.json").is_file():
            self._make_artefact(unit, target, session)
        record = ledger.record_of(unit["id"])
        staged = {}
        for chain in unit["chains"]:
            place = ledger.staged(chain["name"], unit["id"])
            if not (place / "manifest.json").is_file():
                self._apply(unit, chain, target, place, session)
            staged[chain["name"]] = _staged_fields(place)
        shutil.rmtree(session.work, ignore_errors=True)
        return replace(record, staged=staged)

    def _make_artefact(self, unit: Mapping[str, Any], target: Path, session: _Session) -> None:
        loaded = self._model(unit)
        name = data_name(unit["data"], loaded)
        data = self._data_of(unit, name)
        if unit["weights"] + unit["model"] not in self._trained:
            demand_trained(loaded.module, data, mend=_MEND)
            self._trained.add(unit["weights"] + unit["model"])
        budgets = tuple(Budget.parse(text) for text in unit["budgets"])
        named = Costs.of(unit["costs"])
        inputs, graph = named.traced(loaded.module, data)
        costs = named.models(loaded.module, graph, budgets)
        recipe = recipe_of(**unit["recipe"], seed=unit["seed"], device=session.device)
        _seed_all(unit["seed"])
        job = job_of(
            loaded.module,
            graph,
            data.task(),
            [budgets],
            costs,
            inputs,
            recipe=recipe,
            test=data.test,
            network=unit["network"],
            folder=session.work,
            progress=session.progress,
        )
        (result,) = job.run()
        source = Source(unit["model"], unit["factory"], unit["origin"] or "of the factory", name, unit["network"])
        save(result, target, source=source)

    def _apply(
        self, unit: Mapping[str, Any], chain: Mapping[str, Any], made: Path, place: Path, session: _Session
    ) -> None:
        """Apply a chain of stages to a finished artefact."""
        loaded = load(made)
        data = self._data_of(unit, loaded.manifest.data)
        own = {name: value for name, value in chain["options"].items() if name.startswith(f"{TRAINING}.")}
        place.parent.mkdir(parents=True, exist_ok=True)
        job = StageJob(
            start_of_artefact(loaded),
            tuple(stages_of(chain["apply"], chain["options"], seed=unit["seed"])),
            Training(seed=unit["seed"], device=session.device, options=own),
            data.task(),
            data.test,
            folder=session.work / chain["name"],
            progress=session.progress,
            given=chain["options"],
        )
        _seed_all(unit["seed"])
        save(job.run(), place)

    # -- what units share

    def _model(self, unit: Mapping[str, Any]) -> LoadedModel:
        torch.manual_seed(unit["dense_seed"])
        loaded = load_model(unit["model"], unit["factory"])
        if unit["weights"]:
            load_weights(loaded.module, unit["weights"])
        return loaded

    def _data_of(self, unit: Mapping[str, Any], name: str) -> Data:
        """The data; those of this program's readers, which draw nothing of their own, are kept for the next unit."""
        key = (name, unit["data_dir"], unit["batch_size"])
        if key in self._data:
            return self._data[key]
        data = load_data(name, data_dir=unit["data_dir"] or None, batch_size=key[2], seed=unit["dense_seed"])
        if ":" not in name:
            self._data[key] = data
        return data


class _Session:
    """One unit while it runs: where it trains and keeps its state, and how it takes turns with others.

    Args:
        unit: Its description.
        work: Folder of its checkpoints.
    """

    def __init__(self, unit: Mapping[str, Any], work: Path) -> None:
        self.work = work
        self.device = current_device(unit["train_on"]).torch_name
        devices = dict.fromkeys(current_device(name).fingerprint for name in ("cpu", self.device))
        self._gate = Gate(_lock_folder(), tuple(devices))
        self._beacon = Beacon(work)
        self._threads = unit["threads"]

    @property
    def waited_s(self) -> float:
        """Time that it stood aside for others to measure, or waited to measure itself."""
        return self._gate.waited_s

    @contextmanager
    def training(self) -> Iterator[None]:
        """Train, and measure by turns with others."""
        torch.set_num_threads(self._threads)
        cores = [int(core) for core in os.environ.get(WORKER_CORES, "").split(",") if core.isdigit()]
        try:
            self._gate.enter()
            with measuring_by(self._gate.alone), free_to_measure_on(cores):
                yield
        finally:
            self._gate.close()

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Told how far the unit is; steps aside for those who measure."""
        self._gate.pause()
        self._beacon.show(stage, done, total, note)


def _lock_folder() -> Path | None:
    try:
        return lock_folder()
    except OSError as error:
        _LOG.warning("measurements cannot keep other jobs from training meanwhile: %s", error)
        return None


def _part(unit: Mapping[str, Any]) -> str:
    """Folder of the ledger that a unit belongs to."""
    return "dense" if unit["kind"] == "dense" else "jobs"


def _seed_all(seed: int) -> None:
    """What code of the user's may draw from, too, is the same whatever ran before in this process."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _staged_fields(place: Path) -> dict[str, Any]:
    """What a ledger keeps of a staged artefact."""
    artefact = read_artefact(place)
    return {
        "accuracy": artefact.manifest.accuracy,
        "bytes": artefact.weights.bytes,
        "met": all_met(check.met for check in artefact.manifest.budgets),
    }
