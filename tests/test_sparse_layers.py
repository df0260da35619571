import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ecc.core.errors import InputError
from ecc.network.input_masks import apply_masks
from ecc.network.sparse_layers import sparse_layer


def thinned(layer, kept):
    with torch.no_grad():
        layer.weight.mul_(torch.rand_like(layer.weight) < kept)
    return layer.eval()


@settings(max_examples=40, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.sampled_from([0, 1, (2, 1), "valid", "same"]),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    kept=st.sampled_from([0.0, 0.1, 1.0]),
    size=st.tuples(st.integers(7, 9), st.integers(7, 9)),
)
def test_a_convolution_in_csr_computes_what_the_dense_one_does(
    groups, kernel, stride, padding, dilation, bias, kept, size
):
    torch.manual_seed(0)
    stride = 1 if padding == "same" else stride
    layer = thinned(nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias), kept)
    x = torch.randn(3, 4, *size)
    torch.testing.assert_close(sparse_layer(layer)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_in_csr_computes_what_the_dense_one_does(shape, bias):
    layer = thinned(nn.Linear(7, 4, bias=bias, dtype=torch.float64), 0.3)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(sparse_layer(layer)(x), layer(x))


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(6, 4), (6,)), (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 5))], ids=["linear", "conv"]
)
def test_masks_of_inputs_are_kept(layer, shape):
    mask = (torch.rand(shape) < 0.5).float()
    masked = apply_masks(nn.Sequential(thinned(layer, 0.5)), {"0": mask})
    x = torch.randn(2, *shape)
    torch.testing.assert_close(sparse_layer(masked[0])(x), masked(x), rtol=1e-4, atol=1e-5)


def test_sparse_layers_can_be_copied_and_saved():
    layer = sparse_layer(thinned(nn.Conv2d(2, 3, 3), 0.3))
    x = torch.randn(1, 2, 6, 6)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    again = sparse_layer(thinned(nn.Conv2d(2, 3, 3), 0.3))
    for name, tensor in torch.load(io.BytesIO(buffer.getvalue()), weights_only=True).items():
        path, _, last = name.rpartition(".")
        setattr(again.get_submodule(path), last, tensor)  # as many weights are left as there
    assert torch.equal(again(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def hooked():
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Conv1d(1, 1, 1), "Conv1d has no sparse form"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), "its padding is circular"),
        (hooked(), "it has hooks"),
    ],
    ids=["kind", "padding", "hooks"],
)
def test_layers_that_have_no_sparse_form_are_refused(layer, words):
    with pytest.raises(InputError, match=words):
        sparse_layer(layer)


LAYERS = {
    "linear": (lambda: nn.Linear(7, 4), (5, 7)),
    "conv": (lambda: nn.Conv2d(4, 8, 3, 2, 1, groups=2), (5, 4, 7, 9)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_under_autocast_results_are_those_of_a_dense_layer(name, dtype):
    torch.manual_seed(0)
    made, shape = LAYERS[name]
    layer = thinned(made(), 0.5).to(torch.float64 if dtype == torch.float64 else torch.float32)
    x = torch.randn(shape).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(sparse_layer(layer)(x), layer(x), rtol=0.03, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_16_bits_are_taken(name, dtype):
    torch.manual_seed(0)
    made, shape = LAYERS[name]
    layer, x = thinned(made(), 0.5).to(dtype), torch.randn(shape).to(dtype)
    torch.testing.assert_close(sparse_layer(layer)(x), layer(x), rtol=0.03, atol=0.02)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", [(4, 7, 9), (0, 4, 7, 9), (1, 4, 7, 9)], ids=str)
def test_a_convolution_takes_one_input_and_none(shape, groups):
    layer = thinned(nn.Conv2d(4, 6, 3, padding=1, groups=groups), 0.5)
    x = torch.randn(shape)
    torch.testing.assert_close(sparse_layer(layer)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [0.0, 0.3, 1.0])
def test_the_weight_of_a_linear_layer_can_be_read(kept):
    layer = thinned(nn.Linear(7, 4), kept)
    assert torch.equal(sparse_layer(layer).weight, layer.weight)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_exported_and_run_without_data(name):
    torch.manual_seed(0)
    made, shape = LAYERS[name]
    layer, x = thinned(made(), 0.5), torch.randn(shape)
    sparse = sparse_layer(layer)
    torch.testing.assert_close(torch.export.export(sparse, (x,)).module()(x), layer(x), rtol=1e-4, atol=1e-5)
    assert sparse.to("meta")(x.to("meta")).shape == layer(x).shape
