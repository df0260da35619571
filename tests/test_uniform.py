import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_toy import digits_task, mlp, problem, residual

from ecc.core.errors import InputError
from ecc.core.problem import Status
from ecc.solvers.baselines.uniform import Uniform
from ecc.solvers.limits import Limits

TASK, IMAGES = digits_task(), digits_task(flat=False)


@settings(max_examples=25, deadline=None)
@given(limit=st.floats(0.06, 1), first=st.integers(1, 30), second=st.integers(1, 30))
def test_the_budget_holds_and_one_unit_more_would_break_it(limit, first, second):
    network = mlp(first, second)
    smallest = network[2]({"0": 1, "3": 1}).item() / network[2].dense
    posed = problem(network, TASK, max(limit, smallest * (1 + 1e-9)))
    found = Uniform().solve(posed)
    limits = Limits(posed)
    units = torch.tensor([found.widths["0"], found.widths["3"]]).double()
    assert limits.met(units)
    assert found.status is Status.MET
    if units.sum() < limits.dense.sum():
        more = torch.minimum(units + 1, limits.dense)
        assert not limits.met(more)


def test_the_common_fraction_is_the_largest_that_is_feasible():
    network = residual()
    posed = problem(network, IMAGES, 0.4)
    found, limits = Uniform().solve(posed), Limits(posed)
    feasible = [k / 1000 for k in range(1, 1001) if limits.met((limits.dense * k / 1000).floor().clamp(min=1))]
    common = (limits.dense * max(feasible)).floor().clamp(min=1)
    units = torch.tensor(list(found.widths.values())).double()
    assert ((units == common) | (units == common + 1)).all()


def test_the_units_of_largest_norm_stay_and_the_others_are_zero():
    network = mlp()
    found = Uniform().solve(problem(network, TASK, 0.5))
    norms = network[0][3].weight.detach().norm(dim=0)
    assert set(found.kept["0"].tolist()) == set(norms.topk(found.widths["0"]).indices.tolist())
    dropped = [u for u in range(24) if u not in found.kept["0"]]
    assert not found.model[0].weight[dropped].any()
    assert not found.model[0].bias[dropped].any()
    assert not found.model[3].weight[:, dropped].any()


def test_the_problem_s_network_stays_as_it_is():
    network = residual()
    before = copy.deepcopy(network[0].state_dict())
    Uniform().solve(problem(network, IMAGES, 0.5))
    assert all(torch.equal(before[name], tensor) for name, tensor in network[0].state_dict().items())


def test_two_budgets_hold_at_once():
    network = residual()
    found = Uniform().solve(problem(network, IMAGES, 0.6, 0.4, costs=(network[2], network[2])))
    assert network[2](found.widths) <= 0.4 * network[2].dense


def test_a_budget_of_everything_keeps_everything():
    network = mlp()
    assert Uniform().solve(problem(network, TASK, 1.0)).widths == {"0": 24, "3": 16}


def test_what_cannot_be_reached_is_refused():
    with pytest.raises(InputError, match="cannot be reached"):
        Uniform().solve(problem(mlp(), TASK, 0.001))


def test_the_history_has_the_score_before_fine_tuning_and_the_cost():
    found = Uniform().solve(problem(mlp(), TASK, 0.5))
    assert list(found.history.columns) == ["phase", "epoch", "loss", "score", "macs", "violation", "seconds"]
    assert found.history.macs[0] <= 0.5
