"""Writes the page on channel pruning and its pictures from what was run: every figure is in a file of the folder.

python experiments/channel_pruning_page.py
"""

from __future__ import annotations

import shutil
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
RUNS_BAR = 20
RUN = ["network", "method", "seed", "budget"]


def versions(rows: pd.DataFrame) -> str:
    """The commits of this package's own methods, which change more than the others."""
    found = rows[rows.method.isin(OWN)].groupby("method").commit.unique()
    return "; ".join(f"{name} at {', '.join(sorted(commits))}" for name, commits in found.items())


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
        f"{int(runs.sum())} of {len(runs)} runs hold all their budgets (bar: all of {RUNS_BAR} or more). Over the "
        f"{len(measured)} budgets that were measured on the device, predicted and measured differ by "
        f"{percent(off.median())} of dense in the median "
        f"(bar {percent(ERROR_BAR, 0)}), by {percent(against.median())} of the measured value, at most by "
        f"{percent(off.max())} of dense; counts and the analytic model's energies are exact."
    )
    return f"{table(header, lines)}\n\n{note} {made(rows)}"


def methods_of(rows: pd.DataFrame) -> list[str]:
    """In the order of the file, peers last."""
    return sorted(dict.fromkeys(rows.method), key=lambda name: name in PEERS)


def common(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the budgets and seeds that every method was run with."""
    runs = rows.groupby(["budget", "seed"]).method.transform("nunique")
    return rows[runs == rows.method.nunique()]


def in_order(rows: pd.DataFrame) -> list[str]:
    """Budgets from loose to tight."""
    return list(dict.fromkeys(rows.sort_values("limit", ascending=False, kind="stable").budget))


def hypervolumes(rows: pd.DataFrame) -> pd.Series:
    """Per method, the mean over the seeds that were run with every budget; x is the limit, so that using less of a
    budget gains nothing.
    """
    found = []
    whole = rows.groupby("seed").budget.transform("nunique") == rows.budget.nunique()
    for seed, part in rows[whole].groupby("seed"):
        points = tuple(Point(row.method, row.limit, row.accuracy, int(str(seed))) for _, row in part.iterrows())
        areas = Front((*points, Point("", 1.0, 0.0)), "macs").hypervolume
        found.append(pd.Series(areas, name=seed).drop(""))
    return pd.concat(found, axis=1).mean(axis=1) if found else pd.Series(dtype=float)


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation over seeds, in per cent."""
    deviation = f" ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.2f}{deviation}"


def front(every: pd.DataFrame) -> str:
    """Accuracy per method and budget, the best mean of each budget bold."""
    rows = common(every)
    if rows.empty:
        return "Not every method was run yet."
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
        area = f"{areas[method]:.4f}" if method in areas else "–"
        cells.append(f"**{area}**" if method in areas and areas[method] == areas.max() else area)
        seconds = rows[rows.method == method].process_s.median()
        lines.append([method, *cells, f"{seconds:.0f}"])
    header = ["method", *budgets, "hypervolume", "CPU s a run"]
    dense = rows.drop_duplicates(["seed"]).accuracy_dense
    note = (
        f"Accuracy in %, mean ± standard deviation over {seeds_of(rows)}, dense {spread(dense)}; {rows.epochs.iloc[0]} "
        f"epochs in all. {int(every.met.sum())} of {len(every)} budgets held.\n\nThe better of admm and knapsack "
        f"beside the best of all others, with the standard error of the difference: {verdict(rows)}\n\n{made(rows)} "
        f"Of these {versions(rows)}."
    )
    return f"{table(header, lines)}\n\n{note}"


def seeds_of(rows: pd.DataFrame) -> str:
    """How many seeds, per budget where these differ."""
    counts = rows.groupby("budget").seed.nunique()
    if counts.nunique() == 1:
        return "1 seed" if counts.iloc[0] == 1 else f"{counts.iloc[0]} seeds"
    return ", ".join(f"{counts[budget]} ({budget})" for budget in in_order(rows)) + " seeds"


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
        error = f" ± {100 * noise:.2f}" if part["count"].min() > 1 else ""
        words.append(f"{budget}: {first} {100 * apart:+.2f}{error} points to {rival}")
    return "; ".join(words) + "." if words else ""


def draw(every: pd.DataFrame, path: Path) -> None:
    """Mean error against the budget, one line per method, bars of one standard deviation."""
    rows = common(every)
    figure, axes = plt.subplots(figsize=(8, 4.5), constrained_layout=True)
    methods, limits = methods_of(rows), sorted(set(rows.limit))
    others = iter(plt.get_cmap("tab10").colors)
    for place, method in enumerate(methods):
        values = rows[rows.method == method].groupby("limit").accuracy.agg(["mean", "std"])
        at = values.index * 1.02 ** (place - len(methods) / 2)  # side by side
        colour = {"admm": "black", "knapsack": "crimson"}.get(method) or next(others)
        axes.errorbar(
            at,
            100 * (1 - values["mean"]),
            100 * values["std"].fillna(0.0),
            label=method,
            color=colour,
            linestyle="--" if method in PEERS else "-",
            linewidth=2.4 if method in OWN else 1.0,
            marker="o",
            markersize=5 if method in OWN else 3,
            zorder=3 if method in OWN else 2,
            elinewidth=0.8,
        )
    dense = rows.drop_duplicates("seed").accuracy_dense.mean()
    axes.axhline(100 * (1 - dense), color="0.5", linestyle=":", label="dense")
    axes.set_yscale("log")
    axes.set_xscale("log")
    axes.set(xlabel=f"{rows.metric.iloc[0]} budget, of dense", ylabel="test error, %", title=rows.network.iloc[0])
    axes.set_xticks(limits, [f"{limit:g}" for limit in limits])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    steps = [step for step in (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50) if low <= step <= high]
    axes.set_yticks(steps, [f"{step:g}" for step in steps])
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=100)
    plt.close(figure)


