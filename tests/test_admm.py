import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from solver_toy import CountingCost, PressAt, digits_task, group, mlp, problem, residual, side
from torch import nn

from ecc.core.errors import EccError, InputError, Interrupted
from ecc.core.problem import Constraint, Problem, Status, Task
from ecc.core.widths import WidthSpace
from ecc.data import load_data
from ecc.energy_models.counting import CountCost
from ecc.network.slimming import slim
from ecc.network.tracing import trace
from ecc.solvers.admm import Admm
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.limits import Limits, Ranking, solution
from ecc.solvers.sparsity import Sparsity
from ecc.solvers.training import TrainConfig, evaluate, train
from ecc.zoo.loading import load_model

SHORT = TrainConfig(epochs=3, lr=2e-3, schedule="constant", dropout=False, checkpoint_every_s=1e9)


@pytest.fixture(scope="module")
def images():
    return digits_task(flat=False)


@pytest.fixture(scope="module")
def trained(images):
    """A residual network at full accuracy; tests must not change it."""
    network = residual(12, 12, 16)
    train(network[0], images, TrainConfig(epochs=10, lr=5e-3))
    return network


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("limit", [0.7, 0.3, 0.1])
def test_the_budget_is_met_and_one_unit_more_would_break_it(trained, images, limit, form):
    posed = problem(trained, images, limit)
    found, limits = Admm(training=SHORT, form=form).solve(posed), Limits(posed)
    units = torch.tensor(list(found.widths.values())).double()
    assert found.status is Status.MET
    assert found.predicted["macs"] == pytest.approx(trained[2](found.widths).item())
    assert limits.met(units)
    for more in torch.eye(3) + units:
        assert (more > limits.dense).any() or not limits.met(more)
    assert found.predicted["macs"] > 0.85 * limit * trained[2].dense


@pytest.mark.parametrize("rho", [1.0, 10.0, 100.0])
def test_the_cost_falls_steadily_to_the_budget_for_rho_over_two_decades(trained, images, rho):
    history = Admm(training=SHORT, rho=rho).solve(problem(trained, images, 0.2)).history
    assert (np.diff(history.macs) <= 0).all()
    assert history.macs[0] > 0.45  # not all at once
    assert history.violation.iloc[-1] == 0
    assert (history.z_macs > 0).all()


def fine_tuned(found, posed, epochs=3):
    """The score after training what is left, zeros held."""
    sparsity = Sparsity(found.model, posed.groups)

    class Hold:
        key = ""

        def after_step(self, step):
            sparsity.zero(found.kept)
            return False

        def figures(self):
            return {}

    train(found.model, posed.task, TrainConfig(epochs=epochs, lr=2e-3), teacher=posed.model, hook=Hold())
    return evaluate(found.model, posed.task.validation, posed.task.score)


def test_it_beats_random_widths_and_units_of_the_same_cost_and_training(trained, images):
    posed = problem(trained, images, 0.15)
    limits, generator = Limits(posed), torch.Generator().manual_seed(0)
    random = []
    for _ in range(3):
        model = copy.deepcopy(trained[0])
        ranking = Ranking([torch.rand(int(n), generator=generator) for n in limits.dense])
        units = ranking.grow(ranking.shrink(limits.dense, limits), limits)
        random.append(fine_tuned(solution(posed, model, limits, ranking, units, None), posed, epochs=7))
    assert fine_tuned(Admm(training=SHORT).solve(posed), posed) > max(random)


def test_two_budgets_hold_at_once(trained, images):
    cost = trained[2]
    head = CountingCost(cost.space, ((1.0, (side("last"),)), (1.0, (side("inner"),))), metric="params")
    posed = problem(trained, images, 0.6, 0.4, costs=(cost, head))
    found = Admm(training=SHORT).solve(posed)
    assert found.predicted["macs"] <= 0.6 * cost.dense
    assert found.predicted["params"] <= 0.4 * head.dense
    assert {"macs", "params", "z_macs", "z_params", "violation"} <= set(found.history.columns)


