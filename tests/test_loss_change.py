import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_toy import CountingCost, digits_task, mlp, problem, residual, side

from ecc.core.errors import InputError
from ecc.core.problem import Status
from ecc.solvers.baselines.loss_change import Fisher, Taylor
from ecc.solvers.importance import rate

TASK, IMAGES = digits_task(), digits_task(flat=False)


def slow(network, criterion, limit):
    """Drop the unit of least importance, one at a time, until the cost fits; the widest prefix of equals goes last."""
    model, groups, cost = network
    values = {
        member.name: found.tolist()
        for member, found in zip(groups, rate(criterion, model, groups, TASK, batches=2), strict=True)
    }
    kept = {name: set(range(len(each))) for name, each in values.items()}
    while cost({name: len(units) for name, units in kept.items()}) > limit * cost.dense * (1 + 1e-12):
        ranked = sorted((values[n][u], n, u) for n, units in kept.items() if len(units) > 1 for u in units)
        _, name, unit = ranked[0]
        kept[name].remove(unit)
    return kept


@settings(max_examples=8, deadline=None)
@given(limit=st.floats(0.2, 1), first=st.integers(4, 20), second=st.integers(4, 20))
@pytest.mark.parametrize("kind", [Taylor, Fisher])
def test_it_drops_the_units_of_least_loss_until_the_budget_holds(kind, limit, first, second):
    network = mlp(first, second)
    limit = max(limit, 1.001 * network[2]({"0": 1, "3": 1}).item() / network[2].dense)
    found = kind(batches=2, min_fraction=0).solve(problem(network, TASK, limit))
    expected = slow(network, kind().name, limit)
    assert found.status is Status.MET
    assert {name: len(units) for name, units in found.kept.items()} == {n: len(u) for n, u in expected.items()}


@pytest.mark.parametrize("kind", [Taylor, Fisher])
def test_two_budgets_hold_at_once_and_the_floor_is_kept_as_far_as_they_allow(kind):
    network = residual()
    head = CountingCost(network[2].space, ((1.0, (side("last"),)), (1.0, (side("inner"),))), metric="params")
    found = kind(min_fraction=0.25).solve(problem(network, IMAGES, 0.5, 0.4, costs=(network[2], head)))
    assert found.predicted["macs"] <= 0.5 * network[2].dense
    assert found.predicted["params"] <= 0.4 * head.dense
    assert all(found.widths[name] >= least for name, least in {"stem": 2, "inner": 2, "last": 3}.items())
    smallest = network[2](dict.fromkeys(("stem", "inner", "last"), 1)).item() / network[2].dense
    assert kind(min_fraction=0.25).solve(problem(network, IMAGES, smallest * 1.001)).widths["last"] == 1


@pytest.mark.parametrize("kind", [Taylor, Fisher])
def test_the_same_seed_gives_the_same_units(kind):
    posed = problem(residual(), IMAGES, 0.4, seed=2)
    one, two = (kind().solve(posed) for _ in range(2))
    assert all(np.array_equal(one.kept[name], two.kept[name]) for name in one.kept)
    assert one.history.phase[0] == kind().name


@pytest.mark.parametrize("kind", [Taylor, Fisher])
def test_settings_that_make_no_sense_are_refused(kind):
    with pytest.raises(InputError, match=rf"^{kind.__name__}\(batches=...\) must be at least 1, got 0$"):
        kind(batches=0)
    with pytest.raises(InputError, match=rf"^{kind.__name__}\(min_fraction=...\) must be in \[0, 1\], got 1.5$"):
        kind(min_fraction=1.5)


def test_what_cannot_be_reached_is_refused():
    with pytest.raises(InputError, match="cannot be reached"):
        Taylor().solve(problem(mlp(), TASK, 0.001))
