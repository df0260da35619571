"""Small random allocations, and what is best by looking at all widths and by an integer program of another solver."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import optimize, sparse
from torch import Tensor, nn

from ecc.core.problem import Constraint, Problem, Task
from ecc.core.widths import WidthGroup, WidthSpace
from ecc.solvers.allocation.tables import cut_tables
from ecc.solvers.limits import Limits

KINDS = ("bilinear", "staircase", "table")


@dataclass(frozen=True, eq=False)
class TableCost:
    """A sum of tables over sets of groups, by their units."""

    space: WidthSpace
    parts: dict[tuple[int, ...], np.ndarray]
    metric: str = "energy"
    unit: str = "J"
    provenance: None = None
    exact: bool = True
    dense: float = field(init=False)

    def __post_init__(self):
        full = torch.tensor(self.space.dense, dtype=torch.float64)
        object.__setattr__(self, "dense", float(self(full)))

    @property
    def interactions(self):
        return tuple(sorted(self.parts))

    def __call__(self, widths):
        vector = widths if isinstance(widths, Tensor) else torch.from_numpy(self.space.vector(widths))
        units = (vector / torch.tensor(self.space.step)).round().long().numpy() - 1
        total = sum(table[tuple(units[..., group] for group in scope)] for scope, table in self.parts.items())
        return torch.as_tensor(np.asarray(total, dtype=np.float64))


@dataclass(frozen=True, eq=False)
class BlackBox:
    """The same cost without a word of what it is made of."""

    inner: TableCost

    space = property(lambda self: self.inner.space)
    metric = property(lambda self: self.inner.metric)
    dense = property(lambda self: self.inner.dense)
    unit = "J"
    exact = True
    provenance = None

    def __call__(self, widths):
        return self.inner(widths)


def limits_of(costs, shares, space=None, *, check: bool = True) -> Limits:
    """Limits at shares of the dense costs; without ``check`` such as no widths meet, too."""
    space = space or costs[0].space
    groups = tuple(
        WidthGroup(name, dense, step, True, "", (), ())
        for name, dense, step in zip(space.names, space.dense, space.step, strict=True)
    )
    task = Task([], [], nn.functional.cross_entropy, lambda outputs, targets: 0.0)
    constraints = tuple(Constraint(cost, share * cost.dense) for cost, share in zip(costs, shares, strict=True))
    problem = Problem(nn.Linear(1, 1), groups, space, task, constraints)
    return (Limits if check else _Unchecked)(problem)


class _Unchecked(Limits):
    def _check_reachable(self, min_fraction):
        """Let through what the lowest widths do not meet."""


def random_space(rng: np.random.Generator, groups: int, most: int) -> WidthSpace:
    units = rng.integers(2, most + 1, groups)
    step = rng.integers(1, 4, groups)
    names = tuple(f"g{i}" for i in range(groups))
    return WidthSpace(names, tuple((units * step).tolist()), tuple(step.tolist()))


def random_cost(rng: np.random.Generator, space: WidthSpace, kind: str, metric: str) -> TableCost:
    """Products of neighbours, of others, and of single groups; in tiles, or up and down, as the kind says."""
    units = [dense // step for dense, step in zip(space.dense, space.step, strict=True)]
    scopes = {(i, i + 1) for i in range(len(units) - 1)}
    for _ in range(int(rng.integers(0, 3))):
        size = min(len(units), int(rng.integers(1, 4)))
        scopes.add(tuple(sorted(rng.choice(len(units), size, replace=False).tolist())))
    parts = {}
    for scope in sorted(scopes):
        sides = []
        for group in scope:
            kept = np.arange(1, units[group] + 1, dtype=np.float64)
            tile = int(rng.integers(1, 4)) if kind == "staircase" else 1
            sides.append(np.ceil(kept / tile) / math.ceil(units[group] / tile))
        table = rng.random() * np.prod(np.meshgrid(*sides, indexing="ij"), axis=0)
        if kind == "table":
            table = table * rng.uniform(0.6, 1.6, table.shape)
        parts[scope] = table
    parts.setdefault((0,), rng.random() * np.linspace(0.1, 1, units[0]))
    return TableCost(space, parts, metric)


def random_curves(rng: np.random.Generator, limits: Limits) -> list[Tensor]:
    """Falling losses that bend both ways."""
    curves = []
    for units in limits.dense.tolist():
        falls = rng.gamma(0.5, size=int(units)) * rng.choice([0.2, 1.0, 5.0])
        curves.append(torch.tensor(np.append(falls, 0.0)[::-1].cumsum()[::-1].copy()))
    return curves


def random_case(seed: int, *, most_units: int = 8, most_groups: int = 6):
    """Curves and limits that some widths meet, and the kinds of the costs."""
    rng = np.random.default_rng(seed)
    while True:
        space = random_space(rng, int(rng.integers(2, most_groups + 1)), most_units)
        kinds = rng.choice(KINDS, int(rng.integers(1, 4))).tolist()
        costs = [random_cost(rng, space, kind, "energy") for kind in kinds]
        low = [float(cost(space.smallest)) / cost.dense for cost in costs]
        shares = [least + (1 - least) * rng.uniform(0.02, 0.9) for least in low]
        if all(math.isfinite(share) and 0 < least < 1 for share, least in zip(shares, low, strict=True)):
            limits = limits_of(costs, shares)
            return random_curves(rng, limits), limits, kinds


def brute_force(curves, limits: Limits) -> float:
    """The least loss of all widths that meet the limits; infinite if there are none."""
    ranges = [torch.arange(int(low), int(high) + 1) for low, high in zip(limits.lowest, limits.dense, strict=True)]
    least = math.inf
    for part in torch.cartesian_prod(*ranges).reshape(-1, len(ranges)).split(1 << 17):
        loss = torch.stack([curve[column] for curve, column in zip(curves, part.T, strict=True)]).sum(0)
        good = loss[limits.met(part.double())]
        least = min(least, float(good.min()) if len(good) else math.inf)
    return least


def integer_program(curves, limits: Limits) -> float:
    """The same by HiGHS: one binary per width, one per combination of each part of each cost (MDP, CVPR 2025)."""
    units = [int(each) for each in limits.dense]
    start = np.concatenate([[0], np.cumsum(units)])
    loss = [np.asarray(curve)[1:] for curve in curves]
    rows, lows, highs = [], [], []
    columns = int(start[-1])
    budget = [dict[int, float]() for _ in limits.constraints]
    for group, count in enumerate(units):
        rows.append(dict.fromkeys(range(start[group], start[group] + count), 1.0))
        lows.append(1.0), highs.append(1.0)
    for number, constraint in enumerate(limits.constraints):
        for scope, table in constraint.cost.parts.items():
            first = columns
            columns += table.size
            for flat, value in enumerate((table / constraint.cost.dense).reshape(-1).tolist()):
                budget[number][first + flat] = value
            places = np.arange(table.size).reshape(table.shape)
            for axis, group in enumerate(scope):
                for unit in range(units[group]):
                    row = dict.fromkeys((first + places.take(unit, axis).reshape(-1)).tolist(), 1.0)
                    row[int(start[group]) + unit] = -1.0
                    rows.append(row)
                    lows.append(0.0), highs.append(0.0)
    for number, entries in enumerate(budget):
        rows.append(entries)
        lows.append(-np.inf), highs.append(float(limits.limits[number]) * (1 + 1e-12))
    matrix = sparse.lil_array((len(rows), columns))
    for i, row in enumerate(rows):
        for j, value in row.items():
            matrix[i, j] = value
    price = np.zeros(columns)
    price[: start[-1]] = np.concatenate(loss)
    whole = np.zeros(columns)
    whole[: start[-1]] = 1
    result = optimize.milp(
        price,
        constraints=optimize.LinearConstraint(matrix.tocsr(), lows, highs),
        integrality=whole,
        bounds=optimize.Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    return float(result.fun) if result.x is not None else math.inf


def decomposition_error(cost, seed: int = 0, choices: int = 5, rows: int = 200) -> float:
    """How far the sum of a cost's tables over its interactions is from the cost, relative to dense."""
    rng = np.random.default_rng(seed)
    space = cost.space
    units = [dense // step for dense, step in zip(space.dense, space.step, strict=True)]
    own = [np.sort(rng.choice(np.arange(1, each + 1), min(choices, each), replace=False)) for each in units]
    anchor = np.array([rng.integers(len(each)) for each in own])
    step = torch.tensor(space.step, dtype=torch.float64)
    relative = lambda given: cost(given * step)[..., None] / cost.dense  # noqa: E731
    centre, alone, joint = cut_tables(relative, cost.interactions, own, anchor)
    places = np.stack([rng.integers(len(each), size=rows) for each in own], 1)
    total = centre[0] + sum(table[0][column] for table, column in zip(alone, places.T, strict=True))
    total = total + sum(table[0][tuple(places[:, group] for group in scope)] for scope, table in joint.items())
    widths = np.stack([each[column] for each, column in zip(own, places.T, strict=True)], 1)
    with torch.no_grad():
        true = relative(torch.from_numpy(widths).double())[..., 0].numpy()
    return float(np.abs(total - true).max())