@pytest.mark.parametrize("limit", [0.6, 0.45, 0.3])
def test_every_slice_of_a_dropped_unit_is_exactly_zero(trained, images, limit):
    posed = problem(trained, images, limit)
    found = Admm(training=SHORT).solve(posed)
    state = found.model.state_dict()
    for member in posed.groups:
        dropped = np.setdiff1d(np.arange(member.units), found.kept[member.name])
        for slot in member.slots:
            index = torch.from_numpy(slot.indices[dropped].ravel())
            if not slot.tensor.endswith("running_var"):
                assert not state[slot.tensor].index_select(slot.axis, index).any()
    x = images.validation.inputs[:50]
    with torch.no_grad():
        stem = found.model.eval().stem_norm(found.model.stem(x))
    assert not stem[:, np.setdiff1d(np.arange(12), found.kept["stem"])].any()


def test_units_that_the_budget_gives_back_come_back_alive():
    task, network = digits_task(), mlp(40, 10)
    network[0][1] = network[0][4] = nn.Tanh()  # no dead units
    for limit in (0.7, 0.5, 0.3):
        found = Admm(training=SHORT, continuation=0.0, rho=100.0).solve(problem(network, task, limit))
        assert found.model[3].weight[:, found.kept["0"]].any(0).all()
        assert found.model[5].weight[:, found.kept["3"]].any(0).all()


def test_the_score_of_the_history_is_that_of_the_masked_network(trained, images):
    found = Admm(training=SHORT).solve(problem(trained, images, 0.3))
    assert evaluate(found.model, images.validation, images.score) == found.history.score.iloc[-1]


def test_the_result_does_not_depend_on_the_unit_of_the_cost(trained, images):
    model, groups, cost = trained
    tiny = CountingCost(cost.space, tuple((c * 1e-9, sides) for c, sides in cost.terms), metric="energy")
    found = [Admm(training=SHORT).solve(problem((model, groups, c), images, 0.3)).widths for c in (cost, tiny)]
    assert found[0] == found[1]


def test_the_problem_s_network_and_torch_s_generator_stay_as_they_are(trained, images):
    before = copy.deepcopy(trained[0].state_dict())
    generator = torch.get_rng_state()
    Admm(training=SHORT).solve(problem(trained, images, 0.5))
    assert all(torch.equal(before[name], tensor) for name, tensor in trained[0].state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())


