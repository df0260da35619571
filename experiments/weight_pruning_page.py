"""Writes the page on weight pruning from what was run: every figure is in a file of experiments/measurements.

python experiments/weight_pruning_page.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
from records import MEASUREMENTS
from results_page import percent, table

__all__ = ["write_page"]

HERE = Path(__file__).resolve().parent
FOLDER = MEASUREMENTS / "weight_pruning"
PAGE = HERE.parent / "docs" / "weight-pruning.md"
NOT_RUN = "Not run."
BARS = {0.30: (0.9913, 0.9905), 0.20: (0.9856, 0.9759), 0.17: (0.9532, 0.8856)}
SPEED_BAR_S = 1.0
OVERHEAD_BAR = 0.05


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"commit": str}) if path.exists() else pd.DataFrame()


def made(rows: pd.DataFrame) -> str:
    """Where and when the rows were made."""
    first = rows.iloc[0]
    commits, dates = sorted(set(rows.commit)), " to ".join(sorted({rows.date.min(), rows.date.max()}))
    return f"torch {first.torch}, Python {first.python}, one thread. Made {dates} at {', '.join(commits)}."


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation over seeds, in per cent, with the number of seeds."""
    deviation = f" ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.2f}{deviation} ({len(values)})"


def accuracies(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Methods × budgets, the best mean of each budget bold."""
    budgets = sorted(set(rows.budget), reverse=True)
    means = rows.groupby(["budget", "method"]).accuracy.mean()
    lines = []
    for method in dict.fromkeys(rows.method):
        cells = []
        for budget in budgets:
            values = rows[(rows.method == method) & (rows.budget == budget)].accuracy
            best = len(values) and values.mean() >= means[budget].max()
            cells.append("–" if not len(values) else f"**{spread(values)}**" if best else spread(values))
        lines.append([method, *cells])
    return [f"{budget:g}" for budget in budgets], lines


def lenet5(rows: pd.DataFrame) -> str:
    if rows.empty:
        return NOT_RUN
    budgets, lines = accuracies(rows)
    for place, name in enumerate(("the public code (bar)", "magnitude at equal energy (bar)")):
        lines.append([name, *(f"{100 * BARS[float(budget)][place]:.2f}" for budget in budgets)])
    own = rows[rows.method == "projected-sgd"].groupby("budget").accuracy.mean()
    held = [f"{budget:g}" for budget, value in own.items() if value > max(BARS[budget])]
    worst = (rows.exact / rows.budget).max()
    return (
        f"{table(['method', *budgets], lines)}\n\nTest accuracy in %, mean ± standard deviation (seeds), dense "
        f"{100 * rows.accuracy_dense.iloc[0]:.2f}. projected-sgd is above both bars at {', '.join(held)}. Exact energy "
        f"over budget at most {worst:.5f}; layers without any weight: {int(rows.empty_layers.max())}. {made(rows)}"
    )


def masks(rows: pd.DataFrame) -> str:
    if rows.empty:
        return NOT_RUN
    lines = [
        [
            f"{row.budget:g}",
            row.method,
            str(row.seed),
            f"{100 * row.accuracy:.2f}",
            f"{row.exact:.4f}",
            f"{row.nonzeros:,}",
            percent(row["inputs of features.0"], 0),
        ]
        for _, row in rows.sort_values(["budget", "seed"], ascending=[False, True]).iterrows()
    ]
    header = ["budget", "search", "seed", "accuracy, %", "exact energy", "weights left", "pixels kept"]
    return f"{table(header, lines)}\n\n{made(rows)}"


def resnet20(rows: pd.DataFrame) -> str:
    if rows.empty:
        return NOT_RUN
    budgets, lines = accuracies(rows)
    return (
        f"{table(['method', *budgets], lines)}\n\nAccuracy in % on 249 images (standard error 2 points), mean ± "
        f"standard deviation (seeds), dense {100 * rows.accuracy_dense.iloc[0]:.2f}. {made(rows)}"
    )


def large(rows: pd.DataFrame) -> str:
    if rows.empty:
        return NOT_RUN
    said = []
    for name, part in rows.groupby("network", sort=False):
        share = part.nonzeros / part["size"]
        least = part.loc[share.idxmin()]
        said.append(
            f"- {name} at {part.budget.iloc[0]:g}: exact energy {part.exact.iloc[0]:.4f}, weights left "
            f"{percent(part.nonzeros.sum() / part['size'].sum())}; the layer that keeps least, {least.layer}, keeps "
            f"{percent(share.min(), 2)}.\n\n![{name}](weight-pruning-{name}.png)"
        )
    return "\n".join(said) + f"\n\n{made(rows)}"


def overhead(rows: pd.DataFrame) -> str:
    if rows.empty:
        return NOT_RUN
    lines = [
        [row.network, str(row.batch), row.profit, f"{row.step_s:.3f} s", percent(row.overhead)]
        for _, row in rows.iterrows()
    ]
    note = f"Bar {percent(OVERHEAD_BAR, 0)}; process time within the same run. {made(rows)}"
    return f"{table(['network', 'batch', 'profit', 'step', 'projections over all else'], lines)}\n\n{note}"


def speed(rows: pd.DataFrame) -> str:
    if rows.empty:
        return NOT_RUN
    lines = []
    for millions, part in rows.groupby("millions"):
        by = part.set_index("action")

        def cell(action: str, by: pd.DataFrame = by) -> str:
            if action not in by.index:
                return "–"
            return f"{1e3 * by.wall_s[action]:.0f} ms (CPU {1e3 * by.process_s[action]:.0f})"

        memory = by.peak_extra_bytes.dropna()
        extra = percent(memory.iloc[0] / by.copy_bytes.dropna().iloc[0]) if len(memory) else "–"
        actions = ("projection in place", "projection", "clone", "torch.sort")
        lines.append([f"{millions} M", *map(cell, actions), extra])
    header = ["weights", "in place", "with a copy", "copy alone", "torch.sort", "memory, of a copy"]
    notes = ", ".join(sorted(set(rows.note.dropna().astype(str)) - {""}))
    threads = ", ".join(str(count) for count in sorted(set(rows.threads)))
    return (
        f"{table(header, lines)}\n\nMedians of {rows.repeats.min()} turns, {threads} thread(s){', ' if notes else ''}"
        f"{notes}; bar {SPEED_BAR_S:g} s at 61 M. Made {rows.date.max()} at {', '.join(sorted(set(rows.commit)))}."
    )


TEXT = """# Weight pruning under an energy budget: what it keeps and what it costs

Written by `python experiments/weight_pruning_page.py` from the files in `experiments/measurements`, each row with its
commit and date; `experiments/weight_pruning.py`, `weight_masks.py` and `projection_speed.py` tell the commands. Budgets
are fractions of the relaxed dense energy of the systolic array `eyeriss`. [Weights](weights.md) explains the methods.

## LeNet-5 on MNIST

The classic network (1×32×32), pruned in 10 epochs from one trained network; seeds are those of the pruning. All methods
have the same data, shifted by up to two pixels at random as in the training of the dense network, the same epochs,
teacher and seeds. What augmentation the bars were made with is not recorded. `published` is the method with the
settings of its public code.

{lenet5}

### Below what weights alone can reach

With all its weights zero the network still takes 0.152 of its energy for inputs and outputs; masked inputs lower that
to 0.076. `together` chooses inputs and weights in one training, `rounds` takes turns as published.

{masks}

## Pretrained ResNet-20

The lossless subset of CIFAR-10: 2,000 images to train on, 4 epochs. Its floor is 0.204, so that budgets below need
`masked-sgd`.

{resnet20}

## Large networks

Random weights, a few steps on random images: does any layer collapse?

{large}

## Time

The projection, of normal numbers in the layers of AlexNet scaled to the sizes below:

{speed}

A projection every 10 steps, in training:

{overhead}
"""


def write_page(page: Path = PAGE) -> None:
    """Write the page and copy its pictures beside it."""
    for picture in FOLDER.glob("large_*.png"):
        shutil.copyfile(picture, page.parent / f"weight-pruning-{picture.stem.removeprefix('large_')}.png")
    page.write_text(
        TEXT.format(
            lenet5=lenet5(read(FOLDER / "lenet5.csv")),
            masks=masks(read(FOLDER / "masks.csv")),
            resnet20=resnet20(read(FOLDER / "resnet20.csv")),
            large=large(read(FOLDER / "large.csv")),
            speed=speed(read(MEASUREMENTS / "projection_speed.csv")),
            overhead=overhead(read(FOLDER / "overhead.csv")),
        )
    )


if __name__ == "__main__":
    write_page()
