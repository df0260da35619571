"""The constraints on weights: what they cost, which floors they leave room for, and what is refused."""

import math

import pytest
import torch
from solver_toy import digits_task
from torch import nn
from weight_cases import energy, network, posed

from ecc.core.errors import InputError
from ecc.core.problem import Status
from ecc.core.weights import WeightConstraint, WeightProblem
from ecc.solvers.weights.limits import WeightLimits, weight_solution

TASK = digits_task(flat=False)


def test_the_dense_network_costs_what_budgets_are_fractions_of():
    problem = posed(0.5, 0.5, task=TASK)
    limits = WeightLimits(problem, problem.model)
    assert limits.names == ["energy", "params"]
    assert limits.spent(limits.counts()) == pytest.approx(limits.dense)
    assert limits.counts() == limits.sizes == [72, 864, 2304, 120]
    assert not limits.met(limits.counts())
    assert limits.met([0, 0, 0, 0])
    figures = limits.figures(limits.counts())
    assert figures == pytest.approx({"energy": 1.0, "params": 1.0, "violation": 1.0, "nonzeros": 1.0})


def test_two_limits_on_one_metric_are_numbered():
    problem = posed(0.5, task=TASK)
    twice = WeightProblem(problem.model, TASK, problem.constraints * 2)
    assert WeightLimits(twice, twice.model).names == ["energy", "energy@2"]


def test_floors_lay_down_a_tenth_of_what_weights_may_spend_or_one_weight_each():
    problem = posed(0.5, task=TASK)
    sizes = WeightLimits(problem, problem.model).sizes
    assert WeightLimits(problem, problem.model, 0.02).least == [math.ceil(0.02 * size) for size in sizes]
    constant = problem.constraints[0].cost.prices({}).constant
    for fraction in (0.5, 0.1, 0.01):
        limits = WeightLimits(posed(constant / limits_dense(problem) + 0.02, task=TASK), problem.model, fraction)
        assert limits.spent(limits.least)[0] <= constant + (limits.limits[0] - constant) / 10
        assert min(limits.least) >= 1
    scarce = WeightProblem(problem.model, TASK, (WeightConstraint(problem.constraints[0].cost, constant + 1),))
    assert WeightLimits(scarce, problem.model, 0.1).least == [0, 0, 0, 0]


def limits_dense(problem):
    return problem.constraints[0].cost.dense


def test_a_budget_that_no_weights_meet_is_refused_with_what_can_be_met():
    cost = energy(network())
    floor = cost.prices({}).constant / cost.dense
    nothing = cost.prices({name: torch.zeros(shape) for name, shape in cost.inputs.items()}).constant / cost.dense
    problem = posed(floor * 0.99, task=TASK)
    said = (
        rf"energy ≤ .* \({floor * 0.99:.4f} of dense\) cannot be met .* \({floor:.4f}\) are left; "
        rf"masks .* \({nothing:.4f}\)$"
    )
    with pytest.raises(InputError, match=said):
        WeightLimits(problem, problem.model)
    counted = posed(None, 0.001, task=TASK)
    with pytest.raises(InputError, match=r"params ≤ .* are left; raise the budget$"):
        WeightLimits(counted, counted.model)
    with pytest.raises(InputError, match=r"energy ≤ nan"):
        WeightLimits(posed(float("nan"), task=TASK), problem.model)


def test_what_is_no_problem_is_refused():
    problem = posed(0.5, task=TASK)
    with pytest.raises(InputError, match=r"needs at least one constraint"):
        WeightLimits(WeightProblem(problem.model, TASK, ()), problem.model)
    with pytest.raises(InputError, match=r"of another network: this one has no parameter '0.weight'"):
        WeightLimits(problem, nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        problem.model[3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"the weights of 3.weight hold NaN or infinity"):
        WeightLimits(problem, problem.model)


def test_the_solution_says_whether_the_limits_hold():
    problem = posed(0.5, task=TASK)
    limits = WeightLimits(problem, problem.model)
    assert weight_solution(problem, problem.model, limits, None).status is Status.INFEASIBLE
    with torch.no_grad():
        problem.model[6].weight.zero_()
        problem.model[3].weight.zero_()
    found = weight_solution(problem, problem.model, limits, None)
    assert found.status is Status.MET
    assert found.spent == {"energy": limits.spent(limits.counts())[0]}
