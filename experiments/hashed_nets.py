"""Hashed networks at equal bytes: one hash per layer, several hashes and one space, and small dense networks.

    ECC_DATA=/data python experiments/hashed_nets.py digits [--seeds 3] [--quick]
    ECC_DATA=/data python experiments/hashed_nets.py depth [--ratios 8 64]
    ECC_DATA=/data python experiments/hashed_nets.py words --work OUT

``digits``: MNIST, 784-1000-10, at 1/8 and 1/64 of the dense network's file. ``depth``: rotated MNIST (12,000 images to
train with, of which 2,000 are for validation, and 50,000 to test; angles uniform in [0, 2π)) and Fashion-MNIST with one
and three hidden layers of 500, at 1/64. ``words``: classifiers of short queries (embeddings, a hidden layer) on
CLINC150 and Banking77: hashing, then codes of 8 bits and an entropy coder, from 6 to 1000 times smaller, beside product
quantisation of the trained network and smaller dense networks.

All networks are trained from scratch, with three random seeds, towards the labels alone (``--distill``: and towards
the logits of the dense network). Bytes are those of the file with everything in it, and no method takes more than its
budget. Rows go to measurements/stages/hashed_nets.csv beside this file; what is there is not done again. The error is
of the test data, in per cent, and of the last epoch.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from embedding_quantisation import DATA as TEXT_EPOCHS
from embedding_quantisation import data_of
from records import MEASUREMENTS, Records
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.api.workshop import Shop, Training
from ecc.core.code import Code, Stage
from ecc.core.errors import InputError
from ecc.data.loading import load_data
from ecc.data.values import Data, TensorBatches
from ecc.solvers.evaluation import evaluate
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train
from ecc.stages.code import packed
from ecc.stages.entropy import Entropy
from ecc.stages.hashed import Hashed
from ecc.stages.log_quant import LogQuant
from ecc.stages.multi_hash import MultiHash
from ecc.stages.product_quant import ProductQuant
from ecc.stages.tuning import fitted
from ecc.zoo.text import text_bow

FOLDER = MEASUREMENTS / "stages"
KEYS = ("part", "data", "layers", "ratio", "method", "seed")
BATCH = {"mnist": 256, "fashion-mnist": 256, "rotated-mnist": 128}
EPOCHS = {"mnist": 24, "fashion-mnist": 20, "rotated-mnist": 40}
DROPOUT = {8: (0.2, 0.4), 64: (0.1, 0.1)}  # of inputs and of hidden units, by ratio
DENSE_DROPOUT = {8: (0.1, 0.2), 64: (0.0, 0.0)}  # small networks have little to drop
RATES = {"dense": 1e-3, "hashed": 5e-3, "multi-hash": 5e-3}
TEXT_RATIOS = (6.25, 25.0, 100.0, 250.0, 400.0)  # a quarter of them is left by codes of 8 bits
PRODUCTS = ((4, 10), (4, 6), (8, 8), (8, 6), (16, 8), (16, 5), (32, 6), (64, 6), (150, 5), (300, 4))  # part, bits


@dataclass(frozen=True)
class Case:
    """One network on one data set.

    Attributes:
        make: The dense network of a width, from the seed that torch has.
        width: Of the dense network.
        budgets: By ratio.
    """

    part: str
    data: Data
    layers: int
    make: Callable[[int, float], nn.Module]
    width: int
    epochs: int
    quick: bool
    longer: str = ""  # what is said of other epochs than the usual ones

    @property
    def rounds(self) -> int:
        return 1 if self.quick else self.epochs

    def lasting(self, epochs: int | None) -> Case:
        return self if epochs is None else replace(self, epochs=epochs, longer=f", {epochs} epochs")

    def dense(self, seed: int, ratio: float) -> nn.Module:
        torch.manual_seed(seed)
        return self.make(self.width, ratio)

    def budget(self, ratio: float) -> int:
        return math.floor(packed(self.dense(0, ratio).state_dict()).nbytes / ratio)


def perceptron(hidden: int, width: int, dropout: tuple[float, float]) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten(), nn.Dropout(dropout[0])]
    for place in range(hidden):
        layers += [nn.Linear(784 if place == 0 else width, width), nn.ReLU(), nn.Dropout(dropout[1])]
    return nn.Sequential(*layers, nn.Linear(width, 10))


@cache
def rotated() -> Data:
    """MNIST turned by angles uniform in [0, 2π); 10,000 images to train with, 2,000 for validation, 50,000 to test."""
    source = load_data("mnist", batch_size=128)
    parts = [source.train, source.validation, source.test]
    assert all(isinstance(part, TensorBatches) for part in parts)
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (torch.cat([getattr(part, name) for part in parts]) for name in ("inputs", "targets"))
    order = torch.randperm(len(targets), generator=generator)[:62_000]
    angles = torch.rand(len(order), generator=generator) * 2 * math.pi
    turned = torch.cat(
        [turn(inputs[some], angle) for some, angle in zip(order.split(2000), angles.split(2000), strict=True)]
    )
    labels, transform = targets[order], parts[0].transform
    rows = (slice(0, 10_000), slice(10_000, 12_000), slice(12_000, None))
    made = [
        TensorBatches(turned[row], labels[row], 128 if place == 0 else 1000, place == 0, transform)
        for place, row in enumerate(rows)
    ]
    return replace(source, name="rotated-mnist", train=made[0], validation=made[1], test=made[2])


def turn(images: Tensor, angles: Tensor) -> Tensor:
    """Bytes (n, 1, h, w) turned about their middle, bilinear."""
    cosine, sine, zero = torch.cos(angles), torch.sin(angles), torch.zeros_like(angles)
    matrices = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False).round().clamp(0, 255).to(torch.uint8)


def images(name: str) -> Data:
    return rotated() if name == "rotated-mnist" else load_data(name, batch_size=BATCH[name])


def perceptrons(part: str, name: str, hidden: int, width: int, quick: bool) -> Case:
    def make(width: int, ratio: float) -> nn.Module:
        return perceptron(hidden, width, DROPOUT.get(int(ratio), (0.2, 0.5)))

    return Case(part, images(name), hidden + 2, make, width, EPOCHS[name], quick)


def errors(model: nn.Module, data: Data) -> dict[str, float]:
    return {
        "error": 100 * (1 - evaluate(model, data.test, data.score)),
        "validation_error": 100 * (1 - evaluate(model, data.validation, data.score)),
    }


def shop_of(case: Case, model: nn.Module, seed: int, distill: float) -> Shop:
    return Shop(case.data.task(), model, (case.data.example(8),), Training(distill=distill, seed=seed))


def by_stage(case: Case, stage: Stage, ratio: float, seed: int, teacher: nn.Module | None) -> dict[str, Any]:
    """A network that is trained from scratch in the form of a stage."""
    model = case.dense(seed, ratio)
    shop = shop_of(case, model if teacher is None else teacher, seed, 0.0 if teacher is None else 0.5)
    began = time.process_time()
    code = stage.encode(model.state_dict(), shop.workshop(model, stage.name))
    seconds = time.process_time() - began
    found = {"budget": case.budget(ratio), **of_code(case, code, model), "cpu_seconds": round(seconds)}
    if case.part == "words":
        small = Entropy().encode(LogQuant(bits=8).encode(code))
        found |= {f"log_{name}": value for name, value in of_code(case, small, model).items()}
    return found


def of_code(case: Case, code: Code, model: nn.Module) -> dict[str, Any]:
    return {"bytes": code.nbytes, **errors(fitted(model, packed(code)), case.data)}


def small_dense(case: Case, ratio: float, seed: int) -> dict[str, Any]:
    """A dense network of as many units as the budget allows."""
    budget = case.budget(ratio)
    low, high = 0, case.width  # the widest that is known to fit, and one that does not
    while high - low > 1:
        middle = (low + high) // 2
        fits = packed(case.make(middle, ratio).state_dict()).nbytes <= budget
        low, high = (middle, high) if fits else (low, middle)
    if not low:
        raise InputError(f"no dense network takes {budget} bytes")
    return trained_dense(replace(case, width=low), seed, ratio, DENSE_DROPOUT.get(int(ratio))) | {
        "budget": budget,
        "width": low,
    }


def trained_dense(
    case: Case, seed: int, ratio: float, dropout: tuple[float, float] | None = None, keep: Path | None = None
) -> dict[str, Any]:
    model = case.dense(seed, ratio)
    drops = [each for each in model.modules() if isinstance(each, nn.Dropout)]
    for place, each in enumerate(drops if dropout is not None else []):
        each.p = dropout[min(place, 1)]
    began = time.process_time()
    train(model, case.data.task(), TrainConfig(epochs=case.rounds, lr=RATES["dense"], distill=0.0, seed=seed))
    if keep is not None:
        torch.save(model.state_dict(), keep)
    return {
        "bytes": packed(model.state_dict()).nbytes,
        **errors(model, case.data),
        "cpu_seconds": round(time.process_time() - began),
    }


def stages(case: Case, ratio: float, seed: int) -> Iterator[tuple[str, Stage]]:
    shared = {"nbytes": case.budget(ratio), "epochs": case.rounds, "seed": seed}
    yield "hashed", Hashed(lr=RATES["hashed"], **shared)
    yield "multi-hash", MultiHash(lr=RATES["multi-hash"], **shared)


def add_rows(
    records: Records, case: Case, ratio: float, seed: int, teacher: nn.Module | None, methods: Sequence[str] = ()
) -> None:
    key = {"part": case.part, "data": case.data.name, "layers": case.layers, "ratio": ratio, "seed": seed}
    for method, stage in stages(case, ratio, seed):
        named = (method if teacher is None else f"{method}, distilled") + case.longer
        if method in methods or not methods:
            records.add({**key, "method": named}, partial(by_stage, case, stage, ratio, seed, teacher))
    if teacher is None and not methods and case.budget(ratio) >= packed(case.make(1, ratio).state_dict()).nbytes:
        records.add({**key, "method": "small dense"}, partial(small_dense, case, ratio, seed))


def run_images(
    records: Records, cases: list[Case], ratios: list[float], seeds: int, distill: bool, methods: Sequence[str] = ()
) -> None:
    for seed in range(seeds):
        for case in cases:
            teacher = None
            if distill:
                teacher = case.dense(seed, 8)
                train(teacher, case.data.task(), TrainConfig(epochs=case.rounds, distill=0.0, seed=seed))
            key = {"part": case.part, "data": case.data.name, "layers": case.layers, "ratio": 1.0, "seed": seed}
            records.add({**key, "method": "dense"}, partial(trained_dense, case, seed, 8))
            for ratio in ratios:
                add_rows(records, case, ratio, seed, teacher, methods)


def words_case(name: str, quick: bool) -> Case:
    data = data_of(name)

    def make(width: int, _: float) -> nn.Module:
        model = text_bow(data.classes, data.vocabulary, embedding=width, width=max(width * 256 // 300, 1))
        with torch.no_grad():
            model.encoder.embedding.weight.mul_(0.3)
            model.encoder.embedding.weight[0] = 0
        return model

    return Case("words", data, 3, make, 300, TEXT_EPOCHS[name], quick)


def run_words(records: Records, names: list[str], seeds: int, work: Path, quick: bool) -> None:
    work.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for name in names:
            case = words_case(name, quick)
            key = {"part": "words", "data": name, "layers": 3, "seed": seed}
            path = work / f"{name}-{seed}-{case.rounds}.pt"
            records.add({**key, "ratio": 1.0, "method": "dense"}, partial(trained_dense, case, seed, 1.0, None, path))
            if not path.exists():
                trained_dense(case, seed, 1.0, None, path)
            model = case.dense(seed, 1.0)
            model.load_state_dict(torch.load(path, weights_only=True))
            for part, bits in PRODUCTS:
                stage = ProductQuant(part, bits)
                method = f"product-quant d={part} b={bits}"
                records.add(
                    {**key, "ratio": round(32 * part / bits, 2), "method": method},
                    partial(by_product, case, stage, model),
                )
            for ratio in TEXT_RATIOS:
                add_rows(records, case, ratio, seed, None)


def by_product(case: Case, stage: ProductQuant, model: nn.Module) -> dict[str, Any]:
    began = time.process_time()
    code = Entropy().encode(stage.encode(model.state_dict()))
    seconds = round(time.process_time() - began)
    return {**of_code(case, code, model), "cpu_seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("digits", "depth", "words"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ratios", type=float, nargs="+")
    parser.add_argument("--data", nargs="+")
    parser.add_argument("--work", type=Path, default=Path("hashed_nets"), help="folder of trained classifiers")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--epochs", type=int, help="of the images' networks; the methods are named after them")
    parser.add_argument("--methods", nargs="+", choices=("hashed", "multi-hash"), default=())
    parser.add_argument("--distill", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one epoch; give --out too")
    options = parser.parse_args()
    records = Records(options.out / "hashed_nets.csv", KEYS)
    if options.part == "words":
        run_words(records, options.data or ["clinc150", "banking77"], options.seeds, options.work, options.quick)
        return
    if options.part == "digits":
        cases, ratios = [perceptrons("digits", "mnist", 1, 1000, options.quick)], [8.0, 64.0]
    else:
        names = options.data or ["rotated-mnist", "fashion-mnist"]
        cases = [perceptrons("depth", name, hidden, 500, options.quick) for name in names for hidden in (1, 3)]
        ratios = [64.0]
    cases = [case.lasting(options.epochs) for case in cases]
    run_images(records, cases, options.ratios or ratios, options.seeds, options.distill, options.methods)


if __name__ == "__main__":
    main()
