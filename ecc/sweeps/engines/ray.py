"""Engine ``ray``: units on the nodes of a Ray cluster, or on one that is started for them here.

The process that talks to Ray is another one (``ray_driver``); it ends with this one, whichever way this one ends.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from ecc.core.errors import InputError, UnavailableError
from ecc.sweeps.engines.protocol import BEAT_S, Ended, Event, Started, Unit
from ecc.sweeps.engines.ray_connection import Settings

__all__ = ["RayEngine"]

_LOG = logging.getLogger("ecc")
_MODULE = "ecc.sweeps.engines.ray_driver"
_START_S = 300.0  # to join or to start a cluster; on a busy machine Ray takes a minute
_TAIL_BYTES = 2000
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_BACKEND_LOG_LEVEL": "error",
}


@dataclass(eq=False, slots=True)
class RayEngine:
    """Runs units on Ray.

    Attributes:
        settings: Which cluster, and how.
        logs: Folder of what Ray has to say.
    """

    settings: Settings
    logs: Path
    _process: subprocess.Popen[str] | None = field(default=None, init=False)
    _said: queue.SimpleQueue[dict[str, Any] | None] = field(default_factory=queue.SimpleQueue, init=False)
    _workers: int = field(default=0, init=False)

    @property
    def name(self) -> str:
        """As in ``--engine``."""
        return "ray"

    @property
    def workers(self) -> int:
        """How many units of the last run fitted on the cluster; before it, what a start here was asked for."""
        return self._workers or self.settings.workers

    def run(self, units: Sequence[Unit], work: str) -> Generator[Event | None, None, None]:
        """As of ``Engine``."""
        if not units:
            return
        try:
            if self._process is None:
                self._start()
            self._send({"units": [asdict(unit) for unit in units], "work": work})
            yield from self._events({unit.id for unit in units})
        except BaseException:  # the caller has closed the generator, or was interrupted
            self.close()
            raise

    def close(self) -> None:
        """Let Ray end what runs, and leave no process behind."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            with suppress(OSError):
                process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(self.settings.grace_s + 20.0)
        finally:
            if process.poll() is None:
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    _open(pipe).close()

    def _start(self) -> None:
        if find_spec("ray") is None:
            raise UnavailableError("the engine ray needs Ray, which is not installed; pip install 'ecc-compress[ray]'")
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", _MODULE],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=os.environ | _ENVIRONMENT,
                    text=True,
                    encoding="utf-8",
                    start_new_session=True,  # Ctrl-C is for the sweep, which then closes the engine
                )
        except OSError as error:
            raise UnavailableError(f"the process for Ray cannot be started: {error.strerror}") from error
        self._said = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(self._process, self._said), daemon=True).start()
        self._send({"settings": asdict(self.settings)})

    def _send(self, value: Mapping[str, Any]) -> None:
        with suppress(OSError):  # it has died; its end is in the queue
            pipe = _open(self._process.stdin if self._process is not None else None)
            pipe.write(json.dumps(value) + "\n")
            pipe.flush()

    def _events(self, left: set[str]) -> Generator[Event | None, None, None]:
        """What the process says, until it has said of every unit how it ended."""
        late = time.monotonic() + _START_S
        while True:
            try:
                said = self._said.get(timeout=BEAT_S)
            except queue.Empty:
                if late and time.monotonic() > late:
                    raise UnavailableError(
                        f"Ray has not answered for {_START_S:.0f} s; {self._log} may tell why"
                    ) from None
                yield None
                continue
            if said is None:
                raise UnavailableError(f"Ray has ended{self._last_words()}; run what is missing with --resume")
            if said["event"] == "over":
                for id in sorted(left):  # a defect of the driver; but a unit must not vanish
                    yield Ended(id, None, "Ray has said nothing of it")
                return
            if said["event"] == "ready":
                late, self._workers = 0.0, said["workers"]
            elif said["event"] == "refused":
                raise (InputError if said["code"] == InputError.exit_code else UnavailableError)(said["error"])
            elif said["event"] == "note":
                _LOG.warning("%s", said["text"])
            elif said["event"] == "started":
                yield Started(said["id"], said["worker"], said["attempt"])
            else:
                left.discard(said["id"])
                yield Ended(said["id"], said["value"], said["error"], said["detail"], said["worker"], said["attempt"])

    @property
    def _log(self) -> Path:
        return self.logs / "ray.log"

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").split("\n")
            told = [line.strip() for line in lines if line.strip()]
            if told:
                return f" ({told[-1][:300]})"
        return ""


def _listen(process: subprocess.Popen[str], said: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Put what the process says in the queue; None when it has ended."""
    for line in _open(process.stdout):
        with suppress(ValueError):
            said.put(json.loads(line))
    process.wait()
    said.put(None)


def _open(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise ValueError("the process has no such pipe")
    return pipe
