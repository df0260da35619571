"""Writes the page on channel pruning and its pictures from what was run: every figure is in a file of the folder.

python experiments/channel_pruning_page.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from records import MEASUREMENTS
from results_page import percent, table

from ecc.fronts import Front, Point

__all__ = ["write_page"]

HERE = Path(__file__).resolve().parent
FOLDER = MEASUREMENTS / "channel_pruning"
OWN = ("admm", "knapsack")  # what is claimed to be as accurate as any other
PEERS = ("torch-pruning-magnitude", "torch-pruning-taylor", "cooper")
ERROR_BAR = 0.03
RUN = ["network", "method", "seed", "budget"]


def made(rows: pd.DataFrame) -> str:
    """Where and when the rows were made."""
    commits, dates = sorted(set(rows.commit)), " to ".join(sorted({rows.date.min(), rows.date.max()}))
    first = rows.iloc[0]
    return f"torch {first.torch}, Python {first.python}, one thread. Made {dates} at {', '.join(commits)}."


def interval(row: pd.Series) -> str:
    if row.source == "device":
        return f"{percent(row.measured)} [{percent(row.low)}, {percent(row.high)}]"
    return percent(row.measured)


def kept(rows: pd.DataFrame) -> str:
    """Every budget of every run: predicted, measured, held."""
    lines = [
        [
            row.network,
            str(row.budget),
            row.metric if row.source in ("device", "count") else f"{row.metric} ({row.source})",
            percent(row.limit, 0),
            percent(row.predicted),
            interval(row),
            "yes" if row.met else "**no**",
            f"{percent(row.accuracy_dense)} → {percent(row.accuracy)}",
            str(row.rounds),
        ]
        for _, row in rows.iterrows()
    ]
    header = ["network", "budgets", "metric", "limit", "predicted", "measured [95 % interval]", "holds", "accuracy",
              "rounds"]  # fmt: skip
    runs = rows.groupby(RUN).met.all()
    measured = rows[rows.source == "device"]
    off = (measured.predicted - measured.measured).abs()
    against = (measured.predicted / measured.measured - 1).abs()
    note = (
        f"{int(runs.sum())} of {len(runs)} runs hold all their budgets. Over the {len(measured)} budgets that were "
        f"measured on the device, predicted and measured differ by {percent(off.median())} of dense in the median "
        f"(bar {percent(ERROR_BAR, 0)}), by {percent(against.median())} of the measured value, at most by "
        f"{percent(off.max())} of dense; counts and the analytic model's energies are exact."
    )
    return f"{table(header, lines)}\n\n{note} {made(rows)}"


def methods_of(rows: pd.DataFrame) -> list[str]:
    """In the order of the file, peers last."""
    return sorted(dict.fromkeys(rows.method), key=lambda name: name in PEERS)


def in_order(rows: pd.DataFrame) -> list[str]:
    """Budgets from loose to tight."""
    return list(dict.fromkeys(rows.sort_values("limit", ascending=False, kind="stable").budget))


def hypervolumes(rows: pd.DataFrame) -> pd.Series:
    """Per method, the mean over seeds; x is the limit, so that using less of a budget gains nothing."""
    found = []
    for seed, part in rows.groupby("seed"):
        points = tuple(Point(row.method, row.limit, row.accuracy, int(seed)) for _, row in part.iterrows())
        areas = Front((*points, Point("", 1.0, 0.0)), "macs").hypervolume
        found.append(pd.Series(areas, name=seed).drop(""))
    return pd.concat(found, axis=1).mean(axis=1)


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation over seeds, in per cent."""
    deviation = f" ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.2f}{deviation}"


def front(rows: pd.DataFrame) -> str:
    """Accuracy per method and budget, the best mean of each budget bold."""
    budgets = in_order(rows)
    means = rows.groupby(["method", "budget"]).accuracy.mean()
    areas = hypervolumes(rows)
    lines = []
    for method in methods_of(rows):
        cells = []
        for budget in budgets:
            values = rows[(rows.method == method) & (rows.budget == budget)].accuracy
            best = len(values) and values.mean() >= means.xs(budget, level="budget").max()
            cells.append(f"**{spread(values)}**" if best else spread(values) if len(values) else "–")
        cells.append(f"**{areas[method]:.4f}**" if areas[method] == areas.max() else f"{areas[method]:.4f}")
        seconds = rows[rows.method == method].process_s.median()
        lines.append([method, *cells, f"{seconds:.0f}"])
    header = ["method", *budgets, "hypervolume", "CPU s a run"]
    dense = rows.drop_duplicates(["seed"]).accuracy_dense
    note = (
        f"Accuracy in % over {rows.seed.nunique()} seeds, dense {spread(dense)}; {rows.epochs.iloc[0]} epochs in all. "
        f"{int(rows.met.sum())} of {len(rows)} budgets held. {verdict(rows)} {made(rows)}"
    )
    return f"{table(header, lines)}\n\n{note}"


