"""DeepThin at a hundredth of the size, beside four other ways to the same bytes; and how fast its layers run.

    ECC_DATA=/data python experiments/deepthin.py accuracy --work OUT --model mlp-acoustic
    ECC_DATA=/data python experiments/deepthin.py accuracy --work OUT --model gru-acoustic
    python experiments/deepthin.py speed

``accuracy``: spoken digits (FSDD, split by take). A dense network is trained and stays the teacher; then every method
gets the same epochs, the same loss (half distillation) and a file that is no larger than a share of the dense one, with
indices, codebooks and headers. The step size of each method is the best of three on validation data, at 2 % and with a
random seed of its own. ``dense`` is the same network, narrower. Rows go to measurements/stages/deepthin_MODEL.csv; what
is there is not done again. The GRU reads four frames at a time.

``speed``: a layer's product with one input and with four, dense and from the factors, in turns; CPU time of one thread.
``ratio`` is the geometric mean of dense / factors over the turns, with its 95 % interval. Rows go to
measurements/stages/deepthin_speed.csv.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from records import MEASUREMENTS, Records
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.api.workshop import Shop, Training, judge
from ecc.core.code import Stage
from ecc.core.errors import InputError
from ecc.data.loading import load_data
from ecc.data.values import Data, TensorBatches
from ecc.solvers.evaluation import evaluate
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train
from ecc.stages.code import packed
from ecc.stages.deepthin import DeepThin
from ecc.stages.hashed import Hashed
from ecc.stages.layers.relaid_products import RelaidProduct
from ecc.stages.prune import Prune
from ecc.stages.relayout import fitting_relayout
from ecc.stages.svd import Svd
from ecc.stages.tuning import fitted
from ecc.zoo.acoustic import gru_acoustic, mlp_acoustic

FOLDER = MEASUREMENTS / "stages"
SHARES = (0.01, 0.02, 0.05)
RATES = (1e-3, 3e-3, 1e-2)
METHODS = ("deepthin", "deepthin, fitted", "rank factorisation", "pruning", "dense", "hashed")
TUNING_SEED, TUNING_SHARE = 1000, 0.02
STACKED = 4  # frames that the GRU reads at a time
WIDTHS = {"mlp-acoustic": 512, "gru-acoustic": 192}
SIDES = ((512, 512), (1024, 1024), (2048, 2048), (3072, 3072), (4096, 4096), (4096, 8192))  # outputs, inputs
TURNS = 20


def network(model: str, width: int) -> nn.Module:
    if model == "mlp-acoustic":
        return mlp_acoustic(width=width)
    return gru_acoustic(features=40 * STACKED, width=width)


def data_of(model: str) -> Data:
    data = load_data("fsdd", batch_size=50)
    if model == "mlp-acoustic":
        return data

    def stacked(part: Any) -> TensorBatches:
        inputs = part.inputs.reshape(len(part.inputs), -1, 40 * STACKED)
        return TensorBatches(inputs, part.targets, part.batch_size, shuffle=part.shuffle)

    parts = {name: stacked(getattr(data, name)) for name in ("train", "validation", "test")}
    return replace(data, input_shape=tuple(parts["train"].inputs.shape[1:]), **parts)


def teacher_of(model: str, data: Data, seed: int, epochs: int, work: Path) -> nn.Module:
    torch.manual_seed(seed)
    found = network(model, WIDTHS[model])
    path = work / f"{model}-{epochs}-{seed}.safetensors"
    if path.exists():
        found.load_state_dict(safetensors.torch.load_file(path))
    else:
        train(found, data.task(), TrainConfig(epochs=epochs, lr=2e-3, distill=0.0, seed=seed))
        safetensors.torch.save_file(found.state_dict(), path)
    return found.eval()


def largest(least: int, most: int, fits: Callable[[int], bool]) -> int:
    """The largest number that fits, by halving."""
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least


def stage_of(method: str, teacher: nn.Module, limit: int, epochs: int, lr: float, seed: int) -> Stage:
    state = teacher.state_dict()
    if method.startswith("deepthin"):
        start = "fit" if method.endswith("fitted") else "random"
        return DeepThin(nbytes=limit, start=start, epochs=epochs, lr=lr, seed=seed)
    if method == "hashed":
        return Hashed(nbytes=limit, biases=True, epochs=epochs, lr=lr, seed=seed)
    if method == "rank factorisation":
        return Svd(nbytes=limit, epochs=epochs, lr=lr)
    # Which weights stay is known after training only, and gaps differ a little: 1 % of the bytes are left for that.
    density = largest(
        1, 5000, lambda n: Prune(density=n / 5000, least=0.0, epochs=0).encode(state).nbytes <= 0.99 * limit
    )
    return Prune(density=density / 5000, least=0.0, epochs=epochs, lr=lr)


def smaller(model: str, data: Data, teacher: nn.Module, limit: int, config: TrainConfig) -> tuple[nn.Module, int, str]:
    """The widest network whose file is within the limit, trained as the others."""
    width = largest(1, WIDTHS[model], lambda w: packed(network(model, w).state_dict()).nbytes <= limit)
    torch.manual_seed(config.seed)
    found = network(model, width)
    train(found, data.task(), config, teacher=teacher)
    return found, packed(found.state_dict()).nbytes, f"width {width}"


def outcome(
    model: str, data: Data, teacher: nn.Module, method: str, share: float, lr: float, seed: int, epochs: int
) -> dict[str, Any]:
    """Errors and bytes of one method at one size; without errors and with the reason where it cannot be so small."""
    whole = packed(teacher.state_dict()).nbytes
    limit, began = int(share * whole), time.process_time()
    try:
        if method == "dense":
            config = TrainConfig(epochs=epochs, lr=lr, distill=0.5, seed=seed)
            found, nbytes, note = smaller(model, data, teacher, limit, config)
        else:
            stage = stage_of(method, teacher, limit, epochs, lr, seed)
            shop = Shop(data.task(), teacher, (data.example(8),), Training(seed=seed))
            code = packed(stage.encode(teacher.state_dict(), shop.workshop(teacher, stage.name)))
            found, nbytes, note = fitted(teacher, code), code.nbytes, ""
    except InputError as error:
        return {"share": share, "bytes_dense": whole, "note": str(error)}
    return {
        "bytes_dense": whole,
        "bytes": nbytes,
        "test_error": 100 * (1 - evaluate(found.eval(), data.test, data.score)),
        "test_error_dense": 100 * (1 - evaluate(teacher, data.test, data.score)),
        "validation_loss": judge(found, data.task())[0],
        "epochs": epochs,
        "seconds": round(time.process_time() - began, 1),
        "note": note,
    }


def measure_accuracy(options: argparse.Namespace) -> None:
    options.work.mkdir(parents=True, exist_ok=True)
    folder = options.work if options.quick else FOLDER
    records = Records(folder / f"deepthin_{options.model}.csv", ("model", "method", "share", "seed", "lr"))
    data, epochs = data_of(options.model), 2 if options.quick else options.epochs

    def run(method: str, share: float, seed: int, lr: float) -> None:
        teacher = teacher_of(options.model, data, seed, epochs, options.work)
        key = {"model": options.model, "method": method, "share": share, "seed": seed, "lr": lr}
        records.add(key, partial(outcome, options.model, data, teacher, method, share, lr, seed, epochs))

    rates = {}
    for method in METHODS:
        for lr in RATES[:2] if options.quick else RATES:
            run(method, TUNING_SHARE, TUNING_SEED, lr)
        tried = [row for row in records.rows if row["method"] == method and row["seed"] == TUNING_SEED]
        losses = {row["lr"]: row.get("validation_loss", math.inf) for row in tried}
        rates[method] = min(losses, key=lambda lr: losses[lr] if losses[lr] == losses[lr] else math.inf)
    for seed in range(1 if options.quick else options.seeds):
        for share in SHARES:
            for method in METHODS:
                run(method, share, seed, rates[method])


def last_cache_bytes() -> int:
    """Of the last level of cache of the first core; 0 where the system does not say."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(each[:-1]) << {"K": 10, "M": 20}[each[-1]] for each in sizes if each[-1] in "KM"), default=0)


