"""Reruns the small studies, at most half an hour on two cores, and compares what comes out with what is published.

    python experiments/results_small.py [--out results-small] [--only STUDY …] [--list]      or: make results-small

The scripts are copied beside a folder of measurements of their own, so that what is published is not touched. A study
that is done is not done again, and of one that was stopped most keep the rows that they have. Whether what came out is
what is published is written to OUT/differences.csv, a row for each figure: ``same`` to twelve digits, ``close`` where
the difference is within what another machine or another PyTorch may make of the same seed, ``differs`` beyond, and
``missing`` where it did not come out. Ends with 1 if something differs or is missing, and with 2 if a study failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).resolve().parent
PUBLISHED = HERE / "measurements"
CORES = 2
_SAME = 1e-12  # of the published figure


@dataclass(frozen=True)
class Study:
    """A study, or the part of one, that is small enough.

    Attributes:
        name: As given with --only.
        about: What it shows.
        minutes: That it takes of one core.
        commands: To be run one after the other, from the folder of the results; ``experiments/…`` are the copies.
        file: Of its rows, in a folder of measurements.
        keys: Columns that tell rows apart.
        figures: Column → what it may differ by where machines differ; texts and truths must be equal if it is 0.
        rows: Column → the values of the rows that are made again; all rows where there is none.
    """

    name: str
    about: str
    minutes: float
    commands: tuple[tuple[str, ...], ...]
    file: str
    keys: tuple[str, ...]
    figures: Mapping[str, float]
    rows: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def published(self) -> bool:
        """Whether there is something to compare with."""
        return (PUBLISHED / self.file).exists()


_METHODS = ("admm", "uniform", "magnitude-l1", "magnitude-l2", "taylor", "fisher", "netadapt", "knapsack")

STUDIES = (
    Study(
        "allocation",
        "widths that the allocation chooses on small random problems, against all there are",
        2.0,
        (("python", "experiments/allocation_quality.py", "--random", "320"),),
        "allocation_random.csv",
        ("seed",),
        {"loss": 1e-9, "bound": 1e-6, "gap": 1e-6, "best": 1e-9},
    ),
    Study(
        "forms",
        "held-out error of the forms of cost models on 50 and on 100 rows of simulated hardware",
        2.0,
        (("python", "experiments/functional_forms.py", "--rows", "50", "100", "--seeds", "2"),),
        "functional_forms.csv",
        ("device", "form", "rows", "seed"),
        {"mape": 0.02, "p95": 0.05},
        {"rows": (50, 100), "seed": (0, 1)},
    ),
    Study(
        "gpu-plan",
        "how long a profile takes on a GPU, by a simulated clock",
        2.0,
        (("python", "experiments/gpu_plan.py"),),
        "gpu_plan.csv",
        ("network", "energy_window_s", "blocks", "energy_noise_pct"),
        {"minutes": 0.5, "energy_rms_error_pct": 0.05, "energy_covered_pct": 2.0},
    ),
    Study(
        "joules",
        "how wrong joules are of counters that tick, by simulation",
        2.0,
        (("python", "experiments/meter_estimators.py"),),
        "meter_estimators.csv",
        ("tick_s", "window_s", "polling", "windows"),
        {"delta_rms_pct": 0.05, "slope_rms_pct": 0.05, "covered_by_two_errors_pct": 2.0},
    ),
    Study(
        "admm",
        "how ADMM converges, for penalties over two decades",
        4.0,
        (("python", "experiments/admm_convergence.py"),),
        "admm_convergence_summary.csv",
        ("form", "step", "rho"),
        {"met": 0, "used": 0.02, "share_of_rises": 0.1},
    ),
    Study(
        "channels",
        "accuracy of eight methods at six budgets on MACs, on the network of the demo, one seed",
        8.0,
        (
            (
                *("python", "experiments/channel_pruning.py", "front", "--work", "work/channels"),
                *("--case", "digits-resnet", "--seeds", "1"),
                *(word for method in _METHODS for word in ("--method", method)),
            ),
        ),
        "channel_pruning/front_digits-resnet.csv",
        ("method", "seed", "budget"),
        {"met": 0, "accuracy": 0.02, "macs": 0.01},
        {"method": _METHODS, "seed": (0,)},
    ),
    Study(
        "front",
        "the front of five methods, four budgets and three seeds on the network of the demo",
        20.0,
        (
            ("ecc", "sweep", "experiments/jobs/digits_front.toml", "--out", "work/digits-front", "--resume"),
            ("python", "experiments/fronts_page.py", "keep", "digits_front", "work/digits-front", "macs"),
        ),
        "fronts/digits_front.csv",
        ("method", "budget", "seed"),
        {"accuracy": 0.02, "x": 95_000.0},  # a hundredth of dense
    ),
)


def run(study: Study, out: Path) -> str:
    """Do what is missing of a study; why it failed, or nothing."""
    done = out / "work" / f"{study.name}.json"
    words = [list(command) for command in study.commands]
    if done.exists() and json.loads(done.read_text())["commands"] == words:
        return ""
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if (HERE.parent / ".git").exists():
        environment["GIT_DIR"] = str(HERE.parent / ".git")  # rows name the commit, wherever the folder is
    with (out / "work" / f"{study.name}.log").open("a") as log:
        for command in words:
            program = [sys.executable, "-m", "ecc"] if command[0] == "ecc" else [sys.executable]
            found = subprocess.run([*program, *command[1:]], cwd=out, env=environment, stdout=log, stderr=log)
            if found.returncode and (command[0] != "ecc" or found.returncode != 1):  # 1: a promise fell short
                return f"ended with {found.returncode}; see {log.name}"
    done.write_text(json.dumps({"commands": words, "seconds": round(time.monotonic() - began, 1)}))
    return ""


def differences(study: Study, published: Path, found: Path) -> list[dict[str, Any]]:
    """A row for each figure of the study's rows."""
    there = _rows(study, pd.read_csv(published / study.file))
    path = found / study.file
    here = _rows(study, pd.read_csv(path)) if path.exists() else there.iloc[:0]
    keys = list(study.keys)
    both = there.merge(here, on=keys, how="left", suffixes=("", " here"), indicator=True)
    rows = []
    for row in both.to_dict("records"):
        for figure, tolerance in study.figures.items():
            old, new = row[figure], row[f"{figure} here"]
            made = row["_merge"] == "both"
            rows.append(
                {
                    "study": study.name,
                    "row": ", ".join(f"{key} {row[key]}" for key in keys),
                    "figure": figure,
                    "published": old,
                    "here": new if made else None,
                    "difference": _difference(old, new) if made else None,
                    "verdict": _verdict(old, new, tolerance) if made else "missing",
                }
            )
    return rows


