"""Systolic costs, judged by what the really slimmed networks take, by brute force and by finite differences."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import CASES
from random_networks import random_units
from torch import nn

from ecc.core.errors import InputError
from ecc.core.layers import Side
from ecc.core.operators import Operator
from ecc.core.widths import WidthSpace
from ecc.energy_models.loading import load_cost as load
from ecc.energy_models.systolic.account import layer_energy, read_twice
from ecc.energy_models.systolic.array import DATAFLOWS, PRESETS, SystolicArray
from ecc.energy_models.systolic.cost import SystolicCost
from ecc.energy_models.systolic.dataflow import execute, latency
from ecc.energy_models.systolic.energy import systolic_energy
from ecc.energy_models.systolic.layer_parts import rows_twice
from ecc.energy_models.systolic.layers import SystolicLayer, layers_of
from ecc.energy_models.systolic.sizes import Size, Sizes, folds
from ecc.network.slimming import slim
from ecc.network.tracing import trace

SMALL = SystolicArray("small", 3, 4, input_cache=700, weight_cache=50, frequency_hz=1e6)


def chain():
    """A convolution that fetches rows twice, one of a stride, one in groups, and a linear layer."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.ReLU(),
        nn.Conv2d(12, 16, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 5),
    )  # fmt: skip
    return model, torch.randn(2, 3, 16, 16)


def widths_of(graph, kept):
    return {name: len(units) * graph.group(name).step for name, units in kept.items()}


