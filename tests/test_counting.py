import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import residual_net, side

from ecc.core.errors import InputError
from ecc.core.layers import Side
from ecc.core.widths import WidthGroup
from ecc.energy_models.counting import CountCost
from ecc.energy_models.loading import load_cost as load
from ecc.network.graph import TensorAxes, WidthGraph


@pytest.fixture(scope="module")
def graph():
    space, layers = residual_net()
    groups = tuple(WidthGroup(name, 64, 1, True, "", (), ()) for name in space.names)
    both = Side(((0.5, ("stem",)), (0.5, ("c",))))
    parameters = {
        "a.weight": TensorAxes((64, 64, 3, 3), (side("a"), side("stem"), side(), side())),
        "a.bias": TensorAxes((64,), (side("a"),)),
        "head.weight": TensorAxes((10, 128), (side(), both)),
        "scale": TensorAxes((), ()),
    }
    return WidthGraph(groups, layers, parameters, ((1, 3, 8, 8),))


@pytest.mark.parametrize("metric", ["macs", "params"])
@given(widths=st.lists(st.integers(1, 64), min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_count_equals_the_graphs(graph, metric, widths):
    cost = CountCost(metric, graph)
    mapping = graph.space.widths(widths)
    assert float(cost(mapping)) == getattr(graph, metric)(mapping)
    assert float(cost(torch.tensor(widths))) == pytest.approx(getattr(graph, metric)(mapping), abs=0.5)


def test_count_at_half_of_one_group_by_hand(graph):
    assert float(CountCost("params", graph)({"a": 32})) == 32 * 64 * 9 + 32 + 10 * 128 + 1
    assert float(CountCost("params", graph)({"c": 32})) == 64 * 64 * 9 + 64 + 10 * 96 + 1


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_count_is_certain_and_needs_no_device(graph, metric):
    cost = CountCost(metric, graph)
    low, high = cost.interval({"a": 3}, 0.99)
    assert float(low) == float(high) == float(cost({"a": 3}))
    assert cost.provenance is None
    assert cost.dense == getattr(graph, metric)()


def test_count_is_differentiable_and_batched(graph):
    widths = torch.tensor(np.full((7, 4), 32.0), requires_grad=True)
    values = CountCost("macs", graph)(widths)
    values.sum().backward()
    assert values.shape == (7,)
    assert bool((widths.grad > 0).all())


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_saved_count_is_the_same_count(graph, metric, tmp_path):
    cost = CountCost(metric, graph)
    cost.save(tmp_path / "count.json")
    again = load(tmp_path / "count.json")
    assert (again.metric, again.space, again.dense) == (metric, graph.space, cost.dense)
    assert float(again({"stem": 11, "c": 5})) == float(cost({"stem": 11, "c": 5}))


def test_other_metrics_are_not_counted(graph):
    with pytest.raises(InputError, match="must be one of macs, params, memory, got 'latency'"):
        CountCost("latency", graph)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("metric", "latency"),
        ("parameters", [{"name": "x", "shape": [2, 2], "sides": [[[1.0, []]]]}]),
        ("parameters", [{"name": "x", "shape": [1 << 40, 1 << 40], "sides": [[[1.0, []]]] * 2}]),
        ("parameters", [{"name": "x", "shape": [-1], "sides": [[[1.0, []]]]}]),
        ("layers", [{"name": "x", "kind": "conv", "macs": -5, "reads": [[1.0, []]], "writes": [[1.0, []]]}]),
        ("layers", [7]),
    ],
)
def test_damaged_count_is_refused(graph, tmp_path, member, value):
    path = tmp_path / "count.json"
    CountCost("params", graph).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), member: value}))
    with pytest.raises(InputError, match="is damaged or not from this program"):
        load(path)
