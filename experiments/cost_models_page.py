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
ADDITIVE_BARS = (0.20, 0.08)  # without rows of the network, and with FEW
FEW = 10
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


def networks_unseen(rows: pd.DataFrame) -> str:
    """Costs composed of operators: without rows of the network, with what another one tells, with a few rows."""
    sizes = [size for size in sorted(rows["rows"].unique()) if size]
    lines = []
    for profile, part in rows.groupby("profile", sort=False):
        none = part[part["rows"] == 0]
        alone, helped = none[none.corrected_by.isna()], none[none.corrected_by.notna()]
        known = part[part["rows"] > 0].set_index("rows").mape_ratio
        lines.append(
            [
                str(profile),
                share(alone.mape_seconds.median()),
                share(helped.mape_seconds.median()),
                share(alone.mape_ratio.median()),
                *(share(known.get(size, float("nan"))) for size in sizes),
            ]
        )
    header = ["profile", "0 rows", "0 rows, another network's", "0 rows, of dense", *(f"{n} rows" for n in sizes)]
    notes = []
    for runtime, part in rows.groupby("runtime", sort=False):
        of = "" if (part.operators == runtime).all() else f" (operators were measured on {part.operators.iloc[0]})"
        alone = part[(part["rows"] == 0) & part.corrected_by.isna()].mape_seconds
        few = part[part["rows"] == FEW].mape_ratio
        notes.append(
            f"{runtime}{of}: {(alone <= ADDITIVE_BARS[0]).sum()} of {len(alone)} at or under "
            f"{percent(ADDITIVE_BARS[0], 0)} without rows, "
            f"{(few <= ADDITIVE_BARS[1]).sum()} of {len(few)} at or under {percent(ADDITIVE_BARS[1], 0)} with {FEW}"
        )
    return f"{table(header, lines)}\n\n{'; '.join(notes)}. {made(rows)}"


def operators(rows: pd.DataFrame) -> str:
    """Held-out error of single operators beside boosted trees."""
    lines = [
        [
            row["table"],
            row["model"],
            row["features"],
            share(row["median"]),
            share(row["within_10pct"]),
            percent(row["mape"]),
            share(row["known_mape"]),
            share(row["known_within_10pct"]),
        ]
        for row in rows.to_dict("records")
    ]
    header = ["table", "model", "features", "median error", "within 10 %", "mean error", "mean, rows of known batch",
              "within 10 %, these"]  # fmt: skip
    ours = rows.model.str.startswith("operator costs")
    words = []
    for name, part in rows.groupby("table", sort=False):
        for column, text, best in (
            ("median", "median error", min),
            ("within_10pct", "share within 10 %", max),
            ("mape", "mean error", min),
            ("known_mape", "mean error of rows of known batch", min),
        ):
            mine, peer = (best(part.loc[mask, column].dropna(), default=float("nan")) for mask in (ours, ~ours))
            words.append(f"{text} {share(mine)} against {share(peer)}")
        words[-4] = f"{name}, the best of each: {words[-4]}"
    return f"{table(header, lines)}\n\n{'; '.join(words)}. {made(rows)}"


PAGE = """# Cost models: how exact, from how many rows, how fast

Written by `python experiments/cost_models_page.py` from the files in `experiments/measurements`, one row per fit, each
with its commit and date.

## Measured networks

Latency of {networks} on a core of a shared virtual machine, 200 paired rows each (`experiments/cost_models.py` tells
the commands). The error is that of rows that were held out; where the form was chosen, it was chosen anew for every
fold. The noise floor is the error that a perfect model would show. On the `grid` widths are multiples of the device's
step, otherwise any. Boosted trees are scikit-learn's, on the widths and the products of the bilinear form, in the same
folds. Profiles differ with what else a shared machine does: three more of MobileNetV2 under ONNX Runtime on the grid
came to 3.7 % and 4.3 %, and to 5.6 % beside a running test suite.

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

## Networks that were never profiled

The form `additive`, composed of an operator profile (`experiments/additive_networks.py`). Without rows of the network
the error is that of seconds, and, `of dense`, of ratios to the dense network; `another network's` is with what the rows
of one other network on the device and runtime tell, the median over these. With n rows it is that of ratios on all
other rows, the median of 15 draws. Operators were measured in eager mode only: for another runtime seconds without rows
mean little, and merging of calls is that runtime's rules. The form was made with resnet20 and mobilenet-v2 in view;
mobilenet-v1 and squeezenet (40 rows) were measured after it was done.

{networks_unseen}

## Operators

Single operators that were held out with all rows of their shape, beside boosted trees of scikit-learn
(`experiments/operator_tables.py`): 2,200 operators of an ARM board (rk3288). A quarter of its rows have no known batch,
some of them are wrong by a factor of up to 10,000, and these alone decide the mean error of all rows. Medians hardly
depend on them, and the mean over rows of known batch not at all.

{operators}

## Speed

`experiments/cost_model_speed.py`.

{speed}
"""


def write_page(folder: Path, path: Path) -> None:
    """Write the page; sections that were not measured say so."""

    def section(name: str, show: Callable[[pd.DataFrame], str]) -> str:
        found = folder / f"{name}.csv"
        return show(pd.read_csv(found, dtype={"commit": str})) if found.exists() else "Not measured."

    def networks(rows: pd.DataFrame) -> str:
        return " and ".join(dict.fromkeys(rows.network))

    path.write_text(
        PAGE.format(
            networks=section("cost_models", networks),
            measured=section("cost_models", measured),
            forms=section("cost_models", forms),
            simulated=section("functional_forms", simulated),
            picks=section("functional_forms", picks),
            networks_unseen=section("additive_networks", networks_unseen),
            operators=section("operator_tables", operators),
            speed=section("cost_model_speed", speed),
        )
    )


if __name__ == "__main__":
    write_page(HERE / "measurements", HERE.parent / "docs" / "cost-models.md")
