"""Held-out error of operator costs on measured tables, beside boosted trees.

    python experiments/operator_tables.py --data-dir DIR [--operators STORE]

DIR holds latency_tables/rk3288_cpu_ops.csv: 2,200 operators of real networks on an ARM board, four threads. STORE is an
operator profile of ``ecc profile --operators``. Five folds; rows of one shape are always in the same fold, so that no
model has seen the shape that it predicts. Writes measurements/operator_tables.csv, with the environment.

Some rows of the board's table are wrong by a factor of up to 10,000 (a 192-channel 56 × 56 activation in 4 µs): their
batch is given as −1, their real shape was another. Such a row alone decides the mean relative error of thousands, so
that error is also given over the rows whose batch is known, which depends on no measured value.

Medians of a cost that is now and then a thousandth of itself are not what makes the mean relative error least, so both
contenders also state the point that does: the costs by leave-one-out residuals, the trees by their loss.

Trees see either the table's own columns or the features that the costs are learnt from. Every setting of a small grid
is run, and the table shows them all, the best one for each measure included: that choice is the trees' advantage.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from records import environment
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor

from ecc.core.operators import COLUMNS, Operator
from ecc.energy_models.operator_costs import OperatorCosts
from ecc.energy_models.operator_work import features, sizes_of
from ecc.profiler.operators import read_operators

HERE = Path(__file__).resolve().parent / "measurements"
FOLDS = 5
Floats = NDArray[np.float64]

KINDS = {
    **{"conv2d": "conv", "depthwise_conv2d": "depthwise", "pool2d": "reduce", "matmul_v2": "linear"},
    **{"elementwise_add": "add", "elementwise_mul": "multiply", "concat": "cat", "batch_norm": "batch-norm"},
    **{"swish": "silu", "hard_swish": "hardswish", "sigmoid": "sigmoid", "hard_sigmoid": "hardsigmoid"},
    "scale": "scale",
}
"""What the board's operators are here; all others move numbers."""


@dataclass(frozen=True, eq=False)
class Table:
    """Measured operators.

    Attributes:
        names: What tells kinds apart.
        cost: Any unit.
        shape: Number of each row's distinct shape.
        known: Whether the row's shape is known for sure.
    """

    title: str
    operators: Sequence[Operator]
    names: Sequence[str]
    cost: Floats
    noise: Floats | None
    shape: NDArray[np.int64]
    known: NDArray[np.bool_]


def board(path: Path) -> Table:
    """The table of the ARM board."""
    rows = pd.read_csv(path, dtype={"commit": str})
    shapes = rows.drop(columns="latency_ms").map(str).agg("|".join, axis=1)
    return Table(
        "rk3288",
        [operator(row) for row in rows.to_dict("records")],
        rows["op"].tolist(),
        rows["latency_ms"].to_numpy(dtype=np.float64) * 1e-3,
        None,
        pd.factorize(shapes)[0],
        (rows["in_n"] != -1).to_numpy(),
    )


def operator(row: dict[str, Any]) -> Operator:
    """A row of the board's table; a size that is missing on one side is that of the other."""

    def size(*columns: str) -> int:
        return next((int(row[each]) for each in columns if row[each] > 0), 1)

    kind = KINDS.get(row["op"], "copy")
    groups = size("groups") if kind in ("conv", "depthwise") else 1
    return Operator(
        "grouped" if kind == "conv" and groups > 1 else kind,
        groups=groups,
        channels_in=1 if kind == "linear" else size("in_c", "out_c"),
        channels_out=size("out_c", "in_c"),
        height=size("in_h", "out_h"),
        width=size("in_w", "out_w"),
        out_height=size("out_h", "in_h"),
        out_width=size("out_w", "in_w"),
        kernel_h=size("kernel_h"),
        kernel_w=size("kernel_w"),
        stride=size("stride"),
    )


def profiled(path: str) -> Table:
    """An operator profile."""
    table = read_operators(path)
    found = table.operators
    low, high = (table.rows[f"latency_ratio_{end}"].to_numpy(dtype=np.float64) for end in ("low", "high"))
    return Table(
        "profile",
        found,
        [each.kind for each in found],
        table.rows["latency_ratio"].to_numpy(dtype=np.float64),
        np.log(high / low) / 3.92,
        np.arange(len(found)),
        np.ones(len(found), dtype=bool),
    )


def splits(table: Table, seed: int = 0) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to learn from and rows to predict; a shape is never in both."""
    place = np.random.default_rng(seed).permutation(int(table.shape.max()) + 1)[table.shape] % FOLDS
    for fold in range(FOLDS):
        yield np.flatnonzero(place != fold), np.flatnonzero(place == fold)


def additive(table: Table) -> tuple[Floats, Floats, Floats]:
    """Predictions of the costs that additive models are made of: medians, and points of least expected relative error;
    and standard deviations of the medians' logarithms."""
    median, least, spread = np.full((3, len(table.cost)), np.nan)
    for train, held in splits(table):
        operators, names = [table.operators[i] for i in train], [table.names[i] for i in train]
        noise = None if table.noise is None else table.noise[train]
        costs = OperatorCosts.learn(operators, table.cost[train], noise=noise, names=names)
        points = least_points(costs, operators, names, table.known[train])
        for i in held:
            name, each = table.names[i], table.operators[i]
            if name in costs.kinds:  # the only one of its kind cannot be predicted
                sizes = sizes_of([each])
                with torch.no_grad():
                    median[i] = costs(each.kind, sizes, name=name)
                    spread[i] = costs.spread(each.kind, sizes, name=name)
                least[i] = median[i] * points.get((name, bool(table.known[i])), 1.0)
    return median, least, spread


