"""sweep: a job file in, finished jobs and their front out; the command line is the same with a table that lives."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ecc.core.errors import EccError, InputError, Interrupted
from ecc.core.problem import Progress
from ecc.fronts import Fronts
from ecc.profiler.cores import physical_cores
from ecc.profiler.devices import current_device
from ecc.report.saving import WrittenFront, write_front
from ecc.sweeps.checking import checked
from ecc.sweeps.engines.local import LocalEngine
from ecc.sweeps.engines.protocol import Engine
from ecc.sweeps.engines.ray import RayEngine
from ecc.sweeps.ledger import Ledger, Record
from ecc.sweeps.plan import Plan
from ecc.sweeps.reading import draft_of
from ecc.sweeps.sweeping import Running, Swept, Watch, run_missing

__all__ = ["ENGINES", "Prepared", "prepare", "sweep", "write_sweep_front"]

ENGINES = ("local", "ray")
"""Where jobs run; the first is the usual one."""

_WORK = "ecc.sweeps.running:Runner"


def sweep(
    path: str | Path,
    *,
    out: str | Path | None = None,
    engine: str = ENGINES[0],
    workers: int | None = None,
    address: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Swept:
    """Run every job of a job file, and write the front of them, ``front.html``, beside them.

    A job that fails is told in the result and does not stop the rest.

    Args:
        path: The job file, see docs/sweeps.md.
        out: Folder of the sweep; ``out`` of the file, or NAME-sweep here, when None.
        engine: ``local``, processes of this machine, or ``ray``.
        workers: Jobs at a time on this machine; one per physical core, or per GPU where they train on these, when None.
        address: Of a running Ray cluster, ``HOST:PORT`` or ``auto``; that of the file, of $RAY_ADDRESS, or a cluster
            that is started here, when None.
        resume: Run what is missing in the folder, and what failed there.
        progress: Told how many jobs have ended, and which one was the last.
    Raises:
        InputError: If the job file has mistakes, all of which are named with their lines; or if the folder holds
            something else, or a sweep and ``resume`` is off.
        UnavailableError: If the device is not here, no worker can be started, or another process runs this sweep.
        Interrupted: On Ctrl-C, once the workers have kept their state; the same call with ``resume`` goes on.
    """
    prepared = prepare(path, out=out, engine=engine, workers=workers, address=address)
    swept = prepared.run(_Counting(progress), resume=resume)
    if swept.done:
        with suppress(EccError):  # Swept.front says why there is none
            write_sweep_front(swept)
    return swept


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sweep without a mistake, before it runs.

    Attributes:
        plan: Its jobs.
        ledger: Its folder.
        engine: A name of ENGINES.
        workers: Jobs at a time; None for the usual number.
        address: Of a Ray cluster; None for the usual one.
    """

    plan: Plan
    ledger: Ledger
    engine: str
    workers: int | None
    address: str | None

    def run(self, watch: Watch, *, resume: bool) -> Swept:
        """Run what is missing.

        Raises:
            InputError: If the folder holds something else, or a sweep and ``resume`` is off.
            UnavailableError: If no worker can be started, or another process runs this sweep.
            Interrupted: On Ctrl-C, once the workers have kept their state.
        """
        device = self.plan.file.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if self.engine == ENGINES[0]:
            device = current_device(device).torch_name
        self.ledger.demand_free(self.plan, resume=resume)
        with self.ledger.claimed():
            self.ledger.begin(self.plan)
            try:
                return run_missing(self.plan, self.ledger, self._engine(device), _WORK, device=device, watch=watch)
            except (Interrupted, KeyboardInterrupt):
                done = self.ledger.done_of(self.plan)
                raise Interrupted(
                    f"interrupted; {done} of {len(self.plan.jobs)} jobs are done, and the state of those that ran is "
                    "saved"
                ) from None

    def _engine(self, device: str) -> Engine:
        file = self.plan.file
        if self.engine == "ray":
            address = file.ray.address if self.address is None else self.address
            settings = replace(file.ray, address=address, workers=(self.workers or 0) * file.threads)
            return RayEngine(settings, self.ledger.logs)
        gpus = torch.cuda.device_count() if device.startswith("cuda") else 0
        usual = int(gpus / (file.claims.gpus or 1.0)) if gpus else physical_cores() // file.threads
        workers = min(self.workers or max(1, usual), len(self.plan.jobs))
        return LocalEngine(workers, self.ledger.logs, threads=file.threads, gpus=gpus)


def prepare(
    path: str | Path,
    *,
    out: str | Path | None = None,
    engine: str = ENGINES[0],
    workers: int | None = None,
    address: str | None = None,
) -> Prepared:
    """Look for mistakes, and run nothing; arguments as of ``sweep``.

    Raises:
        InputError: If there are any.
    """
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is unknown; choose from {', '.join(ENGINES)}")
    if workers is not None and workers < 1:
        raise InputError(f"workers must be a whole number from 1, got {workers}")
    if address is not None and engine != "ray":
        raise InputError("an address is of the engine ray; choose that engine, or leave the address out")
    plan = checked(draft_of(path))
    folder = Path(out).expanduser() if out is not None else _usual_folder(plan)
    return Prepared(plan, Ledger(folder.resolve()), engine, workers, address)


def write_sweep_front(swept: Swept) -> tuple[Fronts, WrittenFront]:
    """The front of what is done, and the files that it was written to.

    Raises:
        EccError: If nothing is on the axis, or nothing can be written.
    """
    found = swept.front()
    return found, write_front(found, swept.folder / "front.html")


def _usual_folder(plan: Plan) -> Path:
    return plan.file.path_of(plan.file.out) if plan.file.out else Path(f"{plan.file.name}-sweep")


@dataclass(slots=True)
class _Counting:
    """Counts what has ended.

    Attributes:
        progress: Told of it; None for nobody.
    """

    progress: Progress | None
    units: int = 0
    ended: int = 0

    def begin(self, part: str, units: int, *, known: int) -> None:
        """So many are to be run."""
        self.units, self.ended = units, 0

    def beat(self, running: Sequence[Running]) -> None:
        """Nothing is told of what runs."""

    def end(self, part: str, record: Record) -> None:
        """One more has ended."""
        self.ended += 1
        if self.progress is not None:
            self.progress(part, self.ended, self.units, f"{record.id} {record.status}")
