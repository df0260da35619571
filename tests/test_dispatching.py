"""What is chosen for each layer follows from measurements; these are made up here, but for one."""

import json
import math
import re

import pytest
import torch
from torch import nn

from ecc.api.dispatched import KEPT, Dispatch
from ecc.api.dispatching import dispatch
from ecc.core.errors import InputError
from ecc.network.sparse_layers import SparseConv2d, SparseLinear
from ecc.profiler.pairing import Estimate
from ecc.stages.execution.exact_rank import exact_factors
from ecc.stages.execution.sparse_inputs import SparseInputLinear
from ecc.stages.execution.ways import WAYS
from ecc.stages.layers.modules import ProductLinear, factored_linear

INPUTS = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
KINDS = {
    SparseInputLinear: "sparse inputs",
    SparseLinear: "sparse weights",
    SparseConv2d: "sparse weights",
    ProductLinear: "low rank",
    nn.Linear: "dense",
}


def low_rank(outputs, inputs, rank, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(outputs, rank, generator=generator) @ torch.randn(rank, inputs, generator=generator)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.ReLU(),
        factored_linear(32, 32, 4),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    with torch.no_grad():
        model[0].weight[torch.rand_like(model[0].weight) < 0.9] = 0
        model[3].weight.copy_(low_rank(32, 256, 3))
    return model.eval()


def timed(ratios, whole=0.8, seen=None, root=nn.Sequential):
    def measure(reference, candidate, inputs):
        way = "whole" if isinstance(candidate, root) else KINDS[type(candidate)]
        if seen is not None:
            seen.append((way, tuple(inputs.shape)))
        ratio = whole if way == "whole" else ratios.get(way, 2.0)
        return Estimate(20, ratio, ratio - 0.01, ratio + 0.01, ratio * 1e-3, 1e-3)

    return measure


def test_each_layer_gets_its_fastest_way_and_the_network_computes_the_same():
    model, seen = network(), []
    ratios = {"sparse inputs": 0.6, "low rank": 0.5, "sparse weights": 0.9, "dense": 0.7}
    found = dispatch(model, INPUTS, measure=timed(ratios, seen=seen))
    assert {name: each.way for name, each in found.choices.items()} == {
        "0": "sparse weights",
        "3": "low rank",
        "5": "sparse inputs",
        "7": "sparse inputs",
    }
    assert found.pays
    assert found.choices["3"].tried["sparse inputs"].value == 0.6
    assert found.choices["7"].refused == {"dense": "it is dense", "low rank": "its weight has no rank that saves work"}
    assert ("sparse inputs", (2, 32)) in seen
    assert seen[-1][0] == "whole"
    applied = found.apply(model)
    assert [type(applied[i]) for i in (0, 3, 5, 7)] == [
        SparseConv2d,
        ProductLinear,
        SparseInputLinear,
        SparseInputLinear,
    ]
    assert applied[3].product.left.shape == (32, 3)
    torch.testing.assert_close(applied(INPUTS), model(INPUTS), rtol=1e-4, atol=1e-4)
    assert type(model[3]) is nn.Linear
    assert str(found).startswith("1 by sparse weights, 1 by low rank, 2 by sparse inputs of 4: 0.800")
    assert found.layers.loc["3", "low rank"] == 0.5


def test_zero_inputs_are_counted_and_few_are_not_tried():
    model, seen = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), []
    x = torch.tensor([[1.0, 0.0, 2.0, 0.0]])
    found = dispatch(model, x, measure=timed({}, seen=seen))
    assert found.choices["0"].zero_inputs == 0.5
    assert {KEPT} == {each.way for each in found.choices.values()}
    assert dispatch(model, x + 1, measure=timed({})).choices["0"].tried == {}


def test_an_interval_that_reaches_the_layer_as_it_is_chooses_nothing():
    found = dispatch(network(), INPUTS, measure=timed({"sparse inputs": 0.995}))
    assert found.overall is None
    assert not found.pays
    assert str(found) == "none of 4 layers is faster another way here"


def test_a_network_that_is_not_faster_as_a_whole_stays():
    model = network()
    found = dispatch(model, INPUTS, measure=timed({"sparse inputs": 0.5}, whole=1.0))
    assert not found.pays
    assert {each.way for each in found.choices.values()} == {KEPT}
    assert found.choices["3"].tried["sparse inputs"].value == 0.5
    assert torch.equal(found.apply(model)(INPUTS), model(INPUTS))


