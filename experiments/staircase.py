"""Simulated staircase hardware: a 32 × 32 output-stationary array, whose cycles are known exactly, with noisy readings.

The cycles of a layer are F (K + R + C - 2) with F = ceil(M / R) ceil(N / C) folds, M output pixels, N filters and K
words per filter (the closed form of SCALE-Sim).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from ecc.core.layers import Layer, SumOfProducts
from ecc.core.table import ProfileTable, Provenance
from ecc.network.graph import WidthGraph

ARRAY = 32
NOISE = 0.05


@dataclass(frozen=True, eq=False)
class Hardware:
    """Cycles of a network's layers at any widths.

    Attributes:
        graph: The network, in the units that widths are drawn in.
        layers: Those that compute.
        sizes: M, N and K of each when dense, shape (n_layers, 3).
    """

    graph: WidthGraph
    layers: Sequence[Layer]
    sizes: NDArray[np.float64]

    @classmethod
    def of(cls, model: nn.Module, graph: WidthGraph) -> Hardware:
        modules = dict(model.named_modules())
        layers = [layer for layer in graph.layers if layer.macs and layer.name in modules]
        weights = [modules[layer.name].get_parameter("weight") for layer in layers]
        sizes = [
            (layer.macs / weight.numel(), weight.shape[0], weight[0].numel())
            for layer, weight in zip(layers, weights, strict=True)
        ]
        return cls(graph, layers, np.array(sizes, dtype=np.float64))

    def cycles(self, widths: NDArray[Any]) -> NDArray[np.float64]:
        """Of one inference at widths of shape (n, n_groups): shape (n,)."""
        reads, writes = (
            SumOfProducts(self.graph.space, [(side,) for side in sides])(torch.tensor(widths)).numpy()
            for sides in ([layer.reads for layer in self.layers], [layer.writes for layer in self.layers])
        )
        pixels, filters, words = self.sizes.T
        folds = np.ceil(pixels / ARRAY) * np.ceil(np.round(writes * filters, 6) / ARRAY)
        return np.asarray((folds * (reads * words + 2 * ARRAY - 2)).sum(-1))

    def ratios(self, widths: NDArray[Any]) -> NDArray[np.float64]:
        """Relative to the dense network."""
        return np.asarray(self.cycles(widths) / self.cycles(np.array([self.graph.space.dense])))


def as_table(
    graph: WidthGraph, widths: NDArray[np.int64], purposes: Sequence[str], ratios: NDArray[np.float64], noise: float
) -> ProfileTable:
    """Ratios as a profile that knows their noise."""
    rows = pd.DataFrame(
        {
            "latency_ratio": ratios,
            "latency_ratio_low": ratios * np.exp(-1.96 * noise),
            "latency_ratio_high": ratios * np.exp(1.96 * noise),
            "latency_s": ratios,
            "flags": "",
            "n": 1,
            "purpose": list(purposes),
        }
    )
    provenance = Provenance("simulated", graph.fingerprint, graph.input_shapes[0], "32 × 32 array", "simulated")
    return ProfileTable(provenance, graph.space, graph.layers, widths, rows, {"latency": (1.0, 0.999, 1.001)})
