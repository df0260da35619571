"""A profiler killed again and again: what its store holds after each SIGKILL.

    python experiments/profiler_faults.py --kills 100

A process profiles a small network and is killed at a random instant, mostly a little after its first row; the next one
resumes. Windows are as short as can be, so that it writes most of its time. It tells of each row through a pipe once
the store has taken it, so that what was promised is known apart from the store. Writes a line per kill to
experiments/measurements/profiler_faults.csv: rows promised, rows found, rows lost or altered or there twice, what
SQLite's own check says. Exits with 1 if any row was lost.
"""

from __future__ import annotations

import argparse
import os
import platform
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from ecc.core.meter import Probe, Reading
from ecc.network.tracing import trace
from ecc.profiler.design import sample
from ecc.profiler.protocol import profile
from ecc.profiler.store import Store, configuration
from ecc.profiler.window import Window

HERE = Path(__file__).resolve().parent
CONFIGURATIONS, BLOCKS = 40, 3
LONGEST_S = 0.25  # of a life, or of what follows its first row
EARLY = 0.25  # share of the lives that may end before their first row
WINDOW = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=BLOCKS, max_blocks=BLOCKS, pairs=5)
INPUTS = torch.zeros(1, 16)


class Stopwatch:
    """A latency meter of one inference per window: not precise, but quick."""

    metric, shortest_window_s = "latency", 1e-6

    def probe(self):
        return Probe(True, "clock")

    def begin(self):
        self.start = time.perf_counter()

    def end(self):
        return Reading(time.perf_counter() - self.start)


class Promising(Store):
    """A store that says of each row, once it is durable, that it is."""

    promises = -1

    def add(self, run, visit):
        super().add(run, visit)
        line = f"{configuration(visit.widths)} {visit.block} {visit.metric} {float(np.median(visit.pairs.ratios))!r}\n"
        os.write(self.promises, line.encode())


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def measure(path, promises, model, graph):
    """One life: everything that the store does not hold yet."""
    with Promising.open(path) as store:
        store.promises = promises
        design = sample(graph.space, CONFIGURATIONS)
        return profile(model, graph, INPUTS, design, [Stopwatch()], window=WINDOW, store=store)


def live(path, seconds, early, model, graph):
    """Start a process, kill it so many seconds later, or later than its first row; its promises, and whether it ended
    by itself."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            measure(path, writing, model, graph)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    if not early:
        select.select([reading], [], [])  # the first row, or the end
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as lines:
        promised = [line.split() for line in lines.read().splitlines()]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a profile failed by itself")
    return {tuple(words[:3]): float(words[3]) for words in promised}, not os.WIFSIGNALED(status)


def examine(path, promised):
    """What the store holds, through its own reader and past it."""
    if not path.exists():
        return {"opened": not promised, "rows": 0, "lost": len(promised), "altered": 0, "twice": 0, "check": "none"}
    with Store.open(path) as store:  # a killed process may have left a file without tables, which this completes
        visits = store.visits()
    found = {
        (configuration(visit.widths), str(visit.block), visit.metric): float(np.median(visit.pairs.ratios))
        for visit in visits
    }
    with closing(sqlite3.connect(path)) as connection:
        (check,) = connection.execute("PRAGMA integrity_check").fetchone()
    return {
        "opened": True,
        "rows": len(visits),
        "lost": len(promised.keys() - found.keys()),
        "altered": sum(found[key] != ratio for key, ratio in promised.items() if key in found),
        "twice": len(visits) - len(found),
        "check": check,
    }


def kill_often(folder, kills, seed):
    """A record per kill; a store that is complete is followed by a fresh one."""
    rng = np.random.default_rng(seed)
    model = network()
    graph = trace(model, INPUTS)
    records, promised, number = [], {}, 0
    while len(records) < kills:
        path, seconds = folder / f"{number}.db", float(rng.uniform(0.0, LONGEST_S))
        early = bool(rng.random() < EARLY)
        told, done = live(path, seconds, early, model, graph)
        promised |= told
        record = {"kill": len(records), "store": number, "early": early, "after_s": seconds, "promised": len(promised)}
        record |= examine(path, promised)
        if done:
            promised, number = {}, number + 1
        else:
            records.append(record)
    path = folder / f"{number}.db"
    reading, writing = os.pipe()
    measure(path, writing, model, graph)
    os.close(reading)
    os.close(writing)
    last = {"kill": -1, "store": number, "early": None, "after_s": None, "promised": len(promised)} | examine(
        path, promised
    )
    return pd.DataFrame([*records, last])


def environment():
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sqlite": sqlite3.sqlite_version,
        "system": platform.system(),
        "commit": revision.stdout.strip(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "measurements" / "profiler_faults.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        frame = kill_often(Path(folder), arguments.kills, arguments.seed)
    frame.assign(**environment()).to_csv(arguments.out, index=False)
    wrong = frame[["lost", "altered", "twice"]].to_numpy().sum() + (~frame["opened"]).sum()
    print(f"{arguments.kills} kills, {frame['promised'].max()} rows promised at most, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
