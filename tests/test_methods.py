from dataclasses import fields, is_dataclass, replace

import pytest
from solver_toy import CountingCost, digits_task, problem, residual, side

from ecc.core.problem import Status
from ecc.solvers.methods import METHODS
from ecc.solvers.settings import TrainConfig

TASK = digits_task(flat=False)


def made(name):
    kind = METHODS[name]
    trains = any(each.name == "training" for each in fields(kind))
    return kind(training=TrainConfig(epochs=1, schedule="constant")) if trains else kind()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_frozen_dataclass_that_knows_its_name(name):
    method = made(name)
    assert is_dataclass(method)
    assert method.name == name
    with pytest.raises(AttributeError):
        method.name = "other"
    assert METHODS[name].solve.__doc__


@pytest.mark.parametrize("name", METHODS)
def test_every_method_meets_two_budgets_by_their_true_costs(name):
    network = residual()
    head = CountingCost(network[2].space, ((1.0, (side("last"),)), (1.0, (side("inner"),))), metric="params")
    posed = problem(network, TASK, 0.6, 0.5, costs=(network[2], head))
    seen = []
    found = made(name).solve(posed, progress=lambda stage, done, total, note="": seen.append(stage))
    assert found.status is Status.MET
    for cost, limit in ((network[2], 0.6), (head, 0.5)):
        assert float(cost(found.widths)) <= limit * cost.dense
        assert found.predicted[cost.metric] == pytest.approx(float(cost(found.widths)))
    assert set(seen) == {name}
    last = found.history.iloc[-1]
    assert last.phase == name
    assert (last.macs, last.params) == pytest.approx([float(c(found.widths)) / c.dense for c in (network[2], head)])
    assert last.violation == 0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_fewest_channels_that_the_problem_allows(name):
    network = residual()
    posed = replace(problem(network, TASK, 0.5), least={"inner": 7, "last": 5})
    found = made(name).solve(posed)
    assert found.widths["inner"] >= 7
    assert found.widths["last"] >= 5
