import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_toy import CountingCost, digits_task, mlp, problem, residual, side

from ecc.core.errors import InputError
from ecc.core.problem import Status
from ecc.solvers.baselines.knapsack import Knapsack
from ecc.solvers.importance import CRITERIA, curves_of, rate
from ecc.solvers.limits import Ranking
from ecc.solvers.sensitivity import measure_curves

_WIDTHS = st.integers(2, 12)
TASK, IMAGES = digits_task(), digits_task(flat=False)


@settings(max_examples=10, deadline=None)
@given(
    limit=st.floats(0.2, 1), first=st.integers(2, 12), second=st.integers(2, 12), criterion=st.sampled_from(CRITERIA)
)
def test_what_is_dropped_is_worth_least_of_all_widths_within_the_budget(limit, first, second, criterion):
    network = mlp(first, second)
    posed = problem(network, TASK, max(limit, network[2]({"0": 1, "3": 1}).item() / network[2].dense))
    found = Knapsack(importance=criterion, curves="importance", batches=2, min_fraction=0).solve(posed)
    importance = rate(criterion, network[0], network[1], TASK, batches=2)
    curves = curves_of(importance)
    best = min(
        float(curves[0][one] + curves[1][two])
        for one, two in itertools.product(range(1, first + 1), range(1, second + 1))
        if network[2](torch.tensor([one, two], dtype=torch.float64)) <= posed.constraints[0].limit
    )
    lost = sum(
        float(np.delete(values.numpy(), found.kept[name]).sum())
        for name, values in zip(("0", "3"), importance, strict=True)
    )
    assert lost <= best * (1 + 2e-3) + 1e-12  # allocate stops at a gap of 1e-3
    assert found.status is Status.MET


def test_two_budgets_hold_at_once_and_the_floor_is_kept():
    network = residual()
    head = CountingCost(network[2].space, ((1.0, (side("last"),)), (1.0, (side("inner"),))), metric="params")
    found = Knapsack(min_fraction=0.25).solve(problem(network, IMAGES, 0.5, 0.4, costs=(network[2], head)))
    assert found.status is Status.MET
    assert found.predicted["macs"] <= 0.5 * network[2].dense
    assert found.predicted["params"] <= 0.4 * head.dense
    assert all(found.widths[name] >= least for name, least in {"stem": 2, "inner": 2, "last": 3}.items())


def test_the_same_seed_gives_the_same_widths():
    posed = problem(residual(), IMAGES, 0.4, seed=2)
    one, two = (Knapsack().solve(posed) for _ in range(2))
    assert all(np.array_equal(one.kept[name], two.kept[name]) for name in one.kept)


def test_the_history_has_the_score_before_fine_tuning_and_the_cost():
    history = Knapsack().solve(problem(residual(), IMAGES, 0.4)).history
    assert list(history.columns) == ["phase", "epoch", "loss", "score", "macs", "violation", "seconds"]
    assert (history.phase[0], history.epoch[0]) == ("knapsack", 0)
    assert history.macs[0] <= 0.4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"importance": "l3"}, r"Knapsack\(importance=...\) must be one of l1, l2, taylor, fisher, got 'l3'"),
        ({"batches": 0}, r"Knapsack\(batches=...\) must be at least 1, got 0"),
        ({"seconds": float("nan")}, r"Knapsack\(seconds=...\) must be positive, got nan"),
        ({"min_fraction": -1}, r"Knapsack\(min_fraction=...\) must be in \[0, 1\], got -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        Knapsack(**given)


def test_what_cannot_be_reached_is_refused():
    with pytest.raises(InputError, match="cannot be reached"):
        Knapsack().solve(problem(mlp(), TASK, 0.001))


def test_measured_curves_lose_least_of_all_widths_within_the_budget():
    network = residual(6, 6, 6)
    posed = problem(network, IMAGES, 0.5)
    found = Knapsack(min_fraction=0).solve(posed)
    ranking = Ranking(rate("l2", network[0], network[1], IMAGES))
    curves = measure_curves(network[0], network[1], IMAGES.train, ranking, torch.ones(3, dtype=torch.float64))
    every = torch.tensor(list(itertools.product(range(1, 7), repeat=3)), dtype=torch.float64)
    inside = every[network[2](every) <= posed.constraints[0].limit].long()
    losses = sum(curve[inside[:, number]] for number, curve in enumerate(curves))
    units = torch.tensor(list(found.widths.values()))
    assert sum(float(curve[count]) for curve, count in zip(curves, units, strict=True)) <= float(losses.min()) * 1.002


def test_measured_curves_say_nothing_of_blocks():
    with pytest.raises(InputError, match="without depth"):
        Knapsack(curves="measured", depth=True)
