"""Writes docs/results.md from experiments/measurements: every figure of the page is in a file there.

python experiments/results_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).resolve().parent
MEASUREMENTS = HERE / "measurements"


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MEASUREMENTS / name).read_text())
    return found


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def demo() -> str:
    found = read("demo.json")
    low, high = found["measured_interval"]
    model = found["cost_model"]
    rows = [
        [
            "accuracy on the test digits, dense → compressed",
            f"{percent(found['accuracy_dense'])} → {percent(found['accuracy'])}",
        ],
        ["latency budget, of dense", percent(found["budget"])],
        ["predicted", percent(found["predicted"])],
        ["measured [95 % interval]", f"{percent(found['measured'])} [{percent(low)}, {percent(high)}]"],
        ["cost model, held-out error", percent(model["mape"])],
        ["noise floor of its rows", percent(model["noise_floor"])],
        ["seconds in all", f"{found['seconds']:.0f}"],
    ]
    return table(["`ecc demo`", ""], rows)


def digits_front() -> str:
    points = pd.read_csv(MEASUREMENTS / "digits_front.csv", dtype={"commit": str})
    rows = [
        [
            point.method,
            percent(point.budget, 0),
            percent(point.predicted),
            f"{percent(point.measured)} [{percent(point.low)}, {percent(point.high)}]",
            "yes" if point.met else "no",
            percent(point.accuracy),
        ]
        for point in points.sort_values(["budget", "method"], ascending=[False, True]).itertuples()
    ]
    first = points.iloc[0]
    note = f"Dense accuracy {percent(first.accuracy_dense)}; {first.device}, one thread, torch {first.torch}."
    return (
        table(["method", "budget", "predicted", "measured [95 % interval]", "holds", "accuracy"], rows) + f"\n\n{note}"
    )


def resnet20() -> str:
    fit = read("resnet20_fit.json")
    rows = []
    for method in ("admm", "uniform"):
        found = read(f"resnet20_{method}.json")
        (check,) = found["budgets"]
        share = {name: check[name] / check["dense"] for name in ("predicted", "measured", "low", "high")}
        rows.append(
            [
                method,
                percent(share["predicted"]),
                f"{percent(share['measured'])} [{percent(share['low'])}, {percent(share['high'])}]",
                "yes" if check["met"] else "no",
                f"{percent(found['accuracy_dense'])} → {percent(found['accuracy'])}",
                percent(found["nonzero_fraction"]),
            ]
        )
    made = table(["method", "predicted", "measured [95 % interval]", "holds", "accuracy", "parameters left"], rows)
    held = fit["holdout"]
    return (
        f"{made}\n\nCost model of {fit['samples']} rows: held-out error {percent(held['mape'])}, noise floor "
        f"{percent(fit['noise_floor'])}, MACs alone {percent(fit['macs_only'])}, 95 % intervals cover "
        f"{percent(fit['interval_coverage'])}."
    )


def trust() -> str:
    found = read("profiler_trust_resnet20.json")
    rows = [
        [f"{found['rows']} rows", f"{found['seconds'] / 60:.1f} min", "10 min"],
        ["share of that time inside measurement windows", percent(found["inside"]), "80 %"],
        ["half-width of the 95 % intervals, median", percent(found["half_width_median"]), ""],
        ["rows within ±2 %; wider ones that are not flagged", f"{percent(found['half_width_within_2pct'])}; "
         f"{found['wide_and_not_flagged']}", "0"],
        [f"{found['repeated']} rows again in another process: intervals that meet",
         percent(found["repeats_that_meet"]), "90 %"],
        ["… median difference", percent(found["repeat_difference_median"]), ""],
        ["held-out error of the bilinear model, paired", percent(found["mape_paired"]), "5 %"],
        ["… the same rows without pairing", percent(found["mape_without_pairing"]), ""],
        ["… MACs alone", percent(found["mape_macs_only"]), ""],
        ["noise floor", percent(found["noise_floor"]), ""],
    ]  # fmt: skip
    return table(["ResNet-20, batch 1, eager", "measured", "bar"], rows) + f"\n\nAt commit {found['commit']}."


def estimators() -> str:
    read_rows = pd.read_csv(MEASUREMENTS / "meter_estimators.csv", dtype={"commit": str})
    rows = [
        [
            f"{1000 * row.tick_s:.0f} ms",
            f"{row.window_s:.0f} s",
            row.polling,
            f"{row.delta_rms_pct:.2f} %",
            f"{row.slope_rms_pct:.2f} %",
        ]
        for row in read_rows.itertuples()
    ]
    return table(["tick", "window", "polling", "end − start", "slope over ticks"], rows)


def faults() -> str:
    kills = pd.read_csv(MEASUREMENTS / "profiler_faults.csv", dtype={"commit": str})
    kills = kills[kills.kill >= 0]  # the rows behind are the stores, finished afterwards
    return (
        f"{len(kills)} kills at random moments: {int(kills.opened.sum())} stores opened, {int(kills.lost.sum())} rows "
        f"lost, {int(kills.altered.sum())} altered, {int(kills.twice.sum())} there twice."
    )


PAGE = """# Results

Two cores of a shared virtual machine, one thread, batch as stated; all ratios are to the dense network in the same run.
The demo was measured at commit 04f28c7, compressions at d356cc1.
The page is written by `experiments/results_page.py` from the files in `experiments/measurements`.

## How far a profile can be trusted

    python experiments/profiler_trust.py OUT

{trust}

A simulated energy counter whose true power is known, error of a window's energy (rms of 2,000 windows;
`python experiments/meter_estimators.py`):

{estimators}

Profiles stopped by SIGKILL (`python experiments/profiler_faults.py`): {faults}

## The demo

    ecc demo --json

{demo}

## Three methods at three budgets, digits

    python experiments/digits_front.py ecc-demo

![Accuracy against measured latency](front.png)

{digits_front}

One seed; the test set has 270 images, so that one image is 0.4 points.

## Pretrained ResNet-20, CIFAR-10, half of the latency

    bash experiments/resnet20_cifar10.sh OUT

Batch 16, 16 epochs in all on 3,200 images (the lossless subset), tested on 249: the standard error of an accuracy near
70 % is 2.9 points. A short run on little data, the same for all methods; not a figure to compare with publications.

{resnet20}
"""


if __name__ == "__main__":
    text = PAGE.format(
        trust=trust(),
        estimators=estimators(),
        faults=faults(),
        demo=demo(),
        digits_front=digits_front(),
        resnet20=resnet20(),
    )
    (HERE.parent / "docs" / "results.md").write_text(text)
