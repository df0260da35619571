"""Parameters that are not zero: counted whole where nothing prunes them."""

import pytest
import torch
from torch import nn

from ecc.core.errors import InputError
from ecc.energy_models.systolic.weights import WeightEnergy
from ecc.energy_models.weight_counts import NonzeroCost
from ecc.network.tracing import trace


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 5), nn.Linear(5, 4)
    )


@pytest.fixture(scope="module")
def graph():
    return trace(network(), torch.zeros(1, 2, 6, 6))


def test_each_weight_of_a_layer_counts_once_and_the_rest_is_there_anyway(graph):
    model = network()
    cost = NonzeroCost.of(model, graph)
    assert cost.sizes == {"0.weight": 54, "4.weight": 240, "5.weight": 20}
    assert cost.dense == sum(parameter.numel() for parameter in model.parameters())
    assert cost.prices({}).constant == 3 + 6 + 5 + 4
    assert cost.prices({}).of({"0.weight": 10, "4.weight": 20, "5.weight": 0}) == 18 + 30
    assert (cost.metric, cost.unit, cost.source, cost.inputs) == ("params", "parameters", "", {})
    assert cost.input_prices({}) == {}


def test_the_exact_count_is_the_bound(graph):
    model = network()
    cost = NonzeroCost.of(model, graph)
    with torch.no_grad():
        model[0].weight[0] = 0
        model[4].weight[:, :7] = 0
        model[4].bias.zero_()  # is not pruned, so it counts
    assert cost.exact(model, {}) == cost.dense - 18 - 35
    assert cost.table(model, {})["nonzeros"].to_dict() == {"0.weight": 36, "4.weight": 205, "5.weight": 20}
    assert cost.exact(model, {}) == cost.prices({}).of(cost.table(model, {})["nonzeros"].to_dict())


def test_it_prices_the_tensors_that_energy_prices(graph):
    model = network()
    energy, count = WeightEnergy.of(model, graph), NonzeroCost.of(model, graph)
    assert list(energy.prices({}).tensors) == list(count.prices({}).tensors)


def test_another_network_is_refused(graph):
    cost = NonzeroCost.of(network(), graph)
    with pytest.raises(InputError, match=r"this one has no 0.weight of 54 weights"):
        cost.exact(nn.Linear(2, 2), {})
    bare = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    with pytest.raises(InputError, match=r"no layer of the network multiplies by a parameter"):
        NonzeroCost.of(bare, trace(bare, torch.zeros(1, 3)))
