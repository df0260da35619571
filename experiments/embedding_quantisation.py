"""Word embeddings in fewer bytes without retraining: log codes, product quantisation, several levels by importance.

    ECC_DATA=/data python experiments/embedding_quantisation.py --work OUT [--quick]

Classifiers of short queries (mean of embeddings, a hidden layer) on Banking77 and CLINC150, trained from scratch with
three random seeds: the vocabulary is that of the training part, and words are hidden at random, so that the row of
unknown words is trained too. Networks are kept in OUT. Rows go to measurements/stages/embedding_quantisation.csv beside
this file, one per network and setting; what is there is not done again.

Bytes are those of the file weights.ecz with everything in it, beside the file of the floats; ``table_ratio`` is that of
the embedding alone. ``points`` is the change of the test accuracy in percentage points, ``points_error`` its standard
error: of n test examples only those that are right in one network and wrong in the other count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import safetensors.torch
import torch
from records import MEASUREMENTS, Records
from torch import Tensor, nn

from ecc.core.code import Stage, Workshop
from ecc.core.errors import InputError
from ecc.data.loading import load_data
from ecc.data.values import Data, TensorBatches, accuracy
from ecc.network.copying import copy_sharing
from ecc.solvers.evaluation import evaluate
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train
from ecc.stages.code import packed
from ecc.stages.log_quant import LogQuant
from ecc.stages.multilevel import MultilevelProductQuant
from ecc.stages.product_quant import ProductQuant
from ecc.zoo.text import TextClassifier, text_bow

FOLDER = MEASUREMENTS / "stages"
KEYS = ("data", "seed", "method", "setting", "layers")
DATA = {"banking77": 30, "clinc150": 20}  # epochs
TABLE = "encoder.embedding.weight"
CLAIMS = (
    ("log-quant", "8 bit"),
    ("product-quant", "d=1, b=8"),
    ("product-quant", "d=2, b=12"),
    ("multilevel, outputs", "8x"),
)
Setting = tuple[str, str, Callable[[tuple[str, ...]], Stage]]  # method, what distinguishes it, layers → stage
HIDDEN_WORDS = 0.2
WIDTHS = {"embedding": 300, "width": 256}


def hide_words(ids: Tensor) -> Tensor:
    """Some words as unknown ones, so that the row that stands for these is trained."""
    return torch.where((torch.rand(ids.shape) < HIDDEN_WORDS) & (ids > 1), 1, ids)


def data_of(name: str) -> Data:
    data = load_data(name, batch_size=128)
    part = data.train
    assert isinstance(part, TensorBatches)
    hidden = TensorBatches(part.inputs, part.targets, part.batch_size, shuffle=True, transform=hide_words)
    return replace(data, train=hidden, vocabulary=int(part.inputs.max()) + 1)


def network(data: Data, seed: int, epochs: int, work: Path) -> TextClassifier:
    """The trained classifier, from its file where it is there."""
    torch.manual_seed(seed)
    model = text_bow(data.classes, data.vocabulary, **WIDTHS)
    with torch.no_grad():
        model.encoder.embedding.weight.mul_(0.3)
    path = work / f"{data.name}-{epochs}-{seed}.safetensors"
    if path.exists():
        model.load_state_dict(safetensors.torch.load_file(path))
    else:
        config = TrainConfig(epochs=epochs, lr=3e-3, weight_decay=0.01, optimizer="adamw", seed=seed)
        train(model, data.task(), config)
        safetensors.torch.save_file(model.state_dict(), path)
    return model.eval()


def settings() -> Iterator[Setting]:
    """Those of the claims first."""
    yield "log-quant", "8 bit", lambda layers: LogQuant(layers=layers)
    yield "product-quant", "d=1, b=8", lambda layers: ProductQuant(1, 8, layers=layers)
    yield "product-quant", "d=2, b=12", lambda layers: ProductQuant(2, 12, layers=layers)
    for ratio in (8, 5, 6, 10, 12, 16, 24):
        yield "multilevel, outputs", f"{ratio}x", lambda layers, r=ratio: MultilevelProductQuant(ratio=r, layers=layers)
    for bits in (7, 6, 5, 4, 3):
        yield "log-quant", f"{bits} bit", lambda layers, b=bits: LogQuant(bits=b, layers=layers)
        label = f"{bits} bit, per row"
        yield "log-quant", label, lambda layers, b=bits: LogQuant(bits=b, scale="row", layers=layers)
    yield "log-quant", "8 bit, octaves", lambda layers: LogQuant(levels="octaves", layers=layers)
    widths = {1: (7, 6, 5, 4, 3, 2), 2: (11, 10, 9, 8, 6, 4), 4: (12, 10, 8, 6, 4), 8: (12, 10, 8, 6)}
    for part, bits in ((d, b) for d in widths for b in widths[d]):
        yield "product-quant", f"d={part}, b={bits}", lambda layers, d=part, b=bits: ProductQuant(d, b, layers=layers)
    yield "product-quant", "d=2, b=8, per position", lambda layers: ProductQuant(2, 8, "position", layers=layers)
    for rule in ("uses", "outputs"):
        for part, bits in ((2, 12), (2, 8), (4, 8)):
            yield (
                f"product-quant, {rule}",
                f"d={part}, b={bits}",
                lambda layers, d=part, b=bits, i=rule: ProductQuant(d, b, importance=i, layers=layers),
            )
    for rule in ("uses", "equal"):
        for ratio in (8, 12, 16):
            yield (
                f"multilevel, {rule}",
                f"{ratio}x",
                lambda layers, r=ratio, i=rule: MultilevelProductQuant(ratio=r, importance=i, layers=layers),
            )


def correct(model: nn.Module, data: Data) -> np.ndarray[Any, np.dtype[np.bool_]]:
    with torch.no_grad():
        return np.concatenate([(model(ids).argmax(1) == wanted).numpy() for ids, wanted in data.test])


def workshop_of(model: nn.Module, data: Data, seed: int) -> Workshop:
    def no_training(*_: Any, **__: Any) -> None:
        raise InputError("nothing is trained here")

    def judged(network: nn.Module) -> tuple[float, float]:
        loss = evaluate(network, data.validation, lambda y, t: float(data.loss(y, t)))
        return loss, evaluate(network, data.validation, data.score)

    return Workshop(model, data.task(), no_training, judged, (data.example(8),), seed)


def measured(stage: Stage, model: TextClassifier, data: Data, seed: int) -> dict[str, Any]:
    state = model.state_dict()
    began = time.process_time()
    code = stage.encode(state, workshop_of(model, data, seed))
    seconds = time.process_time() - began
    decoded = code.decode()
    smaller = copy_sharing(model, {})
    smaller.load_state_dict(decoded)
    before, after = correct(model, data), correct(smaller, data)
    wrong = state[TABLE].double() - decoded[TABLE].double()
    n = len(before)
    dense, table = packed(state), code.stored()[TABLE]
    return {
        "accuracy_dense": before.mean(),
        "accuracy": after.mean(),
        "points": 100 * (after.mean() - before.mean()),
        "points_error": 100 * float(np.sqrt((before != after).sum())) / n,
        "validation": evaluate(smaller, data.validation, accuracy),
        "validation_dense": evaluate(model, data.validation, accuracy),
        "examples": n,
        "bytes_dense": dense.nbytes,
        "bytes": code.nbytes,
        "ratio": dense.nbytes / code.nbytes,
        "table_bytes": table.nbytes,
        "table_ratio": 4 * state[TABLE].numel() / table.nbytes,
        "table_share": 4 * state[TABLE].numel() / dense.nbytes,
        "table_sqnr_db": float(10 * torch.log10(state[TABLE].double().square().sum() / wrong.square().sum())),
        "encode_seconds": round(seconds, 2),
    }


def plot(rows: pd.DataFrame, path: Path) -> None:
    """Change of accuracy against the ratio of the file: means over seeds with their standard errors."""
    mpl.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(rows["data"]))
    figure, axes = pyplot.subplots(1, len(names), figsize=(6 * len(names), 4.5), squeeze=False, layout="constrained")
    rows = rows[rows["layers"] == "all"]
    rows = rows.assign(line=lines(rows))
    for axis, name in zip(axes[0], names, strict=True):
        part = rows[rows["data"] == name]
        axis.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)  # more lines than the usual ten colours
        for line, group in part.groupby("line", sort=False):
            means = (
                group.groupby("setting", sort=False)[["ratio", "points", "points_error"]].mean().sort_values("ratio")
            )
            seeds = group["seed"].nunique()
            axis.errorbar(
                means["ratio"], means["points"], means["points_error"] / np.sqrt(seeds), marker="o", ms=3, label=line
            )
        axis.set(xscale="log", xlabel="file of floats / weights.ecz", ylabel="test accuracy, points", title=name)
        axis.set_ylim(-6, 1)
        axis.axhline(0, color="0.7", lw=0.8)
        axis.set_xticks([4, 5, 6, 8, 12, 16, 24, 32], [4, 5, 6, 8, 12, 16, 24, 32], minor=False)
        axis.minorticks_off()
    axes[0][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)


def lines(rows: pd.DataFrame) -> list[str]:
    """What the points of a line have in common."""
    named = []
    for method, setting in zip(rows["method"], rows["setting"], strict=True):
        extra = setting.split(", ")[-1] if method == "log-quant" and "," in setting else ""
        extra = setting.split(", ")[0] if method.startswith("product-quant") else extra
        extra += ", per position" if "per position" in setting else ""
        named.append(f"{method} {extra}".strip())
    return named


def add_rows(records: Records, chosen: list[Setting], model: TextClassifier, data: Data, seed: int) -> None:
    """Measure settings on all matrices, those of the claims on the embedding alone too."""
    for method, setting, stage in chosen:
        for layers, patterns in (("all", ()), ("table", (TABLE,)))[: 1 + ((method, setting) in CLAIMS)]:
            key = {"data": data.name, "seed": seed, "method": method, "setting": setting, "layers": layers}
            records.add(key, partial(measured, stage(patterns), model, data, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the trained networks")
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="one seed, the settings of the claims, results in the folder"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = options.work if options.quick else FOLDER
    records = Records(folder / "embedding_quantisation.csv", KEYS)
    for claimed in (True, False):
        for name in options.data:
            data = data_of(name)
            for seed in range(1 if options.quick else options.seeds):
                model = network(data, seed, DATA[name], options.work)
                add_rows(records, [each for each in settings() if (each[:2] in CLAIMS) == claimed], model, data, seed)
        if options.quick:
            break
    plot(pd.DataFrame(records.rows), folder / "embedding_quantisation.png")


if __name__ == "__main__":
    main()
