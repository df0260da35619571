import copy
from dataclasses import replace

import pytest
import torch
from solver_toy import CountingCost, side
from weight_job_toy import DATA, INPUTS, energy, network, pruned

import ecc
from ecc.api.weight_recipe import MASKING, WEIGHT_METHODS, JointRecipe, WeightRecipe, recipe_of
from ecc.core.errors import InputError, Interrupted
from ecc.core.problem import Status
from ecc.energy_models.systolic.energy import systolic_energy
from ecc.network.input_masks import stored_masks
from ecc.network.tracing import trace
from ecc.solvers.training import evaluate


@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_the_exact_energy_of_the_weights_is_within_the_budget_and_the_bound_above_it(method):
    (result,) = pruned("energy=0.6", method=method)
    (check,) = result.budgets
    dense = systolic_energy(*network())
    masks = stored_masks(result.model)
    found = systolic_energy(result.model, network()[1], masks=masks)
    assert check.met is result.met is True
    assert check.dense == pytest.approx(dense.relaxed_dense, rel=1e-12)
    assert check.limit == 0.6 * check.dense
    assert check.measured == pytest.approx(found.total, rel=1e-12)
    if not masks:
        assert check.predicted == pytest.approx(found.relaxed_total, rel=1e-12)
    assert check.measured <= check.predicted <= check.limit * (1 + 1e-12)
    assert (check.source, check.shown_in) == ("systolic array eyeriss", "e_RF")


