"""Costs without residual blocks are those of the network without them, and are sums of functions of few groups each."""

from __future__ import annotations

import itertools
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ecc.api.chance import UpperCost
from ecc.core.errors import InputError
from ecc.core.problem import Constraint
from ecc.core.widths import WidthSpace
from ecc.energy_models.bilinear import BilinearCost
from ecc.energy_models.counting import CountCost
from ecc.energy_models.depth import cost_without, depth_of
from ecc.energy_models.factored import Factor, FactoredCost
from ecc.energy_models.staircase import StaircaseCost
from ecc.energy_models.stepped import stepped_terms
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.cost import SystolicCost
from ecc.energy_models.terms import terms_of
from ecc.network.tracing import trace
from ecc.solvers.allocation.tables import cut_tables


class Block(nn.Module):
    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.a, self.norm = nn.Conv2d(channels, inner, 3, padding=1), nn.BatchNorm2d(inner)
        self.b = nn.Conv2d(inner, channels, 3, padding=1)

    def forward(self, x):
        return x + self.b(self.norm(self.a(x)).relu())


def network() -> nn.Module:
    torch.manual_seed(0)
    stem, head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2)
    return nn.Sequential(stem, Block(4, 6), Block(4, 3), head, nn.Flatten(), nn.Linear(45, 3))


GRAPH = trace(network(), torch.zeros(1, 1, 8, 8))
BLOCKS = ("1", "2")
ARRAY = SystolicArray(
    name="small", rows=4, columns=3, weight_cache=40, input_cache=160, e_mac=1.0, e_rf=1.0, e_cache=6.0, e_dram=200.0,
    frequency_hz=1e6,
)  # fmt: skip
SUBSETS = [subset for size in range(3) for subset in itertools.combinations(BLOCKS, size)]
REFERENCE = {"metric": "latency", "space": GRAPH.space, "reference": (10.0, 9.0, 11.0), "calibration": (0.1, 0.2)}


def fitted(form: str):
    values = np.random.default_rng(1)
    if form == "staircase":
        steps = MappingProxyType({"conv": (2, 2, 1)})
        products = stepped_terms(GRAPH.space, GRAPH.layers, steps)
        terms = products.with_values(values.random(len(products.names)))
        return StaircaseCost(**REFERENCE, constant=0.5, terms=terms, steps=steps)
    products = terms_of(GRAPH.space, GRAPH.layers)
    terms = products.with_values(values.random(len(products.names)))
    base = BilinearCost(**REFERENCE, constant=0.5, terms=terms)
    if form == "bilinear":
        return base
    factors = (Factor("0", "width", 0, 0.3), Factor("1.a", "misaligned", 2, 0.2))
    return FactoredCost(**REFERENCE, base=base, level=0.1, factors=factors)


def all_costs():
    counts = [CountCost(metric, GRAPH) for metric in ("macs", "params", "memory")]
    arrays = [SystolicCost.of(GRAPH, ARRAY, metric) for metric in ("energy", "latency")]
    return [*counts, *arrays, *map(fitted, ("bilinear", "staircase", "factored"))]


def anew(cost, left):
    """The same kind of cost, made of the graph without the blocks."""
    if isinstance(cost, SystolicCost):
        return SystolicCost.of(left, ARRAY, cost.metric)
    return CountCost(cost.metric, left)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), removed=st.sampled_from(SUBSETS), number=st.integers(0, 4))
def test_counts_and_systolic_costs_are_those_of_the_network_without_the_blocks(data, removed, number):
    cost, left = all_costs()[number], GRAPH.without(removed)
    full = zip(left.space.names, left.space.dense, strict=True)
    widths = {name: data.draw(st.integers(1, dense)) for name, dense in full}
    found = float(cost_without(cost, GRAPH, removed)(widths))
    assert found == pytest.approx(float(anew(cost, left)(widths)), rel=1e-12)


