"""Projected SGD: budgets hold after every projection, weights come back, no layer is emptied, runs are repeatable."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks_toy import together
from solver_toy import PressAt, digits_task
from torch import nn
from weight_cases import energy, network, posed, supports

from ecc.core.errors import InputError, Interrupted
from ecc.core.problem import Status
from ecc.core.weights import WeightConstraint, WeightProblem
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.hooks import Step
from ecc.solvers.projection import weighted_sparse_projection
from ecc.solvers.training import TrainConfig, evaluate, train
from ecc.solvers.weights.limits import WeightLimits
from ecc.solvers.weights.projected_sgd import ProjectedSgd, Projecting

TASK = digits_task(flat=False)
SHORT = TrainConfig(epochs=2, lr=5e-3, dropout=False, checkpoint_every_s=1e9)
PUBLISHED = {"schedule": "exponential", "continuation": 1.0, "profit": "magnitude", "min_fraction": 0.0}


@pytest.fixture(scope="module")
def trained():
    model = network()
    train(model, TASK, TrainConfig(epochs=8, lr=5e-3, distill=0.0))
    return model.eval()


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("settings_", [{}, PUBLISHED, {"profit": "fisher", "schedule": "linear"}], ids=str)
def test_the_exact_energy_is_within_the_budget_and_the_bound_uses_it_up(trained, settings_):
    problem = posed(0.4, model=trained, task=TASK)
    found = ProjectedSgd(training=SHORT, **settings_).solve(problem)
    (constraint,) = problem.constraints
    assert found.status is Status.MET
    assert constraint.cost.exact(found.model, {}) <= found.spent["energy"] <= constraint.limit
    dearest = max(price.rest for price in constraint.cost.prices({}).tensors.values())
    assert found.spent["energy"] > constraint.limit - dearest
    row = found.history.iloc[-1]
    assert row["energy"] == found.spent["energy"] / constraint.cost.dense
    assert row["violation"] == 0
    kept = supports(found.model).values()
    assert row["nonzeros"] == sum(int(each.sum()) for each in kept) / sum(each.numel() for each in kept)


@settings(max_examples=15, deadline=None)
@given(
    limit=st.floats(0.23, 1.2),
    count=st.one_of(st.none(), st.floats(0.05, 1.0)),
    profit=st.sampled_from(["magnitude", "taylor"]),
    seed=st.integers(0, 999),
)
def test_after_every_projection_the_limits_of_the_moment_hold(limit, count, profit, seed):
    model = network(seed)
    problem = posed(limit, count, model=model, task=TASK)
    limits = WeightLimits(problem, model, 0.01)
    hook = Projecting(ProjectedSgd(training=SHORT, every=2, profit=profit), limits, model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    generator = torch.Generator().manual_seed(seed)
    for index in range(8):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator) * parameter.detach().std()
        optimizer.step()
        hook.after_step(Step(optimizer, 0.1, index, 8))
        if index % 2:
            assert limits.met(limits.counts(), hook.limits_now)
    assert limits.met(limits.counts())
    assert all(count >= least for count, least in zip(limits.counts(), limits.least, strict=True))
    for constraint in problem.constraints:
        assert constraint.cost.exact(model, {}) <= constraint.limit * (1 + 1e-12)


def test_without_training_it_is_one_projection(trained):
    problem = posed(0.3, model=trained, task=TASK)
    found = ProjectedSgd(training=TrainConfig(epochs=0), min_fraction=0.0).solve(problem)
    limits = WeightLimits(problem, trained)
    wanted = weighted_sparse_projection(
        list(limits.tensors.values()), limits.prices[0], limits.limits[0] - limits.constants[0], floors=limits.least
    )
    for name, values in zip(limits.tensors, wanted.values, strict=True):
        assert torch.equal(found.model.get_parameter(name), values)


def test_training_at_the_budget_beats_the_projection_alone(trained):
    problem = posed(0.25, model=trained, task=TASK)
    alone = ProjectedSgd(training=TrainConfig(epochs=0)).solve(problem)
    learned = ProjectedSgd(training=TrainConfig(epochs=6, lr=5e-3, dropout=False), every=3).solve(problem)
    scores = [evaluate(found.model, TASK.validation, TASK.score) for found in (alone, learned)]
    assert scores[1] > scores[0] + 0.1


def test_weights_that_went_come_back():
    model = network()
    hook = Projecting(ProjectedSgd(training=SHORT, every=1, continuation=0.0), WeightLimits(posed(0.3), model), model)
    hook.project(hook.limits.limits)
    gone = model[6].weight == 0
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model[6].weight.grad[gone] = -1.0
    optimizer.step()
    hook.after_step(Step(optimizer, 1.0, 0, 9))
    assert bool((model[6].weight[gone] != 0).any())
    assert hook.limits.met(hook.limits.counts())


def test_no_layer_is_emptied_unless_it_is_wanted():
    model = network()
    with torch.no_grad():
        model[3].weight.mul_(1e-6)
    found = ProjectedSgd(training=TrainConfig(epochs=0)).solve(posed(0.3, model=model))
    assert int((found.model[3].weight != 0).sum()) == 9  # 1 % of 864: twice that would be too much of the budget
    bare = ProjectedSgd(training=TrainConfig(epochs=0), min_fraction=0.0).solve(posed(0.3, model=model))
    assert int((bare.model[3].weight != 0).sum()) == 1


def test_both_of_two_budgets_hold(trained):
    problem = posed(0.5, 0.3, model=trained, task=TASK)
    found = ProjectedSgd(training=SHORT).solve(problem)
    assert found.status is Status.MET
    for constraint in problem.constraints:
        assert constraint.cost.exact(found.model, {}) <= found.spent[constraint.cost.metric] <= constraint.limit


def test_masks_leave_the_weights_more_to_spend(trained):
    cost = energy(trained)
    masks = {"3": torch.zeros(cost.inputs["3"])}
    limit = (WeightConstraint(cost, 0.3 * cost.dense),)
    plain, masked = (
        ProjectedSgd(training=TrainConfig(epochs=0)).solve(WeightProblem(trained, TASK, limit, masks=each))
        for each in ({}, masks)
    )
    assert list(masked.masks) == ["3"]
    assert sum(each.sum() for each in supports(masked.model).values()) > sum(
        each.sum() for each in supports(plain.model).values()
    )
    assert cost.exact(masked.model, masks) <= masked.spent["energy"] <= limit[0].limit


def test_the_network_is_trained_with_its_inputs_masked(trained):
    cost = energy(trained)
    masks = {"3": torch.zeros(cost.inputs["3"])}  # then every image looks the same, and the best guess is 1 in 10
    limit = (WeightConstraint(cost, cost.dense),)
    found = ProjectedSgd(training=SHORT).solve(WeightProblem(trained, TASK, limit, masks=masks))
    assert found.history["score"].max() < 0.2
    plain = ProjectedSgd(training=SHORT).solve(WeightProblem(trained, TASK, limit))
    assert plain.history["score"].min() > 0.7


def test_the_problem_s_network_and_torch_s_generator_stay_as_they_are(trained):
    before, generator = copy.deepcopy(trained), torch.get_rng_state()
    ProjectedSgd(training=SHORT).solve(posed(0.5, model=trained, task=TASK))
    assert equal(before, trained)
    assert torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_interrupted_solve_goes_on_to_the_same_bits(trained, tmp_path, optimizer):
    problem = posed(0.3, model=trained, task=TASK)
    training = TrainConfig(epochs=2, lr=5e-3, optimizer=optimizer, dropout=False, checkpoint_every_s=1e9)
    method = ProjectedSgd(training=training, every=4)
    whole = method.solve(problem)
    press = PressAt(3, 14)
    for _ in range(2):
        with pytest.raises(Interrupted):
            method.solve(problem, progress=press, checkpoint=FileCheckpoint(tmp_path / "state"))
    resumed = method.solve(problem, progress=press, checkpoint=FileCheckpoint(tmp_path / "state"))
    assert equal(whole.model, resumed.model)
    linear = ProjectedSgd(training=training, every=4, schedule="linear")
    other = linear.solve(problem, checkpoint=FileCheckpoint(tmp_path / "state"))
    assert not equal(whole.model, other.model)  # of other settings: begun anew


def test_processes_end_with_one_network(trained, tmp_path):
    def work(rank):
        found = ProjectedSgd(training=SHORT, every=3).solve(posed(0.3, model=trained, task=digits_task(64, flat=False)))
        return {"model": found.model.state_dict(), "spent": dict(found.spent), "status": found.status.name}

    one, other = together(work, tmp_path)
    assert all(torch.equal(one["model"][name], tensor) for name, tensor in other["model"].items())
    assert one["spent"] == other["spent"]
    assert one["status"] == "MET"


def test_training_that_diverges_is_told_of_by_the_loop(trained):
    training = TrainConfig(epochs=3, lr=1e30, optimizer="sgd", dropout=False)
    with pytest.raises(InputError, match=r"stopped being a finite number"):
        ProjectedSgd(training=training, every=1).solve(posed(0.3, model=trained, task=TASK))


def test_a_budget_that_cannot_be_met_is_refused_before_training(trained):
    with pytest.raises(InputError, match=r"cannot be met by pruning weights"):
        ProjectedSgd(training=SHORT).solve(posed(0.01, model=trained), progress=pytest.fail)


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"every": 0}, r"ProjectedSgd\(every=...\) must be 1 or more, got 0"),
        ({"schedule": "cosine"}, r"schedule=...\) must be geometric, exponential or linear, got 'cosine'"),
        ({"continuation": 1.5}, r"continuation=...\) must be in \[0, 1\], got 1.5"),
        ({"profit": "size"}, r"profit=...\) must be magnitude, taylor or fisher, got 'size'"),
        ({"min_fraction": -0.1}, r"min_fraction=...\) must be in \[0, 1\], got -0.1"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings_, said):
    with pytest.raises(InputError, match=said):
        ProjectedSgd(**settings_)


def test_a_network_that_is_sparse_already_keeps_its_zeros_unless_gradients_say_else():
    model = network()
    with torch.no_grad():
        nn.init.zeros_(model[3].weight[:6])
    found = ProjectedSgd(training=TrainConfig(epochs=0)).solve(posed(0.9, model=model))
    assert bool((found.model[3].weight[:6] == 0).all())
