"""Magnitude pruning of weights to a budget: against sorting, and what went stays gone."""

from itertools import pairwise

import pytest
import torch
from solver_toy import PressAt, digits_task
from weight_cases import network, posed, supports

from ecc.core.errors import InputError, Interrupted
from ecc.core.problem import Status
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.training import TrainConfig
from ecc.solvers.weights.limits import WeightLimits
from ecc.solvers.weights.magnitude import (
    WeightIterative,
    WeightMagnitude,
    WeightUniform,
    globally_largest,
    uniformly_largest,
)
from ecc.solvers.weights.methods import WEIGHT_METHODS

TASK = digits_task(flat=False)
SHORT = TrainConfig(epochs=2, lr=5e-3, dropout=False, checkpoint_every_s=1e9)
BASELINES = [WeightMagnitude, WeightUniform, WeightIterative]


def limits_of(share, min_fraction=0.0, count=None):
    problem = posed(share, count, task=TASK)
    return WeightLimits(problem, problem.model, min_fraction)


def counts_of(marks):
    return [int(each.sum()) for each in marks]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9, 1.5])
@pytest.mark.parametrize("count", [None, 0.4])
def test_the_largest_of_all_tensors_are_kept_and_one_more_would_not_fit(share, count):
    limits = limits_of(share, count=count)
    limits.least = [0, 0, 0, 0]
    marks = globally_largest(limits, limits.limits)
    sizes = torch.cat([tensor.abs().flatten() for tensor in limits.tensors.values()])
    owners = torch.repeat_interleave(torch.arange(4), torch.tensor(limits.sizes))
    order = sizes.argsort(descending=True)

    def counts(kept):
        return torch.bincount(owners[order[:kept]], minlength=4).tolist()

    kept = sum(counts_of(marks))
    assert counts_of(marks) == counts(kept)
    assert limits.met(counts(kept))
    assert kept == len(order) or not limits.met(counts(kept + 1))
    together = torch.cat([each.flatten() for each in marks])
    assert sizes[together].min() > sizes[~together].max() if kept < len(order) else True


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9, 1.5])
def test_every_tensor_keeps_the_same_share_and_no_larger_one_would_fit(share):
    limits = limits_of(share)
    limits.least = [0, 0, 0, 0]
    counts = counts_of(uniformly_largest(limits, limits.limits))
    assert limits.met(counts)
    if share > 1:
        assert counts == limits.sizes
        return
    low = max(count / size for count, size in zip(counts, limits.sizes, strict=True))
    high = min((count + 1) / size for count, size in zip(counts, limits.sizes, strict=True))
    assert low < high  # one share gives all these counts
    assert not limits.met([int(high * size + 1e-9) for size in limits.sizes])


def test_floors_are_kept_where_all_weights_of_a_tensor_are_small():
    problem = posed(0.4, task=TASK)
    with torch.no_grad():
        problem.model[3].weight.mul_(1e-3)
    limits = WeightLimits(problem, problem.model, 0.02)
    marks = globally_largest(limits, limits.limits)
    assert counts_of(marks)[1] == limits.least[1] == 18
    assert limits.met(counts_of(marks))
    weight = problem.model[3].weight.detach().abs()
    assert weight[marks[1]].min() > weight[~marks[1]].max()


def test_weights_of_equal_magnitude_go_together():
    problem = posed(0.4, task=TASK)
    with torch.no_grad():
        for parameter in problem.model.parameters():
            parameter.copy_(parameter.sign())
    limits = WeightLimits(problem, problem.model)
    limits.least = [0, 0, 0, 0]
    assert counts_of(globally_largest(limits, limits.limits)) == [0, 0, 0, 0]


@pytest.mark.parametrize("method", BASELINES, ids=lambda method: method.__name__)
def test_the_exact_energy_is_within_the_budget(method):
    problem = posed(0.4, task=TASK)
    found = method(training=SHORT).solve(problem)
    (constraint,) = problem.constraints
    assert found.status is Status.MET
    assert constraint.cost.exact(found.model, {}) <= found.spent["energy"] <= constraint.limit
    assert found.history["phase"].tolist() == [method().name] * 2


@pytest.mark.parametrize("method", [WeightMagnitude, WeightUniform], ids=lambda method: method.__name__)
def test_what_goes_at_once_is_chosen_before_training_and_the_rest_learns(method):
    problem = posed(0.4, task=TASK)
    alone = method(training=TrainConfig(epochs=0)).solve(problem).model
    learned = method(training=SHORT).solve(problem).model
    for name, kept in supports(alone).items():
        assert torch.equal(supports(learned)[name], kept)
        values = alone.get_parameter(name)
        assert torch.equal(values, problem.model.get_parameter(name) * kept)
        assert not torch.equal(learned.get_parameter(name), values)


def test_what_went_by_and_by_never_comes_back():
    problem = posed(0.3, task=TASK)
    seen = []

    class Watching(FileCheckpoint):
        def save(self, state):
            seen.append({name: tensor != 0 for name, tensor in state["model"].items() if tensor.ndim > 1})

    training = TrainConfig(epochs=6, lr=1e-2, dropout=False, checkpoint_every_s=0.0)
    WeightIterative(training=training, every=2).solve(problem, checkpoint=Watching("nowhere"))
    sums = [sum(int(each.sum()) for each in state.values()) for state in seen]
    assert len(set(sums)) > 5
    for before, after in pairwise(seen):
        assert all(bool((after[name] <= before[name]).all()) for name in before)


@pytest.mark.parametrize("method", BASELINES, ids=lambda method: method.__name__)
def test_an_interrupted_solve_goes_on_to_the_same_bits(method, tmp_path):
    problem = posed(0.4, task=TASK)
    whole = method(training=SHORT).solve(problem)
    with pytest.raises(Interrupted):
        method(training=SHORT).solve(problem, progress=PressAt(7), checkpoint=FileCheckpoint(tmp_path / "state"))
    resumed = method(training=SHORT).solve(problem, checkpoint=FileCheckpoint(tmp_path / "state"))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


def test_methods_go_by_their_names_and_take_a_training():
    for name, kind in WEIGHT_METHODS.items():
        assert kind().name == name
        assert kind(training=SHORT).training is SHORT
    assert {"projected-sgd", "weight-magnitude", "weight-uniform", "weight-iterative"} <= set(WEIGHT_METHODS)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: WeightMagnitude(min_fraction=2), r"WeightMagnitude\(min_fraction=...\) must be in \[0, 1\], got 2"),
        (lambda: WeightIterative(min_fraction=-1), r"WeightIterative\(min_fraction=...\) must be in \[0, 1\], got -1"),
        (lambda: WeightIterative(every=0), r"WeightIterative\(every=...\) must be 1 or more, got 0"),
        (lambda: WeightIterative(schedule="x"), r"must be geometric, exponential or linear, got 'x'"),
        (lambda: WeightIterative(continuation=-1), r"continuation=...\) must be in \[0, 1\], got -1"),
    ],
    ids=range(5),
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_a_budget_that_cannot_be_met_is_refused_before_training():
    for kind in BASELINES:
        with pytest.raises(InputError, match=r"cannot be met by pruning weights"):
            kind().solve(posed(0.01), progress=pytest.fail)


def test_networks_are_left_as_they_are():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    WeightMagnitude(training=SHORT).solve(posed(0.4, model=model, task=TASK))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
