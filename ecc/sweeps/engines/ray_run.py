"""Units on Ray: handed out as resources allow, taken back when they have ended, run again when they were lost."""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecc.core.errors import EccError
from ecc.sweeps.engines.cluster import Needs, Node, lacking, releases, slots
from ecc.sweeps.engines.parcels import Damaged, Listing, Receiver, listing, pieces, place
from ecc.sweeps.engines.protocol import Unit, out_of_time
from ecc.sweeps.engines.ray_connection import Settings, alive, the_ray
from ecc.sweeps.engines.remote import Errand, Sign, carry_out

__all__ = ["POLL_S", "Emit", "Run", "needs_of", "run_errand"]

POLL_S = 0.25
"""How often whoever waits looks around."""

_LOOK_S = 1.0  # how often the nodes are counted
_INCOMING = ".incoming"

_NODE_DIED = "the node that it ran on died"
_MEANING = {
    "WorkerCrashedError": "its worker died: killed, or crashed in native code",
    "OutOfMemoryError": "its node had no memory left and killed its worker",
    "LocalRayletDiedError": _NODE_DIED,
    "NodeDiedError": _NODE_DIED,
    "ObjectLostError": _NODE_DIED,
    "OwnerDiedError": _NODE_DIED,
    "ObjectFetchTimedOutError": _NODE_DIED,
}

Emit = Callable[[Mapping[str, Any]], None]
"""Tells the engine something, as a JSON object."""


@dataclass(eq=False, slots=True)
class _Task:
    """A unit that Ray has.

    Attributes:
        unit: It.
        attempt: From 1.
        needs: What it claims.
        worker: Where it runs; empty until it does.
        receiver: Takes what it sends back.
        ended: Its last word.
        due: When it must have ended, in monotonic seconds; of one that has not begun, never.
        late: Whether it has been told to end because it had not.
    """

    unit: Unit
    attempt: int
    needs: Needs
    worker: str = ""
    receiver: Receiver | None = None
    ended: dict[str, Any] | None = None
    due: float = math.inf
    late: bool = False


