"""One export serves networks that differ in widths, where it is proven to be what their own would be."""

import onnx
import pytest
import torch
from torch import nn

from ecc.core.errors import UnavailableError
from ecc.profiler.runtimes import exporting, runtime_named

pytest.importorskip("onnxruntime")
INPUTS = torch.randn(2, 3, 8, 8)


class Block(nn.Module):
    """Convolutions with norms, a depthwise one among them, and a linear layer."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU6()),
            *(nn.Conv2d(width, width, 3, groups=width), nn.BatchNorm2d(width), nn.ReLU6()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)),
        )

    def forward(self, x):
        return self.body(x)


class Fixed(Block):
    """Its graph holds the width as a constant of no name."""

    def forward(self, x):
        middle = self.body[:7](x)
        return self.body[8](middle.reshape(len(x), middle.shape[1]) * torch.arange(middle.shape[1]))


@pytest.fixture
def exports(monkeypatch):
    """Networks that were exported."""
    exported, export = [], exporting._by_script

    def spy(network, call):
        exported.append(network)
        return export(network, call)

    monkeypatch.setattr(exporting, "_by_script", spy)
    return exported


def prepare(runtime, *networks):
    for network in networks:
        runtime.prepare(network.eval(), INPUTS)(1)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_from_the_third_width_on_nothing_is_exported(exports, name):
    if name == "openvino":
        pytest.importorskip("openvino")
    prepare(runtime_named(name, "cpu"), *map(Block, (8, 8, 6, 7, 3, 1)))  # the dense network may come twice
    assert [network.body[0].out_channels for network in exports] == [8, 8, 6]


def test_a_filled_template_is_to_the_last_bit_what_the_exporter_makes(monkeypatch):
    filled, fill = [], exporting.Templates.fill
    monkeypatch.setattr(exporting.Templates, "fill", lambda *known: filled.append(fill(*known)) or filled[-1])
    network = Block(5).eval()
    prepare(runtime_named("onnxruntime", "cpu"), Block(8), Block(6), network)
    call = exporting.Call.of(INPUTS, "cpu")
    own = onnx.load_from_string(exporting._by_script(network, call))
    assert filled[:2] == [None, None]
    assert onnx.load_from_string(filled[2]) == own


def test_a_graph_that_depends_on_widths_is_exported_each_time(exports):
    prepare(runtime_named("onnxruntime", "cpu"), *map(Fixed, (8, 6, 7, 3)))
    assert len(exports) == 4


def test_another_architecture_or_input_is_exported_anew(exports):
    runtime = runtime_named("onnxruntime", "cpu")
    prepare(runtime, *map(Block, (8, 6)))
    strided = Block(7)
    strided.body[0].stride = (2, 2)
    prepare(runtime, strided)
    runtime.prepare(Block(7).eval(), torch.randn(1, 3, 9, 9))(1)
    assert len(exports) == 4


def test_a_template_that_is_wrong_about_a_network_is_dropped_and_the_network_exported(exports, monkeypatch):
    runtime = runtime_named("onnxruntime", "cpu")
    prepare(runtime, *map(Block, (8, 6, 7)))
    monkeypatch.setattr(exporting, "_agreed", refuse)
    prepare(runtime, Block(5))
    monkeypatch.undo()
    assert len(exports) == 3
    assert runtime._templates._model is None


def refuse(*_):
    raise UnavailableError("something else")


def test_norms_of_equal_values_stay_two_tensors():
    network = Block(8).eval()
    model = onnx.load_from_string(exporting._by_script(network, exporting.Call.of(INPUTS, "cpu")))
    assert {each.name for each in model.graph.initializer} == {
        f"network.{name}" for name in network.state_dict() if not name.endswith("num_batches_tracked")
    }
    assert [each.name for each in model.graph.input] == ["input_0"]
