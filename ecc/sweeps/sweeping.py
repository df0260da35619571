"""Plan + ledger + engine → finished jobs: runs what is missing, dense networks first, and tells what comes of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from ecc.api.fronts import front_of
from ecc.core.errors import InputError
from ecc.core.markup import card
from ecc.fronts import Fronts
from ecc.sweeps.engines.protocol import Ended, Engine, Started, Unit
from ecc.sweeps.ledger import FAILED, Ledger, Record
from ecc.sweeps.plan import Job, Plan

__all__ = ["Running", "Swept", "Watch", "run_missing"]

_NO_TRACE = "(no traceback)"


@dataclass(frozen=True, slots=True)
class Running:
    """A unit that a worker is at.

    Attributes:
        id: Of the unit.
        part: Of the ledger: ``jobs`` or ``dense``.
        worker: For people.
        since: Monotonic seconds.
        attempt: From 1.
    """

    id: str
    part: str
    worker: str
    since: float
    attempt: int


class Watch(Protocol):
    """Told what happens, several times a second."""

    def begin(self, part: str, units: int, *, known: int) -> None:
        """So many units of a part are to be run; so many were known before."""
        ...

    def beat(self, running: Sequence[Running]) -> None:
        """These are running."""
        ...

    def end(self, part: str, record: Record) -> None:
        """A unit has ended."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Swept:
    """What has come of a sweep.

    Attributes:
        plan: What was asked for.
        ledger: Its folder.
        records: Of its jobs, by id; a job that was not run has none.
        fresh: Ids of those that ran now.
        dense: Records of the dense networks that were trained, by id.
        seconds: Wall time of this run.
        workers: That the engine had.
    """

    plan: Plan
    ledger: Ledger
    records: Mapping[str, Record]
    fresh: frozenset[str]
    dense: Mapping[str, Record]
    seconds: float
    workers: int

    @property
    def folder(self) -> Path:
        """Of the sweep, with all that docs/sweeps.md names."""
        return self.ledger.folder

    @property
    def jobs(self) -> int:
        """How many there are."""
        return len(self.plan.jobs)

    @property
    def artefacts(self) -> list[Path]:
        """Folders of the jobs that are done: what ``ecc.front`` and ``ecc.load`` take."""
        return [self.ledger.artefact(record.id) for record in self.done]

    @property
    def done(self) -> list[Record]:
        """Jobs that have an artefact, in the order of the plan."""
        return [record for job in self.plan.jobs if (record := self.records.get(job.id)) and record.done]

    @property
    def failed(self) -> list[Record]:
        """Jobs that failed, in the order of the plan."""
        return [record for job in self.plan.jobs if (record := self.records.get(job.id)) and not record.done]

    @property
    def missed(self) -> list[Record]:
        """Jobs that are done but miss a budget, also after their stages."""
        return [
            record
            for record in self.done
            if record.met is False or any(each.get("met") is False for each in record.staged.values())
        ]

    @property
    def job_seconds(self) -> float:
        """Time that the jobs of this run took, all together."""
        ran = [self.records[id] for id in self.fresh]
        return sum(record.seconds for record in (*ran, *self.dense.values()))

    def front(self, x: str | None = None) -> Fronts:
        """The front of what is done.

        Args:
            x: Its axis, as of ``ecc.front``; that of the job file when None.
        Raises:
            InputError: If nothing is done, or nothing of it is on that axis.
        """
        if not self.done:
            raise InputError(f"no job of the sweep in {str(self.folder)!r} is done; failed tells why")
        axis = self.plan.axis if x is None else x
        try:
            return front_of(self.artefacts, x=axis)
        except InputError:  # one is not on the axis; what is found in a folder may be left out
            return front_of([self.folder / "jobs"], x=axis)

    def __repr__(self) -> str:
        parts = [f"{len(self.done)} of {self.jobs} jobs done"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        parts += [f"{len(self.missed)} missed a budget"] if self.missed else []
        return f"Swept({', '.join(parts)}, {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        rows = [[record.id, record.status, record.error or str(record.accuracy)] for record in self.records.values()]
        return card(repr(self), [("seconds", f"{self.seconds:.0f}")], ["job", "state", "accuracy, or why"], rows)


@dataclass(slots=True, eq=False)
class _Sweep:
    """One run.

    Attributes:
        running: By id.
    """

    ledger: Ledger
    engine: Engine
    work: str
    watch: Watch
    running: dict[str, Running] = field(default_factory=dict)

    def run(self, part: str, units: Sequence[Unit], *, known: int) -> dict[str, Record]:
        """Run units of one part; gives their records."""
        found: dict[str, Record] = {}
        self.watch.begin(part, len(units), known=known)
        if not units:
            return found
        with closing(self.engine.run(units, self.work)) as events:
            for event in events:
                if isinstance(event, Started):
                    self.running[event.id] = Running(event.id, part, event.worker, time.monotonic(), event.attempt)
                elif isinstance(event, Ended):
                    began = self.running.pop(event.id, None)
                    seconds = 0.0 if began is None else time.monotonic() - began.since
                    found[event.id] = self._record(part, event, seconds)
                    self.watch.end(part, found[event.id])
                self.watch.beat(list(self.running.values()))
        return found

    def _record(self, part: str, ended: Ended, seconds: float) -> Record:
        """The record that the worker has kept, or one that says why there is none.

        Args:
            seconds: Since it was begun.
        """
        if ended.value is not None:
            known = self.ledger.records([ended.id], part)
            if ended.id in known:  # only the engine knows where it ran, and how often
                record = replace(known[ended.id], worker=ended.worker, attempt=ended.attempt)
                self.ledger.write(record, part)
                return record
            ended = replace(ended, error="its results did not come back")
        return self._lost(part, ended, seconds)

    def _lost(self, part: str, ended: Ended, seconds: float) -> Record:
        """Keep that a unit ended without a word of its own."""
        record = Record(ended.id, FAILED, ended.error, seconds=seconds, worker=ended.worker, attempt=ended.attempt)
        self.ledger.write(record, part, trace=ended.detail or _NO_TRACE)
        return record


def run_missing(plan: Plan, ledger: Ledger, engine: Engine, work: str, *, device: str, watch: Watch) -> Swept:
    """Run what is missing of a plan; jobs that failed before are run again.

    Args:
        work: What the engine's workers do with a unit, ``package.module:name``.
        device: Where to train.
        watch: Told what happens.
    Raises:
        UnavailableError: If no worker can be started, or the folder cannot be written any more.
        KeyboardInterrupt: On Ctrl-C, once the workers have kept their state.
    """
    started = time.monotonic()
    run = _Sweep(ledger, engine, work, watch)
    try:
        before = {id: record for id, record in ledger.records(job.id for job in plan.jobs).items() if record.done}
        left = [job for job in plan.jobs if not _whole(before.get(job.id), plan, ledger)]
        needed = {job.dense.id: job.dense for job in left if job.dense is not None}
        trained = {id: one for id, one in ledger.records(needed, "dense").items() if one.done}
        units = plan.dense_units(ledger.folder, [one for id, one in needed.items() if id not in trained], device=device)
        dense = run.run("dense", units, known=len(trained))
        lost = {id: record for id, record in dense.items() if not record.done}
        ready = [job for job in left if job.dense is None or job.dense.id not in lost]
        fresh = _without_dense(left, lost, ledger)
        fresh |= run.run("jobs", plan.units(ledger.folder, ready, device=device), known=len(plan.jobs) - len(left))
    finally:
        engine.close()
    seconds = time.monotonic() - started
    return Swept(plan, ledger, before | fresh, frozenset(fresh), dense, seconds=seconds, workers=engine.workers)


def _whole(record: Record | None, plan: Plan, ledger: Ledger) -> bool:
    """Whether nothing of a job is missing."""
    if record is None:
        return False
    chains = [chain.name for chain in plan.file.chains]
    return all(
        chain in record.staged and (ledger.staged(chain, record.id) / "manifest.json").is_file() for chain in chains
    )


def _without_dense(left: Sequence[Job], lost: Mapping[str, Record], ledger: Ledger) -> dict[str, Record]:
    """Records of the jobs whose dense network could not be trained."""
    found = {
        job.id: Record(job.id, FAILED, f"its dense network could not be trained: {lost[job.dense.id].error}")
        for job in left
        if job.dense is not None and job.dense.id in lost
    }
    for record in found.values():
        ledger.write(record, trace=_NO_TRACE)
    return found
