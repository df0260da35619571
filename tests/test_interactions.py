"""A cost is the sum of its tables over the sets of groups that it says it looks at together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from allocation_oracle import decomposition_error
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import residual_net, side
from torch import nn

from ecc.core.cost import Decomposable
from ecc.core.interactions import joint_interactions, maximal, product_interactions, summands
from ecc.core.layers import Side
from ecc.core.widths import WidthSpace
from ecc.energy_models.bilinear import BilinearCost
from ecc.energy_models.counting import CountCost
from ecc.energy_models.factored import Factor, FactoredCost
from ecc.energy_models.mlp import MlpCost
from ecc.energy_models.staircase import StaircaseCost
from ecc.energy_models.stepped import stepped_terms
from ecc.energy_models.systolic.cost import SystolicCost
from ecc.energy_models.terms import terms_of
from ecc.network.tracing import trace

SPACE, LAYERS = residual_net()


class Branched(nn.Module):
    """A residual block, a depthwise layer, a concatenation, and channels of a grouped convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.a = nn.Conv2d(12, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 12, 3, padding=1)
        self.wise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.c = nn.Conv2d(12, 6, 1)
        self.d = nn.Conv2d(18, 10, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.b(self.a(x).relu())
        x = torch.cat([self.wise(x), self.c(x)], 1)
        return self.head(self.d(x).mean((2, 3)))


@pytest.fixture(scope="module")
def graph():
    return trace(Branched().eval(), torch.zeros(1, 3, 8, 8))


def ground(seed, terms):
    values = np.random.default_rng(seed).random(len(terms.macs))
    values /= values.sum()
    return {"metric": "latency", "space": SPACE, "reference": (1.0, 1.0, 1.0)}, terms.with_values(values)


def bilinear(seed=0):
    given, terms = ground(seed, terms_of(SPACE, LAYERS))
    return BilinearCost(**given, constant=0.1, terms=terms)


def staircase(seed=0):
    steps = {"conv": (8, 16, 1), "linear": (4, 1, 1), "depthwise": (1, 8, 8)}
    layers = [type(layer)(layer.name, layer.kind, layer.reads, layer.writes, layer.macs, 64, 64) for layer in LAYERS]
    given, terms = ground(seed, stepped_terms(SPACE, layers, steps))
    return StaircaseCost(**given, constant=0.1, terms=terms, steps=steps)


def factored(seed=0):
    base = bilinear(seed)
    factors = (Factor("a", "misaligned", 8, 0.3), Factor("b", "log-width", 0, -0.2))
    return FactoredCost(
        metric="latency", space=SPACE, reference=(1.0, 1.0, 1.0), base=base, level=0.05, factors=factors
    )


@pytest.mark.parametrize("make", [bilinear, staircase, factored], ids=lambda make: make.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_a_fitted_cost_is_the_sum_of_its_tables(make, seed):
    assert isinstance(make(seed), Decomposable)
    assert decomposition_error(make(seed), seed) < 1e-12


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_a_count_is_the_sum_of_its_tables(graph, metric):
    assert decomposition_error(CountCost(metric, graph)) < 1e-12


@pytest.mark.parametrize("metric", ["energy", "latency"])
def test_a_systolic_cost_is_the_sum_of_its_tables(graph, metric):
    array = "eyeriss" if metric == "energy" else "tpu-v1"
    assert decomposition_error(SystolicCost.of(graph, array, metric)) < 1e-12


def test_a_sum_of_parts_meets_what_it_is_multiplied_with_part_by_part_unless_it_is_rounded():
    concatenated = [scope for scope in staircase().interactions if len(scope) > 1]
    assert (0, 3) in concatenated  # of the head, which rounds stem and c together
    assert all(len(scope) == 2 for scope in bilinear().interactions)


def test_factors_are_in_every_set():
    a, b = SPACE.names.index("a"), SPACE.names.index("b")
    assert all({a, b} <= set(scope) for scope in factored().interactions)


def test_memory_looks_at_all_groups_and_networks_say_nothing(graph):
    assert CountCost("memory", graph).interactions == (tuple(range(len(graph.space))),)
    assert not hasattr(MlpCost, "interactions")


def test_too_many_parts_are_taken_as_a_whole():
    names = tuple(f"g{i}" for i in range(70))
    space = WidthSpace(names, (4,) * 70, (1,) * 70)
    wide = Side(tuple((1 / 70, (name,)) for name in names))
    assert product_interactions(space, [[summands(wide), summands(wide)]]) == (tuple(range(70)),)


def test_groups_outside_the_space_are_fixed():
    space = WidthSpace(("a",), (4,), (1,))
    assert product_interactions(space, [[summands(side("a")), summands(side("b"))]]) == ((0,),)
    assert joint_interactions(space, [{"b"}]) == ()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.frozensets(st.integers(0, 6), max_size=4), max_size=12))
def test_maximal_sets_are_those_within_no_other(sets):
    wanted = {each for each in sets if each and not any(each < other for other in sets)}
    assert {frozenset(each) for each in maximal(tuple(sorted(each)) for each in sets)} == wanted
