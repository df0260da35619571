import copy
from functools import cache

import numpy as np
import pytest
import torch
from cli_toy import NETWORK
from memory_oracle import held_bytes, peak_bytes
from torch import nn

import ecc
from ecc.api.compressing import compress, job_of
from ecc.api.constraints import constraints_of, graph_of_costs
from ecc.api.measuring import measure_widths
from ecc.api.recipe import METHODS, Recipe
from ecc.core.budget import Budget
from ecc.core.errors import InputError, Interrupted, UnavailableError
from ecc.data.loading import load_data
from ecc.energy_models.judging import judge
from ecc.network.equality import zero_then_remove
from ecc.network.tracing import trace
from ecc.profiler.window import Window
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import evaluate, train

DATA = load_data("digits")
INPUTS = DATA.example(32)


@cache
def network():
    """A trained network and its width graph."""
    names = {}
    exec(NETWORK, names)  # the user's file of the command line tests
    torch.manual_seed(0)
    model = names["Small"](16)
    train(model, DATA.task(), TrainConfig(epochs=3, lr=5e-3))
    return model.eval(), trace(model.eval(), INPUTS)


@cache
def latency():
    """Its cost model on this machine."""
    model, graph = network()
    window = Window(device_warm_up_s=0.2, pairs=6, burst=2, blocks=2, max_blocks=2, max_s=5.0)
    result = measure_widths(model, graph, INPUTS, samples=14, step=4, window=window, network="small")
    return judge(result.table, "latency", form="bilinear").cost


def compressed(*budgets, method="uniform", costs=(), **settings):
    model, graph = network()
    test = settings.pop("test", DATA.test)
    folder = settings.pop("folder", None)
    progress = settings.pop("progress", None)
    recipe = Recipe(method=method, epochs=settings.pop("epochs", 2), lr=2e-3, measure_s=2.0, rounds=2, **settings)
    budgets = [Budget.parse(text) for text in budgets]
    task = DATA.task()
    return compress(
        model, graph, task, budgets, costs, INPUTS, recipe=recipe, test=test, folder=folder, progress=progress
    )


@pytest.mark.parametrize("method", METHODS)
def test_counts_are_within_their_budgets_and_those_of_the_network_itself(method):
    result = compressed("macs=0.5", "params=0.6", method=method)
    assert result.met is True
    graph = trace(result.model, INPUTS)
    assert result.counts["macs"] == graph.macs() <= 0.5 * network()[1].macs()
    assert result.counts["params"] == graph.params() == sum(p.numel() for p in result.model.parameters())
    assert result.nonzero_fraction == result.counts["params"] / result.counts["params_dense"] <= 0.6


@pytest.mark.parametrize("budgets", [("memory=0.6",), ("memory=250kB", "macs=0.7")], ids=" ".join)
@pytest.mark.parametrize("method", METHODS)
def test_memory_is_within_its_budget_and_that_of_the_network_itself(method, budgets):
    result = compressed(*budgets, method=method)
    assert result.met is True
    found = held_bytes(result.model) + peak_bytes(result.model.eval(), INPUTS)
    assert result.counts["memory"] == result.budgets[0].measured == found <= result.budgets[0].limit
    assert " kB ≤ " in str(result.budgets[0])


def test_absolute_budget_holds():
    result = compressed("params=1.5k")
    assert sum(parameter.numel() for parameter in result.model.parameters()) <= 1500


def test_the_users_network_is_left_as_it_is():
    model, _ = network()
    before = copy.deepcopy(model.state_dict())
    result = compressed("macs=0.5", method="admm")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert not result.model.training


def test_accuracies_are_those_of_the_test_batches():
    result = compressed("macs=0.6", method="magnitude")
    assert result.accuracy_dense == evaluate(network()[0], DATA.test, DATA.score)
    assert result.accuracy == evaluate(result.model, DATA.test, DATA.score)
    judged = compressed("macs=0.6", method="magnitude", test=None)
    assert judged.accuracy_dense == evaluate(network()[0], DATA.validation, DATA.score)


def test_test_data_without_a_batch_are_not_replaced_by_others():
    with pytest.raises(InputError, match="no batches to evaluate on"):
        compressed("macs=0.5", test=[])


def test_kept_units_are_those_of_the_widths_and_slim_the_dense_network():
    result = compressed("macs=0.4", method="admm")
    for name, units in result.kept.items():
        assert len(units) * result.graph.group(name).step == result.widths[name]
    assert zero_then_remove(network()[0], result.graph, result.kept, INPUTS) < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_gives_the_same_network(method):
    first, second = (compressed("macs=0.5", method=method, seed=4) for _ in range(2))
    assert dict(first.widths) == dict(second.widths)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name])


def test_history_has_a_row_per_epoch():
    history = compressed("macs=0.5", method="admm", epochs=4).history
    assert (history["epoch"] > 0).sum() == 4
    assert {"phase", "epoch", "loss", "score"} <= set(history)


def test_measured_budget_is_judged_by_the_upper_end_of_its_interval_and_widths_are_whole_blocks():
    result = compressed("latency=0.85", "macs=0.9", costs=[latency()], method="magnitude")
    timed, counted = result.budgets
    assert timed.metric == "latency"
    assert timed.met == (timed.high <= timed.limit)
    assert 0 < timed.low <= timed.measured <= timed.high
    assert counted.met is True
    assert 1 <= result.rounds <= 2
    steps = dict(zip(latency().space.names, latency().space.step, strict=True))
    assert set(steps.values()) == {4}
    assert all(width % steps[name] == 0 for name, width in result.widths.items())


