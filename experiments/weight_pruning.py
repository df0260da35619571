"""Weight pruning under energy budgets: accuracy at equal energy, by this and by other methods.

    ECC_DATA=/data python experiments/weight_pruning.py lenet5 --work OUT
    ECC_DATA=/data python experiments/weight_pruning.py resnet20 --work OUT
    python experiments/weight_pruning.py large --work OUT
    python experiments/weight_pruning.py overhead --work OUT

Rows go to experiments/measurements/weight_pruning/, one file per part, as they are made; what is there is not done
again. Budgets are fractions of the relaxed dense energy on Eyeriss. All methods have the same epochs, data, teacher and
random seeds; ``published`` is the method of ICLR 2019 with the settings of its code, and the others share an optimiser.

``lenet5`` is the classic LeNet-5 on MNIST with shifts by up to two pixels, of a dense network that is trained first
(weight_masks.py has its budgets that need masked inputs); ``resnet20`` the pretrained network on a part of CIFAR-10;
``large`` are AlexNet and SqueezeNet with random weights, a few steps on random images: feasible, no layer collapsed;
``overhead`` is the time that projections take of training.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import safetensors.torch
import torch
from pruning_cases import CASES
from records import MEASUREMENTS, Records
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.problem import Task
from ecc.core.weights import WeightConstraint, WeightProblem, WeightSolver
from ecc.data.loading import load_data
from ecc.data.values import Data, TensorBatches, accuracy
from ecc.energy_models.systolic.weights import WeightEnergy
from ecc.network.input_masks import masked_inputs
from ecc.network.tracing import trace
from ecc.solvers.hooks import Step
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import evaluate, train
from ecc.solvers.weights.limits import WeightLimits
from ecc.solvers.weights.magnitude import WeightIterative, WeightMagnitude, WeightUniform
from ecc.solvers.weights.masked_sgd import MaskedProjectedSgd
from ecc.solvers.weights.projected_sgd import ProjectedSgd, Projecting
from ecc.zoo.loading import load_model

FOLDER = MEASUREMENTS / "weight_pruning"
KEYS = ("network", "method", "seed", "budget")
BUDGETS = {"lenet5": (0.30, 0.20, 0.17), "resnet20": (0.5, 0.3, 0.22, 0.15, 0.1)}
SEEDS = 3
LARGE = {"alexnet": 0.2, "squeezenet": 0.2}
LONG = 10_000  # steps of a run that the overhead is measured in
MARGIN = 2  # pixels by which digits are shifted


@dataclass(frozen=True)
class Shifts:
    """Random shifts of images by up to ``margin`` pixels behind ``after``; the background moves in."""

    after: Callable[[Tensor], Tensor]
    margin: int = MARGIN

    def __call__(self, images: Tensor) -> Tensor:
        images = self.after(images)
        count, _, height, width = images.shape
        down, right = torch.randint(-self.margin, self.margin + 1, (2, count, 1))
        rows = (torch.arange(height) - down).clamp(0, height - 1)
        columns = (torch.arange(width) - right).clamp(0, width - 1)
        return images[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def digits() -> Data:
    data = load_data("mnist-32", batch_size=128)
    train = data.train
    assert isinstance(train, TensorBatches)
    assert train.transform is not None
    return replace(data, train=TensorBatches(train.inputs, train.targets, 128, True, Shifts(train.transform)))


def trained_lenet5(data: Data, folder: Path) -> nn.Module:
    """The classic LeNet-5, trained once."""
    torch.manual_seed(0)
    model = load_model("zoo:lenet5", {}).module
    path = folder / "lenet5.safetensors"
    if path.exists():
        model.load_state_dict(safetensors.torch.load_file(path))
    else:
        config = TrainConfig(epochs=30, lr=3e-3, optimizer="adamw", weight_decay=0.02, distill=0.0)
        train(model, data.task(), config)
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(model.state_dict(), path)
    return model.eval()


def methods(epochs: int, lr: float) -> Mapping[str, WeightSolver]:
    """Each with as many epochs."""
    training = TrainConfig(epochs=epochs, lr=lr, dropout=False)
    published = TrainConfig(
        epochs=epochs, lr=1e-3, optimizer="sgd", weight_decay=1e-4, schedule="constant", dropout=False
    )
    return {
        "projected-sgd": ProjectedSgd(training),
        "published": ProjectedSgd(
            published, schedule="exponential", continuation=1.0, profit="magnitude", min_fraction=0.0
        ),
        "weight-magnitude": WeightMagnitude(training),
        "weight-uniform": WeightUniform(training),
        "weight-iterative": WeightIterative(training),
    }


@dataclass(frozen=True)
class Bench:
    """A trained network with its data and energy."""

    name: str
    model: nn.Module
    data: Data
    cost: WeightEnergy

    def run(self, method: WeightSolver, budget: float, seed: int) -> dict[str, Any]:
        """One row."""
        started = time.process_time()
        constraint = WeightConstraint(self.cost, budget * self.cost.dense)
        found = method.solve(WeightProblem(self.model, self.data.task(), (constraint,), seed))
        spent = time.process_time() - started
        table = self.cost.table(found.model, found.masks)
        share = table["nonzeros"] / table["size"]
        with masked_inputs(found.model, found.masks):
            score = evaluate(found.model, self.data.test, self.data.score)
        row = {
            "met": found.status.name,
            "exact": self.cost.exact(found.model, found.masks) / self.cost.dense,
            "bound": found.spent["energy"] / self.cost.dense,
            "accuracy": score,
            "accuracy_dense": evaluate(self.model, self.data.test, self.data.score),
            "nonzeros": table["nonzeros"].sum() / table["size"].sum(),
            "least_share": share.min(),
            "least_layer": share.idxmin(),
            "empty_layers": int((table["nonzeros"] == 0).sum()),
            "epochs": len(found.history),
            "process_s": round(spent, 1),
        }
        print(
            f"{self.name} {method.name} {budget} seed {seed}: {score:.4f}, {spent:.0f} s", file=sys.stderr, flush=True
        )
        return row


def compare(bench: Bench, solvers: Mapping[str, WeightSolver], budgets: tuple[float, ...], seeds: int) -> None:
    """Every method at every budget with every seed; seeds come last, so that a front is whole early."""
    records = Records(FOLDER / f"{bench.name}.csv", KEYS)
    for seed in range(seeds):
        for budget in budgets:
            for name, method in solvers.items():
                key = {"network": bench.name, "method": name, "seed": seed, "budget": budget}
                try:
                    records.add(key, partial(bench.run, method, budget, seed))
                except InputError as error:  # below what pruning weights alone can reach: said before any training
                    print(f"{bench.name} {name} {budget}: {error}", file=sys.stderr, flush=True)


def lenet5(folder: Path) -> Bench:
    data = digits()
    model = trained_lenet5(data, folder)
    return Bench("lenet5", model, data, WeightEnergy.of(model, trace(model, torch.zeros(1, 1, 32, 32))))


def resnet20(folder: Path) -> Bench:
    case = CASES["resnet20"]
    data = case.load()
    model = case.start(data, 0, folder)
    return Bench("resnet20", model, data, WeightEnergy.of(model, trace(model, torch.zeros(1, 3, 32, 32))))


def images(count: int, batch: int) -> Task:
    """Random images with random labels."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 3, 224, 224, generator=generator)
    batches = TensorBatches(inputs, torch.arange(count) % 1000, batch)
    return Task(batches, TensorBatches(inputs[:1], torch.arange(1), 1), nn.functional.cross_entropy, accuracy)