def _rows(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    for column, values in study.rows.items():
        frame = frame[frame[column].isin(values)]
    return frame.drop_duplicates(list(study.keys), keep="last")


def _difference(old: Any, new: Any) -> float | None:
    if isinstance(old, bool | str) or isinstance(new, bool | str):
        return None
    return float(new) - float(old)


def _verdict(old: Any, new: Any, tolerance: float) -> str:
    if pd.isna(old) and pd.isna(new):
        return "same"
    apart = _difference(old, new)
    if apart is None:
        return "same" if old == new else "differs"
    if abs(apart) <= _SAME * abs(float(old)):
        return "same"
    return "close" if abs(apart) <= tolerance else "differs"  # never close to what is not a number


def prepare(out: Path) -> None:
    """The scripts, and what they look for beside them, in the folder of the results."""
    shutil.copytree(
        HERE,
        out / "experiments",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("measurements", "__pycache__", "*.db*"),
    )
    for folder in ("experiments/measurements/channel_pruning", "experiments/measurements/fronts", "work", "docs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    if not (out / "tests").exists():
        (out / "tests").symlink_to(HERE.parent / "tests")  # scripts take their oracles from there


def summary(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """How many figures of each study are the same."""
    frame = pd.DataFrame(rows)
    counts = frame.groupby(["study", "verdict"], sort=False).size().unstack(fill_value=0)
    return counts.reindex(columns=["same", "close", "differs", "missing"], fill_value=0)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results-small"))
    parser.add_argument("--only", nargs="+", metavar="STUDY", choices=[study.name for study in STUDIES])
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    given = parser.parse_args()
    studies = [each for each in STUDIES if each.published and (not given.only or each.name in given.only)]
    if given.list:
        for study in studies:
            print(f"{study.name:<12} {study.minutes:4.0f} min of a core  {study.about}; {study.file}")
        return 0
    out = given.out.resolve()
    prepare(out)
    began = time.monotonic()

    def told(study: Study) -> str:
        print(f"{study.name}: begun, about {study.minutes:.0f} min", flush=True)
        why = run(study, out)
        print(f"{study.name}: {why or 'done'}, {(time.monotonic() - began) / 60:.1f} min since the start", flush=True)
        return why

    with ThreadPoolExecutor(CORES) as pool:  # the longest first, so that both end at about the same time
        failed = any(list(pool.map(told, sorted(studies, key=lambda study: -study.minutes))))
    rows = [row for study in studies for row in differences(study, PUBLISHED, out / "experiments" / "measurements")]
    pd.DataFrame(rows).to_csv(out / "differences.csv", index=False)
    counts = summary(rows)
    print(counts.to_string())
    for row in rows:
        if row["verdict"] in ("differs", "missing"):
            print(f"{row['verdict']}: {row['study']}, {row['row']}: {row['figure']} {row['published']} → {row['here']}")
    print(f"all figures: {out / 'differences.csv'}")
    return 2 if failed else int(bool(counts[["differs", "missing"]].to_numpy().sum()))


if __name__ == "__main__":
    sys.exit(main())