def verdict(rows: pd.DataFrame) -> str:
    """Whether this package's allocations are as accurate as every other method, in words; with the noise of a mean."""
    means = rows.groupby(["budget", "method"]).accuracy.agg(["mean", "std", "count"])
    words = []
    for budget in in_order(rows):
        part = means.loc[budget]
        own, others = part[part.index.isin(OWN)], part[~part.index.isin(OWN)]
        if own.empty or others.empty:
            continue
        first, rival = own["mean"].idxmax(), others["mean"].idxmax()
        apart = own["mean"].max() - others["mean"].max()
        noise = ((part.loc[[first, rival], "std"] ** 2 / part.loc[[first, rival], "count"]).sum()) ** 0.5
        words.append(f"{budget}: {first} {100 * apart:+.2f} ± {100 * noise:.2f} points to {rival}")
    return "; ".join(words) + "." if words else ""


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Mean accuracy against the budget, one line per method, bars of one standard deviation."""
    figure, axes = plt.subplots(figsize=(7, 4.2), constrained_layout=True)
    methods = methods_of(rows)
    limits = sorted(set(rows.limit))
    width = 0.05 * (max(limits) - min(limits)) if len(limits) > 1 else 0.02
    for place, method in enumerate(methods):
        values = rows[rows.method == method].groupby("limit").accuracy.agg(["mean", "std"])
        at = values.index + width * (place / max(1, len(methods) - 1) - 0.5)
        style = {"linewidth": 2.4, "zorder": 3} if method in OWN else {"linewidth": 1.0, "alpha": 0.8}
        line = "--" if method in PEERS else "-"
        axes.errorbar(
            at, 100 * values["mean"], 100 * values["std"].fillna(0), label=method, fmt=f"o{line}", ms=4, **style
        )
    axes.axhline(100 * rows.drop_duplicates("seed").accuracy_dense.mean(), color="0.6", linestyle=":", label="dense")
    axes.set(xlabel=f"{rows.metric.iloc[0]} budget, of dense", ylabel="accuracy, %", title=rows.network.iloc[0])
    axes.set_xticks(limits)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)
    plt.close(figure)


PAGE = """# Channel pruning under hard budgets: what it keeps and what it costs

Written by `python experiments/channel_pruning_page.py` from the files in `experiments/measurements/channel_pruning`,
one row per run and budget, each with its commit and date; `experiments/channel_pruning.py` tells the commands.

## Budgets kept

ADMM, from trained networks, one seed. Latency is that of this machine, eager, one thread, fitted to 100 measured rows
and verified in turn with the dense network; energy is that of the systolic array `eyeriss`. A budget holds when the
upper end of the 95 % interval is within it. `predicted` is what the cost model says of the final widths before any
correction by what was measured on the way.

{kept}

## Fronts

Every method from the same trained networks, with the same training data, epochs in all, fine-tuning and floor of a
tenth of every group. Methods that train while they choose spend a part of the epochs on it, admm its default of a
quarter, netadapt and cooper half; the others fine-tune for all of them. `torch-pruning` is version 1.6.1, its
importance and its pruner over all layers at the smallest pruning ratio that meets the budget; `cooper` is an augmented
Lagrangian on hard-concrete gates with that library. The hypervolume is the accuracy averaged over budgets from 0 to
dense, the mean over seeds.

{fronts}

## Pretrained ResNet-20

The lossless subset of CIFAR-10: 2,000 images to train on, 249 to test on (standard error of an accuracy of 80 %: 2.5
points), a short fine-tuning on little data. Not figures to compare with publications. Where layers are added to inputs
that were padded with zero channels, the width graph couples what remains of one stream; Torch-Pruning removes only what
that graph knows.

{pretrained}
"""


def read(folder: Path, part: str) -> list[pd.DataFrame]:
    return [pd.read_csv(path) for path in sorted(folder.glob(f"{part}_*.csv"))]


def write_page(folder: Path, path: Path, pictures: Path) -> None:
    """Write the page and its pictures; sections that were not run say so."""

    def parts(name: str, show: Callable[[Sequence[pd.DataFrame]], str]) -> str:
        found = read(folder, name)
        return show(found) if found else "Not run."

    def fronts(found: Sequence[pd.DataFrame]) -> str:
        sections = []
        for rows in found:
            network = rows.network.iloc[0]
            draw(rows, pictures / f"channel-pruning-{network}.png")
            sections.append(f"### {network}\n\n![{network}](channel-pruning-{network}.png)\n\n{front(rows)}")
        return "\n\n".join(sections)

    path.write_text(
        PAGE.format(
            kept=parts("budgets", lambda found: kept(pd.concat(found, ignore_index=True))),
            fronts=parts("front", fronts),
            pretrained=parts("pretrained", lambda found: "\n\n".join(map(front, found))),
        )
    )


if __name__ == "__main__":
    write_page(FOLDER, HERE.parent / "docs" / "channel-pruning.md", HERE.parent / "docs")
