import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from solver_toy import CountingCost, Loader, digits_task, mlp, problem, residual, side
from test_proposals import Peak

from ecc.core.errors import InputError, Interrupted
from ecc.core.problem import Status
from ecc.solvers.baselines.netadapt import NetAdapt
from ecc.solvers.baselines.short_training import Few, Judge
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.limits import Limits
from ecc.solvers.sparsity import Sparsity
from ecc.solvers.training import TrainConfig, evaluate, train

WHOLE = digits_task(flat=False)
IMAGES = replace(WHOLE, train=Loader(WHOLE.train.inputs[:512], WHOLE.train.targets[:512], 64, shuffle=True))
SHORT = TrainConfig(epochs=2, lr=2e-3, schedule="constant", dropout=False, checkpoint_every_s=1e9)
QUICK = NetAdapt(SHORT, iterations=4)


@pytest.fixture(scope="module")
def trained():
    """A residual network at full accuracy; tests must not change it."""
    network = residual(12, 12, 16)
    train(network[0], WHOLE, TrainConfig(epochs=6, lr=5e-3))
    return network


class Counting(Loader):
    """Counts the batches that were taken."""

    taken = 0

    def __iter__(self):
        for batch in super().__iter__():
            self.taken += 1
            yield batch


def same(one, two):
    weights = two.model.state_dict()
    return all(torch.equal(tensor, weights[name]) for name, tensor in one.model.state_dict().items())


@pytest.mark.parametrize("limit", [0.7, 0.2])
def test_the_budget_is_met_and_dropped_units_are_zero_everywhere(trained, limit):
    posed = problem(trained, IMAGES, limit)
    found = QUICK.solve(posed)
    assert found.status is Status.MET
    assert found.predicted["macs"] == pytest.approx(trained[2](found.widths).item())
    assert 0.6 * limit < found.predicted["macs"] / trained[2].dense <= limit
    state = found.model.state_dict()
    for member in posed.groups:
        dropped = np.setdiff1d(np.arange(member.units), found.kept[member.name])
        assert len(found.kept[member.name]) == found.widths[member.name] >= np.ceil(0.1 * member.units)
        for slot in member.slots:
            if not slot.tensor.endswith("running_var"):
                index = torch.from_numpy(slot.indices[dropped].ravel())
                assert not state[slot.tensor].index_select(slot.axis, index).any()
    assert found.history.violation.iloc[-1] == 0
    assert (np.diff(found.history.macs) < 0).all()
    assert evaluate(found.model, IMAGES.validation, IMAGES.score) == found.history.score.iloc[-1]


def test_two_budgets_hold_at_once(trained):
    cost = trained[2]
    peak = Peak(cost.space)
    head = CountingCost(cost.space, ((1.0, (side("last"),)), (1.0, (side("inner"),))), metric="params")
    found = QUICK.solve(problem(trained, IMAGES, 0.6, 0.5, 0.7, costs=(cost, head, peak)))
    assert found.status is Status.MET
    assert found.predicted["macs"] <= 0.6 * cost.dense
    assert found.predicted["params"] <= 0.5 * head.dense
    assert found.predicted["memory"] <= 0.7


