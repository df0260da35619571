"""How evenly designs cover the widths, and how many rows an adaptive profile needs, on simulated hardware.

    python experiments/sampling.py

Writes measurements/sampling_coverage.csv and measurements/sampling_adaptive.csv. Nothing is timed: hardware is the
simulated array of ``staircase.py``, with 5 % log-normal noise on every row.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import qmc
from staircase import NOISE, Hardware, as_table

from ecc.api.adaptive import Chooser
from ecc.core.layers import Layer, Side, SumOfProducts
from ecc.core.table import ProfileTable
from ecc.core.widths import WidthGroup, WidthSpace
from ecc.energy_models.bilinear import fit
from ecc.energy_models.judging import Fit
from ecc.energy_models.terms import terms_of
from ecc.network.blocks import aligned_steps, in_blocks
from ecc.network.graph import WidthGraph
from ecc.network.tracing import trace
from ecc.profiler.design import Point, plan, sample
from ecc.zoo.loading import load_model

HERE = Path(__file__).resolve().parent / "measurements"
SEEDS = 6
MOST = 210


def network(name: str, shape: tuple[int, ...], step: int) -> Hardware:
    """A network of the zoo on the array, widths in multiples of the step."""
    model = load_model(f"zoo:{name}").module
    graph = trace(model, torch.zeros(shape))
    return Hardware.of(model, in_blocks(graph, model, aligned_steps(graph, step)))


def chain() -> Hardware:
    """Eight convolutions one after the other, widths in single channels, as in the reference's table."""
    inner, pixels = (64, 128, 128, 256, 256, 512, 512), (1024, 1024, 256, 256, 64, 64, 16, 16)
    names = [f"conv{i}" for i in range(1, 8)]
    groups = tuple(WidthGroup(name, width, 1, True, "", (), (name,)) for name, width in zip(names, inner, strict=True))
    sides = [Side(((1.0, names),)) for names in ((), *((name,) for name in names), ())]
    channels = (3, *inner, 512)
    positions = (0, *inner, 0)  # along sides that a group lies on
    layers = tuple(
        Layer(
            f"conv{j + 1}",
            "conv",
            sides[j],
            sides[j + 1],
            pixels[j] * 9 * channels[j] * channels[j + 1],
            positions[j],
            positions[j + 1],
        )
        for j in range(8)
    )
    sizes = [(pixels[j], channels[j + 1], 9 * channels[j]) for j in range(8)]
    return Hardware(WidthGraph(groups, layers, {}, ((1, 3, 32, 32),)), layers, np.array(sizes, dtype=np.float64))


def drawn(space: WidthSpace, n: int, seed: int) -> NDArray[np.int64]:
    """Plain random widths."""
    units = np.array(space.dense) // np.array(space.step)
    return np.asarray(np.random.default_rng(seed).integers(1, units + 1, (n, len(space))) * np.array(space.step))


def vectors(space: WidthSpace, points: list[Point] | list[dict[str, int]]) -> NDArray[np.int64]:
    return np.array([space.vector(each.widths if isinstance(each, Point) else each) for each in points])


DESIGNS: dict[str, Callable[[WidthGraph, int, int], NDArray[np.int64]]] = {
    "random": lambda graph, n, seed: drawn(graph.space, n, seed),
    "sobol": lambda graph, n, seed: vectors(graph.space, sample(graph.space, n, seed=seed)),
    "plan": lambda graph, n, seed: vectors(graph.space, plan(graph.space, n, layers=graph.layers, seed=seed)),
}


