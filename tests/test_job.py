from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from cli_toy import NETWORK
from device_toy import LawRuler, LineCost

from ecc.api.compressing import compress, compress_path
from ecc.api.recipe import Recipe
from ecc.api.ruler import Ruler
from ecc.api.targets import sets_of
from ecc.core.budget import Budget
from ecc.core.cost import as_vector
from ecc.core.errors import InputError
from ecc.data.loading import load_data
from ecc.energy_models.counting import CountCost
from ecc.network.tracing import trace
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train

DATA = load_data("digits")
INPUTS = DATA.example(2)
TASK = replace(DATA.task(), train=list(DATA.train)[:3], validation=list(DATA.validation)[:1])  # enough for widths


@cache
def network():
    names = {}
    exec(NETWORK, names)  # the user's file of the command line tests
    torch.manual_seed(0)
    model = names["Small"](16)
    train(model, TASK, TrainConfig(epochs=4, lr=5e-3))
    return model.eval(), trace(model.eval(), INPUTS)


@pytest.fixture
def device(monkeypatch):
    """Makes a device that follows the laws given."""

    def make(**laws):
        ruler = LawRuler.on(network()[0], INPUTS, **laws)
        monkeypatch.setattr(Ruler, "of", lambda *_, **__: ruler)
        return ruler

    return make


def cost(metric="latency", **settings):
    return LineCost(CountCost("macs", network()[1]), metric=metric, unit={"latency": "s"}.get(metric, "J"), **settings)


def pursued(*budgets, costs, method="uniform", epochs=2, folder=None, progress=None, **settings):
    model, graph = network()
    recipe = Recipe(method=method, epochs=epochs, lr=2e-3, **settings)
    sets = sets_of([Budget.parse_list(text) for text in budgets])
    options = {"recipe": recipe, "folder": folder, "progress": progress}
    if len(sets) == 1:
        return compress(model, graph, TASK, sets[0], costs, INPUTS, **options)
    return list(compress_path(model, graph, TASK, sets, costs, INPUTS, **options))


LAWS = {
    "slower": lambda left: 0.4 + 0.6 * left,
    "faster": lambda left: 0.1 + 0.9 * left,
    "convex": lambda left: 0.2 + 0.8 * left**1.7,
    "as predicted": lambda left: 0.2 + 0.8 * left,
}


@pytest.mark.parametrize("method", ["uniform", "admm"])
@pytest.mark.parametrize("law", LAWS)
def test_budget_is_kept_and_used_whatever_the_device_does(device, law, method):
    device(latency=LAWS[law])
    result = pursued("latency=0.7", costs=[cost()], method=method)
    (check,) = result.budgets
    assert result.met is True
    assert 0.9 <= check.high / check.limit <= 1
    assert check.confidence > 0.975
    assert result.rounds <= 6


def test_trials_say_what_was_predicted_and_found(device):
    device(latency=LAWS["slower"])
    result = pursued("latency=0.7", costs=[cost()])
    trials = result.trials
    assert list(trials["round"][:2]) == ["scout", "scout"]
    assert trials["round"].iloc[-1] == "verify"
    assert (trials["round"].str.startswith("round")).sum() == result.rounds
    last = trials.iloc[-1]
    check = result.budgets[0]
    assert (last["measured"], last["low"], last["high"]) == (check.measured, check.low, check.high)
    assert last["predicted"] == pytest.approx(check.predicted)
    assert np.allclose(trials["used"], trials["high"] / trials["limit"])


def test_several_measured_metrics_hold_at_once_with_a_joint_confidence(device):
    device(latency=LAWS["slower"], energy=LAWS["faster"])
    result = pursued("latency=0.75", "energy=0.5", "macs=0.8", costs=[cost(), cost("energy")])
    assert result.met is True
    assert [check.metric for check in result.budgets] == ["latency", "energy", "macs"]
    doubts = sum(1 - check.confidence for check in result.budgets)
    assert result.confidence == pytest.approx(1 - doubts)
    assert max(check.high / check.limit for check in result.budgets if check.metric != "macs") > 0.9


def test_budget_that_the_device_never_reaches_is_missed_and_says_so(device):
    device(latency=lambda left: 0.9 + 0.1 * left)
    result = pursued("latency=0.7", costs=[cost()], rounds=2)
    assert result.met is False
    assert result.confidence < 0.01
    assert result.rounds <= 2


def test_a_device_too_noisy_to_tell_takes_no_channels_for_its_noise(device):
    ruler = device(latency=LAWS["as predicted"])
    object.__setattr__(ruler, "noise", 0.6)
    result = pursued("latency=0.7", costs=[cost()])
    assert result.met is False
    assert 0.4 < result.confidence < 0.975
    assert result.budgets[0].measured > 0.55 * result.budgets[0].dense


