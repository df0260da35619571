"""An LSTM acoustic model to a third of its size by low rank, and what data, gates and tuning do for it.

    ECC_DATA=/data python experiments/low_rank.py --work OUT [--quick]

Spoken digits (FSDD, split by take), the zoo's lstm-acoustic trained from scratch with three random seeds and kept in
OUT. Each file weights.ecz is at most a third of that of the floats, ranks shared out over all matrices; then come the
same few epochs of tuning, half distillation. ``points`` is the change of the test accuracy in percentage points;
``largest_gap`` is by how much, relatively, the error of a matrix differs from the root of the sum of its dropped
squared singular values, of untuned factors that saw no data. Rows go to measurements/stages/low_rank.csv.
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from records import MEASUREMENTS, Records
from torch import Tensor, nn

from ecc.api.workshop import Shop, Training, judge
from ecc.data.loading import load_data
from ecc.data.values import Data
from ecc.solvers.evaluation import evaluate
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train
from ecc.stages.code import PackedCode, packed
from ecc.stages.nodes import Form, Numbers
from ecc.stages.svd import Svd
from ecc.stages.tuning import fitted
from ecc.zoo.acoustic import lstm_acoustic

RATIO = 3.0


def dense_network(data: Data, seed: int, epochs: int, work: Path) -> nn.Module:
    torch.manual_seed(seed)
    found = lstm_acoustic()
    path = work / f"lstm-acoustic-{epochs}-{seed}.safetensors"
    if path.exists():
        found.load_state_dict(safetensors.torch.load_file(path))
    else:
        train(found, data.task(), TrainConfig(epochs=epochs, lr=3e-3, distill=0.0, seed=seed))
        safetensors.torch.save_file(found.state_dict(), path)
    return found.eval()


def largest_gap(code: PackedCode, state: dict[str, Tensor]) -> float:
    """Relative difference of a matrix's error and that of its dropped singular values, the largest of all matrices."""
    gaps = [0.0]
    for name, values in code.decode().items():
        node = code.nodes[name]
        left = node.parts["left"] if isinstance(node, Form) and node.kind == "factors" else None
        if not isinstance(left, Numbers):
            continue
        blocks = state[name].double().reshape(-1, left.values.shape[-2], state[name].shape[1])
        dropped = float(torch.linalg.svdvals(blocks)[:, left.values.shape[-1] :].square().sum().sqrt())
        gaps.append(abs(float((values - state[name]).double().norm()) / dropped - 1))
    return max(gaps)


def measured(model: nn.Module, data: Data, stage: Svd, seed: int) -> dict[str, Any]:
    state, began = model.state_dict(), time.process_time()
    shop = Shop(data.task(), model, (data.example(8),), Training(seed=seed))
    code = stage.encode(state, shop.workshop(model, "svd"))
    found = fitted(model, code)
    before, after = (evaluate(each, data.test, data.score) for each in (model, found))
    ranks = {name: node.parts["left"] for name, node in code.nodes.items() if isinstance(node, Form)}
    return {
        "bytes_dense": packed(state).nbytes,
        "bytes": code.nbytes,
        "ratio": packed(state).nbytes / code.nbytes,
        "accuracy_dense": before,
        "accuracy": after,
        "points": 100 * (after - before),
        "validation_loss_dense": judge(model, data.task())[0],
        "validation_loss": judge(found, data.task())[0],
        "ranks": " ".join(f"{n}:{p.values.shape[-1]}" for n, p in ranks.items() if isinstance(p, Numbers)),
        "largest_gap": math.nan if stage.whiten or stage.epochs else largest_gap(code, state),
        "seconds": round(time.process_time() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the trained networks")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=25, help="of the dense network")
    parser.add_argument("--tuning", type=int, default=10, help="epochs")
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs, results in the folder")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = options.work if options.quick else MEASUREMENTS / "stages"
    records = Records(folder / "low_rank.csv", ("seed", "whiten", "gates", "epochs"))
    data = load_data("fsdd", batch_size=50)
    dense, tuning = (2, 1) if options.quick else (options.epochs, options.tuning)
    for seed in range(1 if options.quick else options.seeds):
        model = dense_network(data, seed, dense, options.work)
        limit = int(packed(model.state_dict()).nbytes / RATIO)
        for whiten in (True, False):
            for gates in ("together", "each"):
                for epochs in (0, tuning):
                    stage = Svd(nbytes=limit, whiten=whiten, gates=gates, epochs=epochs, lr=1e-3)
                    key = {"seed": seed, "whiten": whiten, "gates": gates, "epochs": epochs}
                    records.add(key, partial(measured, model, data, stage, seed))


if __name__ == "__main__":
    main()
