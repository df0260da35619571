"""Slow, obvious references that tests compare the package with, and small made-up inputs with known truth."""

from __future__ import annotations

import copy
import math
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


def ecc_iteration(energies, s, y, z, lowest, costs, limits, rho, form):
    """Steps 2 to 5 of one iteration of ECC as its public code takes them, for one mini-batch, in relative widths.

    Args:
        energies: Per group a list of the unit energies Σ D·w²/(2α), over their mean sum.
        s, y, lowest: Per group; s and lowest in units.
        z, limits: Per constraint.
        costs: Functions of a tensor of relative widths.
        form: ``paper`` or ``code``.

    Returns:
        Sets of kept units, s, y, z; s, y and z as the proximal step left them if the limits are met.
    """
    kept, phi, y = [], [], list(y)
    for g, unit_energies in enumerate(energies):
        n = len(unit_energies)
        order = sorted(range(n), key=lambda c: -unit_energies[c])
        rank = {c: r for r, c in enumerate(order, start=1)}

        def penalty(r, bound=s[g], n=n):
            return rho / 2 * (max(0.0, (r - bound) / n) ** 2 - max(0.0, (r - 1 - bound) / n) ** 2)

        margins = sorted((unit_energies[c] - penalty(rank[c]) for c in range(n)), reverse=True)
        k = math.floor(s[g])
        y[g] = min(y[g], max(0.0, n * margins[k - 1]))
        stays = {c for c in range(n) if rank[c] <= k or unit_energies[c] >= penalty(rank[c]) + y[g] / n}
        kept.append(stays)
        phi.append(len(stays))
    dense = torch.tensor([len(each) for each in energies], dtype=torch.float64)
    counted = torch.tensor(phi, dtype=torch.float64)
    if all(float(cost(counted / dense)) <= limit for cost, limit in zip(costs, limits, strict=True)):
        return kept, list(s), y, list(z)

    def rest(sigma):
        hinges = torch.relu(counted / dense - sigma)
        quadratic = hinges.square().sum() if form == "paper" else hinges.sum().square()
        over = sum(torch.relu(cost(sigma) - limit).square() for cost, limit in zip(costs, limits, strict=True))
        return rho / 2 * (quadratic + over) + (torch.tensor(y) * (counted / dense - sigma)).sum()

    sigma = (torch.tensor(s, dtype=torch.float64) / dense).requires_grad_()
    (g1,) = torch.autograd.grad(rest(sigma), sigma)
    g2 = [torch.autograd.grad(cost(sigma), sigma)[0] for cost in costs]
    duals = list(z)
    free = [s[g] > lowest[g] for g in range(len(s))]
    if form == "code":
        for q, cost in enumerate(costs):
            if float(cost(sigma.detach())) > limits[q]:
                others = g1 + sum(duals[p] * g2[p] for p in range(len(costs)) if p != q)
                cheaper = [g for g in range(len(s)) if free[g] and float(g2[q][g]) > 0]
                floors = [(max(0.0, -float(others[g])) + 1e-3) / float(g2[q][g]) for g in cheaper]
                duals[q] = max(duals[q], min(floors, default=0.0))
    gradient = g1 + sum(dual * slope for dual, slope in zip(duals, g2, strict=True))
    move = gradient / (rho * (1 + sum(float(slope.square().sum()) for slope in g2)))
    if form == "code":
        move = torch.tensor([max(0.0, float(m)) if f else 0.0 for m, f in zip(move, free, strict=True)])
        move = move * min(1.0, 0.05 / max(float(move.max()), 1e-300))
    sigma = (sigma - move).detach()
    sigma = torch.minimum(
        torch.maximum(sigma, torch.tensor(lowest, dtype=torch.float64) / dense), torch.ones_like(sigma)
    )
    duals = [
        max(0.0, dual + rho * (float(cost(sigma)) - limit))
        for dual, cost, limit in zip(duals, costs, limits, strict=True)
    ]
    s = (sigma * dense).tolist()
    bounds = s if form == "paper" else [math.floor(bound) for bound in s]
    y = [max(0.0, dual + rho * (p - b) / n) for dual, p, b, n in zip(y, phi, bounds, dense.tolist(), strict=True)]
    return kept, s, y, duals
