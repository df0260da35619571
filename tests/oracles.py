"""Slow, obvious references that tests compare the package with, and small made-up inputs with known truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ecc.core.layers import Layer, Side
from ecc.core.table import ProfileTable, Provenance
from ecc.core.widths import WidthSpace


def side(*groups: str) -> Side:
    """The side of one part that all groups lie on; fixed without a group."""
    return Side(((1.0, groups),))


def brute_force_fraction(value: Side, relative: dict[str, float]) -> float:
    """The kept fraction of a side by its definition."""
    total = 0.0
    for share, groups in value.parts:
        product = share
        for name in groups:
            product *= relative.get(name, 1.0)
        total += product
    return total


def residual_net() -> tuple[WidthSpace, tuple[Layer, ...]]:
    """A stem, two residual blocks on it, a depthwise layer, a concatenation and a head; 64 channels everywhere."""
    space = WidthSpace(("stem", "a", "b", "c"), (64, 64, 64, 64), (1, 1, 1, 1))
    both = Side(((0.5, ("stem",)), (0.5, ("c",))))
    layers = (
        Layer("conv0", "conv", side(), side("stem"), 1_000),
        Layer("norm0", "norm", side(), side("stem"), 0),
        Layer("a.1", "conv", side("stem"), side("a"), 40_000),
        Layer("a.2", "conv", side("a"), side("stem"), 30_000),
        Layer("b.1", "conv", side("stem"), side("b"), 20_000),
        Layer("b.dw", "depthwise", side(), side("b"), 3_000),
        Layer("b.2", "conv", side("b"), side("stem"), 20_000),
        Layer("c", "conv", side("stem"), side("c"), 25_000),
        Layer("head", "linear", both, side(), 640),
    )
    return space, layers


def made_up_cost(relative: np.ndarray) -> np.ndarray:
    """Ratio to dense of ``residual_net`` on a made-up device; relative widths of shape (n, 4)."""
    s, a, b, c = relative.T
    return 0.1 + 0.05 * s + 0.3 * s * a + 0.25 * s * b + 0.1 * b + 0.15 * s * c + 0.05 * (s + c) / 2


def simulated_profile(
    rows: int = 120,
    *,
    noise: float = 0.02,
    seed: int = 0,
    net: tuple[WidthSpace, Sequence[Layer]] | None = None,
    cost=made_up_cost,
    reference: tuple[float, float, float] = (0.004, 0.00396, 0.00404),
    metrics: Sequence[str] = ("latency",),
) -> ProfileTable:
    """A profile of random widths with log-normal noise of known size; the interval of each row says that size."""
    generator = np.random.default_rng(seed)
    space, layers = net or residual_net()
    dense = np.array(space.dense)
    widths = generator.integers(1, dense // np.array(space.step) + 1, size=(rows, len(space))) * np.array(space.step)
    columns: dict[str, object] = {"flags": [""] * rows, "n": [12] * rows}
    for metric in metrics:
        ratio = cost(widths / dense) * np.exp(generator.normal(0, noise, rows))
        columns[f"{metric}_ratio"] = ratio
        columns[f"{metric}_ratio_low"] = ratio * np.exp(-1.96 * noise)
        columns[f"{metric}_ratio_high"] = ratio * np.exp(1.96 * noise)
        columns[f"{metric}_{'s' if metric == 'latency' else 'j'}"] = ratio * reference[0]
    provenance = Provenance("made up", "f00d", (1, 3, 8, 8), "simulated device", "beef", environment={"torch": "2"})
    frame = pd.DataFrame(columns)
    return ProfileTable(provenance, space, tuple(layers), widths, frame, dict.fromkeys(metrics, reference))
