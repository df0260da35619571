"""Channel pruning under hard budgets: are budgets kept, and what accuracy is left, by this and by other methods.

    ECC_DATA=/data python experiments/channel_pruning.py budgets --work OUT
    ECC_DATA=/data python experiments/channel_pruning.py front --work OUT --case digits-resnet
    ECC_DATA=/data python experiments/channel_pruning.py resnet20 --work OUT
    python experiments/channel_pruning_page.py

Rows go to experiments/measurements/channel_pruning/, one file per part and network, as they are made; what is there is
not done again. ``budgets`` is ADMM alone, at budgets of several kinds; ``front`` is every method with equal epochs and
data from the same trained networks, several seeds; ``resnet20`` is the same for the pretrained network.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pruning_cases import CASES
from pruning_runs import METHODS, Bench, rows_of
from records import MEASUREMENTS, Records

from ecc.core.budget import Budget
from ecc.core.errors import InputError

FOLDER = MEASUREMENTS / "channel_pruning"
LATENCIES = ("latency<=0.7", "latency<=0.5", "latency<=0.3")
ENERGIES = ("energy<=0.5", "energy<=0.3")
COUNTS = "macs<=0.5, params<=0.4"
BUDGETS = {
    "digits-resnet": (*LATENCIES, "latency<=0.6, memory<=0.7", "energy<=0.5, latency<=0.7", *ENERGIES),
    "lenet5-caffe": (*LATENCIES, "energy<=0.5, latency<=0.6", *ENERGIES),
    "mobilenet-small": (*LATENCIES, "latency<=0.6, memory<=0.7", *ENERGIES, COUNTS),
    "resnet20": (*LATENCIES, *ENERGIES, COUNTS),
}
FRONT = {
    "digits-resnet": ("macs<=0.3", "macs<=0.15", "macs<=0.07", "macs<=0.04", "macs<=0.5", "macs<=0.7"),
    "lenet5-caffe": ("macs<=0.3", "macs<=0.1", "macs<=0.05", "macs<=0.5", "macs<=0.7"),
}
PRETRAINED = ("macs<=0.5", "latency<=0.5")
KEYS = ("network", "method", "seed", "budget", "metric")


def compare(bench: Bench, part: str, methods: Iterable[str], budgets: Sequence[str], seeds: int) -> None:
    """Every method at every budget with every seed; seeds come last, so that a front is whole early."""
    records = Records(FOLDER / f"{part}_{bench.case.name}.csv", KEYS)
    for seed in range(seeds):
        for text in budgets:
            for method in methods:
                run(records, bench, method, text, seed)


def run(records: Records, bench: Bench, method: str, text: str, seed: int) -> None:
    """One run, unless its rows are there."""
    budgets = [Budget.parse(each) for each in text.split(", ")]
    rows: dict[str, dict[str, Any]] = {}

    def row(metric: str) -> dict[str, Any]:
        if not rows:
            started = time.process_time()
            found = rows_of(bench.run(method, budgets, seed, {}))
            spent = round(time.process_time() - started, 2)
            rows.update({each["metric"]: {**each, "process_s": spent} for each in found})
            said = ", ".join(f"{each['metric']} {each['measured']:.3f} met {each['met']}" for each in found)
            print(
                f"{bench.case.name} {method} {text} seed {seed}: {said}, accuracy {found[0]['accuracy_dense']:.4f} → "
                f"{found[0]['accuracy']:.4f}, {spent:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        return rows[metric]

    for budget in budgets:
        key: dict[str, Any] = {
            "network": bench.case.name,
            "method": method,
            "seed": seed,
            "budget": text,
            "metric": budget.metric,
        }
        try:
            records.add(key, partial(row, budget.metric))
        except InputError as error:  # no widths at all would do: said before any training
            print(f"{bench.case.name} {method} {text} seed {seed}: {error}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("budgets", "front", "resnet20"))
    parser.add_argument("--work", type=Path, required=True, help="keeps trained networks and profiles")
    parser.add_argument("--case", action="append", choices=list(CASES), help="all of the part by default")
    parser.add_argument("--method", action="append", choices=list(METHODS), help="all of the part by default")
    parser.add_argument("--budget", action="append", help="those of the part by default")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    methods = given.method or list(METHODS)
    if given.part == "budgets":
        for case in given.case or list(BUDGETS):
            bench, budgets = Bench(case, given.work), given.budget or BUDGETS[case]
            timed = any("latency" in each for each in budgets)
            with bench.alone() if timed else nullcontext():
                compare(bench, "budgets", given.method or ["admm"], budgets, 1)
    elif given.part == "front":
        for case in given.case or list(FRONT):
            compare(Bench(case, given.work), "front", methods, given.budget or FRONT[case], given.seeds)
    else:
        compare(Bench("resnet20", given.work), "pretrained", methods, given.budget or PRETRAINED, given.seeds)


if __name__ == "__main__":
    main()
