"""Calls: the operators at any widths, and the memory that a forward needs, without building the smaller network."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from network_cases import CASES
from torch import nn

from ecc.core.calls import OperatorCall
from ecc.core.layers import Side
from ecc.core.operators import Operator
from ecc.network.operators import operators_at, operators_of
from ecc.network.tracing import trace
from ecc.zoo.networks import NETWORKS

NAMES = ("resnet20", "mobilenet-v2", "squeezenet", "densenet121", "lstm-acoustic", "text-cnn", "vgg16")
FREE = {"group-norm"}  # whose groups follow attributes of modules, not axes


def random_widths(graph, seed):
    generator = np.random.default_rng(seed)
    return {group.name: group.step * int(generator.integers(1, group.units + 1)) for group in graph.prunable}


def differing(graph, model, inputs, widths):
    """Operators at widths that are not those of the network that is built."""
    built = operators_at(model, graph, inputs, widths).operators
    said = [call.at(graph.relative(widths)) for call in graph.calls]
    if len(built) != len(said):  # what moves several heads or channels is a view of one
        built, said = ([each for each in some if each.kind != "copy"] for some in (built, said))
    return [pair for pair in zip(said, built, strict=True) if pair[0] != pair[1] and pair[0].kind not in FREE]


@pytest.mark.parametrize("name", NAMES)
def test_the_operators_of_a_smaller_network_are_known_without_building_it(name):
    network = NETWORKS[name]
    with torch.device("meta"):
        model = network.factory()
    inputs = torch.zeros(2, *network.input_shape, dtype=network.input_dtype, device="meta")
    graph = trace(model, inputs, check=False)
    assert [call.operator for call in graph.calls] == list(operators_of(model, inputs).operators)
    assert any(call.sides for call in graph.calls)
    for seed in (1, 2):
        assert differing(graph, model, inputs, random_widths(graph, seed)) == []


@pytest.mark.parametrize("name", CASES)
def test_the_operators_of_each_structure_follow_the_widths(name):
    model, inputs = CASES[name].build()
    graph = trace(model, inputs)
    for seed in range(3):
        assert differing(graph, model, inputs, random_widths(graph, seed)) == []


def test_a_call_knows_its_inputs_weight_and_padding():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, (3, 5), padding="same")

        def forward(self, x):
            y = torch.relu(self.first(x))
            return (self.second(y) + y).flatten(1)

    first, relu, second, add = trace(Residual(), torch.zeros(2, 3, 8, 8)).calls
    assert [call.operator.kind for call in (first, relu, second, add)] == ["conv", "relu", "conv", "add"]
    assert (first.weight, second.weight, relu.weight) == ("first.weight", "second.weight", "")
    assert (first.padding, second.padding) == ((1, 1), (1, 2))
    assert (first.strides, second.strides, second.dilations, relu.strides) == ((1, 1), (1, 1), (1, 1), (1, 1))
    assert [call.inputs for call in (first, relu, second, add)] == [(-1,), (0,), (1,), (2, 1)]
    assert first.module == "first"


def test_a_call_knows_strides_and_dilations_of_either_axis():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=(2, 1), dilation=(1, 2), padding="valid"),
        nn.MaxPool2d(2),
        nn.Flatten(2),
        nn.Conv1d(8, 4, 3, stride=2, padding=1),
        nn.ConvTranspose1d(4, 2, 3, stride=3),
    )
    plane, pool, signal, back = (
        call for call in trace(model, torch.zeros(2, 3, 9, 9)).calls if call.operator.kind != "copy"
    )
    assert (plane.strides, plane.dilations, pool.strides) == ((2, 1), (1, 2), (1, 1))
    assert (signal.strides, signal.padding, back.strides) == ((1, 2), (0, 1), (1, 3))


def test_a_call_survives_json():
    side = (("channels_out", Side(((1.0, ("a",)),))),)
    call = OperatorCall(
        "stem", Operator("conv", channels_in=3, channels_out=8), side, (-1, 4), "w", (0, 1), (2, 1), (3, 4)
    )
    assert OperatorCall.from_json(json.loads(json.dumps(call.to_json()))) == call


def test_a_grouped_convolution_with_one_channel_per_group_left_is_depthwise():
    half = Side(((1.0, ("a",)),))
    call = OperatorCall("", Operator("grouped", groups=4, channels_in=8, channels_out=8), (("channels_in", half),))
    assert call.at({"a": 0.5}).kind == "depthwise"
    assert replace(call, sides=()).at({"a": 0.5}).kind == "grouped"


def test_an_empty_slice_follows_nothing():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            y = self.first(x)
            return self.second(torch.cat([y[:, :4], y[:, 4:]], 1))

    graph = trace(Halves(), torch.zeros(2, 4))
    assert [group.name for group in graph.prunable] == ["first"]
