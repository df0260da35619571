"""What an engine is: it runs named work on descriptions, somewhere, and says what became of each.

An engine knows nothing of what the work means. The work is something that is importable wherever the engine's workers
run, named ``package.module:name``: a function, or a class that each worker makes once without arguments and whose
object is called (it may remember what is costly to load). It takes a description (a JSON object) and returns another
one. Work that fails says so in what it returns; an exception is of the program, not of the unit, and is told as such.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, cast

__all__ = ["BEAT_S", "WORKER_CORES", "Ended", "Engine", "Event", "Started", "Unit", "Work", "find_work", "out_of_time"]

Work = Callable[[dict[str, Any]], dict[str, Any]]
"""From a description to a result, both JSON objects."""

BEAT_S = 0.5
"""An engine yields something at least about this often, None where nothing happened."""

WORKER_CORES = "ECC_WORKER_CORES"
"""Environment variable of a worker that is kept on some cores of its machine: all that there are, joined by commas."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work.

    Attributes:
        id: Unique in the sweep.
        description: JSON object that the work takes.
        cpus: Cores it uses, at least 1.
        gpus: GPUs it uses; parts of one may be shared.
        memory_bytes: That it uses at most, for engines that place units by it; 0 where nobody knows.
        resources: Whatever else it claims, by the names that a cluster has given them; others than Ray pass it over.
        reads: Absolute paths of the files and folders that it needs, for engines whose workers share no disk.
        writes: Absolute paths of the files and folders that it leaves, likewise. They are whole or absent, and come
            back in this order: last the one that says that the others are there.
        root: Absolute path of a folder, named in the description, below which it writes; empty where there is none.
        timeout_s: How long an attempt may take; 0 for as long as it takes.
    """

    id: str
    description: Mapping[str, Any]
    cpus: int = 1
    gpus: float = 0.0
    memory_bytes: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    root: str = ""
    timeout_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has taken a unit.

    Attributes:
        id: Of the unit.
        worker: Where, for people: ``process 812, core 1``.
        attempt: From 1; more where a worker died on it.
    """

    id: str
    worker: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a unit; each unit ends once.

    Attributes:
        id: Of the unit.
        value: What the work returned; None where it returned nothing.
        error: Why it returned nothing, in a sentence: its worker died as often as is allowed, or the work raised.
        detail: More of that, such as a traceback or the last lines that a worker wrote.
        worker: Where it ended, for people.
        attempt: The one that ended it.
    """

    id: str
    value: Mapping[str, Any] | None
    error: str = ""
    detail: str = ""
    worker: str = ""
    attempt: int = 1


Event = Started | Ended


class Engine(Protocol):
    """Runs units somewhere.

    ``workers`` is how many units may run at a time, as far as it is known.
    """

    @property
    def name(self) -> str:
        """As in ``--engine``."""
        ...

    @property
    def workers(self) -> int:
        """How many units run at a time."""
        ...

    def run(self, units: Sequence[Unit], work: str) -> Generator[Event | None, None, None]:
        """Run the units, in their order as far as resources allow; every unit gets exactly one ``Ended``.

        The generator is lazy: it starts workers at the first ``next``, and yields None at least every ``BEAT_S``
        seconds where nothing happened. A worker or a node that dies costs its unit an attempt, never the sweep. A unit
        that takes longer than its ``timeout_s`` is asked to end, is ended where it does not, and ends with the sentence
        of ``out_of_time``. If the generator is closed before its end (Ctrl-C raises through the caller), the engine
        asks its workers to end (SIGTERM: work then keeps its state), waits for them some seconds, and leaves no process
        behind. It may be called again with other units; workers that live on serve these too.

        Args:
            units: With different ids.
            work: ``package.module:name``, see ``find_work``.
        Raises:
            UnavailableError: If no worker can be started at all.
        """
        ...

    def close(self) -> None:
        """End all workers; nothing happens where there are none."""
        ...


def out_of_time(unit: Unit) -> str:
    """Why a unit ended that took too long."""
    return f"it took longer than {unit.timeout_s:g} s (timeout_s), so it was ended; what it had saved is kept"


def find_work(name: str) -> Work:
    """The function of that name, or an object of the class of that name; to be called once per worker."""
    module, _, attribute = name.partition(":")
    found = getattr(import_module(module), attribute)
    return cast(Work, found() if isinstance(found, type) else found)