def _matrix(evaluate: SumOfProducts, widths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of the bilinear fit, its columns of equal length."""
    matrix = np.column_stack([np.ones(len(widths)), evaluate(torch.tensor(widths)).numpy()])
    return np.asarray(matrix / np.linalg.norm(matrix, axis=0))


def coverage(hardware: dict[str, Hardware]) -> pd.DataFrame:
    """Discrepancy of neighbouring groups, and condition number of the bilinear design matrix; medians over seeds.

    Some products are sums of others for all widths; the condition number leaves these directions out.
    """
    rows = []
    for name, each in hardware.items():
        space = each.graph.space
        products = terms_of(space, each.graph.layers)
        evaluate = SumOfProducts(space, products.factors)
        rank = np.linalg.matrix_rank(_matrix(evaluate, drawn(space, 4000, 1)))
        for n in (50, 100, 200):
            for design, make in DESIGNS.items():
                found = []
                for seed in range(SEEDS):
                    widths = make(each.graph, n, seed)
                    cells = (widths / np.array(space.step) - 0.5) / (np.array(space.dense) / np.array(space.step))
                    singular = np.linalg.svd(_matrix(evaluate, widths), compute_uv=False)
                    condition = singular[0] / singular[rank - 1] if rank <= n else np.inf
                    pairs = [qmc.discrepancy(cells[:, i : i + 2]) for i in range(len(space) - 1)]
                    together = np.abs(np.corrcoef(widths.T) - np.eye(len(space)))
                    found.append((np.mean(pairs), condition, np.diag(together, 1).max(), together.max()))
                rows.append((name, len(space), rank, n, design, *np.median(found, axis=0)))
    measures = ["pair_discrepancy", "condition", "worst_neighbours_correlation", "worst_correlation"]
    columns = ["network", "groups", "rank", "rows", "design", *measures]
    return pd.DataFrame(rows, columns=columns)


class Bench:
    """Rows measured on simulated hardware, one noise per row and seed, whoever asks for it."""

    def __init__(self, hardware: Hardware, seed: int) -> None:
        self.hardware, self.space, self.seed = hardware, hardware.graph.space, seed
        self.fresh = drawn(self.space, 2000, 10_000 + seed)
        self.truth = hardware.ratios(self.fresh)

    def table(self, points: list[Point]) -> ProfileTable:
        widths = vectors(self.space, points)
        factors = [
            np.exp(NOISE * np.random.default_rng([self.seed, *row]).standard_normal()) for row in widths.tolist()
        ]
        ratios = self.hardware.ratios(widths) * np.array(factors)
        return as_table(self.hardware.graph, widths, [point.purpose for point in points], ratios, NOISE)

    def error(self, table: ProfileTable) -> float:
        """MAPE on fresh widths, measured without noise."""
        return float(np.abs(fit(table, "latency")(torch.tensor(self.fresh)).numpy() / self.truth - 1).mean())


class Patient(Chooser):
    """Goes on until the samples are used up, and remembers where it would have stopped."""

    would: tuple[int, str] | None = None

    def _reason(self, fit: Fit) -> str:
        reason = super()._reason(fit)
        if reason and self.would is None:
            self.would = len(self.batches) - 1, reason
        return "" if self.batches[-1].rows < self.samples else reason


def adapt(bench: Bench, chooser: Chooser) -> list[tuple[int, float, float]]:
    """Rows, true error and held-out error after each batch."""
    points = plan(bench.space, 50, layers=bench.hardware.graph.layers, seed=bench.seed)
    track = []
    while points:
        table = bench.table(points)
        more = chooser(table)
        track.append((len(points), bench.error(table), chooser.batches[-1].mape))
        points = points + more if more else []
    return track


def compare(hardware: dict[str, Hardware]) -> pd.DataFrame:
    """Errors of designs at the numbers of rows that adaptive batches end at, and where adaptive profiles stop."""
    rows: list[Any] = []
    for name, each in hardware.items():
        for seed in range(SEEDS):
            bench = Bench(each, seed)
            chooser = Patient("latency", MOST, seed)
            track = adapt(bench, chooser)
            batch, reason = chooser.would or (len(track) - 1, "")
            rows.append((name, seed, track[batch][0], "adaptive, where it stops", *track[batch][1:], reason))
            for n, error, held in track:
                rows.append((name, seed, n, "adaptive", error, held, ""))
                sobol = [Point(widths) for widths in sample(bench.space, n, seed=seed)]
                planned = plan(bench.space, n, layers=each.graph.layers, seed=seed)
                for design, points in (("sobol", sobol), ("plan", planned)):
                    rows.append((name, seed, n, design, bench.error(bench.table(points)), None, ""))
    columns = ["network", "seed", "rows", "design", "true_mape", "held_out_mape", "stopped"]
    return pd.DataFrame(rows, columns=columns)


def main() -> None:
    zoo = {
        "resnet20": network("resnet20", (1, 3, 32, 32), 8),
        "mobilenet-v2": network("mobilenet-v2", (1, 3, 224, 224), 16),
    }
    covered = coverage(zoo)
    covered.round(5).to_csv(HERE / "sampling_coverage.csv", index=False)
    found = compare({"chain of 8": chain(), **zoo})
    found.round(5).to_csv(HERE / "sampling_adaptive.csv", index=False)


if __name__ == "__main__":
    main()
