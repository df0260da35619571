"""What is found in a network for a systolic array: every multiplication by stored weights, and by name what else."""

import pytest
import torch
from torch import nn

from ecc.core.operators import Operator
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.energy import systolic_energy, weights_of
from ecc.energy_models.systolic.layers import layers_of
from ecc.network.tracing import trace
from ecc.zoo.networks import NETWORKS


def found(model, *shape):
    return layers_of(trace(model, torch.zeros(shape), check=False))


@pytest.mark.parametrize(
    "name", ["alexnet", "resnet20", "mobilenet-v2", "densenet121", "lstm-acoustic", "gru-acoustic", "text-cnn"]
)
def test_all_multiplications_of_a_network_are_counted(name):
    network = NETWORKS[name]
    with torch.device("meta"):
        model = network.factory()
    graph = trace(model, torch.zeros(2, *network.input_shape, dtype=network.input_dtype, device="meta"), check=False)
    layers, left_out = layers_of(graph)
    assert left_out == ()
    assert sum(layer.operator.macs * layer.repeats for layer in layers) == 2 * graph.macs()
    assert {layer.weight for layer in layers} <= set(graph.parameters)
    for layer in layers:
        assert torch.Size(graph.parameters[layer.weight].shape).numel() == layer.size


def test_products_of_activations_are_named():
    model = NETWORKS["vit-small"].factory(depth=1)
    graph = trace(model, torch.zeros(1, 3, 224, 224), check=False)
    layers, (attention,) = layers_of(graph)
    assert (attention.name, attention.kind) == ("blocks.0.attn", "attention")
    assert attention.reason == "it multiplies by no stored weights"
    assert attention.macs + sum(layer.operator.macs for layer in layers) == graph.macs()


def test_layers_of_unknown_kinds_are_named():
    class Volume(nn.Module):
        def __init__(self):
            super().__init__()
            self.cube, self.head = nn.Conv3d(1, 2, 3), nn.Linear(2 * 8, 3)

        def forward(self, x):
            return self.head(self.cube(x).flatten(1))

    layers, (cube,) = found(Volume(), 2, 1, 4, 4, 4)
    assert [layer.name for layer in layers] == ["head"]
    assert (cube.name, cube.kind, cube.macs) == ("cube", "conv", 2 * 2 * 8 * 27)


def test_recurrent_layers_are_two_products_for_each_cell():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0]

    model = Net()
    graph = trace(model, torch.zeros(3, 7, 4), check=False)
    layers, left_out = layers_of(graph)
    assert not left_out
    assert [layer.name for layer in layers] == [
        f"rnn.weight_{part}_l{cell}" for cell in ("0", "0_reverse", "1", "1_reverse") for part in ("ih", "hh")
    ]
    first, state = layers[:2]
    assert (first.operator, first.repeats) == (Operator("linear", batch=21, channels_in=4, channels_out=20), 1)
    assert (state.operator, state.repeats) == (Operator("linear", batch=3, channels_in=5, channels_out=20), 7)
    for layer, weight in zip(layers, weights_of(model, graph, layers), strict=True):
        assert weight.data_ptr() == model.get_parameter(layer.name).data_ptr()
    tiles, positions = 7 * 1, 7 * 3  # of the state: three examples fill a part of one tile at each of seven steps
    energy = systolic_energy(model, graph, SystolicArray(weight_cache=40)).layers[1]
    assert energy.weights == 6 * tiles * 100 + positions * 100 + 200 * (40 + tiles * 60)
    assert energy.mac == energy.relaxed_mac == 3 * positions * 100
    assert energy.inputs == 6 * 2 * positions * 5 + 20 * positions * 5 + 200 * positions * 5
    assert energy.outputs == 200 * positions * 20


STORED = {  # how a matrix is stored, its shape, rows that are multiplied by it, numbers that come out
    "second": (lambda x, matrix: x @ matrix, (4, 6), 10, 60),
    "second, transposed": (lambda x, matrix: x @ matrix.t(), (6, 4), 10, 60),
    "second, expanded": (lambda x, matrix: torch.bmm(x, matrix.expand(2, 4, 6)), (4, 6), 10, 60),
    "first": (lambda x, matrix: matrix @ x, (6, 5), 8, 48),
    "first, transposed": (lambda x, matrix: matrix.mT @ x, (5, 6), 8, 48),
    "one for each": (lambda x, matrix: x @ matrix, (2, 4, 6), 5, 60),
}


@pytest.mark.parametrize("case", STORED)
def test_stored_matrices_are_weights(case):
    multiply, shape, rows, written = STORED[case]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.ones(shape))

        def forward(self, x):
            return multiply(x, self.matrix)

    model = Net()
    graph = trace(model, torch.zeros(2, 5, 4), check=False)
    (layer,), left_out = layers_of(graph)
    assert not left_out
    assert (layer.weight, layer.weights_first) == ("matrix", case.startswith("first"))
    assert layer.operator.macs == sum(call.operator.macs for call in graph.calls)
    inputs = {"first": -1, "first, transposed": -2, "second": -2, "second, transposed": -1}.get(case, -2)
    with torch.no_grad():
        model.matrix.select(inputs, 0).zero_()  # all that the first input channel is multiplied by
    mask = torch.ones(layer.input_shape)
    mask[0] = 0
    (energy,) = systolic_energy(model, graph).layers
    (masked,) = systolic_energy(model, graph, masks={layer.name: mask}).layers
    assert layer.examples == rows
    assert energy.nonzeros == int(model.matrix.sum())
    assert energy.pairs == masked.pairs == rows * energy.nonzeros
    assert energy.outputs == 200 * written


def test_signals_and_windows_keep_their_strides_and_padding():
    model = nn.Sequential(
        nn.Conv1d(2, 4, 4, stride=2, padding=1, dilation=2),
        nn.ConvTranspose1d(4, 2, 3, stride=3),
    )
    (down, up), _ = found(model, 1, 2, 20)
    assert (down.padding, down.strides, down.dilations) == ((0, 1), (1, 2), (1, 2))
    assert (up.strides, up.inputs_first, up.transposed) == ((1, 3), True, True)
    rows, columns = up.taps()
    assert rows.tolist() == [[1.0]]
    assert columns.sum() == 3 * up.operator.width


def test_weights_behind_a_parametrisation_are_those_of_the_module():
    from torch.nn.utils import prune

    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    nn.utils.parametrizations.weight_norm(model[2])
    graph = trace(model, torch.zeros(1, 2, 4, 4), check=False)
    energy = systolic_energy(model, graph)
    assert [each.nonzeros for each in energy.layers] == [36, 48]
    assert energy.assumed_dense == ()


def test_weights_that_are_made_in_the_forward_count_as_dense_and_are_named():
    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Parameter(torch.zeros(3, 4))

        def forward(self, x):
            return nn.functional.linear(x, torch.cat([self.part, self.part]))

    model = Made()
    energy = systolic_energy(model, trace(model, torch.zeros(1, 4), check=False))
    assert energy.layers[0].nonzeros == 24
    assert energy.assumed_dense == ("linear",)


def test_layers_follow_the_widths():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Flatten())
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    (group,) = graph.prunable
    layers, _ = layers_of(graph, graph.relative({group.name: 2}))
    assert [(layer.operator.channels_in, layer.operator.channels_out) for layer in layers] == [(3, 2), (2, 4)]
