"""How exact the fitted cost models are on measured networks.

    python experiments/cost_models.py STORE … [--operators STORE] [--seed S] [--fresh]

Each store is judged as ``ecc fit`` does, the form chosen: error of rows held out, coverage of 95 % intervals, the noise
floor of the rows, and on the same rows and folds the error of each form, of MACs alone and of boosted trees of
scikit-learn. Writes measurements/cost_models.csv, one row per store, metric and seed, then docs/cost-models.md from it.

A store is named after what it holds; those of the page were made by, on an idle machine,

    ecc profile zoo:resnet20 --input 1x3x32x32 --samples 200 --store resnet20-eager-grid.db
    ecc profile zoo:resnet20 --input 1x3x32x32 --samples 200 --step 1 --store resnet20-eager-any.db
    ecc profile zoo:resnet20 --input 1x3x32x32 --samples 200 --runtime onnxruntime --store resnet20-onnxruntime-grid.db
    ecc profile zoo:resnet20 --input 1x3x32x32 --samples 200 --runtime onnxruntime --step 1 \
        --store resnet20-onnxruntime-any.db

and the same four for ``zoo:mobilenet-v2`` with ``--input 1x3x96x96``. On the grid widths are multiples of the device's
step where groups are wide enough; with ``--step 1`` they are any widths.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cost_models_page import write_page
from functional_forms import boosted, trees
from records import HERE, MEASUREMENTS, Records

from ecc.core.table import OperatorTable, ProfileTable
from ecc.energy_models.crossing import Folds, Predictor, held_out
from ecc.energy_models.judging import judge
from ecc.energy_models.samples import Samples
from ecc.profiler.operators import read_operators
from ecc.profiler.store import Store

FOLDS = 5


def describe(table: ProfileTable) -> dict[str, Any]:
    """What the rows belong to; whether widths keep to multiples of more than a group's own step."""
    place = table.provenance
    return {
        "network": place.network,
        "input": "x".join(map(str, place.input_shape)),
        "runtime": place.runtime,
        "device": place.device,
        "measured_threads": place.threads,
        "groups": len(table.space),
        "profile_rows": len(table),
        "widths": "grid" if max(table.space.step) >= 4 else "any",
    }


def judged(table: ProfileTable, metric: str, operators: OperatorTable | None, seed: int) -> dict[str, Any]:
    """What judging says of the form that it chooses, the errors of all forms, and those of boosted trees."""
    start = time.process_time()
    fit = judge(table, metric, operators=operators, seed=seed, holdout=1 / FOLDS)
    return {
        **describe(table),
        "chosen": fit.form,
        **{f"held_out_{name}": value for name, value in fit.holdout.items()},
        "noise_floor": fit.noise_floor,
        "coverage": fit.interval_coverage,
        "macs_only": fit.macs_only,
        **{f"mape {each.form}": each.mape for each in fit.forms if each.mape is not None},
        "mape boosted trees": tree_error(table, metric, seed),
        "process_s": round(time.process_time() - start, 2),
    }


def tree_error(table: ProfileTable, metric: str, seed: int) -> float:
    """Boosted trees on widths and products, on the folds that ``judge`` cuts."""
    samples = Samples.of(table, metric)
    folds = Folds.of(samples, FOLDS, np.random.default_rng(seed))

    def fit(rows: Samples) -> Predictor:
        predict = trees(rows, partial(boosted, seed), products=True)
        return lambda rest: predict(rest.widths)

    predicted = held_out(folds, fit)[folds.drawn]
    return float(np.abs(predicted / samples.ratio[folds.drawn] - 1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="*", metavar="STORE", help="none writes the page only")
    parser.add_argument("--operators", type=Path, help="operator profile of the same device and runtime")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--out", type=Path, default=MEASUREMENTS / "cost_models.csv", help="file to write")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "cost-models.md", help="page to write")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    operators = read_operators(given.operators) if given.operators else None
    records = Records(given.out, ("store", "metric", "seed"), fresh=given.fresh)
    for path in given.stores:
        with Store(path) as store:
            table = store.table()
        for metric in table.metrics:
            key = {"store": path.stem, "metric": metric, "seed": given.seed}
            records.add(key, partial(judged, table, metric, operators, given.seed))
    write_page(given.out.parent, given.page)


if __name__ == "__main__":
    main()
