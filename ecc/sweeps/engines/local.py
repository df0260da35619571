"""Engine ``local``: worker processes on this machine that live as long as the sweep, each kept on its own cores."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ecc.core.errors import UnavailableError
from ecc.profiler.cores import choose_cores
from ecc.sweeps.engines.protocol import BEAT_S, WORKER_CORES, Ended, Event, Started, Unit, out_of_time

__all__ = ["LocalEngine"]

_ATTEMPTS = 2  # a second death of its worker is the unit's own doing
_STARTS = 2  # workers in a row that die before they are ready
_TAIL_BYTES = 2000
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_MODULE = "ecc.sweeps.engines.worker"


@dataclass(eq=False, slots=True)
class _Worker:
    """One process.

    Attributes:
        number: From 0.
        process: It.
        log: What it writes.
        cores: That it is kept on; empty for any.
        ready: Whether it has loaded its work.
        unit: What it does.
        attempt: Of the unit.
        log_start: Where in the log the unit begins.
        due: When the unit must have ended, in monotonic seconds.
        late: Whether it has been told to end because the unit had not.
    """

    number: int
    process: subprocess.Popen[str]
    log: Path
    cores: tuple[int, ...]
    ready: bool = False
    unit: Unit | None = None
    attempt: int = 0
    log_start: int = 0
    due: float = math.inf
    late: bool = False

    @property
    def name(self) -> str:
        """For people."""
        cores = f", core {','.join(map(str, self.cores))}" if self.cores else ""
        return f"process {self.process.pid}{cores}"

    def tail(self) -> str:
        """The last that it wrote on its unit."""
        with suppress(OSError), self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self.log_start, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
        return ""


@dataclass(eq=False, slots=True)
class LocalEngine:
    """Runs units in processes of this machine.

    Attributes:
        workers: How many, at most.
        logs: Folder of what they write.
        threads: Cores for each.
        gpus: How many there are; workers take turns in having one to themselves.
        grace_s: How long workers that are told to end may take to keep their state.
    """

    workers: int
    logs: Path
    threads: int = 1
    gpus: int = 0
    grace_s: float = 20.0
    _alive: dict[int, _Worker] = field(default_factory=dict, init=False)
    _work: str = field(default="", init=False)
    _said: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = field(
        default_factory=queue.SimpleQueue, init=False
    )
    _failed_starts: int = field(default=0, init=False)

    @property
    def name(self) -> str:
        """As in ``--engine``."""
        return "local"

    def run(self, units: Sequence[Unit], work: str) -> Generator[Event | None, None, None]:
        """As of ``Engine``."""
        waiting = deque((unit, 1) for unit in units)
        left = len(waiting)
        try:
            if self._work != work:
                self.close()
                self._work = work
            while left:
                busy = sum(worker.unit is not None for worker in self._alive.values())
                for number in range(min(self.workers, busy + len(waiting))):
                    if number not in self._alive:
                        self._alive[number] = self._start(number)
                yield from self._hand_out(waiting)
                self._end_late()
                event = self._next_event(waiting)
                left -= isinstance(event, Ended)
                yield event
        except BaseException:  # the caller has closed the iterator, or was interrupted
            self._stop()
            raise

    def close(self) -> None:
        """End all workers, which have nothing to do."""
        for worker in self._alive.values():
            with suppress(OSError, ValueError):
                _send(worker, "end")
        self._stop()

    # -- workers

    def _start(self, number: int) -> _Worker:
        cores = self._cores_of(number)
        every = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        own = dict.fromkeys(_THREAD_SETTINGS, str(self.threads)) | {WORKER_CORES: ",".join(map(str, every))}
        if self.gpus:
            own["CUDA_VISIBLE_DEVICES"] = _gpu_of(number, self.gpus)
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"worker-{number + 1}.log"
        try:
            with log.open("ab") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", _MODULE, self._work, ",".join(map(str, cores))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    env=os.environ | own,
                    text=True,
                    encoding="utf-8",
                    start_new_session=True,  # Ctrl-C is for the engine, which then asks its workers to end
                )
                start = file.tell()
        except OSError as error:
            raise UnavailableError(f"no worker can be started: {error.strerror}") from error
        worker = _Worker(number, process, log, cores, log_start=start)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _cores_of(self, number: int) -> tuple[int, ...]:
        """Its own cores, one of each physical core first; none where there are not enough for all workers."""
        wanted = self.workers * self.threads
        cores = choose_cores(wanted) if sys.platform == "linux" else ()
        return cores[number * self.threads : (number + 1) * self.threads] if len(cores) == wanted else ()

    def _listen(self, worker: _Worker) -> None:
        """Put what a worker says in the queue; None when it has ended."""
        with _stream(worker.process.stdout) as lines:
            for line in lines:
                with suppress(ValueError):
                    self._said.put((worker, json.loads(line)))
        worker.process.wait()
        self._said.put((worker, None))

    def _hand_out(self, waiting: deque[tuple[Unit, int]]) -> Iterator[Event]:
        for worker in self._alive.values():
            if waiting and worker.ready and worker.unit is None and not worker.late:
                worker.unit, worker.attempt = waiting.popleft()
                worker.due = time.monotonic() + (worker.unit.timeout_s or math.inf)
                with suppress(OSError):
                    worker.log_start = worker.log.stat().st_size
                with suppress(OSError):  # it has died; its end is in the queue
                    _send(worker, {"id": worker.unit.id, "description": dict(worker.unit.description)})
                yield Started(worker.unit.id, worker.name, worker.attempt)

    def _end_late(self) -> None:
        """Ask workers whose units take too long to end, which lets them keep their state; later end them."""
        now = time.monotonic()
        for worker in self._alive.values():
            if now < worker.due or (worker.unit is None and not worker.late):
                continue
            with suppress(OSError):
                if worker.late:
                    _kill(worker.process)
                else:
                    worker.process.terminate()
            worker.late, worker.due = True, now + self.grace_s

    def _next_event(self, waiting: deque[tuple[Unit, int]]) -> Event | None:
        """What a worker says next; None where nobody says anything for a while, or nothing that matters here."""
        try:
            worker, said = self._said.get(timeout=BEAT_S)
        except queue.Empty:
            return None
        if self._alive.get(worker.number) is not worker:
            return None  # of an earlier run
        if said is None:
            return self._bury(worker, waiting)
        if said.get("ready"):
            worker.ready, self._failed_starts = True, 0
            return None
        unit, worker.unit = worker.unit, None
        if unit is None:
            return None
        error, detail = said.get("error", ""), said.get("detail", "")
        return Ended(unit.id, said.get("value"), error, detail, worker.name, worker.attempt)

    def _bury(self, worker: _Worker, waiting: deque[tuple[Unit, int]]) -> Event | None:
        """A worker has died: its unit is tried again, or ends."""
        del self._alive[worker.number]
        with suppress(OSError):
            _stream(worker.process.stdin).close()
        how, unit = _how_ended(worker.process.returncode), worker.unit
        if unit is not None and worker.late:
            return Ended(unit.id, None, out_of_time(unit), worker.tail(), worker.name, worker.attempt)
        if unit is None:
            self._failed_starts += not worker.ready
            if self._failed_starts >= _STARTS:
                last = worker.tail().splitlines()[-1:]
                raise UnavailableError(f"workers {how} as they start ({' '.join(last)}); {worker.log} tells more")
            return None
        if worker.attempt < _ATTEMPTS:
            waiting.appendleft((unit, worker.attempt + 1))
            return None
        error = f"its worker {how}, {worker.attempt} times; {worker.log} may tell more"
        return Ended(unit.id, None, error, worker.tail(), worker.name, worker.attempt)

    def _stop(self) -> None:
        """Ask workers that are at work to end, wait a while, and leave none behind."""
        alive, self._alive = list(self._alive.values()), {}
        try:
            for worker in alive:
                if worker.unit is not None or not worker.ready:
                    worker.process.terminate()
            ends = time.monotonic() + self.grace_s
            for worker in alive:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, ends - time.monotonic()))
        finally:
            for worker in alive:
                if worker.process.poll() is None:
                    _kill(worker.process)
                with suppress(OSError):
                    _stream(worker.process.stdin).close()


def _stream(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise ValueError("the worker has no such pipe")
    return pipe


def _send(worker: _Worker, value: Any) -> None:
    pipe = _stream(worker.process.stdin)
    pipe.write(json.dumps(value) + "\n")
    pipe.flush()


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process and what it has started."""
    with suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _how_ended(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    full = " (often because memory was full)" if name == "SIGKILL" else ""
    return f"was killed by {name}{full}"


def _gpu_of(number: int, gpus: int) -> str:
    """The GPU of a worker, among those that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    visible = given.split(",") if given else [str(place) for place in range(gpus)]
    return visible[number % len(visible)]