def test_figures_are_those_of_the_network_that_came_out():
    model, _ = network()
    before = copy.deepcopy(model.state_dict())
    (result,) = pruned("energy=0.6")
    kept = sum(int((parameter != 0).sum()) for parameter in result.model.parameters())
    assert result.counts["params"] == kept < result.counts["params_dense"]
    assert result.nonzero_fraction == kept / result.counts["params_dense"]
    assert result.accuracy_dense == evaluate(model, DATA.test, DATA.score)
    assert result.accuracy == evaluate(result.model, DATA.test, DATA.score)
    assert dict(result.widths) == network()[1].space.full
    assert (result.rounds, result.removed, dict(result.kept)) == (1, (), {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    layers = result.sparsity.layers
    assert layers["total"].sum() == pytest.approx(result.budgets[0].measured)
    assert layers["nonzeros"].to_dict() == {
        name: int((network_part.weight != 0).sum())
        for name, network_part in result.model.named_modules()
        if name in layers.index
    }
    assert (layers["dense_nonzeros"] == layers["dense_size"]).all()


def test_two_budgets_hold_together():
    (result,) = pruned("energy=0.6 params=0.3")
    assert [check.metric for check in result.budgets] == ["energy", "params"]
    assert result.met is True
    assert result.nonzero_fraction <= 0.3


def test_parameters_alone_need_no_cost_model():
    (result,) = pruned("params=0.25")
    assert result.met is True
    assert result.budgets[0].measured == result.counts["params"] <= 0.25 * result.counts["params_dense"]
    assert result.sparsity.unit == ""


@pytest.mark.parametrize("relative", [True, False])
def test_limits_are_fractions_of_the_relaxed_dense_energy_or_in_the_unit_of_the_array(relative):
    dense = systolic_energy(*network()).relaxed_dense
    (result,) = pruned("energy=60%" if relative else f"energy={0.6e-6 * dense!r}Me_RF")
    (check,) = result.budgets
    assert check.met is True
    assert check.limit == pytest.approx(0.6 * dense, rel=1e-9)
    assert check.relative == relative


def test_each_limit_of_several_has_a_network_from_the_dense_one():
    loose, tight = pruned("energy=0.7", "energy=0.5")
    assert [loose.label, tight.label] == ["energy-0.70", "energy-0.50"]
    assert (loose.met, tight.met) == (True, True)
    (alone,) = pruned("energy=0.5")
    assert all(torch.equal(tensor, tight.model.state_dict()[name]) for name, tensor in alone.model.state_dict().items())


def test_channels_go_first_and_weights_finish_the_budget_of_the_dense_network():
    (result,) = pruned("energy=0.3 macs=0.7", method="uniform", then="projected-sgd", epochs=3)
    model, graph = network()
    assert result.met is True
    assert result.recipe.method == "uniform+projected-sgd"
    checks = {check.metric: check for check in result.budgets}
    assert checks["energy"].dense == pytest.approx(systolic_energy(model, graph).relaxed_dense)
    assert result.counts["macs"] == checks["macs"].measured <= 0.7 * graph.macs()
    assert all(result.widths[name] < width for name, width in graph.space.full.items())
    found = systolic_energy(result.model, trace(result.model, INPUTS))
    assert checks["energy"].measured == pytest.approx(found.total)
    assert result.history["phase"].unique().tolist() == ["uniform", "tune", "projected-sgd"]
    assert result.nonzero_fraction < 0.5
    assert result.sparsity.layers.loc["inner", "size"] < result.sparsity.layers.loc["inner", "dense_size"]


def test_without_a_share_channels_hold_what_is_theirs_alone():
    (result,) = pruned(
        "energy=0.5 macs=0.7", method="uniform", then="projected-sgd", epochs=3, options={"then.share": 0.0}
    )
    assert result.met is True
    (channels,) = pruned("macs=0.7", method="uniform", epochs=2)
    assert dict(result.widths) == dict(channels.widths)
    with pytest.raises(InputError, match=r"then\.share=0 leaves all budgets to the weights"):
        pruned("energy=0.5", method="uniform", then="projected-sgd", epochs=3, options={"then.share": 0.0})


def test_masks_reach_a_budget_that_weights_alone_cannot():
    floor = systolic_energy(*network()).floor
    (result,) = pruned(f"energy={0.95 * floor:.4f}", method=MASKING, epochs=3)
    assert result.met is True
    assert result.sparsity.masks
    assert all(bool(((mask == 0) | (mask == 1)).all()) for mask in result.sparsity.masks.values())
    others = [method for method in WEIGHT_METHODS if method != MASKING]
    for method in others:
        with pytest.raises(InputError, match=rf"with all weights zero {floor:.4g} of dense is left; method {MASKING}"):
            pruned(f"energy={0.95 * floor:.4f}", method=method)
    with pytest.raises(InputError, match=r"with all inputs masked; give a larger budget"):
        pruned("energy=0.01", method=MASKING)


def measured_energy():
    """A cost model of energy that is of no systolic array."""
    space = network()[1].space
    return CountingCost(space, ((1.0, (side(),)),), metric="energy")


@pytest.mark.parametrize(
    ("budgets", "costs", "words"),
    [
        ("latency=0.5", "", "cannot keep a budget on latency: zeros leave the shapes of layers as they are"),
        ("memory=0.5", "", "cannot keep a budget on memory"),
        ("energy=0.5", "", "needs the model of an accelerator"),
        ("energy=0.5", "measured", "cannot keep a budget on measured energy: a device spends on zeros"),
        ("params=0.5", "systolic", "the cost model of energy has no budget"),
        ("params=0.5 params=0.4", "", "several budgets"),
        ("energy=3mJ", "systolic", r"is in J, and its cost model in e_RF"),
        ("energy=1Te_RF", "systolic", "above the dense network"),
        ("params=0.001", "", "with all weights zero"),
    ],
)
def test_budgets_that_weights_cannot_keep_are_refused_before_training(budgets, costs, words):
    given = {"measured": [measured_energy()], "systolic": [energy()], "": []}
    with pytest.raises(InputError, match=words):
        pruned(budgets, costs=given[costs], progress=lambda *_: pytest.fail("it trains"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "projected"}, r"method 'projected' is unknown; choose from admm, .*projected-sgd"),
        ({"method": "projected-sgd", "then": "projected-sgd"}, "prunes weights already"),
        ({"method": "projected-sgd", "rounds": 2}, "rounds is of methods that remove channels"),
        ({"method": "projected-sgd", "chance": 0.9}, "chance is of methods that remove channels"),
        ({"method": "projected-sgd", "epochs": 0}, "epochs must be at least 1"),
        ({"method": "projected-sgd", "options": {"projected-sgd.evry": 3}}, "unknown; did you mean every"),
        ({"method": "projected-sgd", "options": {"tune.lr": 0.1}}, "of no part of a job of projected-sgd"),
        ({"method": "projected-sgd", "lr": -1.0}, r"TrainConfig\(lr=\.\.\.\) must be positive"),
        ({"method": "uniform", "then": "admm"}, "prunes no single weights"),
        ({"method": "uniform", "then": "projected-sgd", "options": {"then.share": 1.0}}, r"share must be in \[0, 1\)"),
        ({"method": "uniform", "then": "projected-sgd", "options": {"then.sare": 1.0}}, "did you mean share"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        recipe_of(**settings)


def test_settings_reach_the_method_they_are_of():
    recipe = recipe_of(
        "admm",
        then="projected-sgd",
        epochs=9,
        lr=3e-3,
        rounds=2,
        options={"projected-sgd.every": 4, "admm.rho": 5.0, "train.optimizer": "adamw", "then.epochs": 3},
    )
    assert isinstance(recipe, JointRecipe)
    assert (recipe.channels.epochs, recipe.channels.rounds, recipe.weights.epochs) == (6, 2, 3)
    channels, weights = recipe.channels.solver(), recipe.weights.solver()
    assert (channels.rho, channels.training.lr, channels.training.optimizer) == (5.0, 3e-3, "adamw")
    assert (weights.every, weights.training.lr, weights.training.optimizer) == (4, 3e-3, "adamw")
    assert recipe.settings["then.projected-sgd.every"] == 4
    assert recipe.settings["epochs"] == 9
    assert recipe_of("uniform", distill=0.25).distill == 0.25
    own = WeightRecipe().solver()
    assert own.training.lr == type(own)().training.lr


def test_interrupt_then_the_same_call_gives_the_undisturbed_result(tmp_path):
    (whole,) = pruned("energy=0.6", epochs=3)

    def press(stage, done, total, note=""):
        if stage == "projected-sgd" and done >= total / 2:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        pruned("energy=0.6", epochs=3, folder=tmp_path, progress=press)
    (again,) = pruned("energy=0.6", epochs=3, folder=tmp_path)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor, rtol=0, atol=0)


def test_the_verb_takes_both_kinds_of_methods():
    task = DATA.task()
    common = {"costs": [energy()], "epochs": 1, "test": DATA.test, "example_inputs": INPUTS}
    model = network()[0]
    alone = ecc.compress(model, task.train, task.validation, budgets="energy<=60%", method="projected-sgd", **common)
    both = ecc.compress(
        model,
        task.train,
        task.validation,
        budgets="energy<=60%",
        method="uniform",
        then="projected-sgd",
        **common | {"epochs": 2},
    )
    assert (alone.met, both.met) == (True, True)
    path = ecc.compress_path(
        model,
        task.train,
        task.validation,
        budgets="energy<=0.7,0.6",
        recipe=WeightRecipe(epochs=1),
        **{name: common[name] for name in ("costs", "test", "example_inputs")},
    )
    assert [result.met for result in path] == [True, True]


class Spy:
    """A method that notes its problem and gives the network back."""

    def __init__(self, method, status):
        self.method, self.status, self.problems = method, status, []
        self.name = method.name

    def solve(self, problem, **given):
        self.problems.append(problem)
        return replace(self.method.solve(problem, **given), status=self.status)


@pytest.fixture
def spy(monkeypatch):
    """What every recipe gives as its method, after it was checked."""

    def watch(status=Status.MET):
        found = Spy(WeightRecipe(epochs=1).solver(), status)
        monkeypatch.setattr(WeightRecipe, "solver", lambda _: found)
        return found

    return watch


def test_weights_behind_channels_learn_from_the_dense_network(spy):
    found = spy()
    (result,) = pruned("energy=0.5", method="uniform", then="projected-sgd", epochs=2)
    (problem,) = found.problems
    assert problem.taught_by is result.dense
    assert problem.model is not result.dense
    assert [limit.limit for limit in problem.constraints] == [result.budgets[0].limit]


def test_a_method_that_meets_no_budget_is_said(spy):
    spy(Status.MAX_STEPS)
    with pytest.raises(InputError, match="method projected-sgd: the step limit was reached"):
        pruned("energy=0.5")