def cpu_seconds(run: Callable[[], Tensor]) -> float:
    """Of one run, from as many as take five milliseconds."""
    count, began = 0, time.process_time()
    while (spent := time.process_time() - began) < 5e-3 or not count:
        run()
        count += 1
    return spent / count


@torch.no_grad()
def speed(outputs: int, inputs: int, floats: int, batch: int, way: str, cache: int) -> dict[str, Any]:
    product = RelaidProduct.drawn(outputs, inputs, floats, generator=torch.Generator().manual_seed(0))
    weight, x = product.weight().contiguous(), torch.randn(batch, inputs)
    product.way = way  # type: ignore[assignment]
    dense, thin = partial(F.linear, x, weight), partial(product, x)
    wanted = dense()
    error = float((thin() - wanted).abs().max() / wanted.abs().max())
    pairs = [(cpu_seconds(dense), cpu_seconds(thin)) for _ in range(TURNS)]
    logs = torch.tensor([math.log(a / b) for a, b in pairs])
    half = 2.09 * float(logs.std()) / math.sqrt(TURNS)  # Student's t of 19 degrees of freedom
    return {
        "columns": product.layout.columns,
        "rank": product.layout.rank,
        "floats": product.layout.floats,
        "bytes_dense": 4 * weight.numel(),
        "bytes": 4 * product.layout.floats,
        "last_cache_bytes": cache,
        "larger_than_cache": 4 * weight.numel() > cache,
        "dense_seconds": sorted(a for a, _ in pairs)[TURNS // 2],
        "seconds": sorted(b for _, b in pairs)[TURNS // 2],
        "ratio": math.exp(float(logs.mean())),
        "ratio_low": math.exp(float(logs.mean()) - half),
        "ratio_high": math.exp(float(logs.mean()) + half),
        "largest_error": error,
    }


def measure_speed(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    folder = options.work if options.quick else FOLDER
    records = Records(folder / "deepthin_speed.csv", ("outputs", "inputs", "share", "batch", "way"))
    cache = last_cache_bytes()
    for outputs, inputs in SIDES[: 2 if options.quick else None]:
        for share in ("least", *SHARES):
            least = fitting_relayout(outputs, inputs, 0).floats
            floats = least if share == "least" else int(float(share) * outputs * inputs)
            for batch in (1, 4):
                for way in ("correlation", "blocks"):
                    key = {"outputs": outputs, "inputs": inputs, "share": share, "batch": batch, "way": way}
                    records.add(key, partial(speed, outputs, inputs, floats, batch, way, cache))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("accuracy", "speed"))
    parser.add_argument("--work", type=Path, default=Path("."), help="folder of the trained networks")
    parser.add_argument("--model", choices=list(WIDTHS), default="mlp-acoustic")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs, few sizes; results in the folder")
    options = parser.parse_args()
    {"accuracy": measure_accuracy, "speed": measure_speed}[options.what](options)


if __name__ == "__main__":
    main()