PAGE = """# Channel pruning under hard budgets: what it keeps and what it costs

Written by `python experiments/channel_pruning_page.py` from the files in `experiments/measurements/channel_pruning`,
one row per run and budget, each with its commit and date; `experiments/channel_pruning.py` tells the commands.

## Budgets kept

ADMM, from trained networks, one seed. Latency is that of this machine, eager, one thread, fitted to 100 measured rows
and verified in turn with the dense network; energy is that of the systolic array `eyeriss`. A budget holds when the
upper end of the 95 % interval is within it. `predicted` is what the cost model says of the final widths before any
correction by what was measured on the way. Batches of 64 examples are timed for digits-resnet and mobilenet-small, of
16 for the others. Of digits-resnet and resnet20 30 % of the latency is refused before any training: their smallest
admissible widths are predicted at 31 and 46 %.

{kept}

## Fronts

Every method from the same trained networks, with the same training data, epochs in all, fine-tuning and floor of a
tenth of every group. Methods that train while they choose spend a part of the epochs on it, admm its default of a
quarter, netadapt and cooper half; the others fine-tune for all of them. `halp` is this package's allocation of HALP's
sums of first-order importance (`knapsack.curves=importance`). `torch-pruning` is version 1.6.1, its
importance and its pruner over all layers at the smallest pruning ratio that meets the budget; `cooper` is an augmented
Lagrangian on hard-concrete gates with that library. The hypervolume is the accuracy averaged over budgets from 0 to
dense, the mean over the seeds that were run with every budget. Only seeds that every method was run with count;
Torch-Pruning by Taylor importance finds no ratio that meets 0.04 of digits-resnet with seed 4. The test set of the
digits has 540 images: an image is 0.19 points, and down to 0.15 most methods are as good as the dense network.

{fronts}

## Pretrained ResNet-20

The lossless subset of CIFAR-10: 2,000 images to train on, 249 to test on (standard error of an accuracy of 80 %: 2.5
points), a short fine-tuning on little data. Not figures to compare with publications. Where layers are added to inputs
that were padded with zero channels, the width graph couples what remains of one stream; Torch-Pruning removes only what
that graph knows.

{pretrained}

## Allocation

`python experiments/allocation_quality.py --random 320 --networks`

{allocation}

## Convergence

`python experiments/admm_convergence.py`: two budgets at once, macs 0.5 and params 0.6, rho over two decades. The share
of rises is how much of what the costs fell they rose in between; the last column how far a cost was above the limit of
its moment, at most.

{convergence}

![paper form, allocation as s step](channel-pruning-convergence.png)

## Overhead

`python experiments/admm_overhead.py --fresh --pairs 13`, steps of a batch of {batch}, with and without the constraint
in turn; medians with a 95 % interval.

{overhead}

## Faults

`python experiments/training_faults.py`

{faults}
"""


