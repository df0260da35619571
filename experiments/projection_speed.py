"""How long a weighted sparse projection takes, beside a copy and a sort of the weights, and what memory it takes.

    python experiments/projection_speed.py [--fresh] [--note TEXT]

The weights are normal numbers in the layers of AlexNet, whose sizes are scaled to 1 to 100 million in all; prices are
those of AlexNet on Eyeriss, the budget is a fifth of what all weights cost. Repeats of
all actions take turns; medians. ``process_s`` is time of the processor, all threads together, and does not grow with
what else runs; ``wall_s`` does. Memory is what the peak of a fresh process grew by in a projection in place. Sorts are
left out at sizes where there is no need to wait for them. Writes measurements/projection_speed.csv.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import MEASUREMENTS, Records

from ecc.core.weights import Price
from ecc.energy_models.systolic.weights import WeightEnergy
from ecc.network.tracing import trace
from ecc.solvers.projection import project_, weighted_sparse_projection
from ecc.zoo.loading import load_model

MILLIONS = (1, 3, 10, 30, 61, 100)
SORTED = (1, 10, 61)
REPEATS = 5
BUDGET = 0.2
PIXELS = (1, 3, 224, 224)

Network = tuple[list[torch.Tensor], list[Price], float]


def offers() -> list[tuple[int, Price]]:
    """How many weights each layer of AlexNet has, and what they cost."""
    model = load_model("zoo:alexnet").module
    cost = WeightEnergy.of(model, trace(model, torch.zeros(PIXELS)))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return [(sizes[name], price) for name, price in cost.prices({}).tensors.items()]


def network(layers: list[tuple[int, Price]], millions: int) -> Network:
    """Random weights, prices and budget."""
    whole = sum(size for size, _ in layers)
    sizes = [round(size * millions * 1e6 / whole) for size, _ in layers]
    generator = torch.Generator().manual_seed(0)
    values = [
        torch.randn(size, generator=generator).mul_(full**-0.25) for size, (full, _) in zip(sizes, layers, strict=True)
    ]
    prices = [price for _, price in layers]
    dense = sum(price.of(size) for price, size in zip(prices, sizes, strict=True))
    return values, prices, BUDGET * dense


def extra_bytes(layers: list[tuple[int, Price]], millions: int) -> int:
    """By how much a projection in place raises the peak of a process."""
    torch.set_num_threads(1)
    project_(*network(layers, 1))  # what is loaded once
    values, prices, budget = network(layers, millions)
    before = peak_bytes()
    project_(values, prices, budget)
    return peak_bytes() - before


def peak_bytes() -> int:
    """The most memory this process had; the figure of getrusage is that of the process which started it, if higher."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def took(action: Callable[[], Any]) -> tuple[float, float]:
    """Wall and process time in s."""
    wall, process = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - process


def row(
    layers: list[tuple[int, Price]], millions: int, timings: dict[str, list[tuple[float, float]]], action: str
) -> Any:
    """Medians of one action, all of whose timings are there or are made now, in turn with the others."""
    if not timings:
        measure(layers, millions, timings)
    wall, process = np.median(np.array(timings[action]), 0)
    found = {"wall_s": float(wall), "process_s": float(process), "repeats": REPEATS}
    if action == "projection in place":
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found["peak_extra_bytes"] = pool.apply(extra_bytes, (layers, millions))
        found["copy_bytes"] = 4 * sum(value.numel() for value in network(layers, millions)[0])
    return found


def measure(layers: list[tuple[int, Price]], millions: int, timings: dict[str, list[tuple[float, float]]]) -> None:
    """Time every action."""
    values, prices, budget = network(layers, millions)
    work = [value.clone() for value in values]
    for _ in range(REPEATS):
        for one, other in zip(work, values, strict=True):
            one.copy_(other)
        actions: dict[str, Callable[[], Any]] = {
            "projection in place": partial(project_, work, prices, budget),
            "projection": partial(weighted_sparse_projection, values, prices, budget),
            "clone": lambda: [value.clone() for value in values],
        }
        if millions in SORTED:
            every = torch.cat(values)
            actions["torch.sort"] = partial(torch.sort, every)
        for name, action in actions.items():
            timings.setdefault(name, []).append(took(action))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--note", default="", help="what else ran, for the rows")
    arguments = parser.parse_args()
    records = Records(MEASUREMENTS / "projection_speed.csv", ("millions", "action"), fresh=arguments.fresh)
    layers = offers()
    for millions in MILLIONS:
        timings: dict[str, list[tuple[float, float]]] = {}
        for action in ("projection in place", "projection", "clone", "torch.sort"):
            if action != "torch.sort" or millions in SORTED:
                key = {"millions": millions, "action": action, "note": arguments.note}
                records.add(key, partial(row, layers, millions, timings, action))


if __name__ == "__main__":
    main()
