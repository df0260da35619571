"""Widths and blocks chosen together are the best of all; what goes is measured, and goes from the network too."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from allocation_oracle import TableCost, brute_force
from solver_toy import Loader, accuracy
from torch import nn

from ecc.core.errors import InputError
from ecc.core.problem import Constraint, Depth, Problem, Status, Task
from ecc.core.widths import WidthGroup, WidthSpace
from ecc.energy_models.counting import CountCost
from ecc.energy_models.depth import depth_of
from ecc.network.equality import zero_then_remove
from ecc.network.slimming import slim
from ecc.network.tracing import trace
from ecc.solvers.allocation import allocate
from ecc.solvers.baselines.knapsack import Knapsack
from ecc.solvers.depth import DepthLimits, block_curves
from ecc.solvers.importance import curves_of, rate, rate_blocks


def random_depth(seed: int):
    """Blocks between a stream and inner groups: a cost of products, of which those of a block count while it stays."""
    rng = np.random.default_rng(seed)
    blocks, stream = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    inner = rng.integers(2, 5, blocks)
    names = ("s", *(f"i{k}" for k in range(blocks)))
    space = WidthSpace(names, (stream, *inner.tolist()), (1,) * len(names))
    deep = WidthSpace(
        (*names, *(f"block b{k}" for k in range(blocks))), space.dense + (2,) * blocks, space.step + (1,) * blocks
    )
    parts = {(0,): rng.random() * np.arange(1, stream + 1) / stream}
    for k, size in enumerate(inner.tolist()):
        table = rng.random() * np.outer(np.arange(1, stream + 1), np.arange(1, size + 1)) / (stream * size)
        if rng.random() < 0.5:  # up and down
            table = table * rng.uniform(0.5, 1.5, table.shape)
        parts[(0, 1 + k, 1 + blocks + k)] = np.stack([np.zeros_like(table), table], -1)
    gone = {f"b{k}": (f"i{k}",) for k in range(blocks)}
    cost = TableCost(deep, parts)
    plain = TableCost(space, {scope[:2]: t if len(scope) == 1 else t[..., 1] for scope, t in parts.items()})
    limit = float(rng.uniform(0.2, 0.9)) * cost.dense
    depth = Depth(gone, deep, (Constraint(cost, limit),))
    groups = tuple(WidthGroup(name, dense, 1, True, "", (), ()) for name, dense in zip(names, space.dense, strict=True))
    task = Task([], [], nn.functional.cross_entropy, lambda outputs, targets: 0.0)
    problem = Problem(nn.Linear(1, 1), groups, space, task, (Constraint(plain, limit),), depth=depth)
    curves = [torch.tensor(np.append(rng.gamma(0.5, size=n), 0.0)[::-1].cumsum()[::-1].copy()) for n in space.dense]
    return problem, curves, torch.from_numpy(rng.gamma(1.0, size=blocks))


def best_of_all(problem: Problem, curves, losses) -> float:
    """Every subset of the blocks with all widths; what lies inside a block that goes is lost no more."""
    depth, best = problem.depth, math.inf
    names, (limit,) = problem.space.names, depth.constraints
    for stays in itertools.product((1, 2), repeat=len(depth.blocks)):
        removed = [block for block, stay in zip(depth.blocks, stays, strict=True) if stay == 1]
        gone = {group for block in removed for group in depth.blocks[block]}
        for widths in itertools.product(*(range(1, dense + 1) for dense in problem.space.dense)):
            if float(limit.cost(torch.tensor([*widths, *stays]))) <= limit.limit:
                lost = sum(float(c[k]) for c, k, name in zip(curves, widths, names, strict=True) if name not in gone)
                lost += sum(float(each) for each, stay in zip(losses, stays, strict=True) if stay == 1)
                best = min(best, lost)
    return best


@pytest.mark.parametrize("seed", range(25))
def test_widths_and_blocks_are_as_good_as_all_of_both_looked_at(seed):
    problem, curves, losses = random_depth(seed)
    best = best_of_all(problem, curves, losses)
    limits, everything = DepthLimits(problem), [*curves, *block_curves(losses)]
    if not math.isfinite(best):
        with pytest.raises(InputError, match="cannot be reached"):
            allocate(everything, limits)
        return
    found = allocate(everything, limits, gap=0.0, seconds=60)
    assert bool(limits.met(found.units))
    assert found.loss == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert found.bound <= best + 1e-9
    assert found.reason == ""
    assert brute_force(everything, limits) == pytest.approx(best)  # the same when groups inside lose nothing either way


class Block(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.a, self.b = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return x + self.b(self.a(x).relu())


def blocks_task(seed: int = 0) -> Task:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(120, 6, generator=generator)
    loader = Loader(inputs, inputs[:, :3].argmax(1), 40)
    return Task(loader, loader, nn.functional.cross_entropy, accuracy)


def posed(limit: float):
    """Three blocks, of which the second does almost nothing and the others were trained."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Block(8, 12), Block(8, 12), Block(8, 12), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[2].b.weight *= 1e-4
        model[2].b.bias *= 1e-4
    task = blocks_task()
    model[2].requires_grad_(False)
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], 0.01)
    for inputs, targets in [batch for _ in range(20) for batch in task.train]:
        optimizer.zero_grad()
        task.loss(model(inputs), targets).backward()
        optimizer.step()
    model.requires_grad_(True)
    graph = trace(model, torch.zeros(1, 6))
    constraints = (Constraint(CountCost("macs", graph), limit * graph.macs()),)
    depth = depth_of(graph, constraints)
    return graph, Problem(model, graph.prunable, graph.space, task, constraints, depth=depth)


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_a_block_is_worth_what_the_loss_changes_by_without_it(criterion):
    graph, problem = posed(0.5)
    task, model = problem.task, problem.model.eval()
    found = rate_blocks(criterion, model, ["1", "2", "3"], task, batches=3)
    for number, value in enumerate(found.tolist(), 1):
        short = slim(model, graph, {}, remove=[str(number)])
        changes = [float((task.loss(short(x), y) - task.loss(model(x), y)).detach()) for x, y in task.train]
        mean = float(np.mean(changes))
        wanted = math.sqrt(np.mean(np.square(changes))) if criterion == "taylor" else max(mean, 0.0)
        assert value == pytest.approx(wanted, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_the_block_that_does_nothing_goes_first_and_the_network_is_the_one_without_it(criterion):
    graph, problem = posed(0.7)
    found = Knapsack(importance=criterion, depth=True).solve(problem)
    assert found.status is Status.MET
    assert "2" in found.removed
    assert "2.a" not in found.kept
    assert "2.a" not in found.widths
    assert found.predicted["macs"] == graph.macs(found.widths, removed=found.removed) <= 0.7 * graph.macs()
    inputs = torch.randn(5, 6)
    assert zero_then_remove(problem.model, graph, found.kept, inputs, remove=found.removed) < 1e-5
    small = slim(found.model, graph, found.kept, remove=found.removed)
    assert sum(p.numel() for p in small.parameters()) == graph.params(found.widths, removed=found.removed)
    held = problem.task.validation
    assert found.history.score[0] == pytest.approx(accuracy(small(held.inputs), held.targets), abs=1e-6)
    assert found.history.blocks[0] == 3 - len(found.removed)


def test_what_is_lost_is_the_least_of_all_blocks_and_widths_within_the_budget():
    graph, problem = posed(0.45)
    found = Knapsack(depth=True, min_fraction=0).solve(problem)
    curves = dict(
        zip(graph.space.names, curves_of(rate("taylor", problem.model, problem.groups, problem.task)), strict=True)
    )
    losses = dict(zip("123", rate_blocks("taylor", problem.model, list("123"), problem.task).tolist(), strict=True))
    lost = sum(float(curves[name][width]) for name, width in found.widths.items())
    lost += sum(losses[name] for name in found.removed)
    for removed in itertools.chain.from_iterable(itertools.combinations("123", size) for size in range(4)):
        left = graph.without(removed)
        limits = DepthLimits(problem)
        floor = torch.tensor([1.0] * len(graph.space) + [1.0 if name in removed else 2.0 for name in "123"])
        if not bool(limits.met(floor)):
            continue
        limits.lowest = torch.cat([limits.lowest[: len(graph.space)], floor[len(graph.space) :].to(torch.float64)])
        own = [curves[name] * (name in left.space.names) for name in graph.space.names]
        gates = torch.tensor([0.0 if name in removed else 1e6 for name in "123"])
        other = allocate([*own, *block_curves(gates)], limits, seconds=60).loss + sum(losses[name] for name in removed)
        assert lost <= other * (1 + 5e-3) + 1e-9


def test_all_blocks_may_go_where_all_widths_have_to_stay():
    graph, problem = posed(0.6)
    found = Knapsack(depth=True, min_fraction=1).solve(problem)
    assert len(found.removed) >= 1
    assert {name: graph.space.full[name] for name in found.widths} == dict(found.widths)


def test_settings_and_problems_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match=r"^Knapsack\(depth=...\) needs importance taylor or fisher, since norms"):
        Knapsack(depth=True, importance="l2")
    with pytest.raises(InputError, match=r"^importance l1 says nothing of the loss, so blocks need taylor or fisher$"):
        rate_blocks("l1", nn.Linear(2, 2), [], blocks_task())
    graph, problem = posed(0.5)
    bare = Problem(problem.model, problem.groups, problem.space, problem.task, problem.constraints)
    with pytest.raises(InputError, match=r"^Problem\(depth=...\) is None, and the method is to remove blocks"):
        Knapsack(depth=True).solve(bare)
    with pytest.raises(InputError, match=r"^Depth\(space=...\) must be the groups of the problem, then one of width 2"):
        Problem(
            problem.model,
            problem.groups,
            problem.space,
            problem.task,
            problem.constraints,
            depth=Depth({"1": ()}, graph.space, ()),
        )
    with pytest.raises(InputError, match="cannot be reached"):
        Knapsack(depth=True).solve(posed(1e-4)[1])
