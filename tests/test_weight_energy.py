"""Energy as a cost of single weights: the sum of prices is the relaxed energy, and never below the exact one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ecc.core.errors import InputError
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.energy import systolic_energy
from ecc.energy_models.systolic.indices import SparseIndex
from ecc.energy_models.systolic.prices import weight_prices
from ecc.energy_models.systolic.weights import WeightEnergy
from ecc.network.tracing import trace
from ecc.zoo.networks import NETWORKS

SMALL = SystolicArray(name="small", rows=3, columns=2, input_cache=900, weight_cache=7)


class Reused(nn.Module):
    """A convolution that runs twice, a depthwise one, and a product by a matrix of its own."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.table = nn.Parameter(torch.randn(4, 5))

    def forward(self, x):
        x = self.twice(self.twice(self.stem(x)).relu())
        return self.depthwise(x).mean((2, 3)) @ self.table


class Tied(nn.Module):
    """An embedding whose table is the head's weight."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, 11)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.table(tokens))


def lenet():
    torch.manual_seed(0)
    return NETWORKS["lenet5"].factory(), torch.zeros(1, 1, 32, 32)


def reused():
    torch.manual_seed(0)
    return Reused(), torch.zeros(2, 1, 6, 6)


def sparse(model, share, seed):
    """Every weight is zero with probability ``share``."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand(parameter.shape, generator=generator) >= share)
    return model


def counts(model, cost):
    return {name: int((model.get_parameter(name) != 0).sum()) for name in cost.prices({}).tensors}


@pytest.mark.parametrize("network", [lenet, reused], ids=["lenet5", "reused"])
@pytest.mark.parametrize("index", [SparseIndex(), SparseIndex(4), SparseIndex.bitmap()], ids=["free", "4 bits", "map"])
@settings(max_examples=12, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 99))
def test_prices_of_the_kept_weights_add_up_to_the_relaxed_energy(network, index, share, seed):
    model, example = network()
    graph = trace(model, example)
    sparse(model, share, seed)
    cost = WeightEnergy.of(model, graph, SMALL if network is reused else None, index=index)
    bound = cost.prices({}).of(counts(model, cost))
    energy = systolic_energy(model, graph, cost.array, index=index)
    assert bound == pytest.approx(energy.relaxed_total, rel=1e-12)
    assert bound == pytest.approx(weight_prices(model, graph, cost.array, index=index).spent(), rel=1e-12)
    assert cost.exact(model, {}) == energy.total
    assert cost.exact(model, {}) <= bound * (1 + 1e-12)


def test_dense_is_what_the_whole_network_costs():
    model, example = lenet()
    cost = WeightEnergy.of(model, trace(model, example))
    assert cost.dense == pytest.approx(cost.prices({}).of(counts(model, cost)), rel=1e-12)
    assert (cost.metric, cost.unit, cost.source) == ("energy", "e_RF", "systolic array eyeriss")
    assert f"{cost.prices({}).constant / cost.dense:.4f}" == "0.1523"


def test_a_weight_of_two_layers_has_the_sum_of_their_prices():
    model, example = reused()
    cost = WeightEnergy.of(model, trace(model, example), SMALL)
    assert list(cost.prices({}).tensors) == ["stem.weight", "twice.weight", "depthwise.weight", "table"]
    positions, tiles = 2 * 36, 24
    price = cost.prices({}).tensors["twice.weight"]
    assert price.first == 2 * (positions * (SMALL.e_rf + SMALL.e_mac) + tiles * SMALL.e_cache + SMALL.e_dram)
    assert price.rest == 2 * (positions * (SMALL.e_rf + SMALL.e_mac) + tiles * (SMALL.e_cache + SMALL.e_dram))
    assert price.held == SMALL.weight_cache


def test_tied_weights_go_by_the_name_that_the_network_has_for_them():
    torch.manual_seed(0)
    model = Tied()
    graph = trace(model, torch.zeros(1, 3, dtype=torch.long))
    cost = WeightEnergy.of(model, graph)
    assert list(cost.prices({}).tensors) == ["table.weight"]
    assert cost.prices({}).of({"table.weight": 66}) == pytest.approx(cost.dense, rel=1e-12)


def test_weights_that_are_no_parameter_are_counted_as_they_would_be_dense():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    nn.utils.parametrizations.weight_norm(model[0])
    cost = WeightEnergy.of(model, trace(model, torch.zeros(1, 6)))
    assert list(cost.prices({}).tensors) == ["2.weight"]
    assert cost.prices({}).of({"2.weight": 20}) == pytest.approx(cost.dense, rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0, 1), kept=st.floats(0, 1), seed=st.integers(0, 99))
def test_behind_masks_prices_and_constant_fall_and_the_bound_lies_between_the_exact_and_the_published(
    share, kept, seed
):
    model, example = lenet()
    graph = trace(model, example)
    sparse(model, share, seed)
    cost = WeightEnergy.of(model, graph)
    generator = torch.Generator().manual_seed(seed)
    masks = {
        name: (torch.rand(shape, generator=generator) < kept).float()
        for name, shape in cost.inputs.items()
        if name != "features.0"
    }
    prices, dense = cost.prices(masks), cost.prices({})
    assert all(prices.tensors[name].first <= price.first for name, price in dense.tensors.items())
    assert all(prices.tensors[name].rest <= price.rest for name, price in dense.tensors.items())
    assert prices.constant <= dense.constant
    bound = prices.of(counts(model, cost))
    assert cost.exact(model, masks) <= bound * (1 + 1e-12)
    assert bound <= systolic_energy(model, graph, masks=masks).relaxed_total * (1 + 1e-12)


def test_inputs_that_may_be_masked_are_those_of_layers_that_run_once():
    model, example = reused()
    cost = WeightEnergy.of(model, trace(model, example), SMALL)
    assert cost.inputs == {"stem": (1, 6, 6), "depthwise": (4, 6, 6)}
    tokens = nn.Sequential(nn.Linear(6, 5), nn.Flatten(), nn.Linear(15, 4))
    assert WeightEnergy.of(tokens, trace(tokens, torch.zeros(2, 3, 6))).inputs == {"2": (15,)}


def test_the_table_counts_what_is_left_of_each_layer():
    model, example = lenet()
    graph = trace(model, example)
    sparse(model, 0.5, 1)
    cost = WeightEnergy.of(model, graph)
    table = cost.table(model, {})
    assert table["total"].sum() == pytest.approx(cost.exact(model, {}))
    assert table["nonzeros"].to_dict() == {
        name: int((model.get_parameter(f"{name}.weight") != 0).sum()) for name in table.index
    }


def test_wrong_input_is_refused_in_a_sentence():
    model, example = lenet()
    graph = trace(model, example)
    with pytest.raises(InputError, match=r"the graph is of another network"):
        WeightEnergy.of(NETWORKS["lenet5"].factory(num_classes=9), graph)
    cost = WeightEnergy.of(model, graph)
    with pytest.raises(InputError, match=r"there is no layer 'stem'"):
        cost.prices({"stem": torch.ones(1)})
    with pytest.raises(InputError, match=r"the mask of features.3 has shape \(6,\), and its input \(6, 14, 14\)"):
        cost.prices({"features.3": torch.ones(6)})
    with pytest.raises(InputError, match=r"rows of its input"):
        WeightEnergy.of(model, graph, SystolicArray(name="tiny", input_cache=10))
    bare = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    with pytest.raises(InputError, match=r"none of the layers that the systolic array runs"):
        WeightEnergy.of(bare, trace(bare, torch.zeros(1, 3)))
