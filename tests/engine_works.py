"""Works that the tests of engines name; they load nothing heavy."""

import os
import signal
import time
from pathlib import Path

from ecc.core.errors import Interrupted
from ecc.solvers.interrupts import deferred_interrupt


class Counting:
    """Says how often it was called since its worker began; otherwise does what the description says."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, description):
        self.calls += 1
        print("at work on", description, flush=True)
        if description.get("raises"):
            raise ValueError("not today")
        if description.get("dies") == "always" or (description.get("dies") and _first(description["dies"])):
            os.kill(os.getpid(), signal.SIGKILL)
        if file := description.get("stubborn"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Path(file).write_text(str(os.getpid()))
            time.sleep(600)
        if file := description.get("waits"):
            Path(file).write_text(str(os.getpid()))
            with deferred_interrupt() as pressed:
                while not pressed():
                    time.sleep(0.01)
                Path(file).write_text("kept")
                raise Interrupted("stopped")
        cores = sorted(os.sched_getaffinity(0))
        return {"calls": self.calls, "cores": cores, "threads": os.environ["OMP_NUM_THREADS"], **description}


def _first(file):
    """Whether this is the first time that the file is asked for."""
    try:
        Path(file).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if reason := os.environ.get("ENGINE_WORKS_BREAK"):
    raise RuntimeError(reason)