def test_the_seed_decides_the_result(trained, images):
    runs = [Admm(training=SHORT).solve(problem(trained, images, 0.4, seed=seed)).model for seed in (1, 1, 2)]
    one, same, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in runs)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_an_interrupted_solve_goes_on_to_the_same_bits(trained, images, tmp_path):
    posed, method = problem(trained, images, 0.3), Admm(training=SHORT)
    whole = method.solve(posed)
    press = PressAt(3, 12)
    for _ in range(2):
        with pytest.raises(Interrupted):
            method.solve(posed, progress=press, checkpoint=FileCheckpoint(tmp_path / "state"))
    resumed = method.solve(posed, progress=press, checkpoint=FileCheckpoint(tmp_path / "state"))
    repeated = method.solve(posed, progress=PressAt(*range(99)), checkpoint=FileCheckpoint(tmp_path / "state"))
    for other in (resumed, repeated):
        assert other.widths == whole.widths
        assert all(np.array_equal(whole.kept[name], other.kept[name]) for name in whole.kept)
        pairs = zip(whole.model.state_dict().values(), other.model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert whole.history.drop(columns="seconds").equals(other.history.drop(columns="seconds"))


def test_a_looser_budget_is_met_sooner(trained, images):
    epochs = [len(Admm(training=SHORT).solve(problem(trained, images, limit)).history) for limit in (0.8, 0.4, 0.1)]
    assert epochs == sorted(epochs)
    assert epochs[0] == 1


def test_a_checkpoint_of_another_budget_is_not_resumed(trained, images, tmp_path):
    checkpoint = FileCheckpoint(tmp_path / "state")
    Admm(training=SHORT).solve(problem(trained, images, 0.6), checkpoint=checkpoint)
    found = Admm(training=SHORT).solve(problem(trained, images, 0.3), checkpoint=checkpoint)
    assert found.widths == Admm(training=SHORT).solve(problem(trained, images, 0.3)).widths


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_other_optimisers_meet_the_budget_too(trained, images, optimizer):
    training = replace(SHORT, optimizer=optimizer)
    found = Admm(training=training).solve(problem(trained, images, 0.4))
    assert found.predicted["macs"] <= 0.4 * trained[2].dense
    assert found.history.score.iloc[-1] > 0.8


@pytest.mark.parametrize("epochs", [0, 1])
def test_too_short_a_run_still_ends_within_the_budget(trained, images, epochs):
    posed = problem(trained, images, 0.05)
    found = Admm(training=replace(SHORT, epochs=epochs)).solve(posed)
    assert found.status is Status.MET
    assert found.predicted["macs"] <= 0.05 * trained[2].dense


def test_a_budget_of_everything_drops_nothing(trained, images):
    found = Admm(training=SHORT).solve(problem(trained, images, 1.0))
    assert found.widths == {"stem": 12, "inner": 12, "last": 16}
    assert len(found.history) == 1


def test_the_floor_of_the_widths_holds(trained, images):
    found = Admm(training=SHORT, min_fraction=0.4).solve(problem(trained, images, 0.3))
    assert found.widths["inner"] >= 5
    assert found.widths["stem"] >= 5
    assert found.widths["last"] >= 7


def test_a_floor_that_the_budget_does_not_allow_is_lowered(trained, images):
    found = Admm(training=SHORT, min_fraction=0.9).solve(problem(trained, images, 0.3))
    assert found.status is Status.MET
    assert found.predicted["macs"] <= 0.3 * problem(trained, images, 0.3).constraints[0].cost.dense


def test_without_continuation_the_budget_is_met_as_well(trained, images):
    found = Admm(training=SHORT, continuation=0.0).solve(problem(trained, images, 0.4))
    assert found.predicted["macs"] <= 0.4 * trained[2].dense


def test_what_cannot_be_reached_is_refused_before_training(trained, images):
    def explode(stage, done, total, note=""):
        raise AssertionError("trained")

    with pytest.raises(InputError, match=r"budget macs ≤ .* cannot be reached: .* still needs .* of dense"):
        Admm(training=SHORT).solve(problem(trained, images, 0.001), progress=explode)


def test_units_of_several_channels_go_as_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    slots = [("0.weight", 0, 4, "write"), ("0.bias", 0, 4, "write"), ("2.weight", 1, 4, "read")]
    groups = (group("0", 6, slots, step=4),)
    cost = CountingCost(WidthSpace(("0",), (24,), (4,)), ((1.0, (side("0"),)),))
    posed = Problem(model, groups, cost.space, digits_task(), (Constraint(cost, 0.5),))
    found = Admm(training=SHORT).solve(posed)
    assert found.widths == {"0": 12}
    assert len(found.kept["0"]) == 3
    alive = found.model[2].weight.any(0).reshape(6, 4)
    assert torch.equal(alive.all(1), alive.any(1))
    assert alive.any(1).nonzero().flatten().tolist() == found.kept["0"].tolist()


def test_a_loss_that_is_nan_is_one_sentence(trained, images):
    task = Task(images.train, images.validation, lambda outputs, targets: outputs.sum() * float("nan"), images.score)
    with pytest.raises(EccError, match="loss of admm stopped being a finite number in epoch 1"):
        Admm(training=SHORT).solve(problem(trained, task, 0.5))


def test_the_forms_differ(trained, images):
    histories = [
        Admm(training=SHORT, form=form).solve(problem(trained, images, 0.3)).history for form in ("paper", "code")
    ]
    assert not histories[0][["loss", "z_macs"]].equals(histories[1][["loss", "z_macs"]])


def test_a_cost_with_steps_is_met_too(trained, images):
    """Latency that only falls every 4 channels has no useful gradient within a step."""

    class Stepped(CountingCost):
        def __call__(self, widths):
            vector = widths if isinstance(widths, torch.Tensor) else torch.from_numpy(self.space.vector(widths))
            dense = torch.tensor(self.space.dense)
            return super().__call__(torch.minimum((vector / 4).ceil() * 4, dense) + 0.0 * vector)

    cost = Stepped(trained[2].space, trained[2].terms)
    found = Admm(training=SHORT).solve(problem((*trained[:2], cost), images, 0.45))
    assert found.predicted["macs"] <= 0.45 * cost.dense
    assert all(width % 4 == 0 for width in found.widths.values())  # a part of a step costs as much as the step


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("rho", 0.0, "must be positive"),
        ("form", "draft", "must be paper or code"),
        ("continuation", 1.5, r"must be in \[0, 1\]"),
        ("min_fraction", -0.1, r"must be in \[0, 1\]"),
    ],
)
def test_settings_without_sense_are_refused(field, value, rule):
    with pytest.raises(InputError, match=rf"Admm\({field}=...\) {rule}, got"):
        Admm(**{field: value})


