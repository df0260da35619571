"""Writes the page on architectures from what architectures.py measured: every figure is in a file of the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from results_page import percent, table

__all__ = ["write_page"]

LIMIT = 1e-5
BARS = {"resnet50": 1.0, "densenet121": 2.0, "mobilenet_v3_large": 1.0, "vit_b_16": 3.0}
SAMPLE_BARS = {"resnet50": 0.05, "densenet121": 0.15}


def measured(rows: pd.DataFrame) -> str:
    """Where and when the rows of a table were measured."""
    commits, dates = ", ".join(map(str, rows.commit.unique())), " to ".join(sorted({rows.date.min(), rows.date.max()}))
    return f"Measured {dates} at commit {commits}."


def machine(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    load = f"{rows.load.min():.1f} to {rows.load.max():.1f}"
    return (
        f"torch {first.torch}, Python {first.python}, {first.cores} cores of a shared virtual machine, {first.threads} "
        f"thread, load {load}. Seconds of processor time, medians; wall time in the CSV. {measured(rows)}"
    )


def number(value: float, digits: int = 2) -> str:
    return "–" if pd.isna(value) else f"{value:.{digits}f}"


def text(value: object) -> str:
    return "" if pd.isna(value) else str(value).replace("|", "\\|")


def brief(value: object, length: int = 110) -> str:
    first = text(value).split(" · ")[0]
    return first if len(first) <= length else first[: length - 1] + "…"


def cases(rows: pd.DataFrame) -> str:
    rows = rows.assign(outcome=rows.outcome.replace("dense", "refused by name"))
    lines = [
        [row.name_, row.outcome, str(row.prunable), f"{row.error:.0e}" if row.draws else "–", brief(row.reason)]
        for row in rows.rename(columns={"name": "name_"}).itertuples()
    ]
    made = table(["case", "outcome", "prunable groups", "largest error", "the first reason of what stays"], lines)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in rows.outcome.value_counts().items())
    worst = rows.error.max()
    note = (
        f"{len(rows)} cases in float64, pruned to random widths: {counts}; largest error {worst:.0e} (bar {LIMIT:.0e})."
    )
    return f"{note} {measured(rows)}\n\n{made}"


def draws(folder: Path) -> str:
    lines, total, wrong = [], 0, 0
    sources = {"cases": "structural cases", "random": "random networks", "vision": "torchvision"}
    for name, title in sources.items():
        if not (folder / f"{name}.csv").exists():
            continue
        rows = pd.read_csv(folder / f"{name}.csv", dtype={"commit": str})
        bad = int((rows.error > LIMIT).sum())
        if "outcome" in rows:
            bad = int(rows.outcome.isin(["wrong", "miscounted", "crash"]).sum())
        count = int(rows.draws.sum())
        total, wrong = total + count, wrong + bad
        lines.append([title, str(len(rows)), str(count), str(bad), f"{rows.error.max():.0e}"])
    lines.append(["all", "", str(total), str(wrong), ""])
    header = ["networks", "how many", "random widths drawn", "networks in error", "largest relative error"]
    return f"{total} draws, {wrong} silent errors (bar: 0 in 1,000).\n\n{table(header, lines)}"


def vision(folder: Path) -> str:
    rows = pd.read_csv(folder / "vision.csv", dtype={"commit": str})
    peers = {}
    if (folder / "peer.csv").exists():
        peers = {row["name"]: row for row in pd.read_csv(folder / "peer.csv", dtype={"commit": str}).to_dict("records")}
    lines = []
    for row in rows.to_dict("records"):
        peer = peers.get(row["name"], {})
        outcome = text(peer.get("outcome", "–"))
        if outcome in ("crash", "wrong", "never ends") and text(peer.get("detail")):
            outcome += f": {brief(peer['detail'], 70)}"
        elif outcome == "wrong":
            outcome += f": error {peer['error']:.0e}"
        lines.append(
            [
                f"{row['name']} ({row['pixels']} px)",
                f"{row['prunable']}/{row['groups']}",
                "exact" if row["error"] <= LIMIT else "wrong",
                f"{row['error']:.0e}",
                f"{row['error_double']:.0e}",
                percent(row["share"], 0),
                outcome,
            ]
        )
    header = [
        "network",
        "groups prunable/all",
        "ecc",
        "largest error, float32",
        "float64",
        "MACs that can go",
        "Torch-Pruning 1.6.1",
    ]
    able = rows[(rows.prunable > 0) & (rows.share >= 0.2)]
    good = able[able.error <= LIMIT]
    note = (
        f"{len(able)} of {len(rows)} networks are prunable ({percent(len(able) / len(rows), 0)}; bar 90 %), and "
        f"{len(good)} of these are exact (bar: all): float32, {rows.draws.max()} random widths each, relative error at "
        f"most {LIMIT:.0e}. {measured(rows)}"
    )
    return f"{note}\n\n{table(header, lines)}"


def times(rows: pd.DataFrame) -> str:
    lines = [
        [
            f"{row['name']} ({row['pixels']} px)",
            number(row["trace_s"]),
            f"≤ {BARS[row['name']]:.0f}" if row["name"] in BARS else "finishes",
            number(row["unchecked_s"]),
            number(row["export_s"]),
            number(row.get("fx_s", float("nan"))),
        ]
        for row in rows.to_dict("records")
    ]
    header = ["network", "trace with its check", "bar", "trace without", "torch.export", "fx.symbolic_trace"]
    return f"{table(header, lines)}\n\n{machine(rows)}"


def samples(rows: pd.DataFrame) -> str:
    lines = [
        [
            row["name"],
            number(row["outline_s"], 3),
            f"≤ {SAMPLE_BARS[row['name']]}" if row["name"] in SAMPLE_BARS else "",
            number(row["slim_s"], 3),
            number(row["peer_s"], 2),
        ]
        for row in rows.to_dict("records")
    ]
    header = ["network", "outline", "bar", "slim without check", "Torch-Pruning"]
    return f"{table(header, lines)}\n\n{machine(rows)}"


def growth(rows: pd.DataFrame) -> str:
    lines = [
        [row["join"], str(row["layers"]), str(row["operators"]), number(row["trace_s"]), number(row["unchecked_s"]),
         number(1e3 * row["trace_s"] / row["operators"]), number(1e3 * row["unchecked_s"] / row["operators"])]
        for row in rows.to_dict("records")
    ]  # fmt: skip
    fits = []
    for join, part in rows.groupby("join", sort=False):
        if len(part) > 1:
            both = [np.polyfit(np.log(part.operators), np.log(part[c]), 1)[0] for c in ("trace_s", "unchecked_s")]
            fits.append(f"{join} {both[0]:.2f} ({both[1]:.2f})")
    header = ["layers are joined by", "layers", "operators", "trace (s)", "without check (s)", "ms per operator",
              "without check"]  # fmt: skip
    fit = f"Exponent of the time in the number of operators, with the check (without): {', '.join(fits)}."
    return f"{table(header, lines)}\n\n{fit} {machine(rows)}"


PAGE = """# Architectures