@dataclass(eq=False, slots=True)
class Run:
    """The units of one request.

    Attributes:
        where: The cluster, for people.
        waiting: Units with the number of their next attempt.
        running: By the generator that Ray gave for them.
        hopeless: Since when no node has what units with these needs claim.
    """

    settings: Settings
    where: str
    work: str
    emit: Emit
    stop: threading.Event
    waiting: deque[tuple[Unit, int]]
    running: dict[Any, _Task] = field(default_factory=dict)
    hopeless: dict[Needs, float] = field(default_factory=dict)
    nodes: Sequence[Node] = ()
    sent: dict[str, tuple[Listing, tuple[Any, ...]]] = field(default_factory=dict)
    sign: Sign = field(default_factory=lambda: Sign("", ""))
    arrived: int = 0

    def run(self) -> None:
        """Until every unit has ended, or until told to stop."""
        ray = the_ray()
        root = next((unit.root for unit, _ in self.waiting if unit.root), "")
        if root:
            shutil.rmtree(Path(root) / _INCOMING, ignore_errors=True)  # of a run that was killed
            self.sign = Sign.put_up(Path(root))
        looked = 0.0
        try:
            while (self.waiting or self.running) and not self.stop.is_set():
                if time.monotonic() - looked >= _LOOK_S:
                    self.nodes, looked = alive(), time.monotonic()
                    self._give_up()
                self._end_late()
                self._submit()
                if not self.running:
                    time.sleep(POLL_S)
                    continue
                ready, _ = ray.wait(list(self.running), num_returns=1, timeout=POLL_S, fetch_local=False)
                for generator in ready:
                    self._next(generator)
        finally:
            if self.running:
                self._cancel()
            self.sign.take_down()
            if root:
                shutil.rmtree(Path(root) / _INCOMING, ignore_errors=True)

    # -- out

    def _submit(self) -> None:
        """Hand out as much as fits twice on the nodes: enough that none waits for us, no more than the order bears."""
        ray = the_ray()
        task = ray.remote(run_errand)
        held: dict[Needs, int] = {}
        for each in self.running.values():
            held[each.needs] = held.get(each.needs, 0) + 1
        kept: deque[tuple[Unit, int]] = deque()
        while self.waiting:
            unit, attempt = self.waiting.popleft()
            needs = needs_of(unit)
            if held.get(needs, 0) >= 2 * slots(needs, self.nodes):
                kept.append((unit, attempt))
                continue
            held[needs] = held.get(needs, 0) + 1
            try:
                errand = self._errand_of(unit)
            except (EccError, OSError) as error:
                self._ended(unit, attempt, error=str(error))
                continue
            options = {
                "num_returns": "streaming",
                "max_retries": 0,
                "num_cpus": unit.cpus,
                "num_gpus": unit.gpus,
                "resources": dict(unit.resources) or None,
                "memory": unit.memory_bytes or None,
                "name": f"ecc {unit.id}",
            }
            generator = task.options(**options).remote(errand)
            self.running[generator] = _Task(unit, attempt, needs)
        self.waiting = kept

    def _errand_of(self, unit: Unit) -> Errand:
        found = [self._content(path) for path in dict.fromkeys(unit.reads)]
        found += [self._content(path) for path in unit.writes if os.path.lexists(path)]
        return Errand(
            unit,
            self.work,
            self.sign,
            tuple(each for each, _ in found),
            tuple(contents for _, contents in found),
            None if self.settings.mixed_versions else releases(),
        )

    def _content(self, path: str) -> tuple[Listing, tuple[Any, ...]]:
        """A listing with its pieces in Ray's store, where they stay for the next unit."""
        ray = the_ray()
        now = listing(path)
        if path not in self.sent or self.sent[path][0] != now:
            self.sent[path] = (now, tuple(ray.put(piece) for piece in pieces(now)))
        return self.sent[path]

    # -- in

    def _next(self, generator: Any) -> None:
        """Take the next thing that a unit says, or notice that it has died."""
        ray = the_ray()
        task = self.running[generator]
        try:
            self._take(task, ray.get(next(generator)))
        except StopIteration:
            del self.running[generator]
            self._finish(task)
        except ray.exceptions.RayTaskError as error:  # of our own program there, such as another version of it
            del self.running[generator]
            self._ended(task.unit, task.attempt, error=_line(error.cause or error), detail=str(error), at=task.worker)
        except (ray.exceptions.RayError, Damaged, OSError) as error:
            del self.running[generator]
            if task.late:
                self._out_of_time(task)
                return
            with suppress(ray.exceptions.RayError, ValueError):
                ray.cancel(generator, force=False)  # it may still be at it
            self._lost(task, _MEANING.get(type(error).__name__) or _line(error))

    def _take(self, task: _Task, said: dict[str, Any] | bytes) -> None:
        if isinstance(said, bytes):
            if task.receiver is None:
                raise Damaged("a piece came before its listing")
            task.receiver.take(said)
        elif "worker" in said:
            task.worker = said["worker"]
            task.due = time.monotonic() + (task.unit.timeout_s or math.inf)
            self.emit({"event": "started", "id": task.unit.id, "worker": task.worker, "attempt": task.attempt})
        elif "listings" in said:
            self.arrived += 1
            root = Path(task.unit.root or os.path.dirname(task.unit.writes[0]))
            listings = [Listing.from_json(each) for each in said["listings"]]
            task.receiver = Receiver(listings, root / _INCOMING / str(self.arrived))
        else:
            task.ended = said

    def _finish(self, task: _Task) -> None:
        """Everything that a unit had to say is here."""
        said = task.ended
        if said is None or (task.receiver is not None and not task.receiver.complete):
            self._lost(task, "it ended before all of its results had come")
        elif said.get("retry"):
            self._lost(task, said["error"], said.get("detail", ""))
        else:
            try:
                self._put(task)
            except OSError as error:
                told = f"its results could not be written: {error.strerror or error}"
                self._ended(task.unit, task.attempt, error=told, at=task.worker)
                return
            self._ended(
                task.unit, task.attempt, said.get("value"), said.get("error", ""), said.get("detail", ""), task.worker
            )

    def _put(self, task: _Task) -> None:
        """Put what came back in its place."""
        if task.receiver is None:
            return
        for number, (each, target) in enumerate(zip(task.receiver.listings, task.unit.writes, strict=True)):
            place(task.receiver.at(number), each, Path(target))
        shutil.rmtree(task.receiver.folder, ignore_errors=True)

    def _lost(self, task: _Task, why: str, detail: str = "") -> None:
        """A unit has died with its worker: once more, or no more."""
        self._drop(task)
        if task.attempt < self.settings.attempts:
            self.emit({"event": "note", "text": f"{task.unit.id} is run again: {why}"})
            self.waiting.appendleft((task.unit, task.attempt + 1))
        else:
            told = f"it was lost {task.attempt} times, at last since {why}"
            self._ended(task.unit, task.attempt, error=told, detail=detail, at=task.worker)

    def _end_late(self) -> None:
        """Ask units that take too long to end, which lets them keep their state; later end them."""
        ray, now = the_ray(), time.monotonic()
        for generator, task in list(self.running.items()):
            if now < task.due:
                continue
            with suppress(ray.exceptions.RayError, ValueError):
                ray.cancel(generator, force=task.late)
            if task.late:
                del self.running[generator]
                self._out_of_time(task)
            task.late, task.due = True, now + self.settings.grace_s

    def _out_of_time(self, task: _Task) -> None:
        self._drop(task)
        self._ended(task.unit, task.attempt, error=out_of_time(task.unit), at=task.worker)

    def _drop(self, task: _Task) -> None:
        """Forget what has come of a unit that did not end well."""
        if task.receiver is not None:
            shutil.rmtree(task.receiver.folder, ignore_errors=True)

    def _ended(
        self,
        unit: Unit,
        attempt: int,
        value: Mapping[str, Any] | None = None,
        error: str = "",
        detail: str = "",
        at: str = "",
    ) -> None:
        said = {"value": value, "error": error, "detail": detail, "worker": at, "attempt": attempt}
        self.emit({"event": "ended", "id": unit.id, **said})

    # -- units that nobody can run, and the end

    def _give_up(self) -> None:
        """End the units that no node has had the means for, for as long as the user would wait."""
        ray = the_ray()
        now = time.monotonic()
        every = {needs_of(unit) for unit, _ in self.waiting}
        every |= {task.needs for task in self.running.values() if not task.worker}
        reasons = {needs: lacking(needs, self.nodes, self.where) for needs in every}
        self.hopeless = {needs: self.hopeless.get(needs, now) for needs, why in reasons.items() if why}
        late = {needs for needs, since in self.hopeless.items() if now - since >= self.settings.wait_s}
        for generator, task in list(self.running.items()):
            if task.needs in late and not task.worker:
                del self.running[generator]
                with suppress(ray.exceptions.RayError):
                    ray.cancel(generator, force=True)
                self._ended(task.unit, task.attempt, error=reasons[task.needs])
        for unit, attempt in self.waiting:
            if needs_of(unit) in late:
                self._ended(unit, attempt, error=reasons[needs_of(unit)])
        self.waiting = deque(each for each in self.waiting if needs_of(each[0]) not in late)

    def _cancel(self) -> None:
        """Ask everything that runs to keep its state and end, and wait for it a while."""
        ray = the_ray()
        for generator in self.running:
            with suppress(ray.exceptions.RayError, ValueError):
                ray.cancel(generator, force=False)
        ends = {generator.completed(): generator for generator in self.running}
        _, late = ray.wait(list(ends), num_returns=len(ends), timeout=self.settings.grace_s, fetch_local=False)
        for end in late:
            with suppress(ray.exceptions.RayError, ValueError):
                ray.cancel(ends[end], force=True)


def run_errand(errand: Errand) -> Iterator[dict[str, Any] | bytes]:
    """What Ray runs on a node."""
    ray = the_ray()
    yield from carry_out(errand, ray.get)


def needs_of(unit: Unit) -> Needs:
    """What a unit claims of a node."""
    return Needs.of(cpus=unit.cpus, gpus=unit.gpus, memory_bytes=unit.memory_bytes, resources=unit.resources)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
