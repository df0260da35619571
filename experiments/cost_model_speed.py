"""How long cost models take: one cost with its gradient, a fit of 10,000 rows, the systolic energy of AlexNet.

    python experiments/cost_model_speed.py [--fresh]

Process time on one thread, medians over repeats. The network is ResNet-50, its rows are those of a simulated 32 × 32
array with 5 % noise. The energy of AlexNet on Eyeriss is that of weight tensors of which half are zero, without the
trace of the network. Writes measurements/cost_model_speed.csv.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from records import MEASUREMENTS, Records
from sampling import drawn, network
from staircase import NOISE, Hardware, as_table

from ecc.energy_models.forms import FORMS, Options
from ecc.energy_models.samples import Samples
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.energy import systolic_energy
from ecc.network.tracing import trace
from ecc.zoo.loading import load_model

FIT_ROWS = 10_000
PIXELS = (1, 3, 224, 224)


def took(action: Callable[[], Any], repeats: int) -> float:
    """Median process time in s."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return float(np.median(times))


def rows_of(hardware: Hardware, rows: int) -> Samples:
    """Random widths with noisy ratios."""
    widths = drawn(hardware.graph.space, rows, 0)
    noisy = hardware.ratios(widths) * np.exp(np.random.default_rng(1).normal(0, NOISE, rows))
    return Samples.of(as_table(hardware.graph, widths, ["random"] * rows, noisy, NOISE), "latency")


def with_gradient(cost: Callable[[torch.Tensor], torch.Tensor], widths: torch.Tensor) -> None:
    """One cost and its gradient, as a solver asks for them."""
    at = widths.clone().requires_grad_()
    torch.autograd.grad(cost(at), at)


def gradient_row(hardware: Hardware, form: str) -> dict[str, Any]:
    cost = FORMS[form].fit(rows_of(hardware, FIT_ROWS), Options())
    widths = 0.7 * torch.tensor(hardware.graph.space.dense, dtype=torch.float64)
    with_gradient(cost, widths)  # what is computed once and kept
    size = f"{len(hardware.graph.space)} groups, {len(cost.coefficients)} coefficients"
    return {"size": size, "process_s": took(partial(with_gradient, cost, widths), 300)}


def fit_row(hardware: Hardware, form: str) -> dict[str, Any]:
    samples = rows_of(hardware, FIT_ROWS)
    size = f"{len(hardware.graph.space)} groups"
    return {"size": size, "process_s": took(lambda: FORMS[form].fit(samples, Options()), 3)}


def energy_row() -> dict[str, Any]:
    model = load_model("zoo:alexnet").module
    for weight in model.parameters():
        weight.data *= torch.rand_like(weight) < 0.5
    graph = trace(model, torch.zeros(PIXELS))
    array = SystolicArray.preset("eyeriss")
    size = f"{sum(weight.numel() for weight in model.parameters()):,} weights"
    return {"size": size, "process_s": took(lambda: systolic_energy(model, graph, array), 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    records = Records(MEASUREMENTS / "cost_model_speed.csv", ("what", "form"), fresh=given.fresh)
    hardware = network("resnet50", PIXELS, 1)
    forms = [name for name, form in FORMS.items() if not form.needs_operators]
    for form in forms:
        records.add({"what": "cost and gradient", "form": form}, partial(gradient_row, hardware, form))
    records.add({"what": "systolic energy", "form": "AlexNet on Eyeriss"}, energy_row)
    for form in forms:
        records.add({"what": "fit of 10,000 rows", "form": form}, partial(fit_row, hardware, form))


if __name__ == "__main__":
    main()
