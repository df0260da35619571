"""One run through several budgets."""

import json

import numpy as np
import pytest
import torch
from solver_toy import CountingCost, digits_task, mlp, problem, side

from ecc.core.errors import InputError, Interrupted
from ecc.core.problem import Constraint, Status
from ecc.solvers.admm import Admm
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.limits import Limits
from ecc.solvers.training import TrainConfig, train

TASK = digits_task(batch_size=256)
SHORT = TrainConfig(epochs=6, lr=2e-3, schedule="constant", dropout=False, checkpoint_every_s=1e9)


@pytest.fixture(scope="module")
def trained():
    network = mlp(32, 24)
    train(network[0], TASK, TrainConfig(epochs=6, lr=5e-3))
    return network


def budgets(network, *fractions):
    return [(Constraint(network[2], fraction * network[2].dense),) for fraction in fractions]


def test_every_budget_gets_a_solution_that_meets_and_uses_it_in_the_epochs_of_the_tightest(trained):
    found = list(Admm(SHORT).solve_path(problem(trained, TASK, 1.0), budgets(trained, 0.7, 0.5, 0.3)))
    costs = [one.predicted["macs"] / trained[2].dense for one in found]
    assert all(one.status is Status.MET for one in found)
    assert costs[0] <= 0.7
    assert costs[1] <= 0.5
    assert costs[2] <= 0.3
    assert all(cost > 0.85 * limit for cost, limit in zip(costs, (0.7, 0.5, 0.3), strict=True))
    assert sum(len(one.history) for one in found) <= SHORT.epochs + 1
    for one in found:  # each has a network of its own, whose dropped units are zero
        alive = [one.model[3].weight.any(0), one.model[5].weight.any(0)]
        assert [int(mask.sum()) for mask in alive] == [len(one.kept["0"]), len(one.kept["3"])]


def test_units_and_duals_of_one_budget_are_where_the_next_one_starts(trained):
    loose, tight = Admm(SHORT).solve_path(problem(trained, TASK, 1.0), budgets(trained, 0.6, 0.4))
    assert tight.history.macs.iloc[0] < loose.history.macs.iloc[0]
    assert loose.history.macs.iloc[-1] <= 0.6
    assert tight.history.macs.max() <= 0.62


class PressAt:
    def __init__(self, count):
        self.left = count

    def __call__(self, stage, done, total, note=""):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("press", [4, 14])
def test_an_interrupted_path_goes_on_to_the_same_bits_and_repeats_no_finished_part(trained, tmp_path, press):
    posed, path = problem(trained, TASK, 1.0), budgets(trained, 0.6, 0.3)
    whole = list(Admm(SHORT).solve_path(posed, path))

    def keeper(name):
        return FileCheckpoint(tmp_path / name)

    with pytest.raises(Interrupted):
        list(Admm(SHORT).solve_path(posed, path, progress=PressAt(press), keeper=keeper))
    again = list(Admm(SHORT).solve_path(posed, path, keeper=keeper))
    repeated = list(Admm(SHORT).solve_path(posed, path, progress=PressAt(1), keeper=keeper))
    for other in (again, repeated):
        for one, same in zip(whole, other, strict=True):
            assert one.widths == same.widths
            pairs = zip(one.model.state_dict().values(), same.model.state_dict().values(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_budgets_that_rise_or_differ_are_refused_before_training(trained):
    posed = problem(trained, TASK, 1.0)
    other = CountingCost(trained[2].space, trained[2].terms, metric="params")
    with pytest.raises(InputError, match="from loose to tight"):
        Admm(SHORT).solve_path(posed, budgets(trained, 0.3, 0.5))
    with pytest.raises(InputError, match="same costs"):
        Admm(SHORT).solve_path(posed, [*budgets(trained, 0.5), (Constraint(other, 1.0),)])
    with pytest.raises(InputError, match="at least one budget"):
        Admm(SHORT).solve_path(posed, [])


def test_a_tightest_budget_out_of_reach_is_refused_before_training(trained):
    with pytest.raises(InputError, match="macs"):
        Admm(SHORT).solve_path(problem(trained, TASK, 1.0), budgets(trained, 0.5, 1e-4))


def test_a_combination_that_no_widths_meet_is_refused_before_training():
    """Each budget can be met alone: one cost falls with the widths of a group, the other rises."""

    class Rising(CountingCost):
        interactions = ((0,),)

    class Falling(Rising):
        def __call__(self, widths):
            vector = widths if isinstance(widths, torch.Tensor) else torch.from_numpy(self.space.vector(widths))
            return 2.0 * self.dense - super().__call__(vector)

    network = mlp()
    up = Rising(network[2].space, ((1.0, (side("0"),)),))
    down = Falling(network[2].space, ((1.0, (side("0"),)),), metric="params")
    posed = problem(network, TASK, 0.5, 1.2, costs=(up, down))
    with pytest.raises(InputError, match="cannot be reached together"):
        Admm(SHORT).solve(posed)


def test_the_floor_is_what_the_tightest_budget_allows(trained):
    loose, tight = Admm(SHORT, min_fraction=0.9).solve_path(problem(trained, TASK, 1.0), budgets(trained, 0.8, 0.2))
    lowest = Limits(problem(trained, TASK, 0.2), 0.9 / 8).lowest
    for one in (loose, tight):
        assert (torch.tensor(list(one.widths.values())) >= lowest).all()


def test_a_cost_that_rises_as_widths_fall_is_met_where_it_can_be():
    """As runtimes that are slower at 17 channels than at 32; the narrowest network is not the cheapest."""

    class Valley(CountingCost):
        def __call__(self, widths):
            vector = widths if isinstance(widths, torch.Tensor) else torch.from_numpy(self.space.vector(widths))
            share = vector.to(torch.float64) / torch.tensor(self.space.dense)
            return (0.2 + 3 * (share - 0.5).square()).mean(-1) * 10

    network = mlp(8, 8)
    cost = Valley(network[2].space, ((9.5, (side("0"),)),))
    found = Admm(SHORT).solve(problem((*network[:2], cost), TASK, 0.3))
    assert float(cost(found.widths)) <= 0.3 * cost.dense
    assert json.dumps(found.widths)
    assert np.isfinite(found.history.loss).all()