def allocation(random: pd.DataFrame, networks: pd.DataFrame) -> str:
    """Small random allocations beside brute force and an integer program; networks with their gaps and time."""
    apart = max((random.loss - random[other]).abs().max() for other in ("best", "milp"))
    known = networks.gap.notna()
    lines = []
    for (name, step, costs), part in networks.groupby(["network", "step", "costs"], sort=False):
        gap = "no bound" if part.gap.isna().any() else percent(part.gap.max(), 2)
        lines.append([str(name), str(step), str(costs), str(part.groups.iloc[0]), gap, f"{part.cpu_s.max():.1f}"])
    header = ["network", "step", "costs", "groups", "largest gap", "most CPU s"]
    note = (
        f"{len(random)} random allocations of up to {int(random.widths.max()):,} widths: the loss is that of the "
        f"best of all widths and of an integer program in all of them (largest difference {apart:.0e}). Networks at "
        "0.7, 0.5 and 0.3 of each cost, with convex and with bent curves; the gap is what the loss may be above the "
        f"least, of what is lost in all, and is known for {int(known.sum())} of {len(networks)}."
    )
    return f"{note}\n\n{table(header, lines)}\n\n{made(networks)}"


def convergence(rows: pd.DataFrame) -> str:
    """Whether budgets are reached without swinging, for three values of rho."""
    lines = [
        [
            f"{row.form}, {row.step} steps",
            f"{row.rho:g}",
            str(row.steps),
            "yes" if row.met else "**no**",
            percent(row.share_of_rises, 1),
            percent(row.worst_lag, 1),
        ]
        for _, row in rows.iterrows()
    ]
    header = ["form", "rho", "steps to the budgets", "met", "rises of the costs, of their fall", "furthest behind"]
    return f"{table(header, lines)}\n\n{made(rows)}"


def overhead(rows: pd.DataFrame) -> str:
    """A step of ADMM beside the same step without a constraint, in turn."""
    lines = [
        [
            row.network.removeprefix("zoo:"),
            f"{row.step}, {row.importance}",
            f"{row.step_ratio:.3f} [{row.step_ratio_low:.3f}, {row.step_ratio_high:.3f}]",
            percent(row.hook_over_step, 1),
            f"{row.copies_held:.2f}",
        ]
        for _, row in rows.iterrows()
    ]
    header = [
        "network",
        "s step, importance",
        "step / step without",
        "time of ADMM itself",
        "copies of the weights held",
    ]
    return f"{table(header, lines)}\n\n{made(rows)}"


def faults(rows: pd.DataFrame) -> str:
    """Runs that were killed and went on."""
    same = int(rows.same_weights.sum())
    return (
        f"{same} of {len(rows)} runs that were killed (SIGKILL) at random moments, and then resumed, end with the "
        f"weights of the run that was not, bit for bit. {made(rows)}"
    )


def read(folder: Path, part: str) -> list[pd.DataFrame]:
    return [pd.read_csv(path, dtype={"commit": str}) for path in sorted(folder.glob(f"{part}_*.csv"))]


def write_page(folder: Path, path: Path, pictures: Path) -> None:
    """Write the page and its pictures; sections that were not run say so."""

    def parts(name: str, show: Callable[[Sequence[pd.DataFrame]], str]) -> str:
        found = read(folder, name)
        return show(found) if found else "Not run."

    def fronts(found: Sequence[pd.DataFrame]) -> str:
        sections = []
        for rows in found:
            network = rows.network.iloc[0]
            picture = ""
            if not common(rows).empty:
                draw(rows, pictures / f"channel-pruning-{network}.png")
                picture = f"![{network}](channel-pruning-{network}.png)\n\n"
            sections.append(f"### {network}\n\n{picture}{front(rows)}")
        return "\n\n".join(sections)

    def measured(name: str) -> pd.DataFrame:
        return pd.read_csv(MEASUREMENTS / f"{name}.csv", dtype={"commit": str})

    shutil.copyfile(
        MEASUREMENTS / "admm_convergence-paper-allocation.png", pictures / "channel-pruning-convergence.png"
    )
    path.write_text(
        PAGE.format(
            allocation=allocation(measured("allocation_random"), measured("allocation_networks")),
            convergence=convergence(measured("admm_convergence_summary")),
            overhead=overhead(measured("admm_overhead")),
            batch=measured("admm_overhead").batch.iloc[0],
            faults=faults(measured("training_faults")),
            kept=parts("budgets", lambda found: kept(pd.concat(found, ignore_index=True))),
            fronts=parts("front", fronts),
            pretrained=parts("pretrained", lambda found: "\n\n".join(map(front, found))),
        )
    )


if __name__ == "__main__":
    write_page(FOLDER, HERE.parent / "docs" / "channel-pruning.md", HERE.parent / "docs")
