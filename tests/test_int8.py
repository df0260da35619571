"""Int8 execution: near float, on batches of any size, and measured against it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ecc.api.int8 import int8_session
from ecc.core.errors import InputError
from ecc.stages.fixed_point import onnx_int8
from ecc.stages.fixed_point.onnx_int8 import Int8, saturates, to_int8

pytest.importorskip("onnxruntime")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(32, 10)).eval()


X = torch.randn(40, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def made():
    return network(), int8_session(network(), X[:1], [X[:24], X[24:]])


def test_outputs_are_near_those_in_float_and_the_agreement_says_how_near(made):
    model, on_bytes = made
    with torch.no_grad():
        expected = model(X)
    found = on_bytes(X)
    gap = float((found - expected).abs().max() / expected.abs().max())
    assert 0 < gap < 0.1
    assert on_bytes.difference == pytest.approx(gap, rel=1e-4)
    assert on_bytes.agreement == float((found.argmax(1) == expected.argmax(1)).double().mean())


def test_layers_multiply_bytes(made):
    import onnx

    _, on_bytes = made
    weights = [each for each in onnx.load_from_string(on_bytes.int8_onnx).graph.initializer if len(each.dims) > 1]
    assert {each.data_type for each in weights} == {onnx.TensorProto.INT8}
    assert on_bytes.nbytes == len(on_bytes.int8_onnx)


def test_a_batch_of_another_size_is_cut_and_filled_up(made):
    model = network()
    by_three = int8_session(model, X[:3], [X])
    torch.testing.assert_close(by_three(X[:7]), torch.cat([by_three(X[:3]), by_three(X[3:6]), by_three(X[4:7])[2:]]))
    assert by_three(X[:1]).shape == (1, 10)


def test_speed_is_a_ratio_with_an_interval(made):
    found = made[1].speed(pairs=2, blocks=3)
    assert found.n == 6
    assert 0 < found.low <= found.ratio <= found.high < math.inf
    assert found.value > 0
    assert found.reference > 0


@pytest.mark.parametrize("calibration", ["percentile", "entropy"])
def test_other_ranges_of_activations_print_nothing(calibration, capsys):
    found = int8_session(network(), X[:4], [X], settings=Int8(calibration=calibration))
    assert found.agreement > 0.8
    assert capsys.readouterr() == ("", "")


def test_weights_get_seven_bits_where_sums_would_saturate():
    import onnx
    from onnx import numpy_helper

    model = network()
    sevens = int8_session(model, X[:1], [X], settings=Int8(seven_bits=True))
    eights = int8_session(model, X[:1], [X], settings=Int8(seven_bits=False))
    largest = [
        max(
            int(np.abs(numpy_helper.to_array(each).astype(int)).max())
            for each in onnx.load_from_string(each.int8_onnx).graph.initializer
            if len(each.dims) > 1
        )
        for each in (sevens, eights)
    ]
    assert largest == [64, 127] or largest == [63, 127]


@pytest.mark.parametrize(
    ("machine", "content", "expected"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512f", True),
        ("x86_64", "flags\t\t: fpu avx2 avx_vnni", False),
        ("AMD64", "flags : avx512_vnni", False),
        ("x86_64", "", True),
        ("x86_64", None, True),
        ("aarch64", None, False),
    ],
)
def test_processors_without_vnni_saturate(machine, content, expected, monkeypatch, tmp_path):
    file: Path = tmp_path / "cpuinfo"
    if content is not None:
        file.write_text(f"processor : 0\n{content}\n")
    monkeypatch.setattr(onnx_int8, "_CPUINFO", file)
    monkeypatch.setattr(onnx_int8.platform, "machine", lambda: machine)
    assert saturates() is expected


def test_what_cannot_be_put_on_bytes_is_refused():
    with pytest.raises(InputError, match="at least one batch of 4 examples"):
        int8_session(network(), X[:4], [X[:3]])
    with pytest.raises(InputError, match=r"starts from float32; convert the network with \.float\(\)"):
        int8_session(network().double(), X[:1].double(), [X.double()])
    with pytest.raises(InputError, match="must be one of max, percentile, entropy, got 'kl'"):
        Int8(calibration="kl")
    with pytest.raises(InputError, match="at least one batch"):
        to_int8(b"", [])
    with pytest.raises(InputError, match="ONNX Runtime cannot put the network on int8"):
        to_int8(b"no model", [{"input_0": np.zeros((1, 3), np.float32)}])