def test_a_network_of_another_kind_works_alike():
    task = digits_task()
    network = mlp(48, 32)
    train(network[0], task, TrainConfig(epochs=10, lr=5e-3))
    dense = evaluate(network[0], task.validation, task.score)
    found = Admm(training=replace(SHORT, epochs=6)).solve(problem(network, task, 0.5))
    assert 0.97 * 0.5 <= found.predicted["macs"] / network[2].dense <= 0.5
    assert fine_tuned(found, problem(network, task, 0.5)) > dense - 0.05


def test_a_traced_network_is_compressed_and_slimmed_to_its_budget():
    model, data = load_model("zoo:digits-resnet").module, load_data("digits")
    task = data.task()
    train(model, task, TrainConfig(epochs=3, lr=3e-3))
    graph = trace(model, data.example(2))
    cost = CountCost("macs", graph)
    posed = Problem(model, graph.prunable, graph.space, task, (Constraint(cost, 0.5 * cost.dense),))
    found = Admm(training=replace(SHORT, epochs=3)).solve(posed)
    small = slim(found.model, graph, found.kept)
    assert 0.97 * 0.5 <= cost(found.widths).item() / cost.dense <= 0.5
    assert trace(small, data.example(2)).macs() == graph.macs(found.widths)
    x = next(iter(task.validation))[0]
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(x), found.model.eval()(x), rtol=1e-4, atol=1e-5)
    train(small, task, TrainConfig(epochs=2, lr=2e-3), teacher=model)
    assert evaluate(small, task.validation, task.score) > 0.9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("where", ["model", "config"])
def test_it_solves_on_cuda_wherever_the_problem_lies(trained, images, where, tmp_path):
    model = copy.deepcopy(trained[0])
    training = replace(SHORT, device="cuda") if where == "config" else SHORT
    posed = problem((model.cuda() if where == "model" else model, *trained[1:]), images, 0.3)
    press = PressAt(5)
    with pytest.raises(Interrupted):
        Admm(training=training).solve(posed, progress=press, checkpoint=FileCheckpoint(tmp_path / "state"))
    found = Admm(training=training).solve(posed, checkpoint=FileCheckpoint(tmp_path / "state"))
    assert found.predicted["macs"] <= 0.3 * trained[2].dense
    assert next(found.model.parameters()).is_cuda
    assert next(model.parameters()).is_cuda == (where == "model")
