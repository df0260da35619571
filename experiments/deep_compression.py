"""Deep Compression: bytes on disk against error, step by step.

    ECC_DATA=/data python experiments/deep_compression.py lenet --work OUT
    ECC_DATA=/data python experiments/deep_compression.py resnet20 --work OUT

Rows go to experiments/measurements/stages/deep_compression.csv as they are made; what is there is not done again.

``lenet``: LeNet-300-100 and Caffe's LeNet-5 on MNIST, three seeds. A dense network is trained first, the
reference and the teacher. The recipe was chosen by the validation images of seed 0; the test images are for the
figures only.
``resnet20``: a pretrained network, trained on 2,000 of the images that it was trained on, at several densities, beside
weights of 8 and 4 bits without training. Tested on the 249 lossless test images and, for finer differences, on the
10,000 of the JPEG pack, on which the dense network is worse.

Sizes are those of files: ``bytes`` of weights.ecz, ``zstd_bytes`` of the packed code behind zstd -19 (empty where the
library is not installed), ``entropy_bytes`` of the empirical entropy of each stream plus all floats, without headers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from pruning_cases import CASES
from records import MEASUREMENTS, Records
from torch import nn

from ecc.api.workshop import Shop, Training
from ecc.core.code import Stage, Workshop
from ecc.data.loading import load_data
from ecc.data.values import Data
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import evaluate, train
from ecc.stages.code import PackedCode, packed
from ecc.stages.codebook import Codebook
from ecc.stages.entropy import Entropy, Huffman
from ecc.stages.fixed_point.stage import FixedPoint
from ecc.stages.half import Half
from ecc.stages.nodes import Numbers, leaves, map_leaves
from ecc.stages.prune import Prune
from ecc.stages.sparse_index import regapped
from ecc.stages.tuning import fitted
from ecc.zoo.loading import load_model

RECORDS = MEASUREMENTS / "stages" / "deep_compression.csv"
KEYS = ("network", "recipe", "seed", "step")
SEEDS = 3


@dataclass(frozen=True)
class Recipe:
    """How a LeNet is trained and compressed.

    Attributes:
        dense_epochs: Of the reference.
        prune: Epochs and density among its options.
        codebook: Its tuning too.
    """

    dense_epochs: int
    prune: Prune
    codebook: Codebook


LENETS = {
    "lenet-300-100": Recipe(
        15, Prune(density=0.06, epochs=25, lr=2e-3, ramp=0.6, regrow=True), Codebook(bits=4, epochs=3, lr=2e-4)
    ),
    "lenet5-caffe": Recipe(
        8, Prune(density=0.03, epochs=12, lr=2e-3, ramp=0.6, regrow=True), Codebook(bits=4, epochs=1, lr=2e-4)
    ),
}
DISTILL, TEMPERATURE = 0.7, 4.0
DENSITIES = (0.5, 0.35, 0.25, 0.15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("lenet", "resnet20"))
    parser.add_argument("--work", type=Path, required=True, help="keeps trained dense networks")
    parser.add_argument("--network", action="append", choices=list(LENETS), help="of the part lenet; both by default")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--quick", action="store_true", help="one epoch each, to a file in --work")
    given = parser.parse_args()
    torch.set_num_threads(1)
    records = Records(given.work / "quick.csv" if given.quick else RECORDS, KEYS, fresh=given.quick)
    seeds = range(1 if given.quick else given.seeds)
    if given.part == "resnet20":
        for seed in seeds:
            resnet20(records, seed, given.work, quick=given.quick)
    else:
        for name in given.network or list(LENETS):
            for seed in seeds:
                lenet(records, name, seed, given.work, quick=given.quick)


def lenet(records: Records, name: str, seed: int, folder: Path, *, quick: bool) -> None:
    recipe = LENETS[name]
    if quick:
        recipe = Recipe(1, replace(recipe.prune, epochs=1), replace(recipe.codebook, epochs=1))
    data = load_data("mnist", batch_size=128)
    torch.manual_seed(seed)
    model = load_model(f"zoo:{name}", {}).module
    path = folder / f"{name}-{seed}-{recipe.dense_epochs}.safetensors"
    if path.exists():
        model.load_state_dict(safetensors.torch.load_file(path))
    else:
        config = TrainConfig(
            epochs=recipe.dense_epochs, lr=2e-3, optimizer="adamw", weight_decay=0.05, distill=0.0, seed=seed
        )
        train(model, data.task(), config)
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(model.state_dict(), path)
    model.eval()
    steps: list[tuple[str, Stage]] = [
        ("pruned", recipe.prune),
        ("shared", recipe.codebook),
        ("huffman", Huffman()),
        ("entropy", Entropy()),
        ("half", Half()),
    ]
    run = Run(records, name, "deep-compression", seed, model, data)
    run.steps(steps, workshop(model, data, seed))


def resnet20(records: Records, seed: int, folder: Path, *, quick: bool) -> None:
    case = CASES["resnet20"]
    data = case.load()
    model = case.start(data, seed, folder)
    jpeg = load_data("cifar10-jpeg", batch_size=512).test
    for density in DENSITIES[:1] if quick else DENSITIES:
        prune = Prune(density=density, epochs=1 if quick else 6, lr=1e-3, regrow=True)
        steps: list[tuple[str, Stage]] = [
            ("pruned", prune),
            ("shared", Codebook(bits=5 if density > 0.3 else 4, epochs=1 if quick else 2, lr=1e-4)),
            ("huffman", Huffman()),
            ("entropy", Entropy()),
            ("half", Half()),
        ]
        run = Run(records, "resnet20", f"density {density:g}", seed, model, data, jpeg=jpeg)
        run.steps(steps, workshop(model, data, seed))
    if seed:
        return  # nothing below is random
    for bits in (8, 6, 5, 4):
        stages: list[tuple[str, Stage]] = [("packed", FixedPoint(bits=bits)), ("entropy", Entropy()), ("half", Half())]
        Run(records, "resnet20", f"int{bits}", seed, model, data, jpeg=jpeg).steps(stages, None)


@dataclass(frozen=True, eq=False)
class Run:
    """One chain of stages on one network."""

    records: Records
    network: str
    recipe: str
    seed: int
    model: nn.Module
    data: Data
    jpeg: Any = None

    def steps(self, stages: list[tuple[str, Stage]], shop: Workshop | None) -> None:
        """A row for the dense network and one behind each stage; nothing where all are there."""
        chain = _chain(packed(self.model.state_dict()), stages, shop)
        code, spent = PackedCode({}), 0.0

        def row(step: str) -> dict[str, Any]:
            nonlocal code, spent
            while True:
                reached, code, spent = next(chain)
                if reached == step:
                    return self.row(step, code, spent)

        for step in ("dense", *(name for name, _ in stages)):
            key = {"network": self.network, "recipe": self.recipe, "seed": self.seed, "step": step}
            self.records.add(key, partial(row, step))

    def row(self, step: str, code: PackedCode, spent: float) -> dict[str, Any]:
        model = fitted(self.model, code)
        floats = 4 * sum(tensor.numel() for tensor in packed(self.model.state_dict()).decode().values())
        wrong = 100 * (1 - evaluate(model, self.data.test, self.data.score))
        found = {
            "error_percent": wrong,
            "validation_percent": 100 * (1 - evaluate(model, self.data.validation, self.data.score)),
            "jpeg_error_percent": "" if self.jpeg is None else 100 * (1 - evaluate(model, self.jpeg, self.data.score)),
            "float_bytes": floats,
            "bytes": code.nbytes,
            "ratio": floats / code.nbytes,
            "entropy_bytes": entropy_bytes(code),
            "zstd_bytes": zstd_bytes(code),
            "nonzeros": sum(stored.entries for stored in code.stored().values()),
            "process_s": round(spent, 1),
        }
        print(
            f"{self.network} {self.recipe} seed {self.seed} {step}: {wrong:.2f} %, {code.nbytes:,} bytes, "
            f"{found['ratio']:.1f} times, {spent:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        return found


def _chain(
    code: PackedCode, stages: list[tuple[str, Stage]], shop: Workshop | None
) -> Iterator[tuple[str, PackedCode, float]]:
    """What each stage makes of the one before, with the processor time it took."""
    yield "dense", code, 0.0
    for name, stage in stages:
        started = time.process_time()
        code = packed(stage.encode(code, shop))
        yield name, code, time.process_time() - started


def entropy_bytes(code: PackedCode) -> float:
    """Of all streams, by the frequencies in each, and of all floats; no headers, no tables."""
    total = 0.0
    for node in code.nodes.values():
        for _, leaf in leaves(node):
            if isinstance(leaf, Numbers):
                total += leaf.values.numel() * leaf.values.element_size()
                continue
            counts = np.bincount(leaf.values)
            shares = counts[counts > 0] / len(leaf.values)
            total -= len(leaf.values) * float((shares * np.log2(shares)).sum()) / 8
    return total


def zstd_bytes(code: PackedCode) -> int | str:
    """Of the file with equal lengths of all codes, compressed as a whole."""
    try:
        import zstandard
    except ImportError:
        return ""
    return len(zstandard.ZstdCompressor(level=19).compress(with_equal_lengths(code).to_bytes()))


def with_equal_lengths(code: PackedCode) -> PackedCode:
    nodes = {
        name: map_leaves(
            regapped(node, packed=True),
            lambda _, leaf: leaf if isinstance(leaf, Numbers) else replace(leaf, coder="packed"),
        )
        for name, node in code.nodes.items()
    }
    return replace(code, nodes=nodes)


def workshop(teacher: nn.Module, data: Data, seed: int) -> Workshop:
    """Trains with the dense network as the teacher."""
    training = Training(distill=DISTILL, seed=seed, options={"train.temperature": TEMPERATURE})
    return Shop(data.task(), teacher, (data.example(2),), training).workshop(teacher, "deep-compression")


if __name__ == "__main__":
    main()