def least_points(
    costs: OperatorCosts, operators: Sequence[Operator], names: Sequence[str], known: NDArray[np.bool_]
) -> dict[tuple[str, bool], float]:
    """By kind, and whether the batch is known: the factor on predictions that gives the least relative error.

    From residuals of rows that were left out one by one: the median of measured over predicted, each weighted by its
    inverse.
    """
    found: dict[tuple[str, bool], list[float]] = {}
    for model in costs.models:
        mine = [i for i, name in enumerate(names) if name in model.kinds]
        for i, residual in zip(mine, model.process.left_out.tolist(), strict=True):
            found.setdefault((names[i], bool(known[i])), []).append(residual)
    points = {}
    for key, residuals in found.items():
        ratio = np.exp(np.sort(residuals))
        share = np.cumsum(1 / ratio) / np.sum(1 / ratio)
        points[key] = float(ratio[np.searchsorted(share, 0.5)])
    return points


def columns(table: Table, *, derived: bool) -> Floats:
    """What trees see: kinds one by one, and sizes or the features of the costs."""
    kinds = pd.get_dummies(pd.Series(list(table.names))).to_numpy(dtype=np.float64)
    if derived:
        seen = np.concatenate([features(each.kind, sizes_of([each])).numpy() for each in table.operators])
    else:
        seen = np.array([[each.shape[name] for name in COLUMNS] for each in table.operators], dtype=np.float64)
    return np.hstack([seen, kinds])


def trees(table: Table, seen: Floats, make: Callable[[], Any]) -> Floats:
    """Predictions of trees fitted to the logarithm of cost."""
    predicted = np.empty(len(table.cost))
    for train, held in splits(table):
        predicted[held] = np.exp(make().fit(seen[train], np.log(table.cost[train])).predict(seen[held]))
    return predicted


def relative_trees(table: Table, seen: Floats) -> Floats:
    """Predictions of trees whose loss is the relative error itself."""
    predicted = np.empty(len(table.cost))
    scale = float(np.median(table.cost))
    for train, held in splits(table):
        cost = table.cost[train] / scale
        model = HistGradientBoostingRegressor(
            loss="absolute_error", learning_rate=0.05, max_iter=400, min_samples_leaf=5, random_state=0
        )
        model.fit(seen[train], cost, sample_weight=1 / cost)
        predicted[held] = np.maximum(model.predict(seen[held]), cost.min()) * scale
    return predicted


def grid() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Settings of boosted trees."""
    for loss in ("squared_error", "absolute_error"):
        yield (
            f"HistGradientBoosting {loss}",
            lambda loss=loss: HistGradientBoostingRegressor(
                loss=loss, learning_rate=0.05, max_iter=400, min_samples_leaf=5, random_state=0
            ),
        )
    for loss in ("squared_error", "huber"):
        yield (
            f"GradientBoosting {loss}",
            lambda loss=loss: GradientBoostingRegressor(
                loss=loss, max_depth=5, learning_rate=0.05, n_estimators=500, subsample=0.7, random_state=0
            ),
        )


def figures(table: Table, predicted: Floats) -> dict[str, float]:
    """Errors over the rows that were predicted."""
    error = np.abs(predicted / table.cost - 1)
    found = np.isfinite(error)
    sure = found & table.known
    return {
        "rows": int(found.sum()),
        "mape": float(error[found].mean()),
        "median": float(np.median(error[found])),
        "within_10pct": float((error[found] <= 0.1).mean()),
        "known_rows": int(sure.sum()),
        "known_mape": float(error[sure].mean()),
        "known_within_10pct": float((error[sure] <= 0.1).mean()),
    }


def compare(table: Table) -> Iterator[dict[str, Any]]:
    """A row of figures per model."""
    start = time.process_time()
    predicted, least, spread = additive(table)
    same = np.isfinite(predicted)
    noise = np.zeros(len(spread)) if table.noise is None else table.noise
    inside = np.abs(np.log(predicted / table.cost)) <= 1.96 * np.hypot(spread, noise)
    row = {"table": table.title, "features": "derived", "model": "operator costs", **figures(table, predicted)}
    yield {**row, "coverage_95pct": float(inside[same].mean()), "process_s": time.process_time() - start}
    yield {**row, "model": "operator costs, least relative error", **figures(table, least)}
    for derived in (False, True):
        seen = np.column_stack([columns(table, derived=derived), table.known])
        start = time.process_time()
        found = np.where(same, relative_trees(table, seen), np.nan)
        row = {"table": table.title, "features": "derived" if derived else "raw"}
        row["model"] = "HistGradientBoosting, least relative error"
        yield {**row, **figures(table, found), "process_s": time.process_time() - start}
        for name, make in grid():
            start = time.process_time()
            found = np.where(same, trees(table, seen, make), np.nan)
            row = {"table": table.title, "features": "derived" if derived else "raw", "model": name}
            yield {**row, **figures(table, found), "process_s": time.process_time() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--operators", help="store of an operator profile")
    parser.add_argument("--out", type=Path, default=HERE / "operator_tables.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tables = [board(arguments.data_dir / "latency_tables" / "rk3288_cpu_ops.csv")]
    if arguments.operators:
        tables.append(profiled(arguments.operators))
    rows = []
    for table in tables:
        for row in compare(table):
            rows.append(row | environment())
            pd.DataFrame(rows).to_csv(arguments.out, index=False)  # minutes each: what there is stays


if __name__ == "__main__":
    main()
