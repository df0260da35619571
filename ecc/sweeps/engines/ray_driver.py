"""The process that talks to Ray for the engine ``ray``, which starts it: requests as lines of JSON in, events out.

Ray prints to stdout, sets signal handlers, ends the process when its head node is lost, and waits without an end for
clusters that do not answer; in a process of its own none of that touches the sweep.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ecc.core.errors import EccError, InputError, UnavailableError
from ecc.sweeps.engines.cluster import differences, lacking, slots, versions
from ecc.sweeps.engines.protocol import Unit
from ecc.sweeps.engines.ray_connection import LOCAL, Settings, alive, connect, probe, the_ray
from ecc.sweeps.engines.ray_run import POLL_S, Emit, Run, needs_of

__all__ = ["main"]

_SHUTDOWN_S = 15.0


@dataclass(eq=False, slots=True)
class _Driver:
    """Serves requests one after the other.

    Attributes:
        emit: Tells the engine.
        requests: JSON objects; None at the end.
        stop: Set when everything is to end.
        where: The cluster, for people; empty until it is joined.
    """

    emit: Emit
    requests: queue.SimpleQueue[dict[str, Any] | None] = field(default_factory=queue.SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)
    settings: Settings = field(default_factory=Settings)
    where: str = ""

    def listen(self) -> None:
        """Hand over what the engine asks; when it asks no more, it has ended."""
        for line in sys.stdin:
            self.requests.put(json.loads(line))
        self.end()

    def serve(self) -> None:
        """Until there is nothing more to do."""
        while (request := self.requests.get()) is not None and not self.stop.is_set():
            if "settings" in request:
                self.settings = Settings(**request["settings"])
                continue
            try:
                self._serve_one([_unit(each) for each in request["units"]], request["work"])
            except EccError as error:
                self.emit({"event": "refused", "error": str(error), "code": error.exit_code})
            except OSError as error:
                self.emit({"event": "refused", "error": f"Ray: {error.strerror or error}", "code": 3})
            self.emit({"event": "over"})

    def _serve_one(self, units: Sequence[Unit], work: str) -> None:
        if not self.where:
            self.where = connect(self.settings)
            if self.where == LOCAL:  # no node will ever join it
                self.settings = replace(self.settings, wait_s=0.0)
            signal.signal(signal.SIGTERM, lambda *_: self.end())
        self._await_nodes(units)
        self.emit({"event": "ready", "workers": max(slots(needs_of(unit), alive()) for unit in units)})
        waiting = deque((unit, 1) for unit in units)
        Run(self.settings, self.where, work, self.emit, self.stop, waiting).run()

    def end(self) -> None:
        """Let everything end; where Ray does not, this process ends all the same, and Ray's with it."""
        self.stop.set()
        self.requests.put(None)
        last = threading.Timer(self.settings.grace_s + _SHUTDOWN_S, os._exit, (1,))
        last.daemon = True
        last.start()

    def _await_nodes(self, units: Sequence[Unit]) -> None:
        """Wait until some unit fits on some node.

        Raises:
            UnavailableError: If none does in time, or nodes run other programs.
        """
        every = list(dict.fromkeys(needs_of(unit) for unit in units))
        ends = time.monotonic() + self.settings.wait_s
        while not any(slots(needs, alive()) for needs in every) and not self.stop.is_set():
            if time.monotonic() > ends:
                raise UnavailableError("; ".join(lacking(needs, alive(), self.where) for needs in every))
            time.sleep(POLL_S)
        nodes = [node for node in alive() if any(node.times(needs) for needs in every)]
        if other := differences(versions(), probe(nodes)):
            if self.settings.mixed_versions:
                self.emit({"event": "note", "text": f"the nodes of {self.where} run other versions: {other}"})
                return
            raise InputError(
                f"the nodes of {self.where} run other versions, so that their results could not be compared: {other}; "
                "install the same everywhere, or set mixed_versions = true under [ray] in the job file"
            )


def main() -> int:
    """Serve requests until stdin ends or SIGTERM comes; returns the exit code."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):
            events.write(json.dumps(event) + "\n")
            events.flush()

    driver = _Driver(emit)
    threading.Thread(target=driver.listen, daemon=True).start()
    try:
        driver.serve()
    finally:
        if driver.where:
            the_ray().shutdown()
    return 0


def _unit(fields: Mapping[str, Any]) -> Unit:
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Unit(**given)


if __name__ == "__main__":
    sys.exit(main())
