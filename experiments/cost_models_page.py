"""Writes the page on cost models from what was measured: every figure is in a file of the folder.

python experiments/cost_models_page.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from results_page import percent, table

__all__ = ["write_page"]

HERE = Path(__file__).resolve().parent
MAPE_BARS = {"grid": 0.04, "any": 0.05}
COVERAGE_BAR = (0.92, 0.98)
SIMULATED_BARS = {"bilinear": 0.045, "auto": 0.018}
SPEED_BARS = {"cost and gradient": 1e-3, "fit of 10,000 rows": 5.0, "systolic energy": 0.5}
AT = 200


def share(value: float, digits: int = 1) -> str:
    return "–" if pd.isna(value) else percent(value, digits)


def made(rows: pd.DataFrame) -> str:
    """Where and when the rows were made."""
    commits, dates = list(rows.commit.unique()), " to ".join(sorted({rows.date.min(), rows.date.max()}))
    first, at = rows.iloc[0], ", ".join(map(str, commits)) if len(commits) < 4 else f"one of {len(commits)}, in the CSV"
    return f"torch {first.torch}, Python {first.python}, {first.threads} thread. Made {dates} at commit {at}."


def in_order(rows: pd.DataFrame) -> list[str]:
    """Forms as they come in the file; behind them what chooses among them, then peers."""
    last = ("random", "boosted", "auto")
    return sorted(dict.fromkeys(rows["form"]), key=lambda name: [name.startswith(each) for each in last])


def measured(rows: pd.DataFrame) -> str:
    bars = rows.widths.map(MAPE_BARS)
    lines = [
        [
            f"{row['network']}, {row['input']}",
            row["runtime"],
            row["widths"],
            row["metric"],
            str(row["profile_rows"]),
            row["chosen"],
            f"**{percent(row['held_out_mape'], 2)}**",
            f"≤ {percent(bar, 0)}",
            percent(row["held_out_p95"]),
            share(row["noise_floor"], 2),
            percent(row["coverage"]),
            percent(row["macs_only"]),
        ]
        for row, bar in zip(rows.to_dict("records"), bars, strict=True)
    ]
    header = ["network", "runtime", "widths", "metric", "rows", "form chosen", "held-out MAPE", "bar",
              "95th percentile", "noise floor", "95 % intervals cover", "MACs only"]  # fmt: skip
    held, covered = (rows.held_out_mape <= bars).sum(), rows.coverage.between(*COVERAGE_BAR).sum()
    note = (
        f"{held} of {len(rows)} meet their bar; intervals cover {percent(COVERAGE_BAR[0], 0)} to "
        f"{percent(COVERAGE_BAR[1], 0)} in {covered} of {len(rows)}. {made(rows)}"
    )
    return f"{table(header, lines)}\n\n{note}"


def forms(rows: pd.DataFrame) -> str:
    columns = [name for name in rows if name.startswith("mape ")]
    lines = [
        [f"{row['store']}, {row['metric']}", *(share(row[name], 2) for name in columns)]
        for row in rows.to_dict("records")
    ]
    return table(["held-out MAPE", *(name.removeprefix("mape ") for name in columns)], lines)


def simulated(rows: pd.DataFrame) -> str:
    medians = rows.groupby(["device", "form", "rows"], sort=False).mape.median()
    sizes = sorted(rows["rows"].unique())
    lines = [
        [
            device if place == 0 else "",
            name,
            *(share(medians.get((device, name, size), float("nan"))) for size in sizes),
        ]
        for device in sorted(set(rows.device))
        for place, name in enumerate(in_order(rows[rows.device == device]))
    ]
    at = rows[rows["rows"] == AT].groupby(["form", "device"]).mape.median()
    bars = "; ".join(
        f"{name} {', '.join(f'{percent(value)} ({device})' for device, value in at[name].items())}, bar {percent(bar)}"
        for name, bar in SIMULATED_BARS.items()
        if name in at.index.get_level_values(0)
    )
    counts = rows.groupby(["form", "rows"]).seed.nunique()
    seeds = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    made_table = table(["device", "form", *(f"n = {size:,}" for size in sizes)], lines)
    return f"{made_table}\n\nMedians of {seeds} seeds. At {AT} rows: {bars}. {made(rows)}"


def picks(rows: pd.DataFrame) -> str:
    """What auto chose, how often."""
    chosen = rows[rows["form"] == "auto"]
    counts = chosen.groupby(["device", "rows"]).chosen.value_counts()
    lines = []
    for (device, size), part in counts.groupby(level=[0, 1], sort=False):
        lines.append([device, f"{size:,}", ", ".join(f"{name} × {count}" for (_, _, name), count in part.items())])
    return table(["device", "rows", "auto chose"], lines) if lines else ""


def speed(rows: pd.DataFrame) -> str:
    def seconds(value: float) -> str:
        return f"{1e3 * value:.2f} ms" if value < 0.1 else f"{value:.2f} s"

    lines = [
        [row["what"], row["form"], str(row["size"]), seconds(row["process_s"]), f"≤ {seconds(SPEED_BARS[row['what']])}"]
        for row in rows.to_dict("records")
    ]
    note = f"Process time, medians. {made(rows)}"
    return f"{table(['what', 'form', 'size', 'time', 'bar'], lines)}\n\n{note}"


PAGE = """# Cost models: how exact, from how many rows, how fast

Written by `python experiments/cost_models_page.py` from the files in `experiments/measurements`, one row per fit, each
with its commit and date.

## Measured networks

Latency of {networks} on a core of a shared virtual machine, 200 paired rows each (`experiments/cost_models.py` tells
the commands). The error is that of rows that were held out; where the form was chosen, it was chosen anew for every
fold. The noise floor is the error that a perfect model would show. On the `grid` widths are multiples of the device's
step, otherwise any. Boosted trees are scikit-learn's, on the widths and the products of the bilinear form, in the same
folds.

{measured}

Every form by itself, same rows and folds:

{forms}

## Simulated hardware

Eight convolutions, widths drawn evenly in single channels, 5 % log-normal noise on the rows that forms are fitted to,
error against the noise-free cost of other widths: a 32 × 32 array that keeps outputs (OS) or weights (WS) in place, in
the closed forms of SCALE-Sim, and a toy GPU with tiles of 64 × 64, waves of 16 and a cost per launch
(`experiments/functional_forms.py`). `products only` is the bilinear form as published, without linear terms.

{simulated}

{picks}

## Speed

`experiments/cost_model_speed.py`.

{speed}
"""


def write_page(folder: Path, path: Path) -> None:
    """Write the page; sections that were not measured say so."""

    def section(name: str, show: Callable[[pd.DataFrame], str]) -> str:
        found = folder / f"{name}.csv"
        return show(pd.read_csv(found)) if found.exists() else "Not measured."

    def networks(rows: pd.DataFrame) -> str:
        return " and ".join(dict.fromkeys(rows.network))

    path.write_text(
        PAGE.format(
            networks=section("cost_models", networks),
            measured=section("cost_models", measured),
            forms=section("cost_models", forms),
            simulated=section("functional_forms", simulated),
            picks=section("functional_forms", picks),
            speed=section("cost_model_speed", speed),
        )
    )


if __name__ == "__main__":
    write_page(HERE / "measurements", HERE.parent / "docs" / "cost-models.md")