def filled(model):
    """The model with no weight that is zero by chance or by its start."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.1, 1.0)
    return model


SLIMMED = ["residual-option-a", "depthwise-multiplier", "dense-concat", "grouped", "torch-encoder", "lstm-two-ways",
           "gru", "used-twice", "transposed", "outer-product"]  # fmt: skip


@pytest.mark.parametrize("name", SLIMMED)
def test_the_cost_at_any_widths_is_that_of_the_really_slimmed_network(name):
    model, inputs = CASES[name].build()
    graph = trace(filled(model), inputs, check=False)
    wide = dataclasses.replace(SMALL, input_cache=4000)  # rows fit, and are fetched twice in places
    energy, seconds = SystolicCost.of(graph, wide), SystolicCost.of(graph, wide, "latency")
    assert float(energy({})) == systolic_energy(model, graph, wide).total
    kept = random_units(graph, np.random.default_rng(0))
    small = slim(model, graph, kept, check=False)
    again = trace(small, inputs, check=False)
    widths = widths_of(graph, kept)
    assert float(energy(widths)) == systolic_energy(small, again, wide).total
    cycles = execute([call.operator for call in again.calls], wide)
    assert float(seconds(widths)) == pytest.approx(latency(cycles, wide), rel=1e-14)


# resized while they run, so that their slim networks cannot be traced
@pytest.mark.parametrize("name", ["attention-fused", "attention-sdpa", "grouped-query-expand", "hard-coded-view"])
def test_the_cost_at_any_widths_is_the_sum_over_the_operators_there(name):
    model, inputs = CASES[name].build()
    graph = trace(model, inputs, check=False)
    energy, seconds = SystolicCost.of(graph, SMALL), SystolicCost.of(graph, SMALL, "latency")
    for seed in range(4):
        widths = widths_of(graph, random_units(graph, np.random.default_rng(seed)))
        relative = graph.relative(widths)
        assert float(energy(widths)) == sum(layer_energy(layer, SMALL).total for layer in layers_of(graph, relative)[0])
        cycles = execute([call.at(relative) for call in graph.calls], SMALL)
        assert float(seconds(widths)) == pytest.approx(latency(cycles, SMALL), rel=1e-14)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_every_dataflow_and_batches_of_widths(dataflow):
    model, inputs = chain()
    graph, array = trace(model, inputs), dataclasses.replace(SMALL, dataflow=dataflow)
    cost = SystolicCost.of(graph, array, "latency")
    some = [graph.space.smallest, {}, dict.fromkeys(graph.space.names, 8)]
    vectors = torch.tensor([graph.space.vector(widths).tolist() for widths in some]).reshape(3, 1, -1)
    values = cost(vectors)
    assert values.shape == (3, 1)
    for widths, value in zip(some, values[:, 0].tolist(), strict=True):
        relative = graph.relative(widths)
        assert value == pytest.approx(execute([call.at(relative) for call in graph.calls], array).cycles / 1e6)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_gradient_is_that_of_the_cost_with_folds_as_fractions(preset):
    """At multiples of the array the smooth stand-in agrees, so there it can be differentiated by differences."""
    model = nn.Sequential(nn.Conv2d(3, 512, 3), nn.ReLU(), nn.Conv2d(512, 256, 1), nn.ReLU(), nn.Conv2d(256, 7, 1))
    graph = trace(model, torch.randn(1, 3, 8, 8))
    array = dataclasses.replace(PRESETS[preset], columns=64, frequency_hz=1e9)
    for metric in ("energy", "latency"):
        cost = SystolicCost.of(graph, array, metric)
        at = torch.tensor([256.0, 128.0], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(cost(at), at)
        for i in range(2):
            step = torch.zeros(2, dtype=torch.float64)
            step[i] = 64.0  # whole folds: the surrogate and the cost agree at both ends
            with torch.no_grad():
                rise = (cost(at + step) - cost(at - step)) / 128
            assert float(slope[i]) == pytest.approx(float(rise), rel=0.02), metric


def test_gradients_are_finite_and_never_negative_on_the_way():
    model, inputs = chain()
    cost = SystolicCost.of(trace(model, inputs), SMALL)
    points = torch.rand(50, len(cost.space), dtype=torch.float64) * torch.tensor(cost.space.dense) + 0.01
    points.requires_grad_(True)
    cost(points).sum().backward()
    assert bool(torch.isfinite(points.grad).all())
    assert bool((points.grad >= 0).all())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 300))
def test_folds_are_exact_and_have_the_slope_of_a_fraction(size, step):
    value = torch.tensor(float(size), dtype=torch.float64, requires_grad=True)
    found = folds(value, step)
    found.backward()
    assert float(found.detach()) == -(-size // step)
    assert float(value.grad) == pytest.approx(1 / step)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_sizes_are_whole_at_admissible_widths(data):
    dense = data.draw(st.lists(st.integers(1, 4096), min_size=3, max_size=3))
    space = WidthSpace(("a", "b", "c"), tuple(dense), (1, 1, 1))
    kept = [data.draw(st.integers(1, width)) for width in dense]
    a, b, c = (Side(((1.0, (name,)),)) for name in space.names)
    total = dense[0] + dense[1]
    both = Side(((dense[0] / total, ("a",)), (dense[1] / total, ("b",))))
    sizes = Sizes(
        space,
        [
            Size.of(space, dense[0] * 9, (a,)),
            Size.of(space, total * dense[2], (both, c)),
            Size.of(space, 7, (a, None), (a,)),
            Size.of(space, dense[0] * dense[1], (a, b, c), (c,)),
        ],
    )
    expected = [kept[0] * 9, (kept[0] + kept[1]) * kept[2], 7, kept[0] * kept[1]]
    assert sizes(torch.tensor(kept)).tolist() == expected


@settings(max_examples=200, deadline=None)
@given(*(st.integers(1, most) for most in (40, 5, 4, 3)), st.integers(0, 5))
def test_rows_fetched_twice_are_those_of_packing_them(height, kernel, stride, dilation, padding):
    window = dilation * (kernel - 1) + 1
    out = (height + 2 * padding - window) // stride + 1
    if out < 1:
        return
    operator = Operator("conv", height=height, width=2, out_height=out, out_width=1, kernel_h=kernel, kernel_w=2,
                        stride=stride, dilation=dilation)  # fmt: skip
    layer = SystolicLayer("any", operator, "", (padding, 0), (stride, 1), (dilation, 1))
    held = torch.arange(layer.row_window[0], max(height, layer.row_window[0]) + 2, dtype=torch.float64)
    batches = torch.tensor([height, *layer.row_window], dtype=torch.float64)
    found = rows_twice(batches.unsqueeze(1).expand(-1, len(held)), held)
    for number, rows in zip(held.tolist(), found.tolist(), strict=True):
        array = dataclasses.replace(SMALL, input_cache=int(number))
        assert rows == read_twice(layer, array, np.ones(height)), number


def test_a_long_signal_is_no_long_work(tmp_path):
    model = nn.Sequential(nn.Conv1d(1, 8, 80, stride=4), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.ReLU(), nn.Conv1d(8, 2, 3))
    graph = trace(model, torch.randn(1, 1, 60000))
    cost = SystolicCost.of(graph, PRESETS["eyeriss"])
    assert cost.dense == systolic_energy(filled(model), graph).total
    cost.save(tmp_path / "cost.json")
    assert load(tmp_path / "cost.json").layers == cost.layers


def test_a_size_that_is_divided_by_another_side_is_divided():
    space = WidthSpace(("a", "b"), (8, 4), (1, 1))
    a, b = (Side(((1.0, (name,)),)) for name in space.names)
    assert Sizes(space, [Size.of(space, 2, (a,), (b,))])(torch.tensor([6, 2])).tolist() == [3.0]


def test_values_are_certain_and_nothing_was_measured():
    model, inputs = chain()
    cost = SystolicCost.of(trace(model, inputs), SMALL)
    low, high = cost.interval({})
    assert float(low) == float(high) == cost.dense
    assert (cost.exact, cost.provenance, cost.unit, cost.source) == (True, None, "e_RF", "systolic array small")
    assert sum(cost.shares({}).values()) == cost.dense
    assert list(cost.shares({})) == ["0", "3", "5", "7", "10"]


def test_joules_come_out_where_joules_were_put_in():
    model, inputs = chain()
    graph = trace(model, inputs)
    joules = dataclasses.replace(SMALL, unit="J", e_rf=1e-12, e_mac=3e-12, e_cache=6e-12, e_dram=2e-10)
    cost = SystolicCost.of(graph, joules)
    assert cost.unit == "J"
    assert cost.dense == pytest.approx(SystolicCost.of(graph, SMALL).dense * 1e-12)


@pytest.mark.parametrize("metric", ["energy", "latency"])
def test_what_is_saved_is_loaded_again(tmp_path, metric):
    model, inputs = chain()
    cost = SystolicCost.of(trace(model, inputs), SMALL, metric)
    cost.save(tmp_path / "cost.json")
    again = load(tmp_path / "cost.json")
    assert isinstance(again, SystolicCost)
    assert (again.metric, again.array, again.space, again.layers, again.products) == (
        cost.metric, cost.array, cost.space, cost.layers, cost.products,
    )  # fmt: skip
    assert float(again(cost.space.smallest)) == float(cost(cost.space.smallest))


def test_other_steps_of_the_same_groups_change_nothing():
    model, inputs = chain()
    graph = trace(model, inputs)
    cost = SystolicCost.of(graph, SMALL)
    coarse = WidthSpace(graph.space.names, graph.space.dense, graph.space.dense)
    assert float(cost.on(coarse)({})) == cost.dense
    with pytest.raises(InputError, match="was made for another network"):
        cost.on(WidthSpace(("x",), (8,), (1,)))


def test_seconds_of_an_unknown_clock_are_refused():
    model, inputs = chain()
    graph = trace(model, inputs)
    with pytest.raises(
        InputError, match=r"the frequency of the systolic array eyeriss is not known.*give frequency_hz"
    ):
        SystolicCost.of(graph, PRESETS["eyeriss"], "latency")


def test_networks_without_products_and_arrays_without_room_are_refused():
    nothing = trace(nn.Sequential(nn.BatchNorm1d(3)), torch.randn(2, 3))
    for metric in ("energy", "latency"):
        with pytest.raises(InputError, match="a systolic array has nothing to do in it"):
            SystolicCost.of(nothing, SMALL, metric)
    model, inputs = chain()
    with pytest.raises(InputError, match="larger input_cache"):
        SystolicCost.of(trace(model, inputs), dataclasses.replace(SMALL, input_cache=20))


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    path = tmp_path_factory.mktemp("cost") / "cost.json"
    model, inputs = chain()
    SystolicCost.of(trace(model, inputs), SMALL).save(path)
    return json.loads(path.read_text())


def _set(document, path, value):
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["metric"], "macs"),
        (["metric"], "latency"),
        (["unit"], "J"),
        (["unit"], "s"),
        (["array", "rows"], 0),
        (["array", "rows"], 1e9),
        (["array", "speed"], 1),
        (["array", "unit"], None),
        (["array", "name"], "\x1b[2J"),
        (["layers"], []),
        (["layers"], [{}]),
        (["layers", 0, "channels", "dense"], 0),
        (["layers", 0, "channels", "dense"], 1 << 62),
        (["layers", 0, "channels", "dense"], 1.5),
        (["layers", 0, "written", "over"], [[[0.5, ["0"]]]]),
        (["layers", 0, "written", "over"], [[[1.0, [["0"]]]]]),
        (["layers", 0, "written", "over"], [[[1.0, ["0"]]]] * 99),
        (["layers", 0, "taps"], 0),
        (["layers", 0, "pixels"], 1 << 50),
        (["layers", 0, "batches"], [1]),
        (["layers", 0, "batches"], [0, 1, 1, 0, 0]),
        (["layers", 0, "batches"], [16, 3, 1, 1, 1 << 50]),
        (["layers", 0, "examples"], 0),
        (["layers", 0, "name"], 3),
        (["space", "dense"], [1]),
    ],
    ids=str,
)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, document, path, value):
    changed = json.loads(json.dumps(document))
    _set(changed, path, value)
    (tmp_path / "cost.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=r"cost model .* is damaged or not from this program"):
        load(tmp_path / "cost.json")


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_change_of_a_file_gives_a_cost_or_one_error(tmp_path_factory, document, data):
    changed = json.loads(json.dumps(document))
    node = changed
    while isinstance(node, dict | list) and node:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        inner = node[key]
        if not isinstance(inner, dict | list) or data.draw(st.booleans()):
            node[key] = data.draw(st.sampled_from([None, -1, 0, 1, 2**70, 1e300, "x", [], {}, [[]], True]))
            break
        node = inner
    path = tmp_path_factory.getbasetemp() / "changed.json"
    path.write_text(json.dumps(changed))
    try:
        cost = load(path)
    except InputError:
        return
    assert bool(torch.isfinite(cost(torch.tensor(cost.space.dense))))
