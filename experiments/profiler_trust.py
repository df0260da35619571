"""How far the rows of a profile can be trusted on this CPU: intervals, repetition in another process, pairing, cost.

python experiments/profiler_trust.py OUT [--network resnet20] [--samples 200]

Profiles the network, measures twenty of its configurations again in a fresh process and a store of its own, and fits
the same rows with and without pairing. Writes profiler_trust_NETWORK.json and …_repeats.csv under measurements/.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ecc.api.measuring import measure_widths
from ecc.core.table import ProfileTable
from ecc.energy_models.judging import judge
from ecc.network.blocks import aligned_steps, in_blocks
from ecc.network.tracing import trace
from ecc.profiler.devices import current_device
from ecc.profiler.gauges import gauge_for
from ecc.profiler.meters import meter_for
from ecc.profiler.protocol import profile
from ecc.profiler.store import Store
from ecc.zoo.networks import NETWORKS

HERE = Path(__file__).resolve().parent
REPEATED = 20
FIXED = ("latency_ratio", "latency_ratio_low", "latency_ratio_high")


def network(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    described = NETWORKS[name]
    return described.factory().eval(), torch.randn(1, *described.input_shape)


def say(stage: str, done: float, total: float, note: str = "") -> None:
    print(f"\r{stage} {done:.0f}/{total:.0f} {note}   ", end="", file=sys.stderr, flush=True)


def measure(name: str, samples: int, path: Path) -> dict[str, Any]:
    model, inputs = network(name)
    result = measure_widths(
        model, trace(model, inputs), inputs, samples=samples, store=path, network=name, progress=say
    )
    return {"seconds": result.seconds, "inside": result.inside, "flags": dict(result.flags)}


def measure_again(name: str, first: Path, path: Path) -> None:
    """A spread of the first store's configurations, from fresh."""
    with Store(first) as store:
        table = store.table()
    model, inputs = network(name)
    graph = trace(model, inputs)
    blocks = in_blocks(graph, model, aligned_steps(graph, current_device("cpu").channel_step))
    order = np.argsort(table.rows["latency_ratio"].to_numpy(), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, REPEATED).round().astype(int)]
    design = [blocks.space.widths(table.widths[i]) for i in chosen]
    profile(
        model, blocks, inputs, design, [meter_for("latency")], store=path, network=name, progress=say, seed=1,
        gauge=gauge_for("cpu"),
    )  # fmt: skip


def repeats(first: ProfileTable, second: ProfileTable) -> pd.DataFrame:
    """Both measurements of each configuration, and whether their intervals meet."""
    known = {
        tuple(widths): row for widths, row in zip(first.widths.tolist(), first.rows.to_dict("records"), strict=True)
    }
    rows = []
    for widths, now in zip(second.widths.tolist(), second.rows.to_dict("records"), strict=True):
        before = known[tuple(widths)]
        rows.append(
            {f"{column}_first": before[column] for column in FIXED}
            | {f"{column}_again": now[column] for column in FIXED}
            | {
                "difference": now["latency_ratio"] / before["latency_ratio"] - 1,
                "meet": now["latency_ratio_low"] <= before["latency_ratio_high"]
                and before["latency_ratio_low"] <= now["latency_ratio_high"],
            }
        )
    return pd.DataFrame(rows)


def without_pairing(table: ProfileTable) -> ProfileTable:
    """The same rows, their own medians divided by the dense network's long-run value."""
    rows, dense = table.rows.copy(), table.reference["latency"][0]
    scale = rows["latency_s"] / dense / rows["latency_ratio"]
    for column in FIXED:
        rows[column] = rows[column] * scale
    return replace(table, rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", default="resnet20", choices=sorted(NETWORKS))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    first, second = (arguments.out / f"{arguments.network}-{name}.db" for name in ("first", "again"))
    if arguments.again:
        measure_again(arguments.network, first, second)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    cost = measure(arguments.network, arguments.samples, first)
    command = [sys.executable, __file__, str(arguments.out), "--network", arguments.network, "--again"]
    subprocess.run(command, check=True)
    with Store(first) as store, Store(second) as again:
        table, repeated = store.table(), repeats(store.table(), again.table())
    half = (table.rows["latency_ratio_high"] - table.rows["latency_ratio_low"]) / 2 / table.rows["latency_ratio"]
    paired, alone = (judge(rows, "latency", form="bilinear") for rows in (table, without_pairing(table)))
    found = {
        "network": arguments.network,
        "rows": len(table),
        **cost,
        "half_width_median": float(half.median()),
        "half_width_within_2pct": float((half <= 0.02).mean()),
        "wide_and_not_flagged": int(((half > 0.02) & ~table.rows["flags"].str.contains("noisy")).sum()),
        "repeated": len(repeated),
        "repeats_that_meet": float(repeated["meet"].mean()),
        "repeat_difference_median": float(repeated["difference"].abs().median()),
        "mape_paired": paired.holdout["mape"],
        "mape_without_pairing": alone.holdout["mape"],
        "mape_macs_only": paired.macs_only,
        "noise_floor": paired.noise_floor,
        "torch": torch.__version__,
        "system": platform.platform(),
        "cpu": current_device("cpu").name,
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE, check=True
        ).stdout.strip(),
        "date": date.today().isoformat(),
    }
    measurements = HERE / "measurements"
    (measurements / f"profiler_trust_{arguments.network}.json").write_text(json.dumps(found, indent=1) + "\n")
    repeated.to_csv(measurements / f"profiler_trust_{arguments.network}_repeats.csv", index=False)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