def test_only_the_ways_that_are_named_are_tried():
    found = dispatch(network(), INPUTS, ways=["dense"], measure=timed({"dense": 0.5}))
    assert {name: each.way for name, each in found.choices.items() if each.way != KEPT} == {"5": "dense"}
    with pytest.raises(InputError, match="knows dense, sparse inputs, sparse weights, low rank, not magic"):
        dispatch(network(), INPUTS, ways=["magic"])


def test_a_choice_is_kept_as_json_and_applied_to_other_weights():
    found = dispatch(network(), INPUTS, measure=timed({"sparse inputs": 0.5}))
    again = Dispatch.from_json(json.loads(json.dumps(found.to_json())))
    assert again.to_json() == found.to_json()
    assert dict(again.choices) == dict(found.choices)
    other = network()
    with torch.no_grad():
        other[7].weight.mul_(3)
    torch.testing.assert_close(again.apply(other)(INPUTS), other(INPUTS), rtol=1e-4, atol=1e-4)


def test_a_choice_that_does_not_suit_is_refused():
    found = dispatch(network(), INPUTS, measure=timed({"low rank": 0.5}))
    other = network()
    with torch.no_grad():
        other[3].weight.add_(torch.randn(32, 256))
    with pytest.raises(
        InputError, match=r"layer '3' cannot run by low rank \(its weight has no rank that saves work\)"
    ):
        found.apply(other)
    with pytest.raises(InputError, match=r"the network has no layer '5' with a weight of shape \(32, 32\)"):
        found.apply(network()[:5])


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.pop("device"),
        lambda value: value["layers"][0].update(way="magic"),
        lambda value: value["layers"][0].update(rows=-1),
        lambda value: value["layers"][0].update(tried={"dense": 3}),
        lambda value: value.update(overall="fast"),
        lambda value: value.update(layers=None),
    ],
)
def test_a_damaged_choice_is_refused(damage):
    value = dispatch(network(), INPUTS, measure=timed({"sparse inputs": 0.5})).to_json()
    damage(value)
    with pytest.raises(InputError):
        Dispatch.from_json(value)
    with pytest.raises(InputError):
        Dispatch.from_json([])


def test_a_network_of_one_layer_is_dispatched():
    layer, x = nn.Linear(8, 4), torch.tensor([[0.0, 1.0] * 4])
    found = dispatch(layer, x, measure=timed({"sparse inputs": 0.5}))
    assert type(found.apply(layer)) is SparseInputLinear


def test_nothing_to_dispatch_is_said():
    with pytest.raises(InputError, match="no linear layer or convolution runs in a forward"):
        dispatch(nn.ReLU(), INPUTS)


def test_a_layer_with_hooks_stays():
    layer, x = nn.Sequential(nn.Linear(8, 4)), torch.tensor([[0.0, 1.0] * 4])
    layer[0].register_forward_hook(lambda _, __, found: found + 1)
    found = dispatch(layer, x, measure=timed({"sparse inputs": 0.5}))
    assert found.choices["0"].refused["sparse inputs"] == "it has hooks, which another form of it would not run"


def test_the_clock_of_the_device_is_asked():
    model = nn.Sequential(nn.ReLU(), nn.Linear(64, 64))
    found = dispatch(model, torch.randn(1, 64), ways=["sparse inputs"], seconds=0.2)
    assert found.choices["1"].tried["sparse inputs"].value > 0
    assert found.threads == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("outputs", "inputs", "rank"), [(40, 60, 1), (40, 60, 10), (60, 30, 16), (5, 300, 3)])
def test_factors_of_an_exact_rank_are_found(outputs, inputs, rank, dtype):
    weight = low_rank(outputs, inputs, rank).to(dtype)
    if dtype == torch.float64:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        weight = u[:, :rank] * s[:rank] @ vh[:rank]
    left, right = exact_factors(weight)
    assert left.shape == (outputs, rank)
    assert right.shape == (rank, inputs)
    assert (left @ right - weight).norm() <= (1e-11 if dtype == torch.float64 else 1e-5) * weight.norm()


