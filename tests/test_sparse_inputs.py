"""Products that leave out zero inputs are the dense ones, whatever is zero."""

import copy
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ecc.core.errors import InputError
from ecc.stages.execution import kernels as kernels_module
from ecc.stages.execution import sparse_inputs
from ecc.stages.execution.kernels import fill_asked, fill_fan_out, kernels, suit
from ecc.stages.execution.sparse_inputs import SparseInputLinear, fan_out


@pytest.fixture
def without_numba(monkeypatch):
    monkeypatch.setattr(sparse_inputs, "kernels", lambda: None)


def drawn(batch, inputs, outputs, zeros, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, inputs, generator=generator, dtype=dtype)
    x[torch.rand(x.shape, generator=generator) < zeros] = 0
    weight = torch.randn(inputs, outputs, generator=generator, dtype=dtype)
    return x, weight, torch.randn(outputs, generator=generator, dtype=dtype)


PATTERNS = {
    "batch": st.integers(0, 4),
    "inputs": st.integers(1, 150),
    "outputs": st.integers(1, 20),
    "zeros": st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    "seed": st.integers(0, 1000),
}


@given(**PATTERNS)
@settings(max_examples=40, deadline=None)
def test_the_compiled_product_is_the_dense_one(batch, inputs, outputs, zeros, seed):
    x, weight, bias = drawn(batch, inputs, outputs, zeros, seed)
    assert kernels() is not None, "numba belongs to the extra test"
    torch.testing.assert_close(fan_out(x, weight, bias), x @ weight + bias)


@given(**PATTERNS)
@settings(max_examples=40, deadline=None)
def test_the_product_by_bags_is_the_dense_one(batch, inputs, outputs, zeros, seed):
    x, weight, _ = drawn(batch, inputs, outputs, zeros, seed)
    torch.testing.assert_close(sparse_inputs._bags(x, weight), x @ weight)


def test_the_loops_are_right_before_they_are_compiled_and_beyond_one_piece(monkeypatch):
    monkeypatch.setattr(kernels_module, "_OUTPUTS", 5)
    monkeypatch.setattr(kernels_module, "_INPUTS", 7)
    x, weight, bias = (each.numpy() for each in drawn(3, 23, 13, 0.4, 0))
    found = np.full((3, 13), np.nan)
    fill_fan_out(x, weight, bias, found)
    np.testing.assert_allclose(found, x @ weight + bias)
    fill_fan_out(x, weight, bias[:0], found)
    np.testing.assert_allclose(found, x @ weight)
    rows = np.array([4, 4, 0, 12, 7, 1])
    asked, turned = np.full((3, 6), np.nan), np.ascontiguousarray(weight.T)
    fill_asked(x, turned, bias, rows, asked)
    np.testing.assert_allclose(asked, (x @ weight + bias)[:, rows])
    fill_asked(x, turned, bias[:0], rows, asked)
    np.testing.assert_allclose(asked, (x @ weight)[:, rows])


def test_wide_layers_are_computed_in_pieces():
    x, weight, bias = drawn(2, 70, 4100, 0.5, 3)
    torch.testing.assert_close(fan_out(x, weight, bias), x @ weight + bias)


def test_rows_of_zero_inputs_are_not_read():
    x, weight, _ = drawn(1, 40, 6, 0.5, 1)
    weight[(x[0] == 0).nonzero()[:, 0]] = torch.nan
    expected = torch.nan_to_num(x) @ torch.nan_to_num(weight)
    torch.testing.assert_close(fan_out(x, weight), expected)
    torch.testing.assert_close(sparse_inputs._bags(x, weight), expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_inputs_that_are_not_finite_stay_so(value):
    x, weight, _ = drawn(1, 12, 3, 0.5, 1)
    x[0, 5] = value
    torch.testing.assert_close(fan_out(x, weight), x @ weight, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(30,), (1, 30), (2, 3, 30), (9, 30), (0, 30)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_the_layer_stands_for_a_linear_one(dtype, shape, bias):
    torch.manual_seed(0)
    layer = nn.Linear(30, 11, bias=bias, dtype=dtype)
    x = torch.randn(shape, dtype=dtype).relu()
    with torch.no_grad():
        rounding = {"atol": 0.02, "rtol": 0.02} if dtype == torch.bfloat16 else {}
        torch.testing.assert_close(SparseInputLinear(layer)(x), layer(x), **rounding)


@pytest.mark.usefixtures("without_numba")
def test_the_layer_works_without_numba():
    torch.manual_seed(0)
    layer, x = nn.Linear(30, 11), torch.randn(3, 30).relu()
    torch.testing.assert_close(SparseInputLinear(layer)(x), layer(x).detach())


def test_numba_that_is_not_there_is_no_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert kernels.__wrapped__() is None


def test_inputs_that_are_not_row_by_row_in_memory_are_taken():
    torch.manual_seed(0)
    layer, x = nn.Linear(30, 11), torch.randn(30, 4).relu().t()
    torch.testing.assert_close(SparseInputLinear(layer)(x), layer(x).detach())
    assert suit(x.contiguous(), layer.weight)
    assert not suit(x, layer.weight)


def test_gradients_reach_the_input():
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 3), torch.randn(1, 5).relu().requires_grad_()
    SparseInputLinear(layer)(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0, keepdim=True).detach())


