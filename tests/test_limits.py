import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_toy import CountingCost, digits_task, group, mlp, problem, residual, side
from torch import nn

from ecc.core.errors import InputError
from ecc.core.problem import Constraint, Problem
from ecc.core.widths import WidthSpace
from ecc.solvers.limits import Limits, Ranking, solution

TASK = digits_task()


def abstract(units, terms, *limits, step=1):
    """Limits of a network of which only the costs matter; terms are (coefficient, group numbers …)."""
    names = tuple(f"g{i}" for i in range(len(units)))
    space = WidthSpace(names, tuple(n * step for n in units), (step,) * len(units))
    groups = tuple(group(name, n, [], step) for name, n in zip(names, units, strict=True))
    made = tuple((c, (side(names[i]), side(*(names[j] for j in rest)))) for c, i, *rest in terms)
    cost = CountingCost(space, made)
    constraints = tuple(Constraint(cost, limit * cost.dense) for limit in limits)
    return Limits(Problem(nn.Linear(1, 1), groups, space, TASK, constraints))


@st.composite
def cases(draw):
    units = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    importance = [torch.tensor(draw(st.lists(st.floats(0, 10), min_size=n, max_size=n))) for n in units]
    terms = [(draw(st.floats(0.1, 5)), i, *([i - 1] if i else [])) for i in range(len(units))]
    limits = abstract(units, terms, 1.0)
    least = float(limits.costs(torch.ones(len(units), dtype=torch.float64))[0])
    limit = draw(st.floats(min(least + 1e-6, 1.0), 1.0))
    return abstract(units, terms, limit), Ranking(importance)


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_shrunk_and_grown_widths_meet_the_limits_and_one_unit_more_does_not(case):
    limits, ranking = case
    units = ranking.grow(ranking.shrink(limits.dense, limits), limits)
    assert limits.met(units)
    assert ((units >= limits.lowest) & (units <= limits.dense)).all()
    for g in range(len(units)):
        more = units.clone()
        more[g] += 1
        assert more[g] > limits.dense[g] or not limits.met(more)


@pytest.mark.parametrize("start", ["dense", "lowest"])
def test_shrinking_and_growing_come_near_the_best_choice_by_brute_force(start):
    generator = np.random.default_rng(0)
    ratios = []
    for _ in range(20):
        units = [6, 6, 6]
        importance = [torch.from_numpy(generator.exponential(size=n)) for n in units]
        limits = abstract(units, [(1.0, 0), (2.0, 1, 0), (2.0, 2, 1), (1.0, 2)], 0.4)
        ranking = Ranking(importance)

        def value(vector, ranking=ranking):
            return sum(float(row[: int(n)].sum()) for row, n in zip(ranking.sorted, vector, strict=True))

        table = [
            v for v in itertools.product(range(1, 7), repeat=3) if limits.met(torch.tensor(v, dtype=torch.float64))
        ]
        best = max(value(v) for v in table)
        units = ranking.grow(ranking.shrink(getattr(limits, start), limits), limits)
        ratios.append(value(units) / best)
    assert min(ratios) > 0.85
    assert np.mean(ratios) > 0.95


def test_slopes_are_the_derivatives_by_relative_widths():
    limits = abstract([4, 8, 3], [(1.0, 0), (2.0, 1, 0), (3.0, 2, 1)], 0.9, 0.8, step=2)
    at = torch.tensor([2.5, 6.0, 1.5], dtype=torch.float64)
    costs, slopes = limits.slopes(at)
    torch.testing.assert_close(costs, limits.costs(at))
    for g in range(3):
        move = torch.zeros(3, dtype=torch.float64)
        move[g] = 1e-6 * limits.dense[g]
        numeric = (limits.costs(at + move) - limits.costs(at - move)) / 2e-6
        torch.testing.assert_close(slopes[:, g], numeric, rtol=1e-6, atol=1e-9)


def test_shrinking_below_the_lowest_widths_is_refused():
    limits = Limits(problem(mlp(), TASK, 0.01))
    with pytest.raises(InputError, match="leads to no widths that meet all limits"):
        Ranking([torch.rand(24), torch.rand(16)]).shrink(limits.dense, limits)


def test_the_floor_is_whole_units_rounded_up():
    assert Limits(problem(mlp(10, 3), TASK, 0.9), min_fraction=0.3).lowest.tolist() == [3, 1]


def test_two_constraints_of_one_metric_keep_apart():
    network = mlp()
    cost = network[2]
    limits = Limits(problem(network, TASK, 0.9, 0.8, costs=(cost, replace(cost))))
    assert limits.names == ["macs", "macs@2"]
    assert limits.figures(limits.dense) == pytest.approx({"macs": 1.0, "macs@2": 1.0, "violation": 0.25})


@pytest.mark.parametrize("dense", [0.0, float("nan"), float("inf")])
def test_a_cost_model_without_a_dense_value_is_refused(dense):
    model, groups, cost = mlp()
    broken = CountingCost(cost.space, ((dense, (side("0"),)),))
    with pytest.raises(InputError, match="cost model gives the dense network"):
        Limits(Problem(model, groups, cost.space, TASK, (Constraint(broken, 1.0),)))


def test_a_cost_that_is_nan_does_not_meet_its_limit():
    limits = abstract([4], [(1.0, 0)], 0.5)
    assert not limits.met(torch.tensor([float("nan")]))


def test_a_solution_keeps_the_most_important_units_and_zeroes_the_rest():
    network = residual()
    posed = problem(network, digits_task(flat=False), 0.6)
    limits = Limits(posed)
    importance = [torch.arange(8.0), -torch.arange(8.0), torch.zeros(12)]
    units = torch.tensor([3.0, 2.0, 5.0], dtype=torch.float64)
    found = solution(posed, network[0], limits, Ranking(importance), units, None)
    assert {name: kept.tolist() for name, kept in found.kept.items()} == {
        "stem": [5, 6, 7],
        "inner": [0, 1],
        "last": [0, 1, 2, 3, 4],
    }
    assert found.widths == {"stem": 3, "inner": 2, "last": 5}
    assert found.predicted == {"macs": pytest.approx(network[2](found.widths).item())}
    assert not network[0].stem.weight[:5].any()
    assert not network[0].head.weight[:, 80:].any()
    assert network[0].head.weight[:, :80].all()
