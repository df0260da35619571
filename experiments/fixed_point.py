"""Fixed point: accuracy, bytes and real speed of weights and whole networks on few bits.

    python experiments/fixed_point.py accuracy [--fresh] [--quick]
    python experiments/fixed_point.py latency [--fresh] [--quick]
    python experiments/fixed_point.py split [--fresh]

``accuracy``: pretrained LeNet-5 on MNIST and ResNet-20 on CIFAR-10 (its lossless test images, and the JPEG pack, whose
10,000 resolve 0.01 points), norms folded: weights alone on 2 to 8 bits, in the two matrices of the split, and all of
the network on 8 bits, by the integer-only path and by ONNX Runtime; the latter with calibration images of three seeds.
``latency``: int8 against float32, both by ONNX Runtime on one thread, in turn; paired ratios with 95 % intervals.
``split``: signal to quantisation noise of 400,000 numbers of four distributions.
Writes measurements/stages/fixed_point_*.csv; data are found by ECC_DATA.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from records import MEASUREMENTS, Records
from torch import Tensor, nn

from ecc.api.int8 import int8_session
from ecc.core.problem import Batches
from ecc.data.loading import load_data
from ecc.stages.code import PackedCode, decode_node, packed
from ecc.stages.fixed_point.integer import IntegerPath, integer_network
from ecc.stages.fixed_point.onnx_int8 import Int8
from ecc.stages.fixed_point.stage import BitWidth, FixedPoint
from ecc.stages.fold import fold
from ecc.stages.nodes import Numbers
from ecc.zoo.loading import load_model

FOLDER = MEASUREMENTS / "stages"
SEEDS = (0, 1, 2)
CALIBRATION = 512  # images
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A pretrained network, the data that calibrate it and those that judge it, as on the command line."""

    model: str
    weights: str
    calibrated: str
    tests: tuple[str, ...]

    def network(self) -> nn.Module:
        model = load_model(f"zoo:{self.model}", {}).module
        path = Path(os.environ["ECC_DATA"]) / "weights" / f"{self.weights}.safetensors"
        model.load_state_dict(safetensors.torch.load_file(path), strict=False)
        return model.eval()


CASES = (
    Case("lenet5-caffe", "lenet5_mnist", "mnist", ("mnist",)),
    Case("resnet20", "resnet20_cifar10", "cifar10-lossless", ("cifar10-lossless", "cifar10-jpeg")),
)

WEIGHTS = {
    **{f"int{bits} weights": FixedPoint(bits=bits) for bits in (8, 6, 5, 4, 3, 2)},
    **{f"int{bits} weights, fitted clipping": FixedPoint(bits=bits, clip="mse") for bits in (8, 6, 5, 4, 3, 2)},
    "int8 weights, one scale": FixedPoint(per_channel=False),
    "int8 weights, powers of two": FixedPoint(power_of_two=True),
    "int8 weights, one power of two": FixedPoint(power_of_two=True, per_channel=False),
    "split, one power of two": FixedPoint(power_of_two=True, per_channel=False, split=True),
}
INTEGERS = {
    "integer path": IntegerPath(),
    "integer path, whole ranges": IntegerPath(calibration="max"),
    "integer path, fitted weights": IntegerPath(clip="mse"),
}
RUNTIME = {f"ONNX Runtime int8, {each}": Int8(calibration=each) for each in ("max", "percentile")}

TIMED: dict[str, tuple[str, dict[str, str], tuple[int, ...]]] = {
    "lenet5-caffe": ("lenet5-caffe", {}, (1, 28, 28)),
    "resnet20": ("resnet20", {}, (3, 32, 32)),
    "resnet20, 4 times as wide": ("resnet20", {"width": "64"}, (3, 32, 32)),
    "resnet18": ("resnet18", {}, (3, 64, 64)),
    "mobilenet-v2": ("mobilenet-v2", {}, (3, 64, 64)),
}
BATCHES = (1, 16)


def folder(quick: bool) -> Path:
    """Where rows are kept; what is measured quickly is not."""
    return Path(tempfile.mkdtemp()) if quick else FOLDER


def images(batches: Batches, most: int | None = None) -> tuple[Tensor, Tensor]:
    """The first inputs and targets of a loader."""
    inputs, targets, count = [], [], 0
    for batch, labels in batches:
        inputs.append(batch)
        targets.append(labels)
        count += len(labels)
        if most is not None and count >= most:
            break
    return torch.cat(inputs)[:most], torch.cat(targets)[:most]


def calibration(case: Case, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    inputs, _ = images(load_data(case.calibrated, batch_size=128).train, CALIBRATION)
    return list(inputs.split(128))


def winners(model: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch).argmax(1) for batch in inputs.split(250)])


def loaded(model: nn.Module, code: PackedCode) -> nn.Module:
    model.load_state_dict(code.decode())
    return model