Which networks the width graph prunes exactly, and how long it takes. Written by

    python experiments/architectures.py

from the files in `experiments/measurements/architectures`, one row per network, each with its commit and date. Exact
means zero-then-remove: the network without the channels gives what the network gives in which they are zero.

## Structural cases

{cases}

## Silent errors

{draws}

## Networks of torchvision

{vision}

Weights are random; statistics come from random images, layer scales are one, and biases and norms are moved off their
initial values, so that they hide no error. MACs are counted at the image size that the network is made for, at the
smallest admissible widths.

Torch-Pruning was used as its README tells: `MetaPruner` with `GroupMagnitudeImportance`, `pruning_ratio=0.5`, the
classifier left out; for ViT the number of heads is given, heads go whole and `hidden_dim` is set afterwards. It ran on
the same network and input in float64, in a process that may use the processor for five minutes. What it left was read
off the tensors, the rest was set to zero in a dense copy, and the outputs compared. "exact but for layer norms" means
that they agree once the statistics of layer norms run over the channels that are left; ecc does that on request
(`renormalise=True`).

## Time to trace

{times}

## One network of random widths

{samples}

`outline` makes a network of given widths whose weights mean nothing, for profiling. Torch-Pruning copies the network,
finds its groups again and prunes it to half by `RandomImportance`.

## Growth

{growth}

`concat` joins each layer's output to its input, as DenseNet does, 50 layers to a block.
"""


def write_page(folder: Path, path: Path) -> None:
    """Write the page; sections that were not measured say so."""

    def section(name: str, show: Callable[[pd.DataFrame], str]) -> str:
        found = folder / f"{name}.csv"
        return show(pd.read_csv(found, dtype={"commit": str})) if found.exists() else "Not measured."

    path.write_text(
        PAGE.format(
            cases=section("cases", cases),
            draws=draws(folder),
            vision=section("vision", lambda _: vision(folder)),
            times=section("times", times),
            samples=section("samples", samples),
            growth=section("growth", growth),
        )
    )