def test_no_more_batches_are_trained_on_than_the_epochs_hold(trained):
    for epochs, iterations in ((1, 2), (3, 4), (1, 20)):
        loader = Counting(IMAGES.train.inputs, IMAGES.train.targets, 64)
        task = replace(IMAGES, train=loader)
        method = NetAdapt(replace(SHORT, epochs=epochs), iterations=iterations, held=2)
        history = method.solve(problem(trained, task, 0.4)).history
        spent = loader.taken - 2  # those that are held
        assert 0.5 * epochs * len(loader) < spent <= epochs * len(loader)
        assert history.epoch.iloc[-1] == -(-spent // len(loader)) <= epochs
        assert (np.diff(history.epoch) >= 0).all()


def test_the_proposal_that_is_accepted_is_the_most_accurate(trained):
    posed, accepted = problem(trained, IMAGES, 0.9), []
    judge = Judge(IMAGES, 4, 0, torch.device("cpu"))
    history = NetAdapt(replace(SHORT, epochs=0), iterations=1).solve(posed).history
    limits = Limits(posed)
    for number, member in enumerate(posed.groups):
        for count in range(member.units - 1, 0, -1):
            units = limits.dense.clone()
            units[number] = count
            if bool(limits.met(units)):
                model = copy.deepcopy(trained[0])
                sparsity = Sparsity(model, posed.groups)
                kept = sparsity.energies()[number].topk(count).indices.sort().values.numpy()
                sparsity.zero({member.name: kept})
                accepted.append(judge(model))
                break
    assert len(history) == 2  # the dense network's row is the first
    assert (history.held_score[1], -history.loss[1]) == max(accepted)


def test_the_same_seed_gives_the_same_result_and_the_problem_s_network_stays(trained):
    before, random = copy.deepcopy(trained[0].state_dict()), torch.get_rng_state()
    one = QUICK.solve(problem(trained, IMAGES, 0.5, seed=3))
    torch.rand(5)
    two = QUICK.solve(problem(trained, IMAGES, 0.5, seed=3))
    assert same(one, two)
    assert one.widths == two.widths
    assert all(torch.equal(before[name], tensor) for name, tensor in trained[0].state_dict().items())
    torch.set_rng_state(random)
    assert not same(one, QUICK.solve(problem(trained, IMAGES, 0.5, seed=4)))


class Stopping(FileCheckpoint):
    """Ends the process, as it were, after some saves."""

    def __init__(self, path, saves):
        super().__init__(path)
        self.left = saves

    def save(self, state):
        super().save(state)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("saves", [1, 3])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(trained, tmp_path, saves):
    posed = problem(trained, IMAGES, 0.4)
    whole = QUICK.solve(posed)
    with pytest.raises(Interrupted, match=rf"^netadapt was interrupted in iteration {saves + 1}; the state before it"):
        QUICK.solve(posed, checkpoint=Stopping(tmp_path / "state", saves))
    resumed = QUICK.solve(posed, checkpoint=FileCheckpoint(tmp_path / "state"))
    assert same(whole, resumed)
    assert whole.widths == resumed.widths
    columns = [name for name in whole.history if name != "seconds"]
    assert whole.history[columns].equals(resumed.history[columns])
    again = QUICK.solve(posed, checkpoint=FileCheckpoint(tmp_path / "state"))
    assert same(whole, again)


def test_the_state_of_another_budget_is_not_resumed(trained, tmp_path, caplog):
    keeper = FileCheckpoint(tmp_path / "state")
    QUICK.solve(problem(trained, IMAGES, 0.7), checkpoint=keeper)
    found = QUICK.solve(problem(trained, IMAGES, 0.4), checkpoint=keeper)
    assert "belongs to other weights or settings; starting anew" in caplog.text
    assert same(found, QUICK.solve(problem(trained, IMAGES, 0.4)))


def test_progress_rises_to_the_whole(trained):
    seen = []
    QUICK.solve(problem(trained, IMAGES, 0.5), progress=lambda stage, done, total, note="": seen.append((done, total)))
    assert all(0 <= done <= total for done, total in seen)
    assert seen == sorted(seen)
    assert seen[-1][0] / seen[-1][1] > 0.7


def test_a_budget_that_holds_already_changes_nothing(trained):
    found = QUICK.solve(problem(trained, IMAGES, 1.0))
    assert found.widths == {"stem": 12, "inner": 12, "last": 16}
    assert found.history.epoch.tolist() == [0]
    assert found.history.score[0] == evaluate(trained[0], IMAGES.validation, IMAGES.score)


def test_few_batches_start_the_loader_anew_as_often_as_it_takes():
    few = Few([(1, 1), (2, 2), (3, 3)], 7)
    assert [number for number, _ in few] == [1, 2, 3, 1, 2, 3, 1]
    assert list(Few([], 2)) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iterations": 0}, r"NetAdapt\(iterations=...\) must be at least 1, got 0"),
        ({"decay": 0}, r"NetAdapt\(decay=...\) must be in \(0, 1\], got 0"),
        ({"held": 0}, r"NetAdapt\(held=...\) must be at least 1, got 0"),
        ({"min_fraction": 2}, r"NetAdapt\(min_fraction=...\) must be in \[0, 1\], got 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        NetAdapt(**given)


def test_what_cannot_be_reached_is_refused():
    with pytest.raises(InputError, match="cannot be reached"):
        QUICK.solve(problem(mlp(), digits_task(), 0.001))


def test_data_without_batches_are_refused(trained):
    with pytest.raises(InputError, match="the training data yields no batch"):
        QUICK.solve(problem(trained, replace(IMAGES, train=[]), 0.5))
