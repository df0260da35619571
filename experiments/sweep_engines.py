"""24 small jobs on the local engine and on a Ray cluster of three nodes: the same points, also when a node is killed.

    python experiments/sweep_engines.py

Runs experiments/jobs/engines.toml three times: ``local`` on two processes; ``ray`` on a cluster of a head and two more
nodes, each a set of processes of this machine with one core for jobs; ``ray, node killed``, where one of the nodes is
killed (SIGKILL to its raylet and all of its processes) once eight jobs have ended.

Points are the same if accuracy, widths and every value of the budgets are equal as written, and weights if the sha256
of the artefacts' weights are. ``overhead`` is the time that workers spend on anything but jobs, over the time of the
jobs: from the first start to the last end, all seconds of the workers between one job and the next, and those between
the engine's word of a start and an end that the job itself does not know of. A worker's own start, which does not
depend on how many jobs there are, is in ``start_s`` (until the first job) and ``all_started_s`` (until every worker has
one). The training of the dense network is left out; one worker is warm from it.

Writes experiments/measurements/sweeps/engines.csv (a row per run) and engines_jobs.csv (a row per job and run).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from records import HERE, MEASUREMENTS, Records

from ecc.sweeps.checking import checked
from ecc.sweeps.engines.local import LocalEngine
from ecc.sweeps.engines.protocol import Ended, Engine, Event, Started, Unit
from ecc.sweeps.engines.ray import RayEngine
from ecc.sweeps.engines.ray_connection import Settings
from ecc.sweeps.ledger import Ledger, Record
from ecc.sweeps.plan import Plan
from ecc.sweeps.reading import read_job_file
from ecc.sweeps.sweeping import Running, run_missing

JOB_FILE = HERE / "jobs" / "engines.toml"
WORK = "ecc.sweeps.running:Runner"
KILL_AFTER = 8


@dataclass(slots=True)
class Clock:
    """An engine that notes when everything happens.

    Attributes:
        engine: That does the work.
        after: Called with the number of jobs that have ended.
        asked: When the jobs were handed over.
        events: With their times, of the last run.
    """

    engine: Engine
    after: Callable[[int], None] = lambda ended: None
    asked: float = 0.0
    events: list[tuple[float, Event]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def workers(self) -> int:
        return self.engine.workers

    def run(self, units: Sequence[Unit], work: str) -> Generator[Event | None, None, None]:
        self.asked, self.events = time.monotonic(), []
        jobs = units[0].description["kind"] == "job"
        for event in self.engine.run(units, work):
            if event is not None:
                self.events.append((time.monotonic(), event))
                if jobs and isinstance(event, Ended):
                    self.after(sum(isinstance(each, Ended) for _, each in self.events))
            yield event

    def close(self) -> None:
        self.engine.close()


class Quiet:
    """Watches and says nothing."""

    def begin(self, part: str, units: int, *, known: int) -> None: ...

    def beat(self, running: Sequence[Running]) -> None: ...

    def end(self, part: str, record: Record) -> None: ...


@contextmanager
def cluster_of_three() -> Generator[Any, None, None]:
    """Three nodes with a core for jobs each."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    own = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"no_monitor": True, **own})
    try:
        for _ in range(2):
            cluster.add_node(**own)
        cluster.wait_for_nodes(120)
        yield cluster
    finally:
        cluster.shutdown()


def killer(cluster: Any) -> Callable[[int], None]:
    """Kills a node that is not the head once enough jobs have ended."""

    def after(ended: int) -> None:
        if ended == KILL_AFTER:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    return after


def overhead_of(clock: Clock, records: dict[str, Record]) -> dict[str, float]:
    """Times of one run; a job that was lost counts as what it was, time between two jobs."""
    starts = {event.id: when for when, event in clock.events if isinstance(event, Started)}  # of the last attempt
    ends = {event.id: (when, event.worker) for when, event in clock.events if isinstance(event, Ended)}
    jobs_s = sum(records[id].seconds for id in ends)
    by_worker: dict[str, list[tuple[float, float]]] = {}
    for id, (end, worker) in ends.items():
        by_worker.setdefault(worker, []).append((starts[id], end))
    spent_s = sum(max(end for _, end in each) - min(start for start, _ in each) for each in by_worker.values())
    return {
        "workers_seen": len(by_worker),
        "jobs_s": jobs_s,
        "overhead_s": spent_s - jobs_s,
        "overhead": (spent_s - jobs_s) / jobs_s,
        "start_s": min(starts.values()) - clock.asked,
        "all_started_s": max(min(start for start, _ in each) for each in by_worker.values()) - clock.asked,
        "wall_s": max(end for end, _ in ends.values()) - min(starts.values()),
    }