@pytest.mark.parametrize("cost", all_costs(), ids=lambda cost: f"{type(cost).__name__}-{cost.metric}")
def test_a_cost_over_widths_and_blocks_is_that_without_the_blocks_that_go(cost):
    depth = depth_of(GRAPH, [Constraint(cost, 1.0)])
    deep, random = depth.constraints[0].cost, np.random.default_rng(0)
    assert depth.space.names[-2:] == ("block 1", "block 2")
    dense = torch.tensor(depth.space.dense, dtype=torch.float64)
    assert float(deep(dense)) == pytest.approx(float(cost(GRAPH.space.full)), rel=1e-12)
    rows = torch.tensor(random.integers(1, np.array(depth.space.dense) + 1, (40, len(depth.space))))
    together = deep(rows.reshape(4, 10, -1)).reshape(-1)
    for row, value in zip(rows, together.tolist(), strict=True):
        removed = [name for name, stays in zip(BLOCKS, row[-2:].tolist(), strict=True) if stays == 1]
        assert value == pytest.approx(float(cost_without(cost, GRAPH, removed)(row[:-2])), rel=1e-12)


@pytest.mark.parametrize("cost", all_costs(), ids=lambda cost: f"{type(cost).__name__}-{cost.metric}")
def test_a_cost_over_widths_and_blocks_is_the_sum_of_its_interactions(cost):
    (limit,) = depth_of(GRAPH, [Constraint(cost, 1.0)]).constraints
    deep, random = limit.cost, np.random.default_rng(0)
    choices = [np.arange(1, dense + 1) for dense in deep.space.dense]
    anchor = np.array([len(each) - 1 for each in choices])
    centre, alone, joint = cut_tables(lambda units: deep(units)[..., None], deep.interactions, choices, anchor)
    for _ in range(50):
        places = [int(random.integers(len(each))) for each in choices]
        total = float(centre[0]) + sum(float(table[0, place]) for table, place in zip(alone, places, strict=True))
        total += sum(float(table[0][tuple(places[each] for each in scope)]) for scope, table in joint.items())
        assert total == pytest.approx(float(deep(torch.tensor(places) + 1)), rel=1e-9)


def test_terms_of_removed_layers_go_and_shared_ones_count_by_the_layers_that_are_left():
    cost = fitted("bilinear")
    left = {term.name: term.value for term in cost.without(GRAPH, ["1"]).terms}
    for term in cost.terms:
        groups = {name for side in term.sides for name in side.groups}
        assert left[term.name] == 0 if "1.a" in groups else left[term.name] <= term.value
        assert left[term.name] > 0 or "1.a" in groups
    assert cost.without(GRAPH, ["1"]).dense == cost.dense


def test_upper_ends_and_intervals_are_those_without_the_blocks():
    cost = UpperCost(fitted("bilinear"), 0.9)
    short = cost_without(cost, GRAPH, ["2"])
    assert float(short({})) == pytest.approx(float(fitted("bilinear").without(GRAPH, ["2"]).interval({}, 0.8)[1]))
    (limit,) = depth_of(GRAPH, [Constraint(fitted("bilinear"), 1.0)]).constraints
    gone = {"block 2": 1}
    low, high = limit.cost.interval(gone)
    assert low < limit.cost(gone) < high


class Plain:
    metric, space = "energy", GRAPH.space


def test_costs_that_cannot_say_and_networks_without_blocks_are_refused():
    with pytest.raises(InputError, match=r"^the energy cost model cannot say what single blocks cost, so none can be"):
        depth_of(GRAPH, [Constraint(Plain(), 1.0)])
    chain = trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3))
    with pytest.raises(InputError, match=r"^the network has no residual block that can be removed \(it has none\)"):
        depth_of(chain, [])


def test_the_space_of_blocks_is_demanded():
    assert depth_of(GRAPH, []).space == WidthSpace(
        (*GRAPH.space.names, "block 1", "block 2"), (*GRAPH.space.dense, 2, 2), (*GRAPH.space.step, 1, 1)
    )