@pytest.mark.parametrize(
    "weight",
    [
        torch.randn(40, 60, generator=torch.Generator().manual_seed(0)),
        low_rank(40, 60, 22),
        torch.zeros(40, 60),
        torch.full((40, 60), torch.nan),
        torch.ones(1, 1),
        torch.ones(40, 60, dtype=torch.bfloat16),
        low_rank(40, 60, 2) + 1e-3 * low_rank(40, 60, 40, seed=1),
    ],
    ids=["full", "too high", "zero", "nan", "one", "half", "nearly"],
)
def test_a_rank_that_saves_nothing_or_is_not_there_is_not_found(weight):
    assert exact_factors(weight) is None


def test_every_way_gives_what_the_layer_gives():
    torch.manual_seed(0)
    layer, x = factored_linear(30, 20, 4), torch.randn(2, 30).relu()
    with torch.no_grad():
        layer.bias.normal_()
        for name in ("dense", "sparse inputs", "sparse weights"):
            torch.testing.assert_close(WAYS[name](layer)(x), layer(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(WAYS["low rank"](WAYS["dense"](layer))(x), layer(x), rtol=1e-4, atol=1e-5)


class Reading(nn.Module):
    """Reads a weight beside calling its layer, rightly or in a way that few layers bear."""

    def __init__(self, read):
        super().__init__()
        self.read = read
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x):
        x = self.first(x.relu()).relu()
        return self.second(x) + self.read(self.first, x)


@pytest.mark.parametrize("way", ["sparse inputs", "sparse weights", "low rank"])
def test_a_network_that_reads_weights_of_its_layers_is_dispatched(way):
    torch.manual_seed(0)
    model, x = Reading(lambda layer, x: nn.functional.linear(x, layer.weight, layer.bias)).eval(), torch.randn(2, 12)
    with torch.no_grad():
        for each in (model.first, model.second):
            each.weight.copy_(low_rank(12, 12, 2) / 4)
            each.weight[torch.arange(12) % 2 == 0] = 0
    found = dispatch(model, x, ways=[way], measure=timed({way: 0.5}, whole=0.5, root=Reading))
    assert [each.way for each in found.choices.values()] == [way, way]
    torch.testing.assert_close(found.apply(model)(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("read", "why"),
    [
        (lambda layer, x: x * layer.weight_scale if hasattr(layer, "weight_scale") else x * (type(layer) is nn.Linear),
         r"the network differs by .* with it"),
        (lambda layer, x: x * layer.get_parameter("weight").mean(), r"the network does not run with it \(.*weight.*\)"),
    ],
    ids=["other outputs", "fails"],
)  # fmt: skip
def test_only_the_layers_that_the_network_does_not_bear_stay(read, why):
    torch.manual_seed(0)
    model, x = Reading(read).eval(), torch.randn(2, 12)
    found = dispatch(model, x, ways=["sparse inputs"], measure=timed({"sparse inputs": 0.5}, whole=0.5, root=Reading))
    assert {name: each.way for name, each in found.choices.items()} == {"first": KEPT, "second": "sparse inputs"}
    assert re.fullmatch(why, found.choices["first"].refused["sparse inputs"])
    assert found.pays
    torch.testing.assert_close(found.apply(model)(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_network_that_bears_no_layer_stays():
    model = Reading(lambda layer, x: layer.get_parameter("weight").sum() * x)
    model.second = nn.Identity()
    found = dispatch(model, torch.randn(2, 12), measure=timed({"sparse inputs": 0.5}, root=Reading))
    assert not found.pays
    assert found.overall is None
    assert {KEPT} == {each.way for each in found.choices.values()}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"model": 3}, r"dispatch\(model=...\) must be a network \(nn.Module\), got int"),
        ({"inputs": torch.ones(1, 7)}, r"dispatch\(inputs=...\) must be what Linear takes; it fails with them \("),
        ({"inputs": torch.ones(0, 8)}, "give dispatch a batch that is not empty"),
        *(({"threads": each}, r"dispatch\(threads=...\) must be a whole number") for each in (1.5, 0, "1", True)),
        *(({"seconds": each}, r"dispatch\(seconds=...\) must be a number above 0") for each in (0, -1, math.nan, "1")),
        *(({"ways": each}, r"dispatch\(ways=...\) must be a list of at least one of") for each in ([], "dense", None)),
    ],
    ids=str,
)
def test_what_cannot_be_dispatched_is_refused_by_a_sentence_of_dispatch(given, told):
    given = {"model": nn.Linear(8, 4), "inputs": torch.ones(2, 8), **given}
    with pytest.raises(InputError, match=told):
        dispatch(**given, measure=timed({}))
