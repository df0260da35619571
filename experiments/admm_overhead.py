"""What ADMM adds to a step of training: time, by pairs of steps with and without it, and memory, by counting tensors.

    python experiments/admm_overhead.py

Steps with and without the constraint alternate on two copies of a network that get the same batches, so that whatever
else runs on the machine slows both alike. Time is the process's own. Half of the units are to go, so most steps
silence units. Writes experiments/measurements/admm_overhead.csv with the environment.
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import MEASUREMENTS, Records
from torch import nn

from ecc.core.problem import Constraint, Problem, Task
from ecc.energy_models.counting import CountCost
from ecc.network.tracing import trace
from ecc.solvers.admm import Admm
from ecc.solvers.alternation import Alternation
from ecc.solvers.limits import Limits
from ecc.solvers.sparsity import Sparsity
from ecc.solvers.training import Step
from ecc.zoo.loading import load_model

CASES = (("zoo:resnet20", 128, 32), ("zoo:mobilenet-v2", 128, 32))
VARIANTS = (("paper", "allocation", "energy"), ("paper", "gradient", "energy"), ("paper", "allocation", "taylor"))
CONTINUED = 2000  # steps of the run that the measured ones are taken from


def step_of(model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[Callable[[int], None], Any]:
    """A training step with Adam, and its optimiser."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    model.train()

    def step(index: int) -> None:
        inputs, targets = batches[index % len(batches)]
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step, optimizer


def tensors_bytes() -> int:
    """Bytes of all tensors that are alive, each storage once."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.layout == torch.strided:
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def measure(name: str, batch: int, size: int, variant: tuple[str, str, str], pairs: int) -> dict[str, Any]:
    """Ratio of the times of the steps, and bytes that ADMM holds, over those of the weights of units."""
    form, how, importance = variant
    torch.manual_seed(0)
    plain = load_model(name).module
    model = copy.deepcopy(plain)
    images = torch.randn(2, batch, 3, size, size)
    batches = [(image, torch.randint(0, 10, (batch,))) for image in images]
    graph = trace(plain, images[0][:2])
    cost = CountCost("macs", graph)
    task = Task(batches, batches, nn.functional.cross_entropy, lambda outputs, targets: 0.0)
    posed = Problem(model, graph.prunable, graph.space, task, (Constraint(cost, 0.5 * cost.dense),))
    method = Admm(form=form, step=how, importance=importance, continuation=1.0)  # type: ignore[arg-type]
    free, _ = step_of(plain, batches)
    bound, optimizer = step_of(model, batches)
    for _ in range(2):  # gradients and moments exist before memory is counted
        free(0)
        bound(0)
    before = tensors_bytes()
    hook = Alternation(method, posed, Limits(posed, method.min_fraction), model)
    seconds: dict[str, list[float]] = {"free": [], "bound": [], "hook": []}
    for index in range(pairs):
        for kind in ("free", "bound") if index % 2 else ("bound", "free"):
            started = time.process_time()
            if kind == "free":
                free(index)
            else:
                bound(index)
                between = time.process_time()
                hook.after_step(Step(optimizer, 1e-4, CONTINUED // 2 + index, CONTINUED))
                seconds["hook"].append(time.process_time() - between)
            seconds[kind].append(time.process_time() - started)
    prunable = sum(weight.numel() * weight.element_size() for weight in Sparsity(model, posed.groups).weights)
    ratios = np.array(seconds["bound"][3:]) / np.array(seconds["free"][3:])
    return {
        "step_ratio": float(np.median(ratios)),
        "step_ratio_low": float(np.quantile(ratios, 0.1)),
        "step_ratio_high": float(np.quantile(ratios, 0.9)),
        "hook_ms": 1e3 * float(np.median(seconds["hook"][3:])),
        "step_ms": 1e3 * float(np.median(seconds["free"][3:])),
        "hook_over_step": float(np.median(seconds["hook"][3:]) / np.median(seconds["free"][3:])),
        "copies_held": (tensors_bytes() - before) / prunable,
        "units_dropped": float((hook.limits.dense - hook.phi).sum() / hook.limits.dense.sum()),
        "pairs": pairs,
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=MEASUREMENTS / "admm_overhead.csv")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    records = Records(options.out, ("network", "batch", "size", "form", "step", "importance"), fresh=options.fresh)
    for name, batch, size in CASES:
        for variant in VARIANTS:
            key = {"network": name, "batch": batch, "size": size}
            key |= dict(zip(("form", "step", "importance"), variant, strict=True))
            records.add(key, lambda n=name, b=batch, s=size, v=variant: measure(n, b, s, v, options.pairs))
            print(records.rows[-1], flush=True)


if __name__ == "__main__":
    main()