def random_network(name: str) -> tuple[nn.Module, WeightEnergy]:
    torch.manual_seed(0)
    model = load_model(f"zoo:{name}", {}).module.eval()
    return model, WeightEnergy.of(model, trace(model, torch.zeros(1, 3, 224, 224)))


def large(name: str, budget: float) -> None:
    """A few steps on random images: the table of layers before and after, and its picture."""
    records = Records(FOLDER / "large.csv", ("network", "layer"))
    model, cost = random_network(name)
    training = TrainConfig(epochs=1, lr=1e-4, optimizer="sgd", dropout=False)
    problem = WeightProblem(model, images(12, 2), (WeightConstraint(cost, budget * cost.dense),))
    before = cost.table(model, {})
    found = ProjectedSgd(training, every=2).solve(problem)
    after = cost.table(found.model, {})
    for layer in before.index:
        row = {
            "budget": budget,
            "met": found.status.name,
            "exact": after["total"].sum() / cost.dense,
            "size": before["size"][layer],
            "nonzeros": after["nonzeros"][layer],
        }
        row |= {f"{part}_before": before[part][layer] / cost.dense for part in PARTS}
        row |= {f"{part}_after": after[part][layer] / cost.dense for part in PARTS}
        records.add({"network": name, "layer": layer}, partial(dict, row))
    draw(records, name)
    print(f"{name}: {after['total'].sum() / cost.dense:.5f}, least {(after['nonzeros'] / after['size']).min():.4f}")


