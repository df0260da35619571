"""Slow, obvious references that tests compare the package with, and small made-up inputs with known truth."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ecc.core.layers import Layer, Side
from ecc.core.table import ProfileTable, Provenance
from ecc.core.widths import Kept, WidthSpace
from ecc.network.graph import WidthGraph
from ecc.network.slimming import slim


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


def kept_positions(model: nn.Module, graph: WidthGraph, kept: Kept) -> dict[str, list[np.ndarray]]:
    """For every tensor that gets smaller: the dense positions that are left along each axis.

    Read off a slim network whose dense tensors hold their own flat indices, whatever the graph says.
    """
    book = copy.deepcopy(model).double()
    for tensor in _named(book).values():
        tensor.data = torch.arange(tensor.numel(), dtype=tensor.dtype).reshape(tensor.shape)
    small = _named(slim(book, replace(graph, rescales=(), directions=()), kept, check=False))
    found = {}
    for name, tensor in _named(book).items():
        if small[name].shape != tensor.shape:
            values = small[name].detach().long().numpy()
            # Flat, because numpy 2.4 errs on large arrays of several axes here.
            places = np.unravel_index(values.reshape(-1), tuple(tensor.shape))
            found[name] = [np.unique(place) for place in places]
            product = tensor.detach().long().numpy()[np.ix_(*found[name])]
            assert np.array_equal(values, product), f"{name} is not cut along its axes"
    return found


def masked_network(model: nn.Module, graph: WidthGraph, positions: Mapping[str, Sequence[np.ndarray]]) -> nn.Module:
    """A copy that is zero outside the positions, except along axes that the graph says are divided by."""
    masked = copy.deepcopy(model)
    divided = {(slot.tensor, slot.axis) for group in graph.groups for slot in group.slots if not slot.zeroed}
    for name, axes in positions.items():
        tensor = _named(masked)[name].data
        for axis, left in enumerate(axes):
            gone = np.setdiff1d(np.arange(tensor.shape[axis]), left)
            if (name, axis) not in divided:
                tensor.index_fill_(axis, torch.from_numpy(gone), 0)
    return masked


def removal_error(model: nn.Module, graph: WidthGraph, kept: Kept, inputs: Any) -> tuple[float, nn.Module]:
    """Largest difference between slim and masked outputs, relative to the largest masked one; and the slim network.

    By its own reading of what was cut and its own mask; neither uses what the package compares networks with.
    """
    masked = masked_network(model, graph, kept_positions(model, graph, kept))
    small = slim(model, graph, kept, check=False)
    with torch.no_grad():
        pairs = zip(_flat(masked(*inputs)), _flat(small(*inputs)), strict=True)
        gaps = [float((a - b).abs().max() / a.abs().max().clamp(min=1e-300)) for a, b in pairs]
    return max(gaps, key=lambda gap: (gap != gap, gap)), small


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _flat(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [tensor for value in values if value is not None for tensor in _flat(value)]
