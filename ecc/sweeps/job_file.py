"""What a job file says: a sweep as its user wants it, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from ecc.core.budget import Budget
from ecc.sweeps.claims import Claims
from ecc.sweeps.engines.ray_connection import Settings
from ecc.sweeps.entries import Mistakes
from ecc.sweeps.lines import Path

__all__ = ["BudgetSet", "Chain", "JobFile", "MethodEntry", "NetworkEntry"]


@dataclass(frozen=True, slots=True)
class BudgetSet:
    """Budgets that one network holds together.

    Attributes:
        texts: As they are typed, one metric each: ``latency=0.5``.
        budgets: The same as values.
        path: Where they stand.
    """

    texts: tuple[str, ...]
    budgets: tuple[Budget, ...]
    path: Path

    @property
    def label(self) -> str:
        """For people and file names: ``latency=0.5 params=0.4``."""
        return " ".join(self.texts)


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """One network with its data and its cost models.

    Attributes:
        name: Unique, for people and file names.
        model: MODEL of the command line.
        options: Of its factory, as texts.
        data: DATA of the command line.
        data_dir: Folder of the data sets; empty for $ECC_DATA.
        weights: File of the dense weights; empty where there is none.
        pretrain: Epochs that the dense network is trained first, once for all jobs.
        seed: Of fresh weights and of that training.
        devices: COST files or ``systolic:ARRAY`` by the name of the device that they are of.
        budgets: Instead of those of the file; None for these.
        claims: Of its jobs, over those of the file.
        path: Where it stands.
    """

    name: str
    model: str
    options: Mapping[str, str]
    data: str
    data_dir: str
    weights: str
    pretrain: int
    seed: int
    devices: Mapping[str, tuple[str, ...]]
    budgets: tuple[BudgetSet, ...] | None
    claims: Claims
    path: Path


@dataclass(frozen=True, slots=True)
class MethodEntry:
    """One method with its settings.

    Attributes:
        label: Unique, for people and file names.
        method: A name of METHODS or WEIGHT_METHODS.
        then: A name of WEIGHT_METHODS behind it, or None.
        settings: ``epochs``, ``distill``, ``lr``, ``rounds``, ``chance``, where they are given.
        options: PART.OPTION → value.
        budgets: Instead of those of the file or the network; None for these.
        where: Where each setting and option stands.
        path: Where the method stands.
    """

    label: str
    method: str
    then: str | None
    settings: Mapping[str, Any]
    options: Mapping[str, Any]
    budgets: tuple[BudgetSet, ...] | None
    where: Mapping[str, Path]
    path: Path


@dataclass(frozen=True, slots=True)
class Chain:
    """Secondary stages that every finished job goes through.

    Attributes:
        name: Unique, of the folder.
        apply: Names of stages, in order.
        options: STAGE.OPTION → value.
        where: Where each stage and option stands.
        path: Where the chain stands.
    """

    name: str
    apply: tuple[str, ...]
    options: Mapping[str, Any]
    where: Mapping[str, Path]
    path: Path


@dataclass(frozen=True, slots=True)
class JobFile:
    """A sweep as its user wants it.

    Attributes:
        file: Where it was read.
        name: For people.
        out: Folder of the sweep; empty for the usual one.
        x: Horizontal axis of the front; empty for the metric of the first budget.
        seeds: Of the jobs.
        budgets: Of every network and method that has none of its own.
        networks: At least one.
        methods: At least one.
        chains: Of secondary stages; may be empty.
        batch_size: Of training.
        device: Where to train; empty for CUDA where there is one.
        threads: Of the CPU, per job.
        timeout_s: How long a job may take before it is ended; 0 for as long as it takes.
        claims: What a job claims of a node beside these.
        ray: Which Ray cluster the engine ``ray`` uses, and how.
        mistakes: Lines of everything, for what is found later.
    """

    file: FilePath
    name: str
    out: str
    x: str
    seeds: tuple[int, ...]
    budgets: tuple[BudgetSet, ...]
    networks: tuple[NetworkEntry, ...]
    methods: tuple[MethodEntry, ...]
    chains: tuple[Chain, ...]
    batch_size: int
    device: str
    threads: int
    timeout_s: float
    claims: Claims
    ray: Settings
    mistakes: Mistakes = field(repr=False)

    def path_of(self, text: str) -> FilePath:
        """A path of the file, which is meant from the folder of the file."""
        return (self.file.parent / FilePath(text).expanduser()).resolve()

    def budgets_of(self, network: NetworkEntry, method: MethodEntry) -> tuple[BudgetSet, ...]:
        """What a method is to reach with a network: the method's own budgets, else the network's, else the file's."""
        return next(own for own in (method.budgets, network.budgets, self.budgets) if own is not None)
