"""When layers in CSR are faster than dense ones: latency by how many weights are left.

    python experiments/csr_speed.py [--fresh] [--seconds S]

Layers of common shapes with random zeros, each measured in turn with its dense form as ``ecc.sparse_execution`` does:
paired ratios with 95 % intervals, one thread. Writes measurements/csr_speed.csv.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from records import MEASUREMENTS, Records
from torch import nn

from ecc.api.executing import sparse_execution

KEPT = (0.01, 0.03, 0.1, 0.3)
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear 4096 → 1024, 1 row": (nn.Linear(4096, 1024), (1, 4096)),
    "linear 4096 → 1024, 32 rows": (nn.Linear(4096, 1024), (32, 4096)),
    "linear 512 → 512, 1 row": (nn.Linear(512, 512), (1, 512)),
    "3×3, 64 → 64, 28 × 28": (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 28, 28)),
    "3×3, 256 → 256, 14 × 14": (nn.Conv2d(256, 256, 3, padding=1), (1, 256, 14, 14)),
    "1×1, 256 → 256, 14 × 14": (nn.Conv2d(256, 256, 1), (1, 256, 14, 14)),
}


def measured(layer: nn.Module, shape: tuple[int, ...], kept: float, seconds: float) -> dict[str, Any]:
    """The paired ratio of a layer with so many of its weights."""
    generator = torch.Generator().manual_seed(0)
    weight = layer.get_parameter("weight")
    with torch.no_grad():
        weight.normal_(generator=generator)
        weight.mul_(torch.rand(weight.shape, generator=generator) < kept)
    found = sparse_execution(nn.Sequential(layer), torch.randn(shape, generator=generator), seconds=seconds)
    row = found.layers.iloc[0]
    return {"ratio": row["ratio"], "low": row["low"], "high": row["high"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--seconds", type=float, default=3.0, help="longest time of a measurement")
    given = parser.parse_args()
    torch.set_num_threads(1)
    records = Records(MEASUREMENTS / "csr_speed.csv", ("layer", "kept"), fresh=given.fresh)
    for name, (layer, shape) in LAYERS.items():
        for kept in KEPT:
            key = {"layer": name, "kept": kept}
            records.add(key, lambda layer=layer, shape=shape, kept=kept: measured(layer, shape, kept, given.seconds))
            print(records.rows[-1])


if __name__ == "__main__":
    main()
