"""Our systolic arrays beside SCALE-Sim and ZigZag, each run by a Python that has it; writes one CSV file for each.

    python experiments/systolic_peers.py --scalesim PYTHON --zigzag PYTHON

The heads of ``scalesim_peer.py`` and ``zigzag_peer.py`` say how to make these. Every row has both sides; SCALE-Sim's
cycles are one less than ours, and it counts rows + columns output writes too many in each fold where outputs stay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from records import MEASUREMENTS, environment

from ecc.core.operators import Operator
from ecc.energy_models.systolic.array import DATAFLOWS, SystolicArray
from ecc.energy_models.systolic.dataflow import execute, gemms_of

HERE = Path(__file__).resolve().parent
LARGE = 1 << 30


def convolution(layer: Sequence[int]) -> Operator:
    """A convolution without padding: height, width, kernel_h, kernel_w, channels, filters, stride."""
    height, width, kernel_h, kernel_w, channels, filters, stride = layer
    return Operator(
        "conv", channels_in=channels, channels_out=filters, height=height, width=width,
        out_height=(height - kernel_h) // stride + 1, out_width=(width - kernel_w) // stride + 1,
        kernel_h=kernel_h, kernel_w=kernel_w, stride=stride,
    )  # fmt: skip


def random_layers(count: int, seed: int, most: int) -> list[list[int]]:
    """Layers whose stride divides, so that all agree about the size of the output."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(count):
        kernel, stride = int(rng.integers(1, 6)), int(rng.integers(1, 3))
        size = kernel + stride * int(rng.integers(0, 13))
        layers.append([size, size, kernel, kernel, *map(int, rng.integers(1, most, 2)), stride])
    return layers


def ask(python: str, script: str, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a peer says of the cases."""
    run = subprocess.run(
        [python, str(HERE / script)], input=json.dumps(cases), capture_output=True, text=True, check=True
    )
    return list(json.loads(run.stdout))


def beside_scalesim(python: str, count: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    cases = [
        {
            "dataflow": DATAFLOWS[i % 3],
            "rows": int(rng.integers(1, 65)),
            "columns": int(rng.integers(1, 65)),
            "layer": layer,
        }
        for i, layer in enumerate(random_layers(count, seed=2, most=65))
    ]
    rows = []
    for case, theirs in zip(cases, ask(python, "scalesim_peer.py", cases), strict=True):
        operator = convolution(case["layer"])
        array = SystolicArray("any", case["rows"], case["columns"], LARGE, LARGE, LARGE, dataflow=case["dataflow"])
        ours, (gemm,) = execute([operator], array), gemms_of(operator)
        folds = -(-gemm.m // array.rows) * -(-gemm.n // array.columns) if array.dataflow == "os" else 0
        theirs["cycles"] += 1
        theirs["output_writes"] -= folds * (array.rows + array.columns)
        names = ("cycles", "input_reads", "weight_reads", "output_writes")
        same = all(theirs[name] == getattr(ours, name) for name in names)
        both = {
            f"{name}_{side}": value
            for name in names
            for side, value in (("ours", getattr(ours, name)), ("scalesim", theirs[name]))
        }
        rows.append({**case, "layer": "x".join(map(str, case["layer"])), **both, "equal": same})
    return pd.DataFrame(rows)


def beside_zigzag(python: str, count: int) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    cases = []
    for i in range(count):
        # channels that the array divides, where ZigZag is exact
        side, kernel, out = 16, int(rng.choice([1, 3])), int(rng.choice([8, 16]))
        channels, filters = (16 * int(n) for n in rng.integers(1, 5, 2))
        layer = [out + kernel - 1, out + kernel - 1, kernel, kernel, channels, filters, 1]
        cases.append({"side": side, "buffer": (128 << 10, 8 << 10)[i % 2], "layer": layer})
    rows = []
    for case, theirs in zip(cases, ask(python, "zigzag_peer.py", cases), strict=True):
        share = case["buffer"] // 4  # of the one buffer: inputs a half, weights and partial sums a quarter each
        array = SystolicArray("any", 16, 16, 2 * share, share, share, dataflow="ws")
        ours = execute([convolution(case["layer"])], array)
        rows.append(
            {
                **case, "layer": "x".join(map(str, case["layer"])), "fits": ours.again == 0,
                "dram_ours": ours.dram, "dram_zigzag": theirs["dram"], "compulsory": ours.compulsory,
                "energy_ours": ours.energy(array), "energy_zigzag": theirs["energy"],
                "energy_ratio": ours.energy(array) / theirs["energy"],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scalesim", metavar="PYTHON", help="that has scalesim")
    parser.add_argument("--zigzag", metavar="PYTHON", help="that has zigzag-dse")
    parser.add_argument("--count", type=int, default=150, help="layers for SCALE-Sim; a tenth of it for ZigZag")
    arguments = parser.parse_args()
    if arguments.scalesim:
        frame = beside_scalesim(arguments.scalesim, arguments.count).assign(**environment())
        frame.to_csv(MEASUREMENTS / "systolic_scalesim.csv", index=False)
        print(f"SCALE-Sim: {int(frame['equal'].sum())} of {len(frame)} layers equal in cycles and cache accesses")
    if arguments.zigzag:
        frame = beside_zigzag(arguments.zigzag, max(1, arguments.count // 10)).assign(**environment())
        frame.to_csv(MEASUREMENTS / "systolic_zigzag.csv", index=False)
        fits = frame[frame["fits"]]
        same, ratio = int((fits["dram_ours"] == fits["dram_zigzag"]).sum()), frame["energy_ratio"]
        print(
            f"ZigZag: DRAM words equal in {same} of {len(fits)} layers that fit; energy over its optimum from "
            f"{ratio.min():.4f} to {ratio.max():.4f}; "
            f"rank correlation {frame['energy_ours'].corr(frame['energy_zigzag'], method='spearman'):.3f}"
        )


if __name__ == "__main__":
    main()
