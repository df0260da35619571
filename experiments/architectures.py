"""What the width graph does on many networks: measures it and writes docs/architectures.md from what was measured.

python experiments/architectures.py [--quick] [--only STEP …] [--fresh]

Needs the extras `test` and `peers`. Each row is written to measurements/architectures/STEP.csv the moment that it
is there, and what is there already is not measured again unless `--fresh`; so an interrupted run goes on where it was.
`--quick` tries everything on little, elsewhere (`--out`), and publishes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, fx, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from architectures_page import write_page  # noqa: E402
from network_cases import CASES  # noqa: E402
from random_networks import judge, judge_random_network, random_units  # noqa: E402
from vision_networks import VISION, enliven  # noqa: E402

import ecc  # noqa: E402
from ecc.core.widths import Kept  # noqa: E402
from ecc.network.checking import perturbed  # noqa: E402
from ecc.network.equality import zero_then_remove  # noqa: E402
from ecc.network.graph import WidthGraph  # noqa: E402
from ecc.network.slimming import outline  # noqa: E402

TIMED = ("resnet50", "densenet121", "mobilenet_v3_large", "vit_b_16", "swin_t")
SAMPLED = ("resnet50", "densenet121")
LENGTHS = (10, 100, 1000)
Row = dict[str, Any]


class Rows:
    """A CSV file of rows by name; a row is there once it is measured."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done = pd.read_csv(path, dtype={"commit": str}).to_dict("records") if path.exists() else []

    def add(self, name: str, measure: Callable[[], Row]) -> None:
        if any(row["name"] == name for row in self.done):
            return
        start = time.perf_counter()
        row = {"name": name, **measure(), "commit": commit(), "date": date.today().isoformat()}
        self.done.append(row)
        pd.DataFrame(self.done).to_csv(self.path, index=False)
        print(f"{self.path.stem}: {name}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE, check=True
    )
    return found.stdout.strip()


def environment() -> Row:
    return {
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": sys.version.split()[0],
        "load": round(os.getloadavg()[0], 1),
    }


def case_row(name: str, draws: int) -> Row:
    """A structural case in float64, by the judge of the tests; the reasons of what stays."""
    model, inputs = CASES[name].build()
    found = judge(model, (inputs,), draws=draws)
    reasons = {g.reason for g in ecc.trace(model, inputs).groups if not g.prunable} - {"it is an output of the network"}
    return {
        "outcome": found.status,
        "detail": found.detail,
        "prunable": found.prunable,
        "error": found.error,
        "draws": draws if found.prunable else 0,
        "reason": " · ".join(sorted(reasons)),
    }


def random_row(seed: int, draws: int) -> Row:
    found = judge_random_network(seed, 4 + seed % 12, draws=draws)
    return {
        "outcome": found.status,
        "detail": found.detail,
        "prunable": found.prunable,
        "error": found.error,
        "draws": draws if found.prunable else 0,
    }


def vision_row(name: str, draws: int) -> Row:
    """One network of torchvision in float32: what may go, and the largest error over random widths."""
    model, inputs = VISION[name].build()
    enliven(model, tuple(inputs.shape))
    graph = ecc.trace(model, inputs)
    generator, trial = np.random.default_rng(0), perturbed(model, 1)
    kept = [random_units(graph, generator) for _ in range(draws)]
    error = max(removed(trial, graph, units, inputs) for units in kept)
    double = trial.double()
    error_double = max(removed(double, graph, units, inputs.double()) for units in kept[:3])
    reasons = {group.reason for group in graph.groups if not group.prunable} - {"it is an output of the network"}
    return {
        "pixels": inputs.shape[-1],
        "prunable": len(graph.prunable),
        "groups": len(graph.groups),
        "error": error,
        "error_double": error_double,
        "draws": draws,
        "share": native_share(name, graph),
        "reason": " · ".join(sorted(reasons)),
    }


def removed(model: nn.Module, graph: WidthGraph, kept: Kept, inputs: Tensor) -> float:
    """The relative error of zero-then-remove, infinite if the slim network does not run."""
    try:
        return zero_then_remove(model, graph, kept, inputs)
    except RuntimeError:
        return float("inf")


def native_share(name: str, graph: WidthGraph) -> float:
    """The MACs that go at the smallest widths, as a share of all, at the size of image that the network is made for."""
    model, inputs = VISION[name].build(native=True)
    whole = ecc.trace(model, inputs, check=False)
    names = {group.name for group in graph.prunable} & {group.name for group in whole.prunable}
    return 1 - whole.macs({name: whole.group(name).step for name in names}) / whole.macs()


