"""Allocations are the best there are: as all widths looked at, and as an integer program, say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from allocation_oracle import (
    BlackBox,
    TableCost,
    brute_force,
    integer_program,
    limits_of,
    random_case,
    random_cost,
    random_curves,
    random_space,
)

from ecc.core.errors import InputError
from ecc.core.widths import WidthSpace
from ecc.solvers.allocation import allocate, branching, demand_reachable, least_costs, minimising, plan
from ecc.solvers.allocation.moving import Mover


def demand_best(curves, limits, found, best):
    assert bool(limits.met(found.units))
    assert found.loss == pytest.approx(sum(float(c[int(k)]) for c, k in zip(curves, found.units, strict=True)))
    assert found.loss == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert found.bound <= best + 1e-9 * max(1.0, best)
    assert found.gap <= 1e-6
    assert found.reason == ""


@pytest.mark.parametrize("seed", range(40))
def test_small_allocations_are_as_good_as_all_widths_looked_at(seed):
    curves, limits, _ = random_case(seed, most_units=5)
    demand_best(curves, limits, allocate(curves, limits, gap=0.0, seconds=60), brute_force(curves, limits))


@pytest.mark.parametrize("seed", range(10))
def test_small_allocations_are_as_good_as_those_of_an_integer_program(seed):
    curves, limits, _ = random_case(1000 + seed, most_units=5, most_groups=5)
    demand_best(curves, limits, allocate(curves, limits, gap=0.0, seconds=60), integer_program(curves, limits))


@pytest.mark.parametrize("seed", range(3))
def test_networks_of_more_groups_than_an_array_has_axes(seed):
    rng = np.random.default_rng(seed)
    count = 80
    space = WidthSpace(tuple(f"g{place}" for place in range(count)), (3,) * count, (1,) * count)
    share = np.arange(1, 4) / 3
    parts = {(place, place + 1): rng.uniform(0.5, 2) * np.outer(share, share) for place in range(count - 1)}
    limits = limits_of([TableCost(space, parts)], [0.5])
    curves = random_curves(rng, limits)
    demand_best(curves, limits, allocate(curves, limits, gap=0.0, seconds=60), integer_program(curves, limits))


@pytest.mark.parametrize("seed", range(20))
def test_branching_down_to_single_widths_finds_the_same(seed, monkeypatch):
    monkeypatch.setattr(branching, "_FEW", 1)
    curves, limits, _ = random_case(2000 + seed, most_units=4)
    demand_best(curves, limits, allocate(curves, limits, gap=0.0, seconds=60), brute_force(curves, limits))


@pytest.mark.parametrize("seed", range(10))
def test_bounds_of_messages_instead_of_elimination_find_the_same(seed, monkeypatch):
    monkeypatch.setattr(minimising, "MOST_WORK", 0)
    rng = np.random.default_rng(seed)
    space = random_space(rng, 5, 5)
    cost = random_cost(rng, space, "bilinear", "energy")
    pairs = {scope: table for scope, table in cost.parts.items() if len(scope) <= 2}
    limits = limits_of([TableCost(space, pairs)], [0.5])
    curves = random_curves(rng, limits)
    demand_best(curves, limits, allocate(curves, limits, gap=0.0, seconds=60), brute_force(curves, limits))


def test_a_bound_holds_even_where_there_is_no_time():
    for seed in range(10):
        curves, limits, _ = random_case(3000 + seed, most_units=5)
        found = allocate(curves, limits, gap=0.0, seconds=1e-9)
        best = brute_force(curves, limits)
        assert bool(limits.met(found.units))
        assert found.bound <= best + 1e-9 <= found.loss + 2e-9


def test_the_gap_is_the_share_of_what_is_lost_that_may_be_too_much():
    curves, limits, _ = random_case(7)
    found = allocate(curves, limits, gap=0.2)
    assert found.gap <= 0.2
    assert found.loss - found.bound <= 0.2 * found.loss + 1e-12  # dense loses nothing here
    assert brute_force(curves, limits) >= found.bound - 1e-12


@pytest.mark.parametrize("gap", [0.03, 0.3])
def test_bounds_hold_where_the_search_ends_early(gap):
    for seed in range(25):
        curves, limits, _ = random_case(7000 + seed, most_units=5)
        found = allocate(curves, limits, gap=gap, seconds=60)
        assert found.gap <= gap
        assert found.bound <= brute_force(curves, limits) + 1e-9


def test_the_same_is_found_again():
    curves, limits, _ = random_case(11)
    first, second = (allocate(curves, limits, seconds=60) for _ in range(2))
    assert torch.equal(first.units, second.units)
    assert (first.loss, first.bound, first.nodes) == (second.loss, second.bound, second.nodes)


def wide_case(units=600):
    """Three groups in a row whose best widths are known: equal losses and costs, so equal widths."""
    space = WidthSpace(("a", "b", "c"), (units,) * 3, (1,) * 3)
    share = np.arange(1, units + 1) / units
    parts = {(0, 1): np.outer(share, share), (1, 2): np.outer(share, share)}
    limits = limits_of([TableCost(space, parts)], [0.25])
    curve = torch.from_numpy((1 - np.arange(units + 1) / units) ** 2)
    return [curve] * 3, limits


def test_wide_groups_are_looked_at_closer_and_closer():
    curves, limits = wide_case()
    assert not plan.Plan.of(limits).whole
    found = allocate(curves, limits, seconds=60)
    middle = np.arange(1, 601)  # the middle group says how many units the outer two may have together
    both = np.minimum(180_000 // middle, 1200)
    sides = np.stack([both // 2, both - both // 2])
    best = float((((1 - sides / 600) ** 2).sum(0) + (1 - middle / 600) ** 2).min())
    assert found.bound is None
    assert found.gap is None
    assert found.reason.startswith("groups are too wide to look at all widths")
    assert best - 1e-12 <= found.loss <= best * 1.001


@pytest.mark.parametrize("seed", range(8))
def test_a_cost_that_says_nothing_of_itself_is_met_without_a_bound(seed):
    curves, limits, _ = random_case(4000 + seed, most_units=5)
    shares = limits.limits.tolist()
    hidden = limits_of([BlackBox(constraint.cost) for constraint in limits.constraints], shares)
    found = allocate(curves, hidden)
    assert bool(limits.met(found.units))
    assert found.bound is None
    assert found.gap is None
    assert found.reason == "the cost of energy is no sum of functions of few groups, so no bound is known"
    assert found.loss >= brute_force(curves, limits) - 1e-12


def test_unknown_costs_are_solved_well():
    lost = []
    for seed in range(30):
        curves, limits, _ = random_case(5000 + seed, most_units=5)
        hidden = limits_of([BlackBox(each.cost) for each in limits.constraints], limits.limits.tolist())
        dense = sum(float(curve[1]) for curve in curves)
        lost.append((allocate(curves, hidden).loss - brute_force(curves, limits)) / dense)
    assert np.mean(lost) < 0.01


def test_a_start_is_never_made_worse():
    curves, limits, _ = random_case(13)
    best = allocate(curves, limits, gap=0.0).units
    hidden = limits_of([BlackBox(each.cost) for each in limits.constraints], limits.limits.tolist())
    assert allocate(curves, hidden, start=best).loss <= Mover([c.numpy() for c in curves], limits, 0.0).loss(best)


def test_a_plan_serves_other_curves_and_limits_and_nodes_make_the_clock_irrelevant():
    curves, limits, _ = random_case(17)
    made = plan.Plan.of(limits)
    tighter = limits_of([each.cost for each in limits.constraints], (limits.limits * 1.1).clamp(max=1).tolist())
    for given, other in ((curves, limits), ([2 * curve for curve in curves], tighter)):
        with_plan = allocate(given, other, plan=made, seconds=math.inf, nodes=50)
        alone = allocate(given, other, seconds=math.inf, nodes=50)
        assert torch.equal(with_plan.units, alone.units)
        assert with_plan.bound == pytest.approx(alone.bound, abs=1e-12)
        assert with_plan.nodes <= 50


def test_a_cost_that_is_not_finite_somewhere_is_refused():
    space = WidthSpace(("a",), (32,), (8,))
    limits = limits_of([TableCost(space, {(0,): np.array([0.5, np.nan, 0.4, 1.0])}, "latency")], [0.6])
    with pytest.raises(InputError, match="the latency cost model gives no finite cost at some widths"):
        allocate([torch.zeros(5, dtype=torch.float64)], limits)


def test_without_constraints_nothing_is_lost():
    curves, limits, _ = random_case(19)
    free = limits_of([], [], limits.constraints[0].cost.space)
    assert allocate(curves, free).loss == 0
    assert least_costs(free).shape == (0,)
    demand_reachable(free)


def test_limits_that_dense_meets_and_no_limits_lose_nothing():
    curves, limits, _ = random_case(3)
    loose = limits_of([each.cost for each in limits.constraints], [1.0] * len(limits))
    assert allocate(curves, loose).loss == 0
    assert torch.equal(allocate(curves, loose).units, loose.dense)


def test_the_least_cost_may_be_at_any_width():
    space = WidthSpace(("a", "b"), (32, 32), (8, 8))
    table = np.array([0.5, 0.9, 0.4, 1.0])
    cost = TableCost(space, {(0,): table, (1,): table}, "latency")
    limits = limits_of([cost], [0.6])
    assert least_costs(limits).tolist() == pytest.approx([0.4])
    assert least_costs(limits_of([BlackBox(cost)], [0.6])).tolist() == pytest.approx([0.4])
    curves = [torch.tensor([9.0, 4.0, 3.0, 2.0, 0.0])] * 2
    assert allocate(curves, limits).units.tolist() == [3.0, 3.0]


def test_limits_that_contradict_each_other_are_refused_with_the_smallest_values():
    space = WidthSpace(("a", "b"), (32, 32), (8, 8))
    one = TableCost(space, {(0,): np.array([0.1, 0.5, 0.6, 1.0]), (1,): np.zeros(4)}, "latency")
    two = TableCost(space, {(0,): np.array([1.0, 0.9, 0.1, 1.0]), (1,): np.zeros(4)}, "energy")
    limits = limits_of([one, two], [0.3, 0.3], check=False)
    with pytest.raises(InputError, match="cannot be reached together") as error:
        demand_reachable(limits)
    assert "latency down to 100 mJ (0.1 of dense) and energy down to 100 mJ (0.1 of dense)" in str(error.value)
    curves = [torch.zeros(5, dtype=torch.float64)] * 2
    with pytest.raises(InputError, match="cannot be reached together"):
        allocate(curves, limits)


def test_a_limit_below_all_widths_is_refused_with_the_smallest_value():
    space = WidthSpace(("a",), (32,), (8,))
    cost = TableCost(space, {(0,): np.array([0.5, 0.9, 0.4, 1.0])}, "latency")
    with pytest.raises(
        InputError, match=r"latency ≤ 300 mJ .* cannot be reached: .* still needs 400 mJ \(0\.4 of dense\)"
    ):
        demand_reachable(limits_of([cost], [0.3], check=False))


def test_reachable_limits_are_let_through():
    for seed in range(10):
        _, limits, _ = random_case(6000 + seed)
        demand_reachable(limits)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_curves_that_do_not_fit_are_refused(bad):
    curves, limits, _ = random_case(5)
    with pytest.raises(InputError, match="one loss for each number of units"):
        allocate(curves[:-1], limits)
    with pytest.raises(InputError, match="one loss for each number of units"):
        allocate([curve[1:] for curve in curves], limits)
    with pytest.raises(InputError, match="NaN or infinite"):
        allocate([torch.full_like(curve, bad) for curve in curves], limits)
    with pytest.raises(InputError, match="seconds"):
        allocate(curves, limits, seconds=0)
