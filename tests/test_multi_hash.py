"""Weights from several values of one space: the formula, its gradient, the space that is stored and trained once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from container_faults import mutants
from stage_workshop import BlobShop, blob_net

from ecc.core.errors import InputError
from ecc.stages.code import PackedCode, decode_node, packed
from ecc.stages.container import read, stream, write
from ecc.stages.entropy import Entropy
from ecc.stages.half import Half
from ecc.stages.hashing import HashKey
from ecc.stages.log_quant import LogQuant
from ecc.stages.multi_hash import MultiHash
from ecc.stages.nodes import Form, Numbers
from ecc.stages.reconstructed_values import key_of_reconstructed
from ecc.stages.tree_layout import memory_of
from ecc.stages.tuning import TunedNetwork, fitted
from ecc.stages.virtual_weights import Places, reconstructed

CPU = torch.device("cpu")


class NoTraining(BlobShop):
    """Leaves everything at its start."""

    def train(self, model, **_):
        pass


def started(model=None, **options) -> PackedCode:
    model = model or blob_net()
    return MultiHash(**{"ratio": 4, **options}).encode(model.state_dict(), NoTraining().workshop(model))


def by_definition(space, net, gains, key: HashKey, size: int) -> torch.Tensor:
    places = torch.from_numpy(key.span(0, size)).long()
    z = torch.cat([space, -space])[places].T  # (size, hashes)
    hashes = len(gains) - 1
    hidden = torch.tanh(z @ net[:, :hashes].T + net[:, hashes])
    return gains[hashes] * (z @ gains[:hashes] + hidden @ net[:, hashes + 1])


@pytest.mark.parametrize(("hashes", "hidden", "run"), [(1, 0, 1), (2, 4, 1), (3, 2, 4)])
def test_elements_and_gradients_are_those_of_the_formula(hashes, hidden, run, monkeypatch):
    monkeypatch.setattr("ecc.stages.virtual_weights._CHUNK", 37)
    key = HashKey(5, 12, 23, hashes, run)
    parts = [torch.randn(s, dtype=torch.float64) for s in ((23,), (hidden, hashes + 2), (hashes + 1,))]
    ours, theirs = ([each.clone().requires_grad_() for each in parts] for _ in range(2))
    found, expected = reconstructed(*ours, Places(key, 120, CPU)), by_definition(*theirs, key, 120)
    assert torch.allclose(found, expected)
    given = torch.randn(120, dtype=torch.float64)
    found.backward(given)
    expected.backward(given)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one.grad, other.grad)


def test_each_layer_starts_with_the_variance_that_it_had():
    model = blob_net(hidden=300)
    with torch.no_grad():
        model[3].weight *= 5
    code = started(model, ratio=2)
    for name, values in code.decode().items():
        if name.endswith("weight"):
            wanted = float(model.state_dict()[name].square().mean())
            assert float(values.square().mean()) == pytest.approx(wanted, rel=0.05)


def test_the_space_is_stored_once_and_read_by_all_layers(tmp_path):
    code = started(blob_net(hidden=500), ratio=4)
    space = code.nodes["0.weight"].parts["space"]
    stored = code.stored()
    assert stored["0.weight"].nbytes > 4 * space.shape[0] > 10 * stored["3.weight"].nbytes
    nodes, aliases = read(code.to_bytes())
    assert nodes["0.weight"].parts["space"] is nodes["3.weight"].parts["space"]
    decoded, again = code.decode(), PackedCode(nodes, aliases).decode()
    assert all(torch.equal(decoded[name], again[name]) for name in decoded)
    write(tmp_path / "weights.ecz", nodes, aliases)
    assert all(torch.equal(decode_node(node), decoded[name]) for name, node in stream(tmp_path / "weights.ecz"))


@pytest.mark.parametrize("nbytes", [2_500, 7_001])
def test_a_file_takes_what_it_may_and_no_more(nbytes):
    code = started(blob_net(hidden=500), nbytes=nbytes)
    assert nbytes - 60 <= code.nbytes <= nbytes


def test_the_space_has_one_parameter_whose_gradient_comes_from_all_layers():
    code = started()
    network = TunedNetwork(blob_net(), code)
    spaces = {id(each) for each in (tree.get_parameter("leaf_0") for tree in network.trees)}
    assert len(spaces) == 1
    gradients = []
    for frozen in (None, "0.weight", "3.weight"):
        network = TunedNetwork(blob_net(), code).eval()
        chosen = network.tensors()
        tensors = {name: each.detach() if name == frozen else each for name, each in chosen.items()}
        torch.func.functional_call(network.network, tensors, torch.ones(3, 12)).square().sum().backward()
        gradients.append(network.trees[0].get_parameter("leaf_0").grad)
    assert torch.allclose(gradients[0], gradients[1] + gradients[2], atol=1e-6)


def test_stages_behind_quantise_the_space_once_and_leave_the_networks():
    code = started(blob_net(hidden=500))
    quantised = LogQuant(bits=8).encode(code)
    small = Entropy().encode(quantised)
    assert small.nbytes < code.nbytes / 1.8  # the biases stay
    assert isinstance(quantised.nodes["3.weight"].parts["net"], Numbers)
    nodes, aliases = read(small.to_bytes())
    assert nodes["0.weight"].parts["space"] is nodes["3.weight"].parts["space"]
    before, after = code.decode()["3.weight"], PackedCode(nodes, aliases).decode()["3.weight"]
    assert 0 < float((before - after).norm() / before.norm()) < 0.05
    assert Half().encode(code).nbytes < 0.6 * code.nbytes


def test_a_space_that_was_changed_for_one_layer_only_is_two():
    code = LogQuant(bits=8, layers=("3.weight",)).encode(started(blob_net(hidden=500)))
    nodes, aliases = read(code.to_bytes())
    decoded, again = code.decode(), PackedCode(nodes, aliases).decode()
    assert all(torch.equal(decoded[name], again[name]) for name in decoded)
    assert nodes["0.weight"].parts["space"].parts["values"] is not nodes["3.weight"].parts["space"].parts["values"]


def test_training_reaches_what_the_network_can_and_keeps_one_space():
    shop = BlobShop()
    model = shop.trained()
    workshop = shop.workshop(model)
    code = MultiHash(ratio=4, epochs=6, lr=1e-2).encode(model.state_dict(), workshop)
    assert workshop.evaluate(fitted(model, code))[1] > 0.9
    assert (
        code.nodes["0.weight"].parts["space"].parts["values"] is code.nodes["3.weight"].parts["space"].parts["values"]
    )
    assert code.nbytes < packed(model.state_dict()).nbytes / 2


def test_runs_are_as_long_as_asked_or_as_a_row():
    state = {"embedding.weight": torch.randn(400, 24), "small.weight": torch.randn(800, 3)}
    model = torch.nn.ModuleDict(
        {"embedding": torch.nn.Embedding(400, 24), "small": torch.nn.Embedding(800, 3, padding_idx=0)}
    )
    model.load_state_dict(state)
    with torch.no_grad():
        model["small"].weight[0] = 0
    shop = NoTraining()
    workshop = replace(shop.workshop(model), evaluate=lambda _: (0.0, 0.0))
    code = MultiHash(ratio=4, run=8).encode(model.state_dict(), workshop)
    assert [key_of_reconstructed(node).run for node in code.nodes.values()] == [8, 3]
    assert not code.decode()["small.weight"][0].any()


def test_without_data_it_is_refused():
    with pytest.raises(InputError, match="needs data; give train and validation"):
        MultiHash().encode(blob_net().state_dict())


def test_a_damaged_file_is_refused_or_keeps_to_its_declaration():
    content = Entropy().encode(LogQuant(bits=6).encode(started())).to_bytes()
    told = 0
    for mutant in mutants(content, 400, 0):
        try:
            nodes, aliases = read(mutant, limit_bytes=1 << 26)
            code = PackedCode(nodes, aliases)
            code.stored()
            code.decode()
        except InputError as error:
            told += "\n" not in str(error)
        else:
            assert sum(map(memory_of, nodes.values())) <= 1 << 26
    assert told > 300


def form(**changes) -> Form:
    parts = {"space": Numbers(torch.zeros(9)), "net": Numbers(torch.zeros(2, 4)), "gains": Numbers(torch.zeros(3))}
    parameters = {"salt": 1, "run": 1, "unit": 1.0, "scale": 1.0} | changes.pop("parameters", {})
    return Form("multi-hash", (4, 5), torch.float32, parameters, parts | changes)


def shared(values) -> Form:
    return Form("shared", (9,), torch.float32, {}, {"values": values})


@pytest.mark.parametrize(
    ("node", "told"),
    [
        (form(extra=Numbers(torch.zeros(1))), "a space, a net, gains"),
        (form(space=Numbers(torch.zeros(3, 3))), "a vector as its space"),
        (form(space=Numbers(torch.zeros(0))), "a vector as its space"),
        (form(net=Numbers(torch.zeros(2, 5))), "hidden units of 4 numbers"),
        (form(net=Numbers(torch.zeros(65, 4))), "up to 64 hidden units"),
        (form(gains=Numbers(torch.zeros(10)), net=Numbers(torch.zeros(1, 11))), "gains of 1 to 8 hashes"),
        (form(parameters={"unit": 0.0}), "a positive unit"),
        (form(parameters={"run": 2.5}), "whole numbers salt and run"),
        (form(parameters={"run": 10}), "from run=10"),
        (form(parameters={"other": 1}), "salt and run, a unit and a scale"),
        (form(space=shared(shared(Numbers(torch.zeros(9))))), "not nested"),
        (form(space=shared(Numbers(torch.zeros(8)))), "values of shape"),
    ],
    ids=range(12),
)
def test_forms_that_do_not_agree_are_refused(node, told):
    with pytest.raises(InputError, match=told):
        decode_node(node)


@pytest.mark.parametrize(
    "options", [{"hashes": 9}, {"hidden": 65}, {"run": 0}, {"epochs": 0}, {"lr": -1.0}, {"ratio": 0.5}], ids=str
)
def test_settings_without_sense_are_refused(options):
    with pytest.raises(InputError, match=rf"MultiHash\({next(iter(options))}=...\)"):
        MultiHash(**options)
