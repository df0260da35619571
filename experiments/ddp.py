"""Two processes against one with the same global batch: the same weights, the same duals.

    python experiments/ddp.py

Each row compresses one trained network twice by one call of ``ecc.compress``: in two processes with batches of n, as
torchrun starts them (gloo, CPU), and in one process with batches of 2n. ``difference`` is the largest absolute
difference of any parameter of the two results; ``relative`` is the norm of all differences over the norm of the
weights. Rows in float64 show that what is left in float32 is rounding, which training amplifies. ``twins`` says
whether both processes hold the same bits; ``duals`` whether their histories, with all duals, do.

Examples are 1,001, so that the last step of an epoch has fewer of them, and in one process only.

Writes experiments/measurements/ddp.csv with the environment.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from records import MEASUREMENTS, Records
from sklearn.datasets import load_digits
from torch import nn

from ecc.api.verbs import compress
from ecc.core.problem import Task
from ecc.data.values import TensorBatches, accuracy
from ecc.solvers.training import TrainConfig, train

EXAMPLES, BATCH, PRETRAINED, EPOCHS = 1001, 48, 6, 4
METHODS = ("admm", "uniform", "magnitude", "projected-sgd")


def plain(norm: Callable[[int], nn.Module], *, bias: bool = True) -> nn.Module:
    """A network for digits with a residual sum, and with that norm behind its convolutions.

    Args:
        bias: Whether convolutions have one. Before a batch norm it changes nothing, so its gradient is rounding alone,
            of which Adam makes whole steps.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=bias),
        norm(16),
        nn.ReLU(),
        _Residual(16, norm, bias),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


class _Residual(nn.Module):
    def __init__(self, width: int, norm: Callable[[int], nn.Module], bias: bool) -> None:
        super().__init__()
        self.inner = nn.Conv2d(width, 24, 3, padding=1, bias=bias)
        self.outer = nn.Conv2d(24, width, 3, padding=1, bias=bias)
        self.first, self.second = norm(24), norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.first(self.inner(x)))
        return torch.relu(x + self.second(self.outer(inner)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "no norm": lambda: plain(lambda width: nn.Identity()),
    "group norm": lambda: plain(lambda width: nn.GroupNorm(4, width)),
    "batch norm": lambda: plain(nn.BatchNorm2d, bias=False),
    "batch norm, synced": lambda: plain(nn.BatchNorm2d, bias=False),
}


def data(dtype: torch.dtype, batch: int) -> tuple[TensorBatches, TensorBatches]:
    """Training and held-out digits."""
    digits = load_digits()
    images, targets = torch.tensor(digits.images, dtype=dtype)[:, None] / 16, torch.tensor(digits.target)
    whole = TensorBatches(images[:EXAMPLES], targets[:EXAMPLES], batch, shuffle=True)
    return whole, TensorBatches(images[EXAMPLES:], targets[EXAMPLES:], 512)


def trained(network: str) -> dict[str, torch.Tensor]:
    """The dense network's weights, trained in one process."""
    torch.manual_seed(0)
    model = NETWORKS[network]()
    loaders = data(torch.float32, BATCH)
    task = Task(*loaders, nn.functional.cross_entropy, accuracy)
    train(model, task, TrainConfig(epochs=PRETRAINED, lr=3e-3))
    return model.state_dict()


def compressed(
    network: str, method: str, dtype: torch.dtype, start: dict[str, torch.Tensor], batch: int
) -> dict[str, Any]:
    """Weights, widths and history of one call of ``ecc.compress`` in this process, or in all that are together."""
    torch.set_default_dtype(dtype)
    batches, held_out = data(dtype, batch)
    model = NETWORKS[network]()
    model.load_state_dict(start)
    weights = method == "projected-sgd"
    result = compress(
        model,
        batches,
        held_out,
        budgets=["params<=40%" if weights else "macs<=50%"],
        method=method,
        epochs=EPOCHS,
        lr=1e-3,
        options={"train.sync_norms": True} if network.endswith("synced") else {},
    )
    history = result.history.drop(columns="seconds")
    duals = [name for name in history if str(name).startswith("z_")]
    return {
        "state": result.model.state_dict(),
        "widths": dict(result.widths),
        "history": history.to_csv(index=False),
        "duals": len(duals),
        "accuracy": result.accuracy,
    }


def together(work: Callable[[], dict[str, Any]], world: int = 2) -> list[dict[str, Any]]:
    """What ``work`` returns in each of several forked processes with the environment that torchrun gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:

        def run(rank: int) -> None:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            torch.save(work(), Path(folder) / str(rank))

        processes = [context.Process(target=run, args=(rank,)) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return [torch.load(Path(folder) / str(rank)) for rank in range(world)]


def compared(network: str, method: str, dtype: torch.dtype, start: dict[str, torch.Tensor]) -> dict[str, Any]:
    """One row."""
    first, second = together(lambda: compressed(network, method, dtype, start, BATCH))
    (single,) = together(lambda: compressed(network, method, dtype, start, 2 * BATCH), 1)
    state, alone = first["state"], single["state"]
    same = first["widths"] == single["widths"]
    learnt = [name for name in state if "running" not in name and "tracked" not in name]
    gaps = [(state[name] - alone[name]).double() for name in learnt] if same else []
    size = sum(float(alone[name].double().square().sum()) for name in learnt) ** 0.5
    return {
        "same widths": same,
        "difference": max((float(gap.abs().max()) for gap in gaps), default=float("nan")),
        "relative": sum(float(gap.square().sum()) for gap in gaps) ** 0.5 / size if same else float("nan"),
        "twins": all(torch.equal(tensor, second["state"][name]) for name, tensor in state.items()),
        "duals": first["history"] == second["history"],
        "histories": f"{first['duals']} dual(s)",
        "accuracy of two": first["accuracy"],
        "accuracy of one": single["accuracy"],
    }


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="this one alone; repeatable")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records = Records(MEASUREMENTS / "ddp.csv", ("network", "method", "dtype"), fresh=arguments.fresh)
    for network in arguments.network or NETWORKS:
        start = trained(network)
        for dtype in (torch.float32, torch.float64):
            for method in METHODS:
                key = {"network": network, "method": method, "dtype": str(dtype).removeprefix("torch.")}
                records.add(key, partial(compared, network, method, dtype, start))
    shown = ("network", "method", "dtype", "same widths", "difference", "relative", "twins", "duals")
    for row in records.rows:
        print(*(row[name] for name in shown))


if __name__ == "__main__":
    main()