def test_a_chance_keeps_the_prediction_below_the_budget_where_nothing_can_be_measured(monkeypatch):
    monkeypatch.setattr(Ruler, "of", lambda *_, **__: "the device is not here")
    plain, careful = (pursued("latency=0.7", costs=[cost()], chance=chance) for chance in (None, 0.95))
    (one,), (other,) = plain.budgets, careful.budgets
    assert 0.66 * other.dense < one.predicted <= 0.7 * one.dense
    assert other.predicted <= 0.7 * other.dense / np.exp(0.05 * 1.6449)
    assert other.predicted > 0.6 * other.dense
    assert (other.met, careful.confidence) == (None, None)


def test_exact_budgets_are_as_they_were_with_a_chance():
    plain, careful = (pursued("macs=0.6", costs=[], chance=chance) for chance in (None, 0.99))
    assert dict(plain.widths) == dict(careful.widths)


def test_chance_on_a_model_without_an_interval_is_refused():
    with pytest.raises(InputError, match="promises no interval"):
        pursued("latency=0.7", costs=[cost(spread=float("inf"))], chance=0.9)


def test_budgets_that_do_not_go_together_are_refused_before_any_work(device):
    ruler = device(latency=LAWS["slower"])
    with pytest.raises(InputError, match="latency"):
        pursued("latency=0.15", "macs=0.9", costs=[cost()])
    assert ruler.calls == []


class Bumpy(LineCost):
    """Narrow stems are slow, as runtimes are at widths that their kernels do not like."""

    def __call__(self, widths):
        return super().__call__(widths) + self.dense * 0.6 * (as_vector(self.space, widths)[..., 0] < 5).double()


@pytest.mark.parametrize("method", ["admm", "knapsack"])
def test_budget_that_the_smallest_widths_miss_is_reached_by_others(device, method):
    device(latency=LAWS["as predicted"])
    bumpy = Bumpy(CountCost("macs", network()[1]))
    assert bumpy(bumpy.space.smallest) > 0.7 * bumpy.dense
    result = pursued("latency=0.6", costs=[bumpy], method=method)
    assert result.met is True
    assert result.widths["stem"] >= 5


@pytest.mark.parametrize("method", ["uniform", "admm"])
def test_one_run_reaches_every_budget(device, method):
    device(latency=LAWS["slower"])
    results = pursued("latency=0.85,0.7,0.6", "macs=0.9", costs=[cost()], method=method, epochs=4)
    assert [result.label for result in results] == ["latency-0.85", "latency-0.70", "latency-0.60"]
    assert all(result.met for result in results)
    assert [check.limit / check.dense for result in results for check in result.budgets[:1]] == [0.85, 0.7, 0.6]
    sizes = [result.counts["macs"] for result in results]
    assert sizes == sorted(sizes, reverse=True)
    assert len({id(result.model) for result in results}) == 3
    for result in results:
        assert list(result.trials["round"])[:2] == ["scout", "scout"]
        assert (result.trials["round"] == "round 1").sum() == 1


def test_a_path_goes_on_after_an_interrupt_and_measures_nothing_twice(device, tmp_path):
    laws = {"latency": LAWS["slower"]}
    whole = pursued("latency=0.8,0.65", costs=[cost()], method="admm", epochs=4) if device(**laws) else []

    def press(stage, done, total, note=""):
        if stage == "tune-latency-0.65" and done > 1:
            raise KeyboardInterrupt

    ruler = device(**laws)
    line = {"costs": [cost()], "method": "admm", "epochs": 4, "folder": tmp_path}
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - KeyboardInterrupt or Interrupted
        pursued("latency=0.8,0.65", progress=press, **line)
    assert caught.type.__name__ in ("KeyboardInterrupt", "Interrupted")
    before = len(ruler.calls)
    again = pursued("latency=0.8,0.65", **line)
    assert len(ruler.calls) == before + 1  # the last verification alone
    for one, other in zip(again, whole, strict=True):
        assert dict(one.widths) == dict(other.widths)
        for name, tensor in other.model.state_dict().items():
            torch.testing.assert_close(one.model.state_dict()[name], tensor, rtol=0, atol=0)


def test_state_of_other_settings_is_not_taken_up(device, tmp_path):
    ruler = device(latency=LAWS["slower"])
    pursued("latency=0.7", costs=[cost()], folder=tmp_path)
    before = len(ruler.calls)
    pursued("latency=0.7", costs=[cost()], folder=tmp_path)
    assert len(ruler.calls) == before
    pursued("latency=0.7", costs=[cost()], folder=tmp_path, seed=1)
    assert len(ruler.calls) > before