def peer_row(name: str, limit_s: int) -> Row:
    """Torch-Pruning in a process of its own, which may use the processor for so long."""
    command = [sys.executable, str(HERE / "pruning_peer.py"), name]
    limit = partial(resource.setrlimit, resource.RLIMIT_CPU, (limit_s, limit_s))
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=limit,
            timeout=8 * limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"outcome": "never ends", "detail": f"stopped after {8 * limit_s} s"}
    if done.returncode:
        killed = done.returncode < 0
        detail = f"stopped after {limit_s} s" if killed else f"exit {done.returncode}"
        return {"outcome": "never ends" if killed else "crash", "detail": detail}
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def seconds(act: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median processor and wall time."""
    found = []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        act()
        found.append((time.process_time() - processor, time.perf_counter() - wall))
    processors, walls = zip(*found, strict=True)
    return statistics.median(processors), statistics.median(walls)


def time_row(name: str, repeats: int) -> Row:
    model, inputs = VISION[name].build()
    acts: dict[str, Callable[[], object]] = {
        "trace": lambda: ecc.trace(model, inputs),
        "unchecked": lambda: ecc.trace(model, inputs, check=False),
        "export": lambda: torch.export.export(model, (inputs,), strict=False),
        "fx": lambda: fx.symbolic_trace(model),
    }
    row: Row = {"pixels": inputs.shape[-1], **environment()}
    for act, run in acts.items():
        try:
            row[f"{act}_s"], row[f"{act}_wall_s"] = seconds(run, repeats)
        except Exception as error:
            row[f"{act}_error"] = type(error).__name__
    return row


def sample_row(name: str, repeats: int) -> Row:
    """A network of random widths: ours without trained weights and by slim, Torch-Pruning's in the same run."""
    model, inputs = VISION[name].build()
    graph, generator = ecc.trace(model, inputs), np.random.default_rng(0)

    def widths() -> dict[str, int]:
        return {g.name: g.step * int(generator.integers(1, g.units + 1)) for g in graph.prunable}

    row: Row = environment()
    row["outline_s"], row["outline_wall_s"] = seconds(lambda: outline(model, graph, widths()), 5 * repeats)
    row["slim_s"], row["slim_wall_s"] = seconds(lambda: ecc.slim(model, graph, widths(), check=False), 3 * repeats)
    command = [sys.executable, str(HERE / "pruning_peer.py"), name, "--time", str(repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    row["peer_s"] = statistics.median(json.loads(done.stdout)["seconds"])
    return row


class Residual(nn.Module):
    """x + f(x) with a convolution, a norm and a ReLU; with ``grow`` the result is joined on instead."""

    def __init__(self, channels: int, out: int, *, join: str) -> None:
        super().__init__()
        self.conv, self.norm, self.join = nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), join

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        return {"chain": lambda: y, "residual": lambda: x + y, "concat": lambda: torch.cat([x, y], 1)}[self.join]()


def growing(join: str, layers: int) -> nn.Module:
    """A network of so many layers; concatenation starts anew every 50 layers, as blocks of DenseNet do."""
    parts: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1)]
    channels = 8
    for layer in range(layers):
        if join == "concat" and layer % 50 == 49:
            parts.append(nn.Conv2d(channels, 8, 1))
            channels = 8
        parts.append(Residual(channels, 4 if join == "concat" else 8, join=join))
        channels += 4 if join == "concat" else 0
    network = nn.Sequential(*parts, nn.Conv2d(channels, 4, 1)).eval()
    if join == "residual":  # a thousand sums of random branches would overflow
        for part in network.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.01)
    return network


def growth_row(join: str, layers: int, repeats: int) -> Row:
    model, inputs = growing(join, layers), torch.randn(1, 3, 8, 8)
    operators = len(fx.symbolic_trace(model).graph.nodes)
    checked, _ = seconds(lambda: ecc.trace(model, inputs), repeats)
    unchecked, _ = seconds(lambda: ecc.trace(model, inputs, check=False), repeats)
    return {"join": join, "layers": layers, "operators": operators, "trace_s": checked, "unchecked_s": unchecked,
            **environment()}  # fmt: skip


def steps(quick: bool) -> Iterator[tuple[str, str, Callable[[], Row]]]:
    """Step, name of the row, and how it is measured."""
    few = slice(3) if quick else slice(None)
    vision = ("squeezenet1_1", "mobilenet_v3_small", "swin_t") if quick else tuple(VISION)
    for name in list(CASES)[few]:
        yield "cases", name, partial(case_row, name, 2 if quick else 5)
    for seed in range(3 if quick else 200):
        yield "random", f"random-{seed}", partial(random_row, seed, 2 if quick else 3)
    for name in vision:
        yield "vision", name, partial(vision_row, name, 2 if quick else 10)
    for name in vision:
        yield "peer", name, partial(peer_row, name, 60 if quick else 300)
    repeats = 1 if quick else 3
    for name in vision if quick else TIMED:
        yield "times", name, partial(time_row, name, repeats)
    for name in vision[:2] if quick else SAMPLED:
        yield "samples", name, partial(sample_row, name, repeats)
    for join in ("chain", "residual", "concat"):
        for layers in LENGTHS[: 2 if quick else 3]:
            yield "growth", f"{join}-{layers}", partial(growth_row, join, layers, 1 if layers > 100 else repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a little of everything, not published")
    parser.add_argument("--only", nargs="*", default=[], help="steps: cases random vision peer times samples growth")
    parser.add_argument("--fresh", action="store_true", help="measure what is there already again")
    parser.add_argument("--out", type=Path, help="where to keep measurements")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    quick = Path(tempfile.gettempdir()) / "ecc-architectures"
    folder = arguments.out or (quick if arguments.quick else HERE / "measurements" / "architectures")
    ecc.trace(growing("chain", 2), torch.randn(1, 3, 8, 8))  # the first one pays for imports
    tables: dict[str, Rows] = {}
    for step, name, measure in steps(arguments.quick):
        if arguments.only and step not in arguments.only:
            continue
        if step not in tables:
            if arguments.fresh:
                (folder / f"{step}.csv").unlink(missing_ok=True)
            tables[step] = Rows(folder / f"{step}.csv")
        tables[step].add(name, measure)
    page = HERE.parent / "docs" / "architectures.md"
    write_page(folder, folder / "architectures.md" if arguments.quick or arguments.out else page)


if __name__ == "__main__":
    main()
