"""A job that removes blocks keeps its budgets on the device, and its artefact is the network without them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from device_toy import LawRuler, LineCost
from torch import nn

from ecc.api.compressing import compress
from ecc.api.keeping import load, verify
from ecc.api.recipe import Recipe
from ecc.api.ruler import Ruler
from ecc.core.budget import Budget
from ecc.core.errors import InputError
from ecc.data.loading import load_data
from ecc.energy_models.counting import CountCost
from ecc.energy_models.systolic.cost import SystolicCost
from ecc.network.tracing import trace
from ecc.report.saving import save
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train

DATA = load_data("digits")
INPUTS = DATA.example(2)
TASK = replace(DATA.task(), train=list(DATA.train)[:3], validation=list(DATA.validation)[:1])


class Block(nn.Module):
    def __init__(self, channels: int = 8):
        super().__init__()
        self.a, self.norm = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.b(self.norm(self.a(x)).relu())


class Deep(nn.Sequential):
    def __init__(self):
        stem, head = nn.Conv2d(1, 8, 3, padding=1, stride=2), nn.Linear(8 * 16, 10)
        super().__init__(stem, Block(), Block(), Block(), nn.ReLU(), nn.Flatten(), head)


@cache
def network():
    torch.manual_seed(0)
    model = Deep()
    train(model, TASK, TrainConfig(epochs=4, lr=5e-3))
    return model.eval(), trace(model.eval(), INPUTS)


def macs_of(model: nn.Module) -> int:
    """Every convolution gives 16 positions."""
    convolutions = [each.weight.numel() for each in model.modules() if isinstance(each, nn.Conv2d)]
    return 16 * sum(convolutions) + sum(each.weight.numel() for each in model.modules() if isinstance(each, nn.Linear))


@dataclass(frozen=True, eq=False)
class DeepLine(LineCost):
    """The same without some blocks."""

    left: CountCost | None = None

    def without(self, graph, blocks):
        return replace(self, left=self.count.without(graph, blocks))

    def __call__(self, widths):
        return self.dense * (self.share + (1 - self.share) * (self.left or self.count)(widths) / self.count.dense)


@dataclass(frozen=True, eq=False)
class DeepRuler(LawRuler):
    def measure(self, networks, *, seconds, progress=None, seed=0):
        shares = [macs_of(each) / macs_of(self.dense) for each in networks]
        return [{metric: self._read(law(share)) for metric, law in self.laws.items()} for share in shares]


def pursued(budget: str, costs=(), **options):
    recipe = Recipe(method="knapsack", epochs=1, options={"knapsack.depth": True, **options})
    return compress(*network(), TASK, [Budget.parse(budget)], list(costs), INPUTS, recipe=recipe)


@pytest.fixture(scope="module")
def result():
    return pursued("macs=0.7", **{"knapsack.min_fraction": 1.0})


def test_blocks_go_and_their_groups_with_them(result):
    graph = network()[1]
    assert len(result.removed) == 1
    assert result.met is True
    assert set(result.widths) == set(graph.without(result.removed).space.names)
    assert result.counts["macs"] == graph.macs(result.widths, removed=result.removed)
    assert result.counts["macs"] == macs_of(result.model)
    assert result.counts["params"] == sum(each.numel() for each in result.model.parameters())
    assert result.nonzero_fraction == pytest.approx(result.counts["params"] / result.counts["params_dense"])
    assert result.to_json()["removed"] == list(result.removed)
    assert not [name for name, _ in result.model.named_parameters() if name.startswith(f"{result.removed[0]}.")]


def test_the_artefact_is_the_network_without_them(result, tmp_path):
    folder = save(result, tmp_path / "short").path
    loaded = load(folder, model=Deep())
    torch.testing.assert_close(loaded.model(INPUTS), result.model(INPUTS), rtol=0, atol=0)
    assert loaded.manifest.removed == result.removed
    assert dict(loaded.widths) == dict(result.widths)
    found, _ = verify(loaded)
    assert found.met is True
    assert found.checks[0].measured == result.counts["macs"]
    assert "Blocks removed" in (folder / "report.html").read_text()
    (folder / "manifest.json").write_text(
        json.dumps(json.loads((folder / "manifest.json").read_text()) | {"removed": []})
    )
    with pytest.raises(InputError, match="dense widths and kept widths must name the same groups"):
        load(folder, model=Deep())


def test_a_systolic_budget_is_kept_by_the_network_itself():
    cost = SystolicCost.of(network()[1], "eyeriss")
    result = pursued("energy=0.5", [cost], **{"knapsack.min_fraction": 1.0})
    assert result.removed
    assert result.met is True
    assert result.budgets[0].measured == pytest.approx(result.budgets[0].predicted)


@pytest.mark.parametrize("law", [lambda left: 0.4 + 0.6 * left, lambda left: 0.1 + 0.9 * left], ids=["slow", "fast"])
def test_a_measured_budget_is_kept_without_blocks_whatever_the_device_does(monkeypatch, law):
    model, graph = network()
    ruler = DeepRuler.on(model, INPUTS, latency=law)
    monkeypatch.setattr(Ruler, "of", lambda *_, **__: ruler)
    cost = DeepLine(CountCost("macs", graph), metric="latency", unit="s")
    result = pursued("latency=0.75", [cost], **{"knapsack.min_fraction": 0.9})
    assert result.removed
    assert result.met is True
    last = result.trials.iloc[-1]
    assert last["predicted"] == pytest.approx(result.budgets[0].predicted)
    assert last["predicted"] == pytest.approx(float(cost.without(graph, result.removed)(result.widths)))


def test_only_methods_that_can_remove_blocks_take_the_option():
    assert Recipe(method="knapsack", options={"knapsack.depth": True}).depth
    assert not Recipe(method="knapsack").depth
    with pytest.raises(InputError, match="depth"):
        Recipe(method="uniform", options={"uniform.depth": True})
    with pytest.raises(InputError, match="cannot be reached"):
        pursued("macs=0.0001")
