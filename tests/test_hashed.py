"""Hashed weights: the formula, its gradient and its fit, what is stored, and training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from stage_workshop import BlobShop, blob_net
from torch import nn

from ecc.api.stage_order import demand_order
from ecc.core.errors import InputError
from ecc.stages import virtual_weights
from ecc.stages.code import PackedCode, decode_node, packed
from ecc.stages.container import read
from ecc.stages.entropy import Entropy
from ecc.stages.hashed import Hashed, fitted_values, random_values
from ecc.stages.hashed_values import key_of_hashed
from ecc.stages.hashing import HashKey, PlaceCache
from ecc.stages.log_quant import LogQuant
from ecc.stages.nodes import Form, Numbers
from ecc.stages.prune import Prune
from ecc.stages.tuning import TunedNetwork, fitted
from ecc.stages.virtual_weights import Places, gathered

CPU = torch.device("cpu")


def projection(key: HashKey, size: int) -> torch.Tensor:
    """The matrix that makes the virtual elements from the values, by its definition: shape (size, K)."""
    matrix = torch.zeros(size, key.buckets, dtype=torch.float64)
    for element, place in enumerate(key.span(0, size)[0]):
        matrix[element, place % key.buckets] = 1.0 if place < key.buckets else -1.0
    return matrix


def form_of(values: torch.Tensor, shape: tuple[int, ...], **parts: Numbers) -> Form:
    parameters = {"salt": 3, "published": 0}
    return Form("hashed", shape, torch.float32, parameters, {"values": Numbers(values), **parts})


def test_an_element_is_its_signed_value_and_a_gradient_the_signed_sum_of_its_bucket():
    key, values = HashKey(3, 11, 17), torch.randn(17, dtype=torch.float64, requires_grad=True)
    matrix = projection(key, 99)
    found = gathered(values, Places(key, 99, CPU))
    assert torch.equal(found, matrix @ values)
    given = torch.randn(99, dtype=torch.float64)
    found.backward(given)
    assert torch.allclose(values.grad, matrix.T @ given)
    assert torch.equal(decode_node(form_of(values.detach().float(), (9, 11))).flatten(), found.detach().float())


def test_values_may_be_computed_some_at_a_time_and_without_a_cache(monkeypatch):
    key, values = HashKey(3, 11, 17), torch.randn(17, requires_grad=True)
    whole = gathered(values, Places(key, 99, CPU))
    whole.sum().backward()
    monkeypatch.setattr(virtual_weights, "_CHUNK", 7)
    monkeypatch.setattr(virtual_weights, "_CACHE", PlaceCache(0))
    again = values.detach().clone().requires_grad_()
    pieces = gathered(again, Places(key, 99, CPU))
    pieces.sum().backward()
    assert torch.equal(pieces, whole)
    assert torch.allclose(again.grad, values.grad)
    some = torch.tensor([98, 0, 5, 5])
    assert torch.equal(gathered(again, Places(key, some, CPU)), whole[some])


@pytest.mark.parametrize("shape", [(9, 11), (5, 3, 2, 2), (40,)], ids=str)
def test_the_fit_is_that_of_least_squares(shape):
    weights = torch.randn(shape)
    key = HashKey(3, max(int(np.prod(shape[1:])), 1), 13)
    expected = torch.linalg.lstsq(projection(key, weights.numel()), weights.double().flatten()).solution
    assert torch.allclose(fitted_values(weights, key), expected)


def test_the_fit_leaves_out_rows_that_are_zero():
    weights = torch.randn(12, 10)
    weights[[0, 7]] = 0
    key = HashKey(3, 10, 9)
    some = weights.any(1).repeat_interleave(10)
    expected = torch.linalg.lstsq(projection(key, 120)[some], weights.double().flatten()[some]).solution
    assert torch.allclose(fitted_values(weights, key), expected)


def test_random_values_keep_the_variance_of_the_weights():
    weights = 0.3 * torch.randn(50, 40)
    key = HashKey(3, 40, 90)
    found = decode_node(form_of(random_values(weights, key, torch.Generator().manual_seed(0)).float(), (50, 40)))
    assert float(found.square().mean()) == pytest.approx(float(weights.square().mean()), rel=1e-5)


def test_the_file_holds_the_values_and_a_few_bytes_and_no_index():
    code = Hashed(ratio=8).encode({"a.weight": torch.randn(200, 100), "a.bias": torch.randn(200)})
    values = code.nodes["a.weight"].parts["values"].values
    assert 0 < code.stored()["a.weight"].nbytes - 4 * len(values) < 60
    assert code.stored()["a.weight"].nbytes <= packed({"a.weight": torch.zeros(200, 100)}).nbytes / 8
    nodes, aliases = read(code.to_bytes())
    decoded = PackedCode(nodes, aliases).decode()
    assert torch.equal(decoded["a.weight"], code.decode()["a.weight"])
    assert set(decoded["a.weight"].flatten().tolist()) <= set(torch.cat([values, -values]).tolist())


@pytest.mark.parametrize("nbytes", [3_000, 9_999, 40_000])
def test_a_file_takes_what_it_may_and_no_more(nbytes):
    state = {"a.weight": torch.randn(100, 90), "b.weight": torch.randn(20, 100), "b.bias": torch.zeros(20)}
    code = Hashed(nbytes=nbytes).encode(state)
    assert nbytes - 40 <= code.nbytes <= nbytes


def test_layers_have_keys_of_their_own_unless_the_published_one_is_asked_for():
    state = {"a.weight": torch.randn(20, 30), "b.weight": torch.randn(20, 30)}
    for key, salts in (("salted", 2), ("published", 1)):
        code = Hashed(ratio=4, key=key).encode(state)
        keys = {key_of_hashed(node) for node in code.nodes.values()}
        assert len(keys) == salts
    other = Hashed(ratio=4, seed=1).encode(state)
    assert other.nodes["a.weight"].parameters["salt"] != 0


def test_rows_that_are_zero_stay_zero():
    weight = torch.randn(30, 20)
    weight[0] = 0
    code = Hashed(ratio=4).encode({"embedding.weight": weight})
    decoded = PackedCode(*read(code.to_bytes())).decode()["embedding.weight"]
    assert not decoded[0].any()
    assert decoded[1:].any(1).all()


def test_biases_are_hashed_on_request():
    state = {"a.weight": torch.randn(300, 30), "a.bias": torch.randn(300), "norm.bias": torch.randn(300)}
    assert isinstance(Hashed().encode(state).nodes["a.bias"], Numbers)
    code = Hashed(biases=True, key="published").encode(state)
    assert key_of_hashed(code.nodes["a.bias"]).published == "B"
    assert isinstance(code.nodes["norm.bias"], Numbers)


@pytest.mark.parametrize("start", ["random", "fit"])
def test_training_reaches_what_the_network_can(start):
    shop = BlobShop()
    model = shop.trained()
    workshop = shop.workshop(model)
    code = Hashed(ratio=4, start=start, epochs=6, lr=1e-2).encode(model.state_dict(), workshop)
    assert workshop.evaluate(fitted(model, code))[1] > 0.9
    assert code.nbytes < packed(model.state_dict()).nbytes / 2


def test_tuning_trains_the_values_through_the_hash():
    code = Hashed(ratio=4).encode(blob_net().state_dict())
    network = TunedNetwork(blob_net(), code)
    names = [name for name, each in network.named_parameters() if each.requires_grad and "trees" in name]
    assert len(names) == 2
    network(torch.randn(8, 12)).sum().backward()
    assert all(network.get_parameter(name).grad.any() for name in names)


def test_hashing_quantising_and_coding_go_together_and_decode_on_load():
    state = {"embedding.weight": torch.randn(3000, 40)}
    code = Hashed(ratio=25).encode(state)
    small = Entropy().encode(LogQuant(bits=8).encode(code))
    assert packed(state).nbytes / small.nbytes > 100 * 0.95
    before, after = code.decode()["embedding.weight"], PackedCode(*read(small.to_bytes())).decode()["embedding.weight"]
    assert float((before - after).norm() / before.norm()) < 0.05


def test_recurrent_and_convolutional_weights_are_hashed():
    for model, given in ((nn.LSTM(12, 20), torch.randn(5, 3, 12)), (nn.Conv2d(8, 16, 3), torch.randn(2, 8, 9, 9))):
        code = Hashed(ratio=4).encode(model.state_dict())
        assert any(isinstance(node, Form) for node in code.nodes.values())
        fitted(model, code)(given)


def test_stages_that_have_encoded_weights_leave_nothing_to_hash():
    state = {"weight": torch.randn(30, 20)}
    with pytest.raises(InputError, match="hashed finds no weights that are stored as they are"):
        Hashed().encode(Prune(density=0.2).encode(state))
    with pytest.raises(InputError, match="prune has encoded them; leave one out"):
        demand_order([Prune(), Hashed()], packed(state))
    demand_order([Hashed(), LogQuant(), Entropy()], packed(state))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"parameters": {"salt": 3}}, "a salt, and whether its key is published"),
        ({"parameters": {"salt": 3, "published": 2}}, "0 or 1 for published"),
        ({"parameters": {"salt": -3, "published": 0}}, "from 0 to below"),
        ({"parts": {"values": Numbers(torch.zeros(2, 2))}}, "not of shape"),
        ({"parts": {"values": Numbers(torch.zeros(0))}}, "not of shape"),
        ({"parts": {"values": Numbers(torch.zeros(3, dtype=torch.int64))}}, "are floats"),
        ({"parts": {"values": Numbers(torch.zeros(3)), "empty": Numbers(torch.tensor([1, 1]))}}, "not rising"),
        ({"parts": {"values": Numbers(torch.zeros(3)), "empty": Numbers(torch.tensor([4]))}}, "below 4"),
        ({"parts": {"values": Numbers(torch.zeros(3)), "empty": Numbers(torch.ones(1))}}, "whole numbers"),
    ],
    ids=range(9),
)
def test_forms_that_do_not_agree_are_refused(change, told):
    with pytest.raises(InputError, match=told):
        decode_node(replace(form_of(torch.zeros(3), (4, 5)), **change))


@pytest.mark.parametrize(
    "options", [{"ratio": 1.0}, {"start": "x"}, {"key": "x"}, {"lr": 0.0}, {"seed": -1}, {"nbytes": -1}], ids=str
)
def test_settings_without_sense_are_refused(options):
    with pytest.raises(InputError, match=rf"Hashed\({next(iter(options))}=...\)"):
        Hashed(**options)


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        Hashed().encode({"weight": torch.full((30, 20), torch.nan)})
