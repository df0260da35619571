"""Multiple choice against every choice there is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.stages.multiple_choice import select


def _instance(seed: int, groups: int, most: int, limits: int, *, whole: bool):
    rng = np.random.default_rng(seed)
    losses, costs = [], []
    for _ in range(groups):
        count = int(rng.integers(1, most + 1))
        if whole:  # many ties
            losses.append(rng.integers(-2, 8, count).astype(float))
            costs.append(rng.integers(0, 8, (count, limits)).astype(float))
        else:
            losses.append(rng.normal(size=count) * 10.0 ** rng.integers(-3, 3))
            costs.append(rng.random((count, limits)) * 10.0 ** rng.integers(-1, 3))
    low = np.sum([each.min(0) for each in costs], axis=0)
    high = np.sum([each.max(0) for each in costs], axis=0)
    return losses, costs, low + rng.random(limits) * (high - low) * 1.05


def _brute_force(losses, costs, limits):
    best = math.inf
    for chosen in itertools.product(*(range(len(each)) for each in losses)):
        spent = np.sum([each[place] for each, place in zip(costs, chosen, strict=True)], axis=0)
        if (spent <= limits * (1 + 1e-12)).all():
            best = min(best, math.fsum(each[place] for each, place in zip(losses, chosen, strict=True)))
    return best


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    groups=st.integers(1, 5),
    most=st.integers(1, 5),
    limits=st.integers(1, 3),
    whole=st.booleans(),
)
def test_no_choice_loses_less_and_the_bound_says_so(seed, groups, most, limits, whole):
    losses, costs, bounds = _instance(seed, groups, most, limits, whole=whole)
    found = select(losses, costs, bounds)
    best = _brute_force(losses, costs, bounds)
    if found is None:
        assert best == math.inf
        return
    assert found.loss == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert found.bound <= best + 1e-9 * max(1.0, abs(best))
    assert found.gap == pytest.approx(0.0, abs=1e-9)
    assert (np.array(found.costs) <= bounds * (1 + 1e-9)).all()
    assert found.loss == math.fsum(each[place] for each, place in zip(losses, found.places, strict=True))


@pytest.mark.parametrize("limits", [1, 2])
def test_with_few_states_the_bound_stays_below_the_optimum_and_the_gap_above_zero_is_honest(limits):
    gaps = []
    for seed in range(60):
        losses, costs, bounds = _instance(seed, 5, 5, limits, whole=False)
        best = _brute_force(losses, costs, bounds)
        found = select(losses, costs, bounds, states=1)
        if found is None:
            continue
        assert found.bound <= best + 1e-9 * max(1.0, abs(best))
        assert found.loss >= best - 1e-9 * max(1.0, abs(best))
        gaps.append(found.gap)
        if found.gap == 0:
            assert found.loss == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert max(gaps) > 0


def test_the_search_finds_what_single_changes_do_not():
    """Costs and gains nearly alike, so that only the right combination fills the limit."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(20, 60, (6, 2)).cumsum(1)
        costs = [np.append(0, each)[:, None].astype(float) for each in sizes]
        losses = [-(each[:, 0] + np.where(each[:, 0] > 0, rng.random(3), 0)) for each in costs]
        limit = 0.55 * sum(each.max() for each in costs)
        found = select(losses, costs, [limit])
        assert found is not None
        assert found.loss == pytest.approx(_brute_force(losses, costs, np.array([limit])), rel=1e-12)
        assert found.gap == 0


def test_a_hundred_groups_are_solved_to_the_optimum():
    rng = np.random.default_rng(0)
    losses, costs = [], []
    for _ in range(100):  # bytes and losses of bits, as of tensors of a network
        bits, size = np.arange(1, 9), 10 ** rng.uniform(2, 6)
        losses.append(10 ** rng.uniform(-2, 2) * 4.0**-bits * rng.uniform(0.8, 1.2, 8))
        costs.append(np.round(size * bits / 8 + 4 * 2.0**bits)[:, None])
    limit = 0.4 * sum(each.max() for each in costs)
    found = select(losses, costs, [limit])
    assert found is not None
    assert found.gap == 0
    assert found.costs[0] <= limit


def test_nothing_within_the_limits_is_none():
    assert select([np.zeros(2)], [np.array([[3.0], [2.0]])], [1.0]) is None
    one = [np.array([[2.0, 0.0], [0.0, 2.0]])]
    assert select([np.zeros(2)], one, [1.0, 1.0]) is None  # each limit alone could be kept


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="one loss and 1 costs each"):
        select([np.zeros(0)], [np.zeros((0, 1))], [1.0])
    with pytest.raises(InputError, match="must be finite"):
        select([np.array([math.nan])], [np.zeros((1, 1))], [1.0])
    with pytest.raises(InputError, match="costs not negative"):
        select([np.zeros(1)], [np.array([[-1.0]])], [1.0])
