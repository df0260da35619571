import math
from collections import Counter

import pytest
import torch
from torch import nn

from ecc.core.operators import Operator
from ecc.network.operators import operators_at, operators_of
from ecc.network.tracing import trace
from ecc.profiler.operator_modules import build
from ecc.zoo.networks import NETWORKS

NAMES = ("digits-resnet", "lenet5", "resnet20", "mobilenet-v2", "squeezenet", "densenet121", "vit-small", "vgg16")
SEQUENCES = ("lstm-acoustic", "gru-acoustic", "mlp-acoustic", "text-bow", "text-cnn")


def empty(name, batch=1):
    """A network of the zoo and its inputs, without values."""
    network = NETWORKS[name]
    with torch.device("meta"):
        module = network.factory()
    return module, torch.zeros(batch, *network.input_shape, dtype=network.input_dtype, device="meta")


class Forward(nn.Module):
    """A forward made of a function."""

    def __init__(self, function, *modules):
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.function = function

    def forward(self, *values):
        return self.function(*self.parts, *values)


def only(model, *inputs):
    """The operators of a model, all of which are understood."""
    found = operators_of(model, inputs)
    assert not found.unknown
    return list(found.operators)


@pytest.mark.parametrize("name", [*NAMES, *SEQUENCES])
def test_the_macs_of_the_operators_are_those_of_the_width_graph(name):
    model, inputs = empty(name)
    found, graph = operators_of(model, inputs), trace(model, inputs, check=False)
    assert found.macs == graph.macs() > 0
    assert set(found.unknown) <= {"ne"}
    assert len(found.modules) == len(found.operators)


def test_a_batch_takes_that_many_times_the_macs():
    model, inputs = empty("mobilenet-v2", batch=3)
    assert operators_of(model, inputs).macs == 3 * trace(model, inputs, check=False).macs()


@pytest.mark.parametrize("name", ["resnet20", "mobilenet-v2", "lstm-acoustic"])
def test_the_macs_at_given_widths_are_those_of_the_width_graph(name):
    model, inputs = empty(name)
    graph = trace(model, inputs, check=False)
    widths = {group.name: group.step * max(1, group.units // 3) for group in graph.prunable}
    found = operators_at(model, graph, inputs, widths)
    assert found.macs == graph.macs(widths) < graph.macs()


@pytest.mark.parametrize("name", ["squeezenet", "mobilenet-v2", "densenet121"])
def test_every_operator_of_a_network_can_be_built_and_gives_what_its_columns_say(name):
    model, inputs = empty(name)
    for operator in dict.fromkeys(operators_of(model, inputs).operators):
        if operator.macs < 2e7 and operator.writes < 2e5:
            assert build(operator)().numel() == operator.writes, operator


def test_a_network_is_neither_run_nor_changed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    operators_of(model, torch.randn(2, 3, 8, 8))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training


def test_convolutions_are_told_apart_with_all_their_sizes():
    image = torch.zeros(2, 8, 9, 7)
    model = nn.Sequential(
        nn.Conv2d(8, 16, (1, 3), stride=2, padding=(0, 1)),
        nn.Conv2d(16, 16, 3, groups=16, padding=1),
        nn.Conv2d(16, 32, 3, groups=4, padding=2, dilation=2),
        nn.ConvTranspose2d(32, 6, 2, stride=2),
    )
    first = {"batch": 2, "out_height": 5, "out_width": 4}
    middle = {**first, "height": 5, "width": 4, "kernel_h": 3, "kernel_w": 3}
    assert only(model, image) == [
        Operator("conv", channels_in=8, channels_out=16, height=9, width=7, kernel_w=3, stride=2, **first),
        Operator("depthwise", groups=16, channels_in=16, channels_out=16, **middle),
        Operator("grouped", groups=4, channels_in=16, channels_out=32, dilation=2, **middle),
        Operator(
            "transposed",
            batch=2,
            channels_in=32,
            channels_out=6,
            height=5,
            width=4,
            out_height=10,
            out_width=8,
            kernel_h=2,
            kernel_w=2,
            stride=2,
        ),
    ]


def test_a_signal_is_an_image_of_height_1():
    (operator,) = only(nn.Conv1d(4, 6, 5), torch.zeros(2, 4, 20))
    sizes = {"height": 1, "width": 20, "out_height": 1, "out_width": 16, "kernel_h": 1, "kernel_w": 5}
    assert operator == Operator("conv", batch=2, channels_in=4, channels_out=6, **sizes)


def test_the_tokens_of_a_linear_layer_are_its_length():
    (operator,) = only(nn.Linear(6, 9), torch.zeros(2, 3, 5, 6))
    assert operator == Operator("linear", batch=2, length=15, channels_in=6, channels_out=9)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((3, 5), (5, 7), {"length": 3}),
        ((2, 3, 5), (2, 5, 7), {"batch": 2, "length": 3}),
        ((2, 4, 3, 5), (2, 4, 5, 7), {"batch": 2, "groups": 4, "length": 3}),
        ((2, 4, 3, 5), (5, 7), {"length": 24}),
    ],
)
def test_matrix_products_have_their_copies_as_groups(left, right, expected):
    (operator,) = only(Forward(torch.matmul), torch.zeros(left), torch.zeros(right))
    assert operator == Operator("matmul", channels_in=5, channels_out=7, **expected)
    assert operator.macs == math.prod(left) * 7


