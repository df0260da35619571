"""Pruning: how much is left and where, with and without training, and what may come back."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from stage_workshop import BlobShop, blob_net
from torch import nn

from ecc.core.errors import InputError
from ecc.stages.code import packed
from ecc.stages.deep_compression import DeepCompression
from ecc.stages.densities import RULES
from ecc.stages.masked_training import Closing, MaskedNetwork
from ecc.stages.nodes import Form, Numbers
from ecc.stages.prune import Prune

NAMES = {"0.weight": ["0.weight"], "3.weight": ["3.weight"]}


def nonzeros(state, names=("0.weight", "3.weight")):
    return {name: int((state[name] != 0).sum()) for name in names}


def test_at_once_the_largest_weights_stay_as_they_are():
    model = blob_net()
    code = Prune(density=0.2, rule="uniform").encode(model.state_dict())
    state = code.decode()
    assert nonzeros(state) == {"0.weight": 96, "3.weight": 40}
    for name in NAMES:
        weight, left = model.state_dict()[name], state[name]
        assert torch.equal(left[left != 0], weight[left != 0])
        assert float(left[left != 0].abs().min()) >= float(weight[left == 0].abs().max())
    assert torch.equal(state["0.bias"], model.state_dict()["0.bias"])
    assert code.nbytes < packed(model.state_dict()).nbytes / 2


def test_without_a_density_zeros_stay_and_nothing_else_goes():
    state = blob_net().state_dict()
    state["0.weight"] *= torch.rand(40, 12) < 0.3
    code = Prune(density=None).encode(state)
    assert isinstance(code.nodes["0.weight"], Form)
    assert isinstance(code.nodes["3.weight"], Numbers)
    assert all(torch.equal(each, state[name]) for name, each in code.decode().items())


def test_a_state_that_is_sparser_than_asked_keeps_its_weights():
    state = {"weight": torch.eye(40)}
    assert torch.equal(Prune(density=0.1).encode(state, None).decode()["weight"], torch.eye(40))


def test_the_quality_factor_is_a_threshold_in_deviations():
    state = {name: each for name, each in blob_net().state_dict().items() if name in NAMES}
    left = Prune(quality=1.2, least=0.0).encode(state).decode()
    for name, weight in state.items():
        assert torch.equal(left[name] != 0, weight.abs() > 1.2 * weight.square().mean().sqrt())


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("ramp", [0.0, 0.5])
def test_training_recovers_what_pruning_at_once_loses(regrow, ramp):
    shop = BlobShop()
    model = shop.trained()
    options = {"density": 0.15, "lr": 1e-2, "least": 0.0, "epochs": 6}
    at_once = Prune(**options).encode(model.state_dict())
    trained = Prune(**options, regrow=regrow, ramp=ramp).encode(model.state_dict(), shop.workshop(model))
    loss = []
    for code in (at_once, trained):
        assert sum(nonzeros(code.decode()).values()) == math.ceil(0.15 * 680)
        model.load_state_dict(code.decode())
        loss.append(shop.judge(model)[0])
    assert loss[1] < 0.5 * loss[0]


def test_the_network_and_the_state_that_are_given_stay():
    shop = BlobShop()
    model = shop.trained()
    before = copy.deepcopy(model.state_dict())
    Prune(density=0.2, epochs=1).encode(model.state_dict(), shop.workshop(model))
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_sensitivity_spares_the_tensor_that_matters():
    shop = BlobShop()
    model = shop.trained()
    with torch.no_grad():
        model[0].weight[20:] = 1e-3 * torch.randn(20, 12)  # half of the first layer says nothing
        model[3].weight[:, 20:] = torch.randn(5, 20)
    workshop = shop.workshop(model)
    code = Prune(density=0.6, rule="sensitivity", epochs=0).encode(model.state_dict(), workshop)
    left = nonzeros(code.decode())
    assert left["3.weight"] / 200 > left["0.weight"] / 480
    with pytest.raises(InputError, match="measures losses and needs data"):
        Prune(density=0.5, rule="sensitivity").encode(model.state_dict())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["3.weight", "3.bias"])
def test_weights_that_are_not_finite_are_named_before_training(name, value):
    shop = BlobShop()
    model = blob_net()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[3] = value
    for stage in (Prune(density=0.3), DeepCompression(), Prune(density=0.3, rule="uniform", ramp=0.0)):
        with pytest.raises(InputError, match=f"the weights '{name}' hold values that are not finite"):
            stage.encode(model.state_dict(), shop.workshop(model))
    assert not shop.phases


def masked(regrow=False, ramp=0.5, total=50, dropout=False, times=4):
    closing = Closing(RULES["magnitude"], total, dict.fromkeys(NAMES, 0), ramp, times, regrow, dropout)
    return MaskedNetwork(blob_net(), NAMES, closing)


def test_masks_close_as_the_cube_of_what_is_left_of_the_ramp():
    network = masked()
    counts = []
    for done in (0.05, 0.125, 0.25, 0.3, 0.375, 0.5, 0.9, 1.0):
        network.advance(done)
        counts.append(sum(int(mask.sum()) for mask in network.masks().values()))
    cubes = [50 + 630 * left**3 for left in (1, 0.75, 0.5, 0.5, 0.25, 0, 0, 0)]
    assert counts == [round(each) for each in cubes]


def test_a_weight_that_went_stays_away_unless_it_may_come_back():
    for regrow in (False, True):
        network = masked(regrow)
        network.advance(0.25)
        gone = ~network.masks()["0.weight"]
        with torch.no_grad():
            network.network[0].weight[gone] += 9.0  # as a momentum may move it
        network.advance(0.375)
        assert bool((network.masks()["0.weight"] & gone).any()) == regrow


def test_weights_behind_masks_are_not_seen_and_get_no_gradient():
    network = masked().eval()
    network.advance(1.0)
    gone = ~network.masks()["0.weight"]
    inputs = torch.randn(4, 12)
    outputs = network(inputs)
    outputs.sum().backward()
    assert not network.network[0].weight.grad[gone].any()
    with torch.no_grad():
        network.network[0].weight[gone] = 5.0
    assert torch.equal(network(inputs), outputs)
    assert torch.equal(network.pruned().eval()(inputs), outputs)


def test_masks_are_in_the_state_so_that_training_resumes():
    network, twin = masked(), masked()
    network.advance(0.25)
    twin.load_state_dict(network.state_dict())
    assert all(torch.equal(mask, twin.masks()[name]) for name, mask in network.masks().items())
    for each in (network, twin):
        each.advance(0.375)
    assert all(torch.equal(mask, twin.masks()[name]) for name, mask in network.masks().items())


def test_dropout_falls_with_the_root_of_the_density_of_what_reads_it():
    network = masked(dropout=True)
    network.advance(1.0)
    density = float(network.masks()["3.weight"].float().mean())
    assert network.network[2].p == pytest.approx(0.4 * math.sqrt(density))
    assert masked().network[2].p == 0.4


def test_tied_weights_are_pruned_together():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(12, 8)
            self.decoder = nn.Linear(8, 12, bias=False)
            self.decoder.weight = self.embedding.weight

        def forward(self, inputs):
            return self.decoder(self.embedding(inputs.argmax(1)))[:, :5]

    shop = BlobShop()
    model = Tied()
    code = Prune(density=0.5, epochs=1).encode(model.state_dict(), shop.workshop(model))
    state = code.decode()
    assert state["embedding.weight"] is state["decoder.weight"]
    assert int((state["embedding.weight"] != 0).sum()) == 48


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"density": 0.0}, r"Prune\(density=...\) must be in \(0, 1\] or None, got 0.0"),
        ({"quality": -1.0}, "must be positive or None"),
        ({"rule": "guess"}, "must be lamp, deviation, magnitude, uniform or sensitivity, got 'guess'"),
        ({"ramp": 1.0}, r"must be in \[0, 1\)"),
        ({"gap_bits": 30}, "from 1 to 24"),
        ({"epochs": -1}, "0 or more"),
        ({"lr": 0.0}, "must be positive"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        Prune(**options)


def test_what_is_coded_already_is_refused():
    code = Prune(density=0.2, epochs=0).encode({"weight": torch.randn(30, 30)})
    with pytest.raises(InputError, match="no weights that are stored as they are"):
        Prune(density=0.1).encode(code)
