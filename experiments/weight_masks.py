"""Input masks beside weights: budgets below what pruning weights alone can reach, on the classic LeNet-5.

    ECC_DATA=/data python experiments/weight_masks.py --work OUT

Rows go to experiments/measurements/weight_pruning/masks.csv as they are made; what is there is not done again. Budgets
are fractions of the relaxed dense energy on Eyeriss; with all weights zero 0.1523 of it is left, with all inputs masked
beside 0.0762. All methods have the same epochs of training weights, data, teacher and seeds, those of the ``lenet5``
part of weight_pruning.py; ``rounds`` trains masks beside, as published.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from records import Records
from torch import nn
from weight_pruning import FOLDER, digits, trained_lenet5

from ecc.core.weights import WeightConstraint, WeightProblem, WeightSolver
from ecc.data.values import Data
from ecc.energy_models.systolic.weights import WeightEnergy
from ecc.network.input_masks import apply_masks
from ecc.network.tracing import trace
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import evaluate
from ecc.solvers.weights.masked_sgd import MaskedProjectedSgd
from ecc.solvers.weights.projected_sgd import ProjectedSgd

KEYS = ("network", "method", "seed", "budget")
BUDGETS = (0.12, 0.15, 0.10, 0.17, 0.20)
EPOCHS = 10


def methods() -> Mapping[str, WeightSolver]:
    """Each with as many epochs of training weights."""
    training = TrainConfig(epochs=EPOCHS, lr=2e-3, dropout=False)
    return {
        "together": MaskedProjectedSgd(training),
        "rounds": MaskedProjectedSgd(training, search="rounds"),
        "weights only": ProjectedSgd(training),
    }


def run(
    model: nn.Module, data: Data, cost: WeightEnergy, method: WeightSolver, budget: float, seed: int
) -> dict[str, Any]:
    """One row."""
    started = time.process_time()
    constraint = WeightConstraint(cost, budget * cost.dense)
    found = method.solve(WeightProblem(model, data.task(), (constraint,), seed))
    spent = time.process_time() - started
    kept = {f"inputs of {name}": float(mask.mean()) for name, mask in found.masks.items()}
    return {
        "met": found.status.name,
        "exact": cost.exact(found.model, found.masks) / cost.dense,
        "bound": found.spent["energy"] / cost.dense,
        "accuracy": evaluate(apply_masks(found.model, found.masks), data.test, data.score),
        "accuracy_dense": evaluate(model, data.test, data.score),
        "nonzeros": int(cost.table(found.model, found.masks)["nonzeros"].sum()),
        "process_s": round(spent, 1),
        **kept,
    }


def main() -> None:
    """Every method at every budget that it can reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the trained network")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(methods()))
    parser.add_argument("--budgets", nargs="*", type=float, default=list(BUDGETS))
    given = parser.parse_args()
    data = digits()
    model = trained_lenet5(data, given.work)
    cost = WeightEnergy.of(model, trace(model, torch.zeros(1, 1, 32, 32)))
    floor = cost.prices({}).constant / cost.dense
    records = Records(FOLDER / "masks.csv", KEYS)
    for seed in range(given.seeds):
        for budget in given.budgets:
            for name in given.methods:
                if name == "weights only" and budget <= floor:
                    continue
                key = {"network": "lenet5", "method": name, "seed": seed, "budget": budget}
                records.add(key, partial(run, model, data, cost, methods()[name], budget, seed))
                print(records.rows[-1], file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
