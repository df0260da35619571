"""Limits on the way to a budget: closed forms, and the budget itself at the end."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ecc.solvers.hooks import Step
from ecc.solvers.weights.falls import FALLS, Fall, due


def step(done, total):
    return Step(torch.optim.SGD([torch.zeros(1)], 0.1), 0.1, done - 1, total)


@pytest.mark.parametrize(
    ("kind", "half"),
    [("linear", 60.0), ("exponential", math.sqrt(100 * 20)), ("geometric", 10 + math.sqrt(90 * 10))],
)
def test_half_way_a_limit_is_the_mean_that_its_kind_names(kind, half):
    fall = Fall((100.0,), (20.0,), (10.0,), kind, 1.0)
    assert fall.at(step(5, 10)) == [pytest.approx(half)]
    assert fall.at(step(10, 10)) == [20.0]
    assert Fall((100.0,), (20.0,), (10.0,), kind, 0.5).at(step(5, 20)) == [pytest.approx(half)]
    assert Fall((100.0,), (20.0,), (10.0,), kind, 0.5).at(step(10, 20)) == [20.0]


@given(
    kind=st.sampled_from(FALLS),
    part=st.floats(0, 1),
    start=st.floats(1, 1e12),
    end=st.floats(0.01, 1),
    constant=st.floats(0, 1),
)
def test_limits_never_rise_and_end_at_the_budget(kind, part, start, end, constant):
    budget = start * end
    fall = Fall((start,), (budget,), (constant * budget,), kind, part)
    limits = [fall.at(step(done, 30))[0] for done in range(1, 31)]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(limits))
    assert limits[-1] == budget
    assert min(limits) >= budget
    assert [limit for done, limit in enumerate(limits, 1) if done / 30 >= part] == [budget] * sum(
        done / 30 >= part for done in range(1, 31)
    )


@pytest.mark.parametrize("kind", FALLS)
def test_what_is_met_at_first_is_the_limit_from_the_first_step_on(kind):
    assert Fall((10.0, 50.0), (20.0, 50.0), (1.0, 0.0), kind, 1.0).at(step(1, 100)) == [20.0, 50.0]


def test_projections_are_due_every_so_many_steps_and_at_ends_of_epochs():
    assert [done for done in range(1, 141) if due(step(done, 140), 7, 3)] == sorted({*range(7, 141, 7), 46, 92, 138})
    assert [done for done in range(1, 5) if due(step(done, 4), 3, 9)] == [1, 2, 3, 4]  # fewer steps than epochs


def test_short_runs_project_often_enough_that_limits_fall_in_twenty_moves():
    moves = [done for done in range(1, 81) if due(step(done, 80), 10, 1, 0.5)]
    assert moves == list(range(2, 81, 2))
    assert [done for done in range(1, 1001) if due(step(done, 1000), 10, 1, 0.5)] == list(range(10, 1001, 10))
    assert [done for done in range(1, 81) if due(step(done, 80), 10, 1, 0.0)] == list(range(10, 81, 10))