def points_of(plan: Plan, ledger: Ledger, records: dict[str, Record]) -> dict[str, dict[str, Any]]:
    """What came out, by job: everything that must not depend on the engine, and where it ran."""
    found = {}
    for job in plan.jobs:
        record, manifest = records[job.id], json.loads((ledger.artefact(job.id) / "manifest.json").read_text())
        values = [{name: check[name] for name in ("metric", "limit", "predicted", "met")} for check in record.budgets]
        found[job.id] = {
            "accuracy": record.accuracy,
            "widths": json.dumps(manifest["widths"], sort_keys=True),
            "budgets": json.dumps(values, sort_keys=True),
            "weights_sha256": manifest["files"]["weights.safetensors"]["sha256"],
            "seconds": record.seconds,
            "worker": record.worker,
        }
    return found


def run(name: str, engine: Engine, folder: Path, after: Callable[[int], None] | None, jobs: Records) -> dict[str, Any]:
    """One sweep from nothing; notes its jobs, and gives its row."""
    ledger = Ledger(folder)
    plan = checked(read_job_file(JOB_FILE))
    ledger.begin(plan)
    clock = Clock(engine, after or (lambda ended: None))
    swept = run_missing(plan, ledger, clock, WORK, device="cpu", watch=Quiet())
    records = dict(swept.records)
    times = overhead_of(clock, records)
    for id, point in points_of(plan, ledger, records).items():
        attempt = next(event.attempt for _, event in clock.events if isinstance(event, Ended) and event.id == id)
        jobs.add({"run": name, "job": id}, lambda point=point, attempt=attempt: point | {"attempt": attempt})
    ended = [event for _, event in clock.events if isinstance(event, Ended)]
    return {
        "jobs": len(plan.jobs),
        "done": len(swept.done),
        "failed": len(swept.failed),
        "ended_twice": len(ended) - len({event.id for event in ended}),
        "run_again": sum(event.attempt > 1 for event in ended),
        **times,
        "load": os.getloadavg()[0],
    }


def same(jobs: Records, name: str, columns: Sequence[str]) -> int:
    """How many jobs of a run are as in the local one."""
    rows = {(row["run"], row["job"]): tuple(str(row[column]) for column in columns) for row in jobs.rows}
    return sum(point == rows.get(("local", job)) for (run, job), point in rows.items() if run == name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=MEASUREMENTS / "sweeps")
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    jobs = Records(arguments.out / "engines_jobs.csv", ("run", "job"), fresh=arguments.fresh)
    runs = Records(arguments.out / "engines.csv", ("run",), fresh=arguments.fresh)

    def note(name: str, make: Callable[[Path], tuple[Engine, Callable[[int], None] | None]]) -> None:
        def measure() -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as folder:
                engine, after = make(Path(folder))
                row = run(name, engine, Path(folder) / "sweep", after, jobs)
            row["same_points"] = same(jobs, name, ("accuracy", "widths", "budgets"))
            row["same_weights"] = same(jobs, name, ("weights_sha256",))
            return row

        runs.add({"run": name}, measure)
        print(runs.rows[-1], flush=True)

    note("local", lambda folder: (LocalEngine(2, folder / "logs"), None))
    for name in ("ray", "ray, node killed"):
        if not runs.holds({"run": name}):
            with cluster_of_three() as cluster:
                settings = Settings(address=cluster.address, mixed_versions=True)  # of a checkout that may change
                after = killer(cluster) if "killed" in name else None
                note(name, lambda folder: (RayEngine(settings, folder / "logs"), after))  # noqa: B023


if __name__ == "__main__":
    main()
