"""How good allocations are: small random ones against all widths and an integer program, networks by their own bound.

Curves and the coefficients of the fitted forms are random, by seed; graphs, counts and systolic costs are real. Times
are of the process on one thread.

    python experiments/allocation_quality.py --random 400 --networks
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from allocation_oracle import brute_force, integer_program, limits_of, random_case  # noqa: E402
from records import MEASUREMENTS, Records  # noqa: E402

from ecc.core.cost import CostModel  # noqa: E402
from ecc.core.errors import InputError  # noqa: E402
from ecc.energy_models.bilinear import BilinearCost  # noqa: E402
from ecc.energy_models.counting import CountCost  # noqa: E402
from ecc.energy_models.staircase import StaircaseCost  # noqa: E402
from ecc.energy_models.stepped import stepped_terms  # noqa: E402
from ecc.energy_models.systolic.cost import SystolicCost  # noqa: E402
from ecc.energy_models.terms import terms_of  # noqa: E402
from ecc.network.blocks import aligned_steps, in_blocks  # noqa: E402
from ecc.network.graph import WidthGraph  # noqa: E402
from ecc.network.tracing import trace  # noqa: E402
from ecc.solvers.allocation import Allocation, allocate  # noqa: E402
from ecc.zoo.networks import NETWORKS  # noqa: E402

NETWORKS_AND_STEPS = (("resnet50", 8), ("densenet121", 8), ("mobilenet-v2", 8), ("resnet20", 1), ("vgg16", 8))
COSTS = (("bilinear",), ("staircase",), ("systolic",), ("bilinear", "macs"), ("staircase", "params", "systolic"))
SHARES = (0.7, 0.5, 0.3)
TILES = {"conv": (8, 32, 1), "linear": (8, 32, 1)}
SECONDS = 20.0  # of the clock: others may be at work; cpu_s says how many are needed


def cost_of(form: str, graph: WidthGraph, seed: int) -> CostModel:
    """A cost of that form; that of a fitted form has a random price of each term."""
    if form in ("macs", "params", "memory"):
        return CountCost(form, graph)
    if form == "systolic":
        return SystolicCost.of(graph, "eyeriss")
    plain, stepped = terms_of(graph.space, graph.layers), stepped_terms(graph.space, graph.layers, TILES)
    rng = np.random.default_rng(seed)
    given: dict[str, Any] = {"metric": "latency", "space": graph.space, "constant": 0.05, "reference": (1.0, 1.0, 1.0)}
    macs = plain.macs if form == "bilinear" else stepped.macs
    prices = macs / macs.sum() * rng.uniform(0.3, 1.7, len(macs)) + 0.3 * rng.random(len(macs)) / len(macs)
    prices *= 0.95 / prices.sum()
    if form == "bilinear":
        return BilinearCost(**given, terms=plain.with_values(prices))
    return StaircaseCost(**given, terms=stepped.with_values(prices), steps=TILES)


def curves_of(units: list[int], seed: int, *, convex: bool) -> list[torch.Tensor]:
    """Losses of dropping units in the order of their importance, or in no order."""
    rng = np.random.default_rng(seed)
    curves = []
    for count in units:
        losses = rng.gamma(0.7, size=count) * rng.choice([0.3, 1.0, 3.0]) / np.sqrt(count)
        losses = np.sort(losses) if convex else losses
        curves.append(torch.tensor(np.append(np.cumsum(losses)[::-1], 0.0)))
    return curves


def said(found: Allocation, seconds: float) -> dict[str, Any]:
    """Columns of an allocation."""
    return {
        "loss": found.loss,
        "bound": found.bound,
        "gap": found.gap,
        "nodes": found.nodes,
        "cpu_s": round(seconds, 3),
        "reason": found.reason,
    }


def random_row(seed: int) -> dict[str, Any]:
    """A small random allocation, and how far it is from the best of all widths and of an integer program."""
    curves, limits, kinds = random_case(seed)
    started = time.process_time()
    found = allocate(curves, limits, gap=0.0, seconds=600)
    seconds = time.process_time() - started
    row = {"costs": "+".join(kinds), "groups": len(limits.dense), "widths": int(limits.dense.prod())}
    best = brute_force(curves, limits)
    return row | said(found, seconds) | {"best": best, "milp": integer_program(curves, limits)}


def network_rows(records: Records) -> None:
    """Networks under costs and budgets."""
    for name, step in NETWORKS_AND_STEPS:
        network = NETWORKS[name]
        model = network.factory().eval()
        graph = trace(model, torch.zeros(1, *network.input_shape))
        graph = in_blocks(graph, model, aligned_steps(graph, step)) if step > 1 else graph
        for forms in COSTS:
            costs = [cost_of(form, graph, seed) for seed, form in enumerate(forms)]
            for share in SHARES:
                for convex in (True, False):
                    limits = limits_of(costs, [share] * len(costs))
                    curves = curves_of([int(each) for each in limits.dense], 0, convex=convex)
                    key = {
                        "network": name,
                        "step": step,
                        "costs": "+".join(forms),
                        "share": share,
                        "curves": "convex" if convex else "bent",
                    }

                    def measure(curves: list[torch.Tensor] = curves, limits: Any = limits) -> dict[str, Any]:
                        started = time.process_time()
                        found = allocate(curves, limits, seconds=SECONDS)
                        return {"groups": len(limits.dense)} | said(found, time.process_time() - started)

                    try:
                        records.add(key, measure)
                    except InputError as error:  # below the smallest admissible network
                        print(key, error)
                    else:
                        print(records.rows[-1])


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=0, help="random allocations")
    parser.add_argument("--networks", action="store_true", help="allocations of networks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    small = Records(MEASUREMENTS / "allocation_random.csv", ("seed",))
    for seed in range(arguments.random):
        small.add({"seed": seed}, lambda seed=seed: random_row(seed))
    if arguments.networks:
        keys = ("network", "step", "costs", "share", "curves")
        network_rows(Records(MEASUREMENTS / "allocation_networks.csv", keys))


if __name__ == "__main__":
    main()
