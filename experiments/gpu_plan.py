"""How long a profile of latency and energy takes on a GPU, by a simulated clock.

    python experiments/gpu_plan.py

The protocol that ecc measures with, on a device that is simulated: networks of given duration, whose energy is known to
0.3 to 1.2 % per window beside the error of the slope (meter_estimators.csv), and what it costs to build and prepare one
(assumed, not measured on a GPU). Says how long 200 configurations take and how well the ratios are known. Writes
experiments/measurements/gpu_plan.csv.
"""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ecc.core.layers import Layer, Side
from ecc.core.meter import Probe, Reading, Runnable
from ecc.core.widths import WidthGroup, Widths
from ecc.network.graph import WidthGraph
from ecc.profiler.design import sample
from ecc.profiler.protocol import profile
from ecc.profiler.window import Window

MEASUREMENTS = Path(__file__).resolve().parent / "measurements"
ROWS, BUSY_W, IDLE_W = 200, 300.0, 80.0
SETTLING_S = 45.0  # load until the temperature stands still: 31 s at least, which a simulated CPU is spared
NETWORKS = {"ResNet-18": (1.5e-3, 0.06), "MobileNetV2": (3.5e-3, 0.12)}  # s per inference, s to build and prepare one
NOISES = (0.003, 0.006, 0.012)  # of a window of energy, relative
DENSE = {"a": 64, "b": 64}


class Network(nn.Module):
    """Takes that many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


@dataclass
class Simulation:
    """The clock, the runtime, the maker of networks and what was spent."""

    dense_s: float
    prepare_s: float
    noise: float
    name: str = "eager"
    device: str = "cpu"
    environment: dict[str, str] = field(default_factory=dict)
    time: float = 0.0
    joules: float = 0.0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def build(self, widths: Widths) -> nn.Module:
        return Network(self.dense_s * (0.4 + 0.6 * widths["a"] * widths["b"] / 64**2))

    def prepare(self, module: nn.Module, inputs: Any) -> Runnable:
        self._spend(self.prepare_s, IDLE_W)
        seconds = float(module.seconds)  # type: ignore[arg-type]
        return lambda times: self._spend(times * seconds, BUSY_W)

    def synchronise(self) -> None:
        pass

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float) -> None:
        self._spend(seconds, IDLE_W)

    def _spend(self, seconds: float, watts: float) -> None:
        self.time += seconds
        self.joules += seconds * watts


@dataclass
class Sensor:
    """Reads the simulation, with noise."""

    host: Simulation
    metric: str
    shortest_window_s: float
    noise: float

    def probe(self) -> Probe:
        return Probe(True, "simulated")

    def begin(self) -> None:
        self._start = self._read()

    def end(self) -> Reading:
        return Reading((self._read() - self._start) * float(np.exp(self.noise * self.host.rng.standard_normal())))

    def _read(self) -> float:
        return self.host.time if self.metric == "latency" else self.host.joules


def graph() -> WidthGraph:
    """Two groups and a layer between them."""
    groups = tuple(WidthGroup(name, width, 1, True, "", (), (name,)) for name, width in DENSE.items())
    layer = Layer("b", "linear", Side(((1.0, ("a",)),)), Side(((1.0, ("b",)),)), 64**2)
    return WidthGraph(groups, (layer,), {}, ((1, 3),))


def simulate(network: str, window_s: float, noise: float, blocks: int) -> dict[str, Any]:
    """One profile."""
    dense_s, prepare_s = NETWORKS[network]
    host, toy = Simulation(dense_s, prepare_s, noise), graph()
    plan = Window.of("cuda")
    plan = Window(**{**{name: getattr(plan, name) for name in plan.__dataclass_fields__}, "blocks": blocks})
    energy = Sensor(host, "energy", window_s, float(np.hypot(noise, 0.0016 if window_s < 2 else 0.0006)))
    result = profile(
        *(
            Network(dense_s),
            toy,
            torch.zeros(1, 3),
            sample(toy.space, ROWS),
            [Sensor(host, "latency", 2e-3, 2e-3), energy],
        ),
        window=plan,
        runtime=host,
        build=host.build,
        clock=host,
    )
    rows = result.table.rows
    truth = 0.4 + 0.6 * result.table.widths.prod(1) / 64**2
    covered = (rows["energy_ratio_low"] <= truth) & (truth <= rows["energy_ratio_high"])
    return {
        "network": network,
        "energy_window_s": window_s,
        "blocks": blocks,
        "energy_noise_pct": 100 * noise,
        "rows": len(rows),
        "energy_windows_per_row": round(float(rows["energy_n"].mean()), 2),
        "minutes": round((result.seconds + SETTLING_S) / 60, 1),
        "inside_pct": round(100 * (result.inside or 0.0), 1),
        "energy_rms_error_pct": round(100 * float(np.sqrt(((rows["energy_ratio"] / truth - 1) ** 2).mean())), 2),
        "energy_half_width_pct": round(100 * result.noise["energy"], 2),
        "energy_covered_pct": round(100 * float(covered.mean()), 1),
        "noisy_rows": int(rows["flags"].str.contains("noisy").sum()),
    }


def main() -> None:
    cases = [(name, 1.0, noise, 2) for name in NETWORKS for noise in NOISES] + [("ResNet-18", 2.0, 0.003, 3)]
    found = pd.DataFrame([simulate(*case) for case in cases])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    found["commit"], found["environment"] = commit.strip(), f"python {platform.python_version()} numpy {np.__version__}"
    found.to_csv(MEASUREMENTS / "gpu_plan.csv", index=False)
    print(found.drop(columns=["commit", "environment"]).to_string(index=False))


if __name__ == "__main__":
    main()