PARTS = ("weights", "mac", "inputs", "outputs")


def draw(records: Records, name: str) -> None:
    """Energy of each layer before and after, by what it is for."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    rows = [row for row in records.rows if row["network"] == name]
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.36 * len(rows)), layout="constrained")
    for number, (when, height) in enumerate((("before", -0.2), ("after", 0.2))):
        left = [0.0] * len(rows)
        for part, colour in zip(PARTS, ("tab:blue", "tab:orange", "tab:green", "tab:gray"), strict=True):
            width = [row[f"{part}_{when}"] for row in rows]
            places = [place + height for place in range(len(rows))]
            axes.barh(places, width, 0.36, left, color=colour, alpha=1 if number else 0.5, label=f"{part}, {when}")
            left = [start + more for start, more in zip(left, width, strict=True)]
    axes.set_yticks(range(len(rows)), [f"{row['layer']} ({row['nonzeros'] / row['size']:.1%})" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("energy over dense (in brackets: weights left)")
    axes.set_title(f"{name} at {rows[0]['budget']:g} of its energy")
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(FOLDER / f"large_{name}.png", dpi=120)
    plt.close(figure)


class Timed(Projecting):
    """Also counts the processor time that it takes, in the middle of a long run: short ones project more often."""

    process_s = 0.0

    def after_step(self, step: Step) -> bool:
        started = time.process_time()
        ended = super().after_step(replace(step, index=LONG // 2 + step.index, total=LONG))
        self.process_s += time.process_time() - started
        return ended


def overhead(name: str, model: nn.Module, task: Task, cost: WeightEnergy, profit: Any) -> dict[str, Any]:
    """One epoch at a fifth of the energy: projections and profits over all the rest of training."""
    training = TrainConfig(epochs=1, lr=1e-4, optimizer="sgd", dropout=False)
    rules = ProjectedSgd(training, profit=profit)
    problem = WeightProblem(model, task, (WeightConstraint(cost, 0.2 * cost.dense),))
    twin = load_model(f"zoo:{name}", {}).module
    twin.load_state_dict(model.state_dict())
    hook = Timed(rules, WeightLimits(problem, twin, rules.min_fraction), twin)
    started = time.process_time()
    train(twin, task, training, teacher=model, hook=hook)
    whole = time.process_time() - started
    steps = len(task.train)  # type: ignore[arg-type]
    share = hook.process_s / (whole - hook.process_s)
    print(f"{name} {profit}: {100 * share:.2f} % of {whole / steps:.3f} s per step", file=sys.stderr, flush=True)
    return {"steps": steps, "step_s": whole / steps, "projecting_s": hook.process_s, "overhead": share}


def overheads(folder: Path) -> None:
    records = Records(FOLDER / "overhead.csv", ("network", "batch", "profit"))
    bench = lenet5(folder)
    for profit in ("magnitude", "taylor"):
        key = {"network": "lenet5", "batch": 128, "profit": profit}
        records.add(key, partial(overhead, "lenet5", bench.model, bench.data.task(), bench.cost, profit))
    model, cost = random_network("alexnet")
    for profit in ("magnitude", "taylor"):
        key = {"network": "alexnet", "batch": 128, "profit": profit}
        records.add(key, partial(overhead, "alexnet", model, images(1280, 128), cost, profit))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("lenet5", "resnet20", "large", "overhead"))
    parser.add_argument("--work", type=Path, required=True, help="keeps trained networks")
    parser.add_argument("--method", action="append", help="all by default")
    parser.add_argument("--budget", action="append", type=float, help="those of the part by default")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part == "large":
        for name, budget in LARGE.items():
            large(name, budget)
    elif given.part == "overhead":
        overheads(given.work)
    else:
        classic = given.part == "lenet5"
        bench = lenet5(given.work) if classic else resnet20(given.work)
        solvers = dict(methods(10, 5e-3) if classic else methods(4, 1e-3))
        if not classic:
            solvers["masked-sgd"] = MaskedProjectedSgd(TrainConfig(epochs=4, lr=1e-3, dropout=False))
        chosen = {name: each for name, each in solvers.items() if given.method is None or name in given.method}
        compare(bench, chosen, tuple(given.budget or BUDGETS[given.part]), given.seeds)


if __name__ == "__main__":
    main()