def test_what_cannot_be_is_refused():
    layer = nn.Linear(5, 3)
    with pytest.raises(InputError, match=r"^fan_out takes x \(batch, inputs\) and a weight \(inputs, outputs\) of one"):
        fan_out(torch.ones(1, 4), torch.ones(5, 3))
    with torch.no_grad():
        layer.weight[0, 0] = torch.inf
    with pytest.raises(InputError, match="whose weights are not all finite cannot leave out zeros"):
        SparseInputLinear(layer)


@pytest.mark.parametrize("rows", [0, 1, 8, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_under_autocast_results_are_those_of_a_linear_layer(rows, dtype):
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    layer, x = nn.Linear(30, 11, dtype=wide), torch.randn(rows, 30).relu().to(dtype)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(SparseInputLinear(layer)(x), layer(x))


@pytest.mark.parametrize(("inputs", "outputs"), [(30, 11), (1, 5), (5, 1)])
def test_the_weight_is_that_of_a_linear_layer(inputs, outputs):
    torch.manual_seed(0)
    layer, other, x = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs), torch.randn(2, inputs).relu()
    sparse = SparseInputLinear(layer)
    assert torch.equal(sparse.weight, layer.weight)
    assert sparse.weight.data_ptr() != layer.weight.data_ptr()
    sparse.load_state_dict(other.state_dict())
    for each in (sparse, copy.deepcopy(sparse), sparse.double().float()):
        assert each.weight.t().is_contiguous()  # else a zero does not leave out a row that lies in one piece
        torch.testing.assert_close(each(x), other(x).detach())


def test_the_layer_is_exported_and_run_without_data():
    torch.manual_seed(0)
    layer, x = nn.Linear(30, 11), torch.randn(2, 30).relu()
    sparse = SparseInputLinear(layer)
    torch.testing.assert_close(torch.export.export(sparse, (x,)).module()(x), layer(x).detach())
    assert sparse.to("meta")(x.to("meta")).shape == (2, 11)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_what_is_traced_is_no_constant():
    torch.manual_seed(0)
    layer, x = nn.Linear(30, 11), torch.randn(2, 30).relu()
    traced = torch.jit.trace(SparseInputLinear(layer), (torch.ones(2, 30),))
    torch.testing.assert_close(traced(x), layer(x).detach())


def test_inputs_of_another_width_are_refused_as_they_are():
    with pytest.raises(InputError, match="inputs of this layer have shape"):
        SparseInputLinear(nn.Linear(4, 3))(torch.ones(8))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5,), (4, 1), (1, 4)], ids=str)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "without numba"])
def test_a_bias_of_another_shape_is_refused(shape, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(sparse_inputs, "kernels", lambda: None)
    with pytest.raises(InputError, match=r"takes a bias of shape \(4,\) here, got"):
        fan_out(torch.ones(2, 6), torch.ones(6, 4), torch.ones(shape))


def test_a_layer_refuses_another_width_and_what_is_no_linear_layer_by_its_own_sentence():
    layer = SparseInputLinear(nn.Linear(6, 4))
    for shape in ((1, 5), (2, 7), (2, 1, 5), (5,)):
        with pytest.raises(InputError, match=r"inputs of this layer have shape \(…, 6\), got"):
            layer(torch.ones(shape))
    with pytest.raises(InputError, match="must be a linear layer, got Conv2d"):
        SparseInputLinear(nn.Conv2d(1, 1, 1))