def test_interrupt_then_the_same_call_gives_the_undisturbed_result(tmp_path):
    whole = compressed("macs=0.5", method="admm", epochs=4)

    def press(stage, done, total, note=""):
        if stage == "admm" and done >= total / 2:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        compressed("macs=0.5", method="admm", epochs=4, folder=tmp_path, progress=press)
    again = compressed("macs=0.5", method="admm", epochs=4, folder=tmp_path)
    assert dict(again.widths) == dict(whole.widths)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor, rtol=0, atol=0)


def test_state_of_another_job_is_not_taken_up(tmp_path):
    compressed("macs=0.5", method="uniform", folder=tmp_path)
    other = compressed("macs=0.3", method="uniform", folder=tmp_path)
    fresh = compressed("macs=0.3", method="uniform")
    assert other.met is True
    assert (dict(other.widths), other.rounds) == (dict(fresh.widths), fresh.rounds)


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        ([], "there is no budget"),
        (["macs=0.5", "macs=0.4"], "several budgets"),
        (["latency=0.5"], "needs a cost model"),
        (["macs=0.0001"], "admissible"),
        (["params=1T"], "above the dense network"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(budgets, words):
    with pytest.raises(InputError, match=words):
        compressed(*budgets)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"budgets": 0.5}, r"^budgets must be texts such as 'latency<=60%', or Budget objects, got 0\.5$"),
        ({"budgets": ["macs<=0.5", 3]}, r"^budgets must be texts .*, got 3$"),
        ({"costs": None}, r"^costs must be a list of cost models, .*, got None$"),
        ({"costs": ["cost.json"]}, r"^costs must be a list of cost models"),
        ({"lr": "a"}, r"\(lr=\.\.\.\) must be a number, got 'a'$"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused_in_a_sentence(wrong, words):
    model, data = network()[0], load_data("digits")
    given = {"budgets": "macs<=0.5", **wrong}
    with pytest.raises(InputError, match=words):
        ecc.compress(model, data.train, data.validation, **given)


def test_the_smallest_reachable_budget_is_reached_and_less_is_refused():
    _, graph = network()
    least = graph.macs(graph.space.smallest) / graph.macs()
    assert compressed(f"macs={least * 1.0001:.12f}").widths == graph.space.smallest
    with pytest.raises(InputError, match="admissible"):
        compressed(f"macs={least * 0.999:.12f}")


@pytest.mark.parametrize(("device", "error"), [("cuda", UnavailableError), ("abacus", InputError), ("mps", InputError)])
def test_device_that_is_not_here_is_refused(device, error, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match="cpu"):
        compressed("macs=0.5", device=device)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "guess"},
        {"epochs": 1},
        {"epochs": 2.5},
        {"seed": "first"},
        {"distill": 2},
        {"lr": 0},
        {"lr": float("nan")},
        {"solve_share": 1},
        {"measure_s": 0},
        {"measure_s": float("nan")},
        {"rounds": 0},
    ],
)
def test_recipe_that_makes_no_sense_is_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        Recipe(**settings)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("uniform", {"train.lr": 0.1}, r"option train.lr is the job's own; give lr \(--lr\) instead"),
        ("admm", {"solve.epochs": 3}, r"give epochs \(--epochs\) instead"),
        ("uniform", {"train.warmup_epochs": 9}, r"tune.warmup_epochs must be within the 8 epoch\(s\) of tune, got 9"),
        ("admm", {"train.warmup_epochs": 3}, r"solve.warmup_epochs must be within the 2 epoch\(s\) of solve, got 3"),
        ("admm", {"tune.warmup_epochs": 7}, r"tune.warmup_epochs must be within the 6 epoch\(s\) of tune, got 7"),
    ],
)
def test_an_option_that_could_have_no_effect_is_refused(method, options, words):
    with pytest.raises(InputError, match=words):
        Recipe(method=method, epochs=8, options=options)


def test_targets_that_do_not_fit_the_network_are_refused_before_any_work():
    data = load_data("digits")
    data.train.targets = data.train.targets + 10
    model = network()[0]
    graph = trace(model, INPUTS)
    with pytest.raises(InputError, match="the loss does not take outputs"):
        job_of(model, graph, data.task(), [(Budget("macs", 0.5),)], [], INPUTS)


def test_network_of_which_nothing_can_be_pruned_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputError, match="no prunable group"):
        constraints_of(trace(model, INPUTS), [Budget("macs", 0.5)], [])


def test_cost_model_of_another_network_is_refused():
    names = {}
    exec(NETWORK, names)
    other = names["Small"](8).eval()
    with pytest.raises(InputError, match="another network"):
        graph_of_costs(trace(other, INPUTS), other, [latency()])


def test_report_of_a_result_is_short_and_finite():
    result = compressed("macs=0.5")
    value = result.to_json()
    assert np.isfinite([value["accuracy"], value["accuracy_dense"], value["seconds"]]).all()
    assert "uniform" in repr(result)
    assert "\n" not in repr(result)
