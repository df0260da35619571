"""Outputs that are asked for are those of the whole layer."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ecc.core.errors import InputError
from ecc.stages.execution import asked_outputs
from ecc.stages.execution.asked_outputs import AskedLinear, AskedOutputs
from ecc.zoo.acoustic import gru_acoustic


@pytest.fixture
def without_numba(monkeypatch):
    monkeypatch.setattr(asked_outputs, "kernels", lambda: None)


@given(
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 30),
    batch=st.sampled_from([0, 1, 3, 40]),
    bias=st.booleans(),
    compiled=st.booleans(),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_asked_outputs_are_those_of_the_layer(inputs, outputs, batch, bias, compiled, data):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias, dtype=torch.float64)
    asked = torch.tensor(data.draw(st.lists(st.integers(0, outputs - 1), max_size=40)), dtype=torch.int64)
    x = torch.randn(batch, inputs, dtype=torch.float64)
    found = AskedLinear(layer)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(asked_outputs, "kernels", lambda: None)
        torch.testing.assert_close(found(x, asked), layer(x)[:, asked])
        mask = torch.zeros(outputs, dtype=torch.bool).index_fill_(0, asked, True)
        torch.testing.assert_close(found(x, mask), layer(x)[:, mask])
        assert torch.equal(found(x), layer(x))


@pytest.mark.parametrize("shape", [(6,), (2, 3, 6)], ids=str)
def test_leading_axes_stay(shape):
    layer, x = nn.Linear(6, 20), torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(AskedLinear(layer)(x, torch.tensor([7, 2])), layer(x)[..., [7, 2]])


@pytest.mark.usefixtures("without_numba")
def test_rows_are_copied_in_blocks(monkeypatch):
    monkeypatch.setattr(asked_outputs, "_BLOCK", 12)
    layer, x = nn.Linear(6, 40), torch.randn(3, 6)
    with torch.no_grad():
        layer.weight[9:] = torch.nan  # is not read
        torch.testing.assert_close(AskedLinear(layer)(x, torch.arange(9)), layer(x)[:, :9])


def test_outputs_that_are_not_asked_for_are_not_read():
    layer = nn.Linear(6, 20)
    with torch.no_grad():
        layer.weight[5:] = torch.nan
        assert AskedLinear(layer)(torch.randn(1, 6), torch.arange(5)).isfinite().all()


def test_gradients_are_those_of_the_layer():
    layer, x = nn.Linear(6, 20), torch.randn(3, 6)
    AskedLinear(layer)(x, torch.tensor([7, 2])).sum().backward()
    found, layer.weight.grad = layer.weight.grad, None
    layer(x)[:, [7, 2]].sum().backward()
    torch.testing.assert_close(found, layer.weight.grad)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (torch.tensor([0, 20]), "outputs 0 to 20 are asked for of a layer of 20"),
        (torch.tensor([-1]), "outputs -1 to -1 are asked for of a layer of 20"),
        (
            torch.tensor([1.0]),
            r"outputs must be whole numbers of shape \(n,\) or a mask of shape \(20,\), got torch.float32",
        ),
        (torch.ones(19, dtype=torch.bool), r"got torch.bool of shape \(19,\)"),
        ([0.5], "got torch.float32 of shape"),
        ([[1, 2]], "got torch.int64 of shape"),
        ([3, 20], "outputs 3 to 20 are asked for of a layer of 20"),
        (["first"], "outputs must be whole numbers or a mask, got"),
        ([1 << 70], "outputs must be whole numbers or a mask, got"),
        (7, "outputs must be whole numbers or a mask, got 7"),
    ],
)
def test_outputs_that_are_not_there_are_refused(outputs, message):
    with pytest.raises(InputError, match=message):
        AskedLinear(nn.Linear(6, 20))(torch.randn(1, 6), outputs)


def test_a_network_gives_what_is_asked_and_shares_its_weights():
    torch.manual_seed(0)
    model, frames = gru_acoustic(width=16), torch.randn(3, 12, 40)
    asked = AskedOutputs(model, frames)
    with torch.no_grad():
        expected = model(frames)
        torch.testing.assert_close(asked(frames), expected)
        torch.testing.assert_close(asked(frames, outputs=torch.tensor([9, 0])), expected[:, [9, 0]])
        hidden = asked.hidden(frames)
        torch.testing.assert_close(asked.head(hidden, torch.tensor([4])), expected[:, [4]])
    assert {id(each) for each in asked.parameters()} == {id(each) for each in model.parameters()}
    assert model.head.out_features == 10


def test_a_network_that_is_one_layer_is_taken():
    layer, x = nn.Linear(6, 20), torch.randn(2, 6)
    torch.testing.assert_close(AskedOutputs(layer, x)(x, outputs=torch.tensor([3])), layer(x)[:, [3]])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(self.layer(x))


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(6, 6), nn.Softmax(-1)), Twice()], ids=["softmax", "twice"])
def test_a_network_with_another_end_is_refused(model):
    with pytest.raises(InputError, match="are not those of a linear layer that runs once"):
        AskedOutputs(model, torch.randn(1, 6))


def test_a_bias_is_trained_where_the_weight_is_not():
    layer = nn.Linear(8, 20)
    layer.weight.requires_grad_(False)
    assert AskedLinear(layer)(torch.randn(3, 8), torch.tensor([1, 2])).requires_grad


class Clamped(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, 20)

    def forward(self, x):
        return self.last(x).clamp_(-1, 1)


def test_what_changes_the_outputs_in_place_is_seen():
    with pytest.raises(InputError, match="are not those of a linear layer"):
        AskedOutputs(Clamped(), torch.randn(3, 8) * 0.01)


@pytest.mark.parametrize(
    "outputs",
    [[7, 2], (7, 2), range(3), [], np.array([7, 2]), torch.tensor([7, 2], dtype=torch.int32), [True] + 19 * [False]],
    ids=["list", "tuple", "range", "none", "array", "int32", "mask"],
)
def test_outputs_are_asked_for_by_any_sequence(outputs):
    layer, x = nn.Linear(6, 20), torch.randn(3, 6)
    index = torch.as_tensor(outputs) if len(outputs) else torch.zeros(0, dtype=torch.int64)
    with torch.no_grad():
        torch.testing.assert_close(AskedLinear(layer)(x, outputs), layer(x)[:, index])
        torch.testing.assert_close(AskedOutputs(layer, x)(x, outputs=outputs), layer(x)[:, index])


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("asked", [2, 10, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_under_autocast_results_are_those_of_the_layer(rows, asked, dtype):
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    layer, x = nn.Linear(64, 20, dtype=wide), torch.randn(rows, 64).to(dtype)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = layer(x)[:, :asked]
        torch.testing.assert_close(AskedLinear(layer)(x, range(asked)), expected)


class Reading(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 20)

    def forward(self, x):
        assert self.head.bias is not None
        return self.head(self.body(x).to(self.head.weight.dtype) * self.head.in_features)


def test_a_network_may_read_the_weight_of_its_last_layer():
    torch.manual_seed(0)
    model, x = Reading(), torch.randn(3, 6)
    asked = copy.deepcopy(AskedOutputs(model, x))
    with torch.no_grad():
        torch.testing.assert_close(asked(x, outputs=[4, 2]), model(x)[:, [4, 2]])
        assert len(list(asked.parameters())) == 4
        asked.load_state_dict({name: 0 * each for name, each in asked.state_dict().items()})
        assert not asked(x).any()


class Deciding(Reading):
    def forward(self, x):
        found = self.head(self.body(x))
        return found if found.shape[-1] == 20 else found.missing


def test_a_network_that_needs_the_outputs_is_refused_by_a_sentence():
    with pytest.raises(InputError, match=r"^Deciding does not run without its layer 'head' \(.*and only call it$"):
        AskedOutputs(Deciding(), torch.randn(3, 6))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("asked", [2, 10, 20])
def test_the_layer_is_exported_and_traced(asked):
    layer, x, index = nn.Linear(6, 20), torch.randn(2, 6), torch.randperm(20)[:asked]
    for made in (torch.export.export(AskedLinear(layer), (x, index)).module(), traced(layer, (x, index))):
        torch.testing.assert_close(made(x + 1, index.flip(0)), layer(x + 1)[:, index.flip(0)])


def traced(layer, inputs):
    return torch.jit.trace(AskedLinear(layer), inputs)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "without numba"])
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "not trained"])
@pytest.mark.parametrize("shape", [(1, 31), (1, 33), (1, 0), (40, 31), (2, 3, 33), (31,), ()], ids=str)
def test_inputs_of_another_width_are_refused(shape, trained, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(asked_outputs, "kernels", lambda: None)
    layer = AskedLinear(nn.Linear(32, 50))
    for outputs in (torch.tensor([1, 2]), None):
        with torch.set_grad_enabled(trained), pytest.raises(InputError, match=r"have shape \(…, 32\), got"):
            layer(torch.ones(shape), outputs)


def test_what_is_no_linear_layer_and_inputs_that_do_not_fit_are_refused_by_a_sentence():
    with pytest.raises(InputError, match="must be a linear layer, got Conv2d"):
        AskedLinear(nn.Conv2d(1, 1, 1))
    with pytest.raises(InputError, match="must be what Sequential takes; it fails with them"):
        AskedOutputs(nn.Sequential(nn.Linear(20, 5)), torch.ones(1, 21))


@torch.no_grad()
@pytest.mark.parametrize(("weight", "bias"), [((50, 31), 50), ((50, 32), 3), ((40, 32), 40)], ids=str)
def test_tensors_that_were_put_in_and_do_not_fit_are_refused(weight, bias):
    layer = AskedLinear(nn.Linear(32, 50))
    layer.weight, layer.bias = nn.Parameter(torch.ones(weight)), nn.Parameter(torch.ones(bias))
    with pytest.raises(InputError, match="are not those of a layer of 32 inputs and 50 outputs"):
        layer(torch.ones(1, 32), torch.tensor([1, 45]))
