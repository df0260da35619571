"""A worker of the local engine: takes units as lines of JSON on stdin, and gives results as lines on stdout.

What the work prints goes to stderr, which the engine keeps in a log. When stdin ends without a word, the engine is
gone, and the worker ends at once: whoever resumes the sweep must find nobody still at work on it.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from typing import Any, TextIO

from ecc.core.errors import Interrupted
from ecc.core.factories import reason
from ecc.solvers.interrupts import requests_to_end
from ecc.sweeps.engines.protocol import find_work

__all__ = ["main"]

_END = "end"


def main() -> int:
    """Serve until told to end; returns the exit code.

    Arguments on the command line: the work, and the cores to stay on, joined by commas or empty.
    """
    work_name, cores = sys.argv[1:]
    if cores and sys.platform == "linux":
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with requests_to_end():
        try:
            return _serve(work_name, answers)
        except (Interrupted, KeyboardInterrupt):
            return Interrupted.exit_code


def _serve(work_name: str, answers: TextIO) -> int:
    work = find_work(work_name)
    tasks: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    _answer(answers, {"ready": True})
    while (task := tasks.get()) is not None:
        print(f"== {task['id']}", file=sys.stderr, flush=True)
        try:
            value = work(task["description"])
            _answer(answers, {"id": task["id"], "value": value})
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            _answer(answers, {"id": task["id"], "error": reason(error), "detail": traceback.format_exc()})
    return 0


def _listen(tasks: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Hand over what the engine sends; end the process when it sends no more."""
    for line in sys.stdin:
        task = json.loads(line)
        if task == _END:
            tasks.put(None)
            return
        tasks.put(task)
    os._exit(1)


def _answer(answers: TextIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
