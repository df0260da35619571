"""One energy budget for zeros and bits: pruning alone, bits alone and both at equal energy of what is stored.

    python experiments/shared_energy.py [--fresh] [--quick]

A network of 64-300-100-10 on scikit-learn's digits, trained here; energy of the systolic array ``eyeriss`` as fractions
of dense. Settings are chosen tensor by tensor on training data; the accuracy is of test data that nothing else sees.
Writes measurements/stages/shared_energy.csv.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from records import MEASUREMENTS, Records
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ecc
from ecc.core.errors import InputError

BUDGETS = (0.2, 0.1, 0.05)
PIPELINES = (("prune", "entropy"), ("codebook", "entropy"), ("prune", "codebook", "entropy"))
OPTIONS = {"prune.epochs": 45}


def data(seed: int) -> list[DataLoader[Any]]:
    """Training, validation and test batches; the split is the seed's."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    inputs, targets = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
    parts = (slice(0, 1000), slice(1000, 1300), slice(1300, None))
    return [
        DataLoader(TensorDataset(inputs[rows], targets[rows]), 64, shuffle=place == 0)
        for place, rows in enumerate(parts)
    ]


def trained(train: DataLoader[Any], seed: int) -> nn.Module:
    """The dense network."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(20):
        for inputs, targets in train:
            optimiser.zero_grad()
            loss: Tensor = F.cross_entropy(model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval()


def measured(model: nn.Module, parts: list[DataLoader[Any]], apply: tuple[str, ...], budget: float, seed: int) -> Any:
    """One row; a budget that the stages cannot reach has no accuracy."""
    train, validation, test = parts
    options = {name: value for name, value in OPTIONS.items() if name.partition(".")[0] in apply}
    try:
        made = ecc.stage(
            model,
            list(apply),
            train=train,
            validation=validation,
            test=test,
            options=options,
            budgets=[f"energy={budget}"],
            array="eyeriss",
            seed=seed,
        )
    except InputError as error:
        return {"accuracy": None, "reason": str(error)}
    (check,) = made.budgets
    value = check.measured or 0.0
    chosen = "; ".join(f"{name}: {label}" for stage in made.stages for name, label in stage.choices.items())
    return {
        "accuracy_dense": made.accuracy_before,
        "accuracy": made.accuracy,
        "energy": value / check.dense,
        "met": check.met,
        "bytes": made.nbytes,
        "choices": chosen,
        "reason": "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--quick", action="store_true", help="one seed, one budget, nothing written to measurements")
    arguments = parser.parse_args()
    path = MEASUREMENTS / "stages" / ("quick.csv" if arguments.quick else "shared_energy.csv")
    records = Records(path, ("seed", "stages", "budget"), fresh=arguments.fresh or arguments.quick)
    for seed in range(1 if arguments.quick else 3):
        parts = data(seed)
        model = trained(parts[0], seed)
        for budget in BUDGETS[-1:] if arguments.quick else BUDGETS:
            for apply in PIPELINES:
                key = {"seed": seed, "stages": " + ".join(apply), "budget": budget}
                records.add(key, partial(measured, model, parts, apply, budget, seed))
    for row in records.rows:
        print(row["seed"], row["budget"], row["stages"], row["accuracy"], row.get("energy"), row.get("bytes"))
    if arguments.quick:
        path.unlink()


if __name__ == "__main__":
    main()