def test_attention_has_heads_tokens_context_and_head_sizes():
    query, key, value = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 9, 5), torch.zeros(2, 3, 9, 7)
    (operator,) = only(Forward(nn.functional.scaled_dot_product_attention), query, key, value)
    sizes = {"length": 4, "context": 9, "channels_in": 5, "channels_out": 7}
    assert operator == Operator("attention", batch=2, groups=3, **sizes)
    assert operator.macs == 2 * 3 * 4 * 9 * (5 + 7)


def test_recurrent_layers_are_one_operator_per_layer_and_direction():
    model = Forward(lambda layer, x: layer(x)[0], nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True))
    sizes = {"batch": 2, "length": 5, "channels_out": 8}
    assert only(model, torch.zeros(2, 5, 6)) == [
        *[Operator("lstm", channels_in=6, **sizes)] * 2,
        *[Operator("lstm", channels_in=16, **sizes)] * 2,
    ]


def test_norms_pools_and_pointwise_operators_are_named_and_sized():
    model = nn.Sequential(
        *(nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(3, 2, 1), nn.Hardswish(), nn.AvgPool2d(2), nn.GroupNorm(2, 8)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.GELU(), nn.Softmax(-1)),
    )
    found = only(model, torch.zeros(2, 8, 16, 16))
    kinds = "batch-norm relu6 max-pool hardswish average-pool group-norm reduce layer-norm gelu softmax"
    assert [operator.kind for operator in found] == kinds.split()
    pool = found[2]
    assert (pool.height, pool.out_height, pool.kernel_h, pool.stride) == (16, 8, 3, 2)
    assert [operator.writes for operator in found] == [4096, 4096, 1024, 1024, 256, 256, 16, 16, 16, 16]


def test_arithmetic_tells_operands_of_one_shape_from_smaller_ones():
    x, y = torch.zeros(2, 8, 4, 4), torch.zeros(2, 8, 1, 1)
    found = only(Forward(lambda a, b: torch.cat([(a + a) * a, a * b, a + 1, a - b], 1)), x, y)
    assert [operator.kind for operator in found] == ["add", "multiply", "scale", "shift", "shift", "cat"]
    assert (found[0].reads, found[-1].writes) == (2 * 256, 4 * 256)


def test_views_are_free_and_copies_are_not():
    found = operators_of(Forward(lambda x: (x.mT.reshape(2, 12), x.reshape(2, 12))), torch.zeros(2, 3, 4))
    assert [operator.kind for operator in found.operators] == ["copy"]
    assert not found.unknown
    assert set(found.free) >= {"reshape"} or set(found.free) >= {"view"}


def test_what_is_not_known_is_named_and_counted():
    found = operators_of(Forward(lambda x: torch.fft.fft(x).abs().erf().erf().relu()), torch.zeros(2, 8))
    assert Counter(found.unknown)["erf"] == 2
    assert [operator.kind for operator in found.operators] == ["relu"]


def test_a_module_that_cannot_be_followed_is_named():
    def choose(x):
        return x + 1 if float(x.detach().sum()) > -1e9 else x

    model = nn.Sequential(nn.Linear(4, 4), Forward(choose), nn.Linear(4, 2))
    found = operators_of(model, torch.zeros(2, 4))
    assert found.unknown == {"1": 1}
    assert [operator.kind for operator in found.operators] == ["linear", "linear"]