def variants(case: Case) -> Iterator[tuple[str, int, Callable[[], tuple[Callable[[Tensor], Tensor], Row]]]]:
    """Name, seed and what makes the network and tells its size."""
    dense, few = case.network(), calibration(case, 0)[0]

    def folded() -> nn.Module:
        return fold(dense, few).model

    def on_few_bits(stage: FixedPoint) -> tuple[nn.Module, Row]:
        code = stage.encode(packed(folded().state_dict()))
        stored = [each for each in code.stored().values() if each.bits < 16]
        bits = sum(each.bits * each.entries for each in stored) / sum(each.entries for each in stored)
        return loaded(folded(), code), {"bytes": code.nbytes, "bits": bits}

    def on_integers(path: IntegerPath, seed: int) -> tuple[nn.Module, Row]:
        network = integer_network(folded(), calibration(case, seed), path=path)
        kept = sum(bool(step.why_float) for step in network.steps)
        return network, {"integer_operators": len(network.steps) - kept, "float_operators": kept}

    def by_onnx_runtime(settings: Int8, seed: int) -> tuple[nn.Module, Row]:
        found = int8_session(dense, few[:1], calibration(case, seed), settings=settings)
        return found, {"bytes": found.nbytes}

    float_bytes = packed(dense.state_dict()).nbytes
    yield "float32", 0, lambda: (dense, {"bytes": float_bytes})
    for name, stage in WEIGHTS.items():
        yield name, 0, lambda stage=stage: on_few_bits(stage)
    for seed in SEEDS:
        for name, path in INTEGERS.items():
            yield name, seed, lambda path=path, seed=seed: on_integers(path, seed)
        for name, settings in RUNTIME.items():
            yield name, seed, lambda settings=settings, seed=seed: by_onnx_runtime(settings, seed)


def accuracy(fresh: bool, quick: bool) -> None:
    keys = ("network", "data", "variant", "seed")
    records = Records(folder(quick) / "fixed_point_accuracy.csv", keys, fresh=fresh)
    for case in CASES:
        tests = {name: images(load_data(name, batch_size=250).test, 1000 if quick else None) for name in case.tests}
        dense = {name: winners(case.network(), inputs) for name, (inputs, _) in tests.items()}
        for name, seed, make in variants(case):
            if quick and seed:
                continue
            made = cache(make)
            for test, (inputs, targets) in tests.items():
                key = {"network": case.model, "data": test, "variant": name, "seed": seed}
                records.add(key, lambda: judged(made, inputs, targets, dense[test]))  # noqa: B023
                row = records.rows[-1]
                print({each: row[each] for each in ("network", "data", "variant", "seed", "accuracy", "change_points")})


def judged(make: Callable[[], Any], inputs: Tensor, targets: Tensor, dense: Tensor) -> Row:
    start = time.perf_counter()
    model, told = make()
    found = winners(model, inputs)
    hits = [float((each == targets).double().mean()) for each in (found, dense)]
    return {
        "accuracy": hits[0],
        "change_points": 100 * (hits[0] - hits[1]),
        "images": len(targets),
        "agreement": float((found == dense).double().mean()),
        "bytes": math.nan,
        "bits": math.nan,
        "integer_operators": math.nan,
        "float_operators": math.nan,
        **told,
        "seconds": time.perf_counter() - start,
    }


def latency(fresh: bool, quick: bool) -> None:
    records = Records(folder(quick) / "fixed_point_latency.csv", ("network", "batch"), fresh=fresh)
    blocks = 3 if quick else 24
    for name in list(TIMED)[: 2 if quick else None]:
        for batch in BATCHES:
            key = {"network": name, "batch": batch}
            records.add(key, lambda: timed(name, batch, blocks))  # noqa: B023
            print({each: records.rows[-1][each] for each in ("network", "batch", "ratio", "low", "high", "float_s")})


def timed(name: str, batch: int, blocks: int) -> Row:
    model, options, shape = TIMED[name]
    torch.manual_seed(0)
    network, data = load_model(f"zoo:{model}", options).module.eval(), torch.randn(64, *shape)
    made = int8_session(network, data[:batch], [data])
    found = made.speed(blocks=blocks)
    return {
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "int8_s": found.value,
        "float_s": found.reference,
        "int8_bytes": made.nbytes,
        "float_bytes": len(made.float_onnx),
        "pairs": found.n,
    }


def split(fresh: bool, quick: bool) -> None:
    records = Records(folder(quick) / "fixed_point_split.csv", ("distribution", "seed"), fresh=fresh)
    draws: dict[str, Callable[[np.random.Generator], Any]] = {
        "Gaussian": lambda random: random.standard_normal(400_000),
        "Laplace": lambda random: random.laplace(size=400_000),
        "t, 4 degrees": lambda random: random.standard_t(4, 400_000),
        "t, 2.5 degrees": lambda random: random.standard_t(2.5, 400_000),
    }
    for name, draw in draws.items():
        for seed in SEEDS:
            numbers = torch.tensor(draw(np.random.default_rng(seed)), dtype=torch.float32).reshape(400, 1000)
            records.add({"distribution": name, "seed": seed}, lambda: noise(numbers))  # noqa: B023
            print(records.rows[-1])


def noise(values: Tensor) -> Row:
    stages = {
        "int8_db": FixedPoint(per_channel=False, power_of_two=True, clip="max"),
        "split_db": FixedPoint(per_channel=False, power_of_two=True, split=True),
    }
    row: Row = {}
    for name, stage in stages.items():
        form = stage.encode_node("w", Numbers(values), BitWidth(8))
        gap = values.double() - decode_node(form).double()
        row[name] = 10 * math.log10(float(values.double().square().sum() / gap.square().sum()))
        row["outliers"] = PackedCode({"w": form}).stored()["w"].bits / 8 - 1
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"accuracy": accuracy, "latency": latency, "split": split}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--quick", action="store_true", help="1,000 test images, one seed, few pairs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts[given.part](given.fresh, given.quick)


if __name__ == "__main__":
    main()
