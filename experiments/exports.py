"""Every network of the zoo, dense and at half of its width, exported, run and compared; writes docs/export.md's table.

python experiments/exports.py [--fresh] [--page] [NETWORK …]

Weights are random and nothing is trained: half of the channels of every group that can be pruned are removed, and norms
take their statistics from one random batch, so that outputs are neither huge nor nothing. Rows go to
measurements/exports.csv the moment they are there; what is there is not made again unless `--fresh`. `--page` writes
the table only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from records import MEASUREMENTS, Records
from results_page import table
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from test_zoo_slimming import SMALL  # noqa: E402

import ecc  # noqa: E402
from ecc.core.errors import EccError  # noqa: E402
from ecc.zoo.networks import NETWORKS, Network  # noqa: E402

FILE = MEASUREMENTS / "exports.csv"
PAGE = HERE.parent / "docs" / "export.md"
FORMATS = {"onnx": "net.onnx", "pt2": "net.pt2"}
BEGIN, END = "<!-- experiments/exports.py writes from here -->", "<!-- to here -->"
LIMIT = 1e-4
BATCH = 8


def example(network: Network) -> Tensor:
    """One random example, small where the network takes any size."""
    shape = (1, *SMALL.get(network.name, network.input_shape))
    if network.input_dtype.is_floating_point:
        return torch.randn(shape)
    return torch.randint(0, network.vocabulary, shape)


def variants(network: Network) -> dict[str, tuple[nn.Module, Tensor]]:
    """The dense network and the one with half of the channels, each with an example."""
    torch.manual_seed(0)
    inputs = example(network)
    dense = settled(network.factory(), network)
    graph = ecc.trace(dense, inputs)
    half = {group.name: max(group.units // 2, 1) * group.step for group in graph.prunable}
    return {"dense": (dense, inputs), "half": (settled(ecc.slim(dense, graph, half), network), inputs)}


def settled(model: nn.Module, network: Network) -> nn.Module:
    """The network in eval mode, its norms with the statistics of one random batch."""
    norms = [part for part in model.eval().modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        with torch.no_grad():
            model(torch.cat([example(network) for _ in range(BATCH)]))
    return model.eval()


def exported(model: nn.Module, inputs: Tensor, format: str) -> Callable[[], dict[Any, Any]]:
    def measure() -> dict[Any, Any]:
        start = time.process_time()
        row: dict[Any, Any] = {
            "params": sum(each.numel() for each in model.parameters()),
            "input": "x".join(map(str, inputs.shape)),
        }
        with tempfile.TemporaryDirectory() as folder:
            try:
                made = ecc.export(model, Path(folder) / FORMATS[format], format=format, inputs=inputs)
            except EccError as error:
                return row | {"error": str(error), "cpu_s": time.process_time() - start}
        return row | {
            "max_abs_diff": made.max_abs_diff,
            "relative_diff": made.difference,
            "batch": made.batch or "any",
            "batches": " ".join(map(str, made.batches)),
            "reason": made.reason,
            "exporter": made.exporter,
            "opset": made.opset,
            "bytes": made.nbytes,
            "cpu_s": time.process_time() - start,
            "error": "",
        }

    return measure


def measure(names: list[str], fresh: bool) -> None:
    records = Records(FILE, ("network", "variant", "format"), fresh=fresh)
    for name in names:
        missing = [
            (variant, form)
            for variant in ("dense", "half")
            for form in FORMATS
            if not any((row["network"], row["variant"], row["format"]) == (name, variant, form) for row in records.rows)
        ]
        if not missing:
            continue
        made = variants(NETWORKS[name])
        for variant, form in missing:
            key = {"network": name, "variant": variant, "format": form}
            records.add(key, exported(*made[variant], form))
            print(name, variant, form, records.rows[-1].get("max_abs_diff"), file=sys.stderr, flush=True)


def write_page() -> None:
    """The table of the page: a row per network, the largest difference of each file, relative to the largest output."""
    rows = pd.read_csv(FILE, dtype={"commit": str}, keep_default_na=False)
    lines = []
    for name, part in rows.groupby("network"):
        cells = []
        for variant in ("dense", "half"):
            for form in FORMATS:
                found = part[(part.variant == variant) & (part.format == form)]
                cells.append(cell(found.iloc[0]) if len(found) else "not run")
        batch = "any" if set(part.batch.astype(str)) == {"any"} else ", ".join(sorted(set(part.batch.astype(str))))
        lines.append([name, part.input.iloc[0], batch, *cells])
    good = rows[(rows.error == "")]
    near = good[pd.to_numeric(good.relative_diff) <= LIMIT]
    older = rows[rows.exporter.str.contains("TorchScript")]
    said = (
        f"{len(near)} of {len(rows)} files run and differ by at most {LIMIT:g} of the largest output; the largest "
        f"absolute difference is {pd.to_numeric(good.max_abs_diff).max():.1e}. "
        f"{'All ONNX models are' if older.empty else f'All ONNX models but {len(older)} are'} of the dynamo exporter. "
        f"torch {rows.torch.iloc[0]}, Python {rows.python.iloc[0]}; made {rows.date.max()}, from "
        f"{rows.commit.iloc[0]} on."
    )
    header = ["network", "input", "batch", "dense, ONNX", "dense, pt2", "half, ONNX", "half, pt2"]
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(header, lines)}\n\n{said}\n\n{END}{after}", encoding="utf-8")


def cell(row: Any) -> str:
    if row.error:
        return "failed"
    return f"{float(row.relative_diff):.0e}" if float(row.relative_diff) else "0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    if not arguments.page:
        sizes = sorted(NETWORKS, key=lambda name: NETWORKS[name].params or 1e6)
        measure(arguments.networks or sizes, arguments.fresh)
    write_page()


if __name__ == "__main__":
    main()
