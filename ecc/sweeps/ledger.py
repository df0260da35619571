"""The folder of a sweep: what was asked for, what is done, what failed and why.

sweep.json              the plan: every job with its id, network, device, method, budgets and seed
job.toml                the job file as it was
jobs/ID/                the artefact of a finished job
jobs/ID.json            its record, or why it failed; jobs/ID.error.txt has the traceback
jobs/.ID.work/          the checkpoints of a job that is not finished
dense/ID.safetensors    a dense network that was trained for the jobs, with its record beside it
staged/CHAIN/ID/        what secondary stages have made of a finished job
logs/                   what the workers wrote

Every file is replaced as a whole, and an artefact appears as a whole; so the folder is sound whenever and however the
program ends, and what is missing in it is what is left to do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ecc.api.describing import environment
from ecc.artefact import read as read_artefact
from ecc.core.errors import EccError, InputError, StorageError, UnavailableError
from ecc.core.fields import Fields, parse_object
from ecc.core.files import write_whole
from ecc.core.verdict import all_met
from ecc.sweeps.plan import Plan

__all__ = ["DONE", "FAILED", "PLAN", "Ledger", "Record"]

DONE, FAILED = "done", "failed"
PLAN = "sweep.json"
"""File that makes a folder one of a sweep."""

_SCHEMA = "ecc-sweep-1"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a job, or of the training of a dense network.

    Attributes:
        id: Of the job.
        status: DONE or FAILED.
        error: Why it failed, in a sentence.
        accuracy: Of its network on the test data; None where there is none.
        accuracy_dense: Of the dense network.
        met: Whether every budget holds; None where that could not be measured.
        budgets: The checks, as ``ecc compress --json`` gives them.
        staged: What each chain of stages made: ``bytes``, ``accuracy``, ``met``.
        seconds: That the last run of it took, of which ``waited_s`` for others to measure or to let it measure.
        waited_s: See there.
        worker: Where it ran, for people.
        attempt: The one that ended it.
        finished: When, with the time zone.
    """

    id: str
    status: str
    error: str = ""
    accuracy: float | None = None
    accuracy_dense: float | None = None
    met: bool | None = None
    budgets: tuple[Mapping[str, Any], ...] = ()
    staged: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    waited_s: float = 0.0
    worker: str = ""
    attempt: int = 1
    finished: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))

    @property
    def done(self) -> bool:
        """Whether it succeeded."""
        return self.status == DONE

    def to_json(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        return asdict(self) | {"budgets": [dict(each) for each in self.budgets], "staged": dict(self.staged)}

    @classmethod
    def from_json(cls, content: bytes, where: str) -> Record:
        """The record in a file.

        Raises:
            InputError: If it is none.
        """
        return cls.of_fields(parse_object(content, where), where)

    @classmethod
    def of_fields(cls, value: Fields | Mapping[str, Any], where: str = "record") -> Record:
        """The inverse of ``to_json``.

        Raises:
            InputError: If it is none.
        """
        fields = value if isinstance(value, Fields) else Fields(dict(value), where)
        status, staged = fields.text("status"), fields.inner("staged")
        if status not in (DONE, FAILED):
            raise InputError(f"{where} has the status {status!r:.80}; remove it to run its job again")
        return cls(
            id=fields.text("id"),
            status=status,
            error=fields.text("error", ""),
            accuracy=fields.optional_number("accuracy"),
            accuracy_dense=fields.optional_number("accuracy_dense"),
            met=fields.optional_flag("met"),
            budgets=tuple(each for each in fields.items("budgets") if isinstance(each, dict)),
            staged={name: staged.scalars(name) for name in staged},
            seconds=fields.number("seconds"),
            waited_s=fields.number("waited_s"),
            worker=fields.text("worker", ""),
            attempt=fields.whole("attempt"),
            finished=fields.text("finished", ""),
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """The folder of one sweep.

    Attributes:
        folder: Absolute.
    """

    folder: Path

    def artefact(self, id: str) -> Path:
        """Where the artefact of a job goes."""
        return self.folder / "jobs" / id

    def work(self, id: str, part: str = "jobs") -> Path:
        """Where the checkpoints of a job are until it is finished."""
        return self.folder / part / f".{id}.work"

    def dense(self, id: str) -> Path:
        """Where the weights of a dense network go."""
        return self.folder / "dense" / f"{id}.safetensors"

    def staged(self, chain: str, id: str) -> Path:
        """Where goes what a chain of stages makes of a job."""
        return self.folder / "staged" / chain / id

    def error(self, id: str, part: str = "jobs") -> Path:
        """Where the traceback of a failed job is."""
        return self.folder / part / f"{id}.error.txt"

    @property
    def logs(self) -> Path:
        """Where workers write."""
        return self.folder / "logs"

    def demand_free(self, plan: Plan, *, resume: bool) -> None:
        """Refuse a folder that holds something else.

        Raises:
            InputError: If there is a sweep already and ``resume`` is off, or what is no sweep.
        """
        known = (self.folder / PLAN).exists()
        if not known and self.folder.exists() and not (self.folder.is_dir() and set(_names(self.folder)) <= {_LOCK}):
            raise InputError(f"{str(self.folder)!r} is there and holds no sweep; choose another folder with --out")
        if known and not resume:
            raise InputError(
                f"{str(self.folder)!r} holds a sweep already, with {self.done_of(plan)} of these {len(plan.jobs)} "
                "jobs done; run what is missing with --resume, or choose another folder with --out"
            )

    def begin(self, plan: Plan) -> None:
        """Write down what is to be done.

        Raises:
            InputError: If it cannot be written.
        """
        with self._writing():
            for part in ("jobs", "dense", "logs"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / "job.toml", plan.file.file.read_bytes())
            write_whole(self.folder / PLAN, _json(_told(plan)))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{str(self.folder)!r} cannot be written: {error.strerror}; choose another folder with --out"
            ) from error

    def done_of(self, plan: Plan) -> int:
        """How many jobs of a plan are done."""
        return sum(record.done for record in self.records(job.id for job in plan.jobs).values())

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the only one that runs this sweep.

        Raises:
            UnavailableError: If another process does.
        """
        if os.name != "posix":  # two sweeps at once in one folder are not noticed there
            yield
            return
        import fcntl

        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UnavailableError(
                    f"the sweep in {str(self.folder)!r} is being run by another process; wait for it to end"
                ) from None
            except OSError:  # a file system without locks
                pass
            yield
        finally:
            os.close(file)

    def records(self, ids: Iterable[str], part: str = "jobs") -> dict[str, Record]:
        """The records of those of these jobs that have one; a job that died after its artefact has one made of it.

        A record that cannot be read counts as none: its job then runs again.
        """
        found = {id: record for id in ids if (record := self._record(id, part)) is not None}
        return {id: record for id, record in found.items() if not record.done or self._holds(id, part)}

    def _holds(self, id: str, part: str) -> bool:
        """Whether what a record says is done is there."""
        return self.dense(id).is_file() if part == "dense" else (self.artefact(id) / "manifest.json").is_file()

    def _record(self, id: str, part: str) -> Record | None:
        file = self.folder / part / f"{id}.json"
        with suppress(OSError, EccError):
            return Record.from_json(file.read_bytes(), f"record {file}")
        if part == "jobs":
            with suppress(OSError, EccError):
                return self.record_of(id)
        return None

    def record_of(self, id: str) -> Record:
        """The record of a finished artefact.

        Raises:
            InputError: If it is no sound artefact.
        """
        manifest = read_artefact(self.artefact(id)).manifest
        return Record(
            id,
            DONE,
            accuracy=manifest.accuracy,
            accuracy_dense=manifest.accuracy_dense,
            met=all_met(check.met for check in manifest.budgets),
            budgets=tuple(check.to_json() for check in manifest.budgets),
            seconds=manifest.seconds,
        )

    def told(self) -> dict[str, Any]:
        """What the folder says of its sweep: the plan, with the record of each job in its place.

        Raises:
            InputError: If it holds no sweep.
        """
        file = self.folder / PLAN
        try:
            fields = parse_object(file.read_bytes(), str(file))
        except OSError as error:
            raise InputError(f"{str(self.folder)!r} holds no sweep: {error.strerror}") from error
        if fields.text("schema") != _SCHEMA:
            raise InputError(f"{file} is of another version of this program; run the sweep again with --resume")
        jobs = [Fields(each, f"a job of {file}") for each in fields.items("jobs")]
        records = self.records(job.text("id") for job in jobs)
        told = []
        for job in jobs:
            record = records.get(id := job.text("id"))
            names = {name: job.text(name) for name in ("network", "device", "method")}
            own = {"id": id, **names, "budgets": list(job.texts("budgets")), "seed": job.whole("seed")}
            told.append({**own, "record": None if record is None else record.to_json()})
        return {
            "sweep": fields.text("name"),
            "jobs": len(told),
            "done": sum(record.done for record in records.values()),
            "failed": sum(not record.done for record in records.values()),
            "plan": told,
        }

    def write(self, record: Record, part: str = "jobs", *, trace: str = "") -> None:
        """Keep a record; a traceback goes beside that of a failed job.

        Raises:
            StorageError: If it cannot be written.
        """
        try:
            write_whole(self.folder / part / f"{record.id}.json", _json(record.to_json()))
            if record.done:
                self.error(record.id, part).unlink(missing_ok=True)
            elif trace or not self.error(record.id, part).exists():
                write_whole(self.error(record.id, part), f"{record.error}\n\n{trace}".encode(errors="replace"))
        except OSError as error:
            raise StorageError(
                f"what became of {record.id} cannot be written to {str(self.folder)!r}: {error.strerror}; free some "
                "space there, and run what is missing with --resume"
            ) from error


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def _told(plan: Plan) -> dict[str, Any]:
    """The plan as a JSON object."""
    return {
        "schema": _SCHEMA,
        "name": plan.file.name,
        "job_file": plan.file.file.name,
        "x": plan.axis,
        "jobs": [{"id": job.id, **job.fields} for job in plan.jobs],
        "dense": [asdict(each) for each in plan.dense],
        "chains": [chain.name for chain in plan.file.chains],
        "environment": environment(),
    }
