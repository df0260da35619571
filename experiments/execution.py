"""What leaving out work is worth: zero inputs, zero weights, outputs that nobody asks for, frames between others.

    python experiments/execution.py sparse-inputs     # and sparse-weights, asked, dispatch, skipping: minutes, one core
    ECC_DATA=/data python experiments/execution.py frames --model gru-acoustic    # and mlp-acoustic

Times are CPU time of one thread, of runs in turns: ``ratio`` is the geometric mean over the turns of the time beside
that of PyTorch's layer, with its 95 % interval (Student's t). Inputs change from run to run, so that no branch is
learnt; weights are as warm as runs leave them. Calls are timed with all that Python adds.

``sparse-inputs`` has a second ratio, to the faster of two dense products, with the weight output by output and input
by input. ``skipping``: clips of 64 frames, at once and frame by frame. ``frames``: spoken digits (FSDD, split by take);
networks of the zoo that give an output per frame, the mean of which is trained towards the word, with and without
skipping. ``mlp-acoustic`` sees windows of 15 frames. Rows go to measurements/stages/execution_PART.csv; what is there
is not done again. ``--quick``: few and small, in ``--work``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from deepthin import last_cache_bytes
from records import MEASUREMENTS, Records
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.api.dispatching import dispatch
from ecc.data.loading import load_data
from ecc.data.speech import FEATURES, FRAMES
from ecc.data.values import Data
from ecc.network.sparse_layers import SparseLinear
from ecc.solvers.evaluation import evaluate
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train
from ecc.stages.execution import asked_outputs, sparse_inputs
from ecc.stages.execution.asked_outputs import AskedLinear
from ecc.stages.execution.frames import ClipMean, FrameModel, RecurrentFrames, WindowFrames
from ecc.stages.execution.kernels import kernels
from ecc.stages.execution.sparse_inputs import SparseInputLinear
from ecc.zoo.acoustic import gru_acoustic, mlp_acoustic

FOLDER = MEASUREMENTS / "stages"
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
ZEROS = (0.0, 0.5, 0.7, 0.9)
KEPT = (0.01, 0.03, 0.1, 0.2, 0.3)
LAST_LAYERS = ((512, 2000), (1024, 4096), (2000, 8000))  # inputs, outputs
ASKED = (0.1, 0.3, 0.5)
TURNS, TURN_S = 20, 4e-3
PATTERNS = 16  # inputs that follow each other
BESIDE = 7  # frames of a window on each side of the middle one
SKIPS = (1, 2, 3)
CLIPS = 8  # that are timed in turns
MODELS = ("gru-acoustic", "mlp-acoustic")

Run = Callable[[], Any]


def cpu_seconds(run: Run) -> float:
    """Of one run, from as many as take a turn."""
    count, began = 0, time.process_time()
    while (spent := time.process_time() - began) < TURN_S or not count:
        run()
        count += 1
    return spent / count


def turns(*runs: Run) -> list[tuple[float, ...]]:
    """Times of each, one after the other, again and again; a first round is forgotten."""
    for run in runs:
        run()
    return [tuple(cpu_seconds(run) for run in runs) for _ in range(TURNS + 1)][1:]


def ratio(times: Sequence[tuple[float, ...]], one: int, other: int, name: str = "ratio") -> dict[str, float]:
    """Geometric mean of one beside the other with its interval."""
    logs = torch.tensor([math.log(each[one] / each[other]) for each in times], dtype=torch.float64)
    middle, half = float(logs.mean()), float(stats.t.ppf(0.975, len(logs) - 1) * logs.std() / math.sqrt(len(logs)))
    return {name: math.exp(middle), f"{name}_low": math.exp(middle - half), f"{name}_high": math.exp(middle + half)}


def median(times: Sequence[tuple[float, ...]], which: int) -> float:
    return sorted(each[which] for each in times)[len(times) // 2]


def drawn(batch: int, inputs: int, zeros: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = [torch.randn(batch, inputs, generator=generator) for _ in range(PATTERNS)]
    return [each * (torch.rand(each.shape, generator=generator) >= zeros) for each in found]


def fed(layer: Callable[[Tensor], Tensor], inputs: Sequence[Tensor]) -> Run:
    """Runs with one input after the other."""
    following = cycle(inputs)
    return lambda: layer(next(following))


def largest_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def compiled_or_not(module: Any, way: str) -> None:
    """Let a module of the package use the compiled loops or do without."""
    module.kernels = kernels if way == "compiled" else lambda: None


@torch.inference_mode()
def sparse_input(inputs: int, outputs: int, batch: int, zeros: float, way: str) -> dict[str, Any]:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs)
    sparse, x = SparseInputLinear(layer), drawn(batch, inputs, zeros)
    compiled_or_not(sparse_inputs, way)
    error = largest_error(sparse(x[0]), layer(x[0]))
    turned = partial(F.linear, weight=sparse.weight, bias=layer.bias)
    times = turns(fed(layer, x), fed(turned, x), fed(sparse, x))
    faster = 0 if median(times, 0) <= median(times, 1) else 1
    return {
        "bytes": 4 * layer.weight.numel(),
        "last_cache_bytes": last_cache_bytes(),
        "dense_seconds": median(times, 0),
        "turned_seconds": median(times, 1),
        "seconds": median(times, 2),
        **ratio(times, 2, 0),
        **ratio(times, 2, faster, "ratio_fastest_dense"),
        "largest_error": error,
    }


def measure_sparse_inputs(options: argparse.Namespace, folder: Path) -> None:
    records = Records(
        folder / "execution_sparse_inputs.csv", ("inputs", "outputs", "batch", "zeros", "way"), fresh=options.fresh
    )
    lengths = LENGTHS[:4] if options.quick else LENGTHS
    for inputs, batch in ((512, 1), (2048, 1), (2048, 4), (2048, 8)):
        for outputs in lengths:
            for zeros in ZEROS:
                for way in ("compiled", "bags"):
                    key = {"inputs": inputs, "outputs": outputs, "batch": batch, "zeros": zeros, "way": way}
                    records.add(key, partial(sparse_input, inputs, outputs, batch, zeros, way))


@torch.inference_mode()
def sparse_weight(inputs: int, outputs: int, kept: float) -> dict[str, Any]:
    torch.manual_seed(0)
    layer, x = nn.Linear(inputs, outputs), drawn(1, inputs, 0.0)
    layer.weight.mul_(torch.rand(layer.weight.shape) < kept)
    sparse = SparseLinear(layer)
    error = largest_error(sparse(x[0]), layer(x[0]))
    times = turns(fed(layer, x), fed(sparse, x))
    return {
        "bytes": 4 * layer.weight.numel(),
        "last_cache_bytes": last_cache_bytes(),
        "dense_seconds": median(times, 0),
        "seconds": median(times, 1),
        **ratio(times, 1, 0),
        "largest_error": error,
    }


def measure_sparse_weights(options: argparse.Namespace, folder: Path) -> None:
    records = Records(folder / "execution_sparse_weights.csv", ("inputs", "outputs", "kept"), fresh=options.fresh)
    for side in (256, 512) if options.quick else (256, 512, 1024, 2048, 4096):
        for kept in KEPT:
            key = {"inputs": side, "outputs": side, "kept": kept}
            records.add(key, partial(sparse_weight, side, side, kept))


@torch.inference_mode()
def asked(inputs: int, outputs: int, batch: int, share: float, way: str) -> dict[str, Any]:
    torch.manual_seed(0)
    layer, x = nn.Linear(inputs, outputs), drawn(batch, inputs, 0.5)
    lazy = AskedLinear(layer)
    which = [torch.randperm(outputs)[: round(share * outputs)].sort().values for _ in range(PATTERNS)]
    compiled_or_not(asked_outputs, way)
    error = largest_error(lazy(x[0], which[0]), layer(x[0])[:, which[0]])
    following = cycle(which)
    times = turns(fed(layer, x), fed(lambda given: lazy(given, next(following)), x))
    return {
        "bytes": 4 * layer.weight.numel(),
        "last_cache_bytes": last_cache_bytes(),
        "dense_seconds": median(times, 0),
        "seconds": median(times, 1),
        **ratio(times, 1, 0),
        "largest_error": error,
    }


def measure_asked(options: argparse.Namespace, folder: Path) -> None:
    records = Records(
        folder / "execution_asked.csv", ("inputs", "outputs", "batch", "asked", "way"), fresh=options.fresh
    )
    for inputs, outputs in LAST_LAYERS[:1] if options.quick else LAST_LAYERS:
        for batch in (1, 4, 16):
            for share in ASKED:
                for way in ("compiled", "copies"):
                    key = {"inputs": inputs, "outputs": outputs, "batch": batch, "asked": share, "way": way}
                    records.add(key, partial(asked, inputs, outputs, batch, share, way))


def mixture(width: int) -> nn.Module:
    """Layers behind ReLU: one plain, one of a low rank, one with few weights, and a narrow last one."""
    torch.manual_seed(0)
    layers = [nn.Linear(width, width) for _ in range(4)]
    with torch.no_grad():
        rank = width // 16
        layers[2].weight.copy_(torch.randn(width, rank) @ torch.randn(rank, width) / width)
        layers[3].weight.mul_(torch.rand(width, width) < 0.03)
    behind = [part for layer in layers for part in (layer, nn.ReLU())]
    return nn.Sequential(*behind, nn.Linear(width, 10)).eval()


def measure_dispatch(options: argparse.Namespace, folder: Path) -> None:
    records = Records(folder / "execution_dispatch.csv", ("width", "layer", "way"), fresh=options.fresh)
    for width in (256,) if options.quick else (512, 2048):
        model = mixture(width)
        found = dispatch(model, torch.randn(1, width), seconds=0.5 if options.quick else 3.0)
        rows = [
            ({"layer": name, "way": way}, {"chosen": way == choice.way, "zero_inputs": choice.zero_inputs}, each)
            for name, choice in found.choices.items()
            for way, each in choice.tried.items()
        ]
        if found.overall is not None:
            rows.append(({"layer": "whole", "way": "chosen"}, {"chosen": found.pays}, found.overall))
        for key, told, each in rows:
            values = {**told, "ratio": each.value, "ratio_low": each.low, "ratio_high": each.high}
            records.add({"width": width, **key}, partial(dict, values))


def frame_model(model: str, every: int) -> FrameModel:
    if model == "mlp-acoustic":
        return WindowFrames(mlp_acoustic(frames=2 * BESIDE + 1), BESIDE, BESIDE, every=every)
    found = gru_acoustic()
    return RecurrentFrames(found.layers, found.head, every=every)


@torch.inference_mode()
def clip_times(model: FrameModel, clips: Sequence[Tensor], every: int) -> dict[str, float]:
    """Ratios of skipping to none, a clip at once and frame by frame; seconds per frame of the former."""

    def at_once(every: int, clip: Tensor) -> None:
        model.every = every
        model(clip)

    def one_by_one(every: int, clip: Tensor) -> None:
        model.every = every
        stream = model.stream()
        for frame in clip.split(1, 1):
            stream.push(frame)
        stream.finish()

    whole = turns(fed(partial(at_once, 1), clips), fed(partial(at_once, every), clips))
    single = turns(fed(partial(one_by_one, 1), clips), fed(partial(one_by_one, every), clips))
    frames = clips[0].shape[1]
    return {
        "frame_seconds": median(whole, 1) / frames,
        **ratio(whole, 1, 0),
        "stream_frame_seconds": median(single, 1) / frames,
        **ratio(single, 1, 0, "stream_ratio"),
    }


def measure_skipping(options: argparse.Namespace, folder: Path) -> None:
    records = Records(folder / "execution_skipping.csv", ("model", "every"), fresh=options.fresh)
    clips = [torch.randn(1, FRAMES, FEATURES) for _ in range(CLIPS)]
    for model in MODELS:
        for every in SKIPS[1:]:
            torch.manual_seed(0)
            records.add({"model": model, "every": every}, partial(clip_times, frame_model(model, every), clips, every))


def measure_frames(options: argparse.Namespace, folder: Path) -> None:
    keys = ("model", "seed", "trained_every", "every")
    records = Records(folder / f"execution_frames_{options.model}.csv", keys, fresh=options.fresh)
    data = load_data("fsdd", batch_size=50)
    epochs = 1 if options.quick else options.epochs
    for seed in range(1 if options.quick else options.seeds):
        for trained in SKIPS:
            wanted = SKIPS if trained == 1 else (trained,)
            rows = [dict(zip(keys, (options.model, seed, trained, every), strict=True)) for every in wanted]
            if all(records.holds(row) for row in rows):
                continue
            torch.manual_seed(seed)
            began, model = time.process_time(), ClipMean(frame_model(options.model, trained))
            train(model, data.task(), TrainConfig(epochs=epochs, lr=options.lr, distill=0.0, seed=seed))
            told = {"epochs": epochs, "training_seconds": round(time.process_time() - began, 1)}
            for row in rows:
                records.add(row, partial(judged, model, data, int(row["every"]), told))


def judged(model: ClipMean, data: Data, every: int, told: dict[str, Any]) -> dict[str, Any]:
    model.eval().frames.every = every
    return {"test_error": 100 * (1 - evaluate(model, data.test, data.score)), **told}


PARTS = {
    "sparse-inputs": measure_sparse_inputs,
    "sparse-weights": measure_sparse_weights,
    "asked": measure_asked,
    "dispatch": measure_dispatch,
    "skipping": measure_skipping,
    "frames": measure_frames,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--model", choices=MODELS, default="gru-acoustic")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--work", type=Path, default=Path("."), help="folder of the results of --quick")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--quick", action="store_true", help="few and small, to see that it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    PARTS[options.part](options, options.work if options.quick else FOLDER)


if __name__ == "__main__":
    main()
