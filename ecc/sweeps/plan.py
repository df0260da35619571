"""The plan of a sweep: networks × devices × methods × budgets × seeds as jobs, each with an id that stays.

An id ends in a hash of all that decides the result: the contents of the files that are named, never their places. So it
is the same in any order, beside any other jobs and in any folder, and another one when a cost model was fitted anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecc.api.analytic import SYSTOLIC_PREFIX
from ecc.api.named import lasting
from ecc.sweeps.engines.protocol import Unit
from ecc.sweeps.job_file import BudgetSet, Chain, JobFile, MethodEntry, NetworkEntry

__all__ = ["Dense", "Job", "Plan", "plan_of"]

_DIGITS = 8  # of a hash: two jobs of a million-job sweep collide with a chance of one in ten thousand
_LONGEST = 80  # characters of an id before its hash


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense network that is trained once before the jobs of it.

    Attributes:
        id: Stable.
        network: Name for people.
        epochs: Of its training.
        seed: Of its weights and its training.
        origin: What artefacts say of the weights.
    """

    id: str
    network: str
    epochs: int
    seed: int
    origin: str


@dataclass(frozen=True, slots=True)
class Job:
    """One constrained compression.

    Attributes:
        id: Stable, see the module.
        network: Name of its network.
        device: Name of the device whose cost models it uses; empty where there is one only.
        method: Label of its method.
        budgets: That hold together.
        seed: Of every random choice but those of the dense network.
        dense: What must be trained before; None where the network has its weights.
        entry: Of the network, in the job file.
        how: The method's entry.
        costs: Cost models for its budgets: absolute paths, or ``systolic:ARRAY``.
    """

    id: str
    network: str
    device: str
    method: str
    budgets: BudgetSet
    seed: int
    dense: Dense | None
    entry: NetworkEntry
    how: MethodEntry
    costs: tuple[str, ...]

    @property
    def fields(self) -> dict[str, Any]:
        """What tells it from the others, for people and programs."""
        return {
            "network": self.network,
            "device": self.device,
            "method": self.method,
            "budgets": list(self.budgets.texts),
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a job file asks for.

    Attributes:
        file: The job file.
        dense: To be trained first.
        jobs: In the order in which they should run: one seed of all before the next.
    """

    file: JobFile
    dense: tuple[Dense, ...]
    jobs: tuple[Job, ...]

    @property
    def axis(self) -> str:
        """Horizontal axis of the front: the file's, or the metric of the first budget."""
        return self.file.x or self.jobs[0].budgets.budgets[0].metric

    def dense_units(self, folder: Path, left: Sequence[Dense], *, device: str) -> list[Unit]:
        """The trainings of these dense networks, for an engine."""
        networks = {job.dense.id: job.entry for job in self.jobs if job.dense is not None}
        return [
            self._unit(
                folder,
                each.id,
                networks[each.id],
                device,
                {"kind": "dense", "epochs": each.epochs, "origin": each.origin},
                writes=("dense", (f"{each.id}.safetensors", f"{each.id}.error.txt", f"{each.id}.json")),
            )
            for each in left
        ]

    def units(self, folder: Path, left: Sequence[Job], *, device: str) -> list[Unit]:
        """These jobs, for an engine."""
        return [self._job_unit(folder, job, device) for job in left]

    def _job_unit(self, folder: Path, job: Job, device: str) -> Unit:
        entry, how = job.entry, job.how
        own = {"origin": entry.weights}
        if job.dense is not None:
            own = {"origin": job.dense.origin, "weights": str(folder / "dense" / f"{job.dense.id}.safetensors")}
        description = {
            "kind": "job",
            **job.fields,
            **own,
            "costs": list(job.costs),
            "recipe": {"method": how.method, "then": how.then, **how.settings, "options": dict(how.options)},
            "chains": [chain_fields(chain) for chain in self.file.chains],
        }
        staged = (f"../staged/{chain.name}/{job.id}" for chain in self.file.chains)
        names = (job.id, *staged, f"{job.id}.error.txt", f"{job.id}.json")  # its record last
        reads = (
            own.get("weights", ""),
            *filter(os.path.isabs, (cost.removeprefix(SYSTOLIC_PREFIX) for cost in job.costs)),
        )
        return self._unit(folder, job.id, entry, device, description, reads=reads, writes=("jobs", names))

    def _unit(
        self,
        folder: Path,
        id: str,
        entry: NetworkEntry,
        device: str,
        description: Mapping[str, Any],
        *,
        reads: Sequence[str] = (),
        writes: tuple[str, Sequence[str]],
    ) -> Unit:
        own: dict[str, Any] = {
            "id": id,
            "folder": os.path.abspath(folder),
            "network": entry.name,
            "model": model_of(self.file, entry),
            "factory": dict(entry.options),
            "data": data_of(self.file, entry),
            "data_dir": str(self.file.path_of(entry.data_dir)) if entry.data_dir else "",
            "batch_size": self.file.batch_size,
            "dense_seed": entry.seed,
            "weights": str(self.file.path_of(entry.weights)) if entry.weights else "",
            "train_on": device,
            "threads": self.file.threads,
        }
        place, names = writes
        claims = entry.claims.over(self.file.claims)
        usual_gpus = 1.0 if device.startswith("cuda") else 0.0
        sources = (_file_in(own["model"]), _file_in(own["data"]), own["weights"], *reads)
        return Unit(
            id,
            own | dict(description),
            cpus=self.file.threads,
            gpus=usual_gpus if claims.gpus is None else claims.gpus,
            memory_bytes=claims.memory_bytes,
            resources=claims.resources,
            reads=tuple(dict.fromkeys(filter(None, sources))),
            writes=tuple(os.path.abspath(folder / place / name) for name in names),
            root=os.path.abspath(folder),
            timeout_s=self.file.timeout_s,
        )


def plan_of(file: JobFile, *, metrics: Mapping[str, str]) -> Plan:
    """Every job of a job file.

    Args:
        metrics: Of each cost file, by its absolute path.
    """
    dense = {network.name: _dense(file, network) for network in file.networks}
    jobs = [
        _job(file, network, device, method, budgets, seed, dense[network.name], metrics)
        for seed in file.seeds
        for network in file.networks
        for device in network.devices
        for method in file.methods
        for budgets in file.budgets_of(network, method)
    ]
    return Plan(file, tuple(each for each in dense.values() if each is not None), tuple(jobs))


def model_of(file: JobFile, network: NetworkEntry) -> str:
    """MODEL with the whole path of its file."""
    return lasting(network.model, file.file.parent)


def data_of(file: JobFile, network: NetworkEntry) -> str:
    """DATA with the whole path of its file."""
    return lasting(network.data, file.file.parent)


def chain_fields(chain: Chain) -> dict[str, Any]:
    """A chain of stages as a JSON object."""
    return {"name": chain.name, "apply": list(chain.apply), "options": dict(chain.options)}


def costs_for(
    file: JobFile, network: NetworkEntry, device: str, budgets: BudgetSet, metrics: Mapping[str, str]
) -> tuple[str, ...]:
    """The cost models of a device that the budgets need; an array serves energy and latency, where nothing else does.

    Args:
        metrics: Of each cost file, by its absolute path.
    """
    wanted = {budget.metric for budget in budgets.budgets}
    found, known = [], set[str]()
    for cost in network.devices[device]:
        if not cost.startswith(SYSTOLIC_PREFIX):
            path = str(file.path_of(cost))
            if metrics.get(path) in wanted:
                found.append(path)
                known.add(metrics[path])
    arrays = [cost for cost in network.devices[device] if cost.startswith(SYSTOLIC_PREFIX)]
    if wanted & {"energy", "latency"} - known:
        found += [f"{SYSTOLIC_PREFIX}{array_of(file, cost)}" for cost in arrays]
    return tuple(found)


def array_of(file: JobFile, cost: str) -> str:
    """Of ``systolic:ARRAY`` the preset, or the whole path of the array's file."""
    name = cost.removeprefix(SYSTOLIC_PREFIX)
    return str(file.path_of(name)) if name.endswith(".toml") else name


def _file_in(spec: str) -> str:
    where = spec.rpartition(":")[0]
    return where if where.endswith(".py") else ""


def _dense(file: JobFile, network: NetworkEntry) -> Dense | None:
    if not network.pretrain:
        return None
    start = f"{network.weights}, then " if network.weights else ""
    own = _identity(file, network) | {"epochs": network.pretrain, "seed": network.seed, "batch": file.batch_size}
    label = _slug(network.name)
    origin = f"{start}trained {network.pretrain} epochs, seed {network.seed}"
    return Dense(f"{label}-{_hash(own)}", network.name, network.pretrain, network.seed, origin)


def _job(
    file: JobFile,
    network: NetworkEntry,
    device: str,
    method: MethodEntry,
    budgets: BudgetSet,
    seed: int,
    dense: Dense | None,
    metrics: Mapping[str, str],
) -> Job:
    costs = costs_for(file, network, device, budgets, metrics)
    own = _identity(file, network) | {
        "dense": dense.id.rpartition("-")[2] if dense is not None else "",
        "batch": file.batch_size,
        "costs": sorted(_content(cost) for cost in costs),
        "budgets": sorted([each.metric, each.limit, each.relative, each.unit] for each in budgets.budgets),
        "method": [method.method, method.then],
        "settings": dict(method.settings),
        "options": dict(method.options),
        "seed": seed,
    }
    label = _slug("-".join(filter(None, (network.name, device, method.label, *budgets.texts, f"s{seed}"))))
    return Job(
        f"{label}-{_hash(own)}",
        network.name,
        device,
        method.label,
        budgets,
        seed,
        dense,
        network,
        method,
        costs,
    )


def _identity(file: JobFile, network: NetworkEntry) -> dict[str, Any]:
    """What decides the results of every job of a network."""
    return {
        "model": _spec_identity(model_of(file, network)),
        "factory": dict(network.options),
        "data": _spec_identity(data_of(file, network)),
        "weights": _content(str(file.path_of(network.weights))) if network.weights else network.seed,
    }


def _spec_identity(spec: str) -> list[str]:
    """A spec of a file is the content of that file, wherever it lies; what it imports is not looked at."""
    where, _, name = spec.rpartition(":")
    return [_content(where), name] if where.endswith(".py") else [spec]


def _content(path: str) -> str:
    """Hash of a file, also where it is of a systolic array; what is no file is what it is."""
    try:
        with Path(path.removeprefix(SYSTOLIC_PREFIX)).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return path


def _hash(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _slug(text: str) -> str:
    """Letters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9.+]+", "-", text.replace("%", "pc")).strip("-.")[:_LONGEST]
