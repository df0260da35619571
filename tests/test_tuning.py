"""What is stored is trained through its decoding: by sums over clusters, with the shared loop, for many layers."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ecc.core.code import Workshop
from ecc.core.errors import InputError
from ecc.core.problem import Task
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train
from ecc.stages.code import packed
from ecc.stages.codebook import Codebook
from ecc.stages.nodes import Form, Numbers
from ecc.stages.prune import Prune
from ecc.stages.tuning import TunedNetwork, fitted, tuned


class Mixed(nn.Module):
    """Embedding, LSTM, GRU, a convolution with batch norm, dropout, and a decoder tied to the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.lstm = nn.LSTM(16, 12, batch_first=True)
        self.gru = nn.GRU(12, 16, batch_first=True)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.2)
        self.decoder = nn.Linear(16, 30, bias=True)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.gru(self.lstm(self.embedding(tokens))[0])[0]
        return self.decoder(self.drop(self.norm(self.conv(x.movedim(1, 2))).mean(2)))


def mixed():
    torch.manual_seed(0)
    return Mixed()


def coded(model, bits=3, density=0.5):
    return Codebook(bits=bits, epochs=0).encode(Prune(density=density, epochs=0).encode(model.state_dict()))


def batches(count=4, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 30, (count * size, 7), generator=generator)
    return list(zip(tokens.split(size), tokens[:, 0].split(size), strict=True))


def accuracy(outputs, targets):
    return float((outputs.argmax(1) == targets).double().mean())


def workshop(model, lr=1e-2):
    task = Task(batches(), batches(2), F.cross_entropy, accuracy)

    def trainer(network, *, epochs, lr, phase, l2=0.0, each_step=None):
        train(network, task, TrainConfig(epochs=epochs, lr=lr, weight_decay=l2, distill=0.0), stage=phase)

    def judge(network):
        with torch.no_grad():
            network.eval()
            outputs, targets = zip(*((network(x), y) for x, y in task.validation), strict=True)
        outputs, targets = torch.cat(outputs), torch.cat(targets)
        return float(F.cross_entropy(outputs, targets)), accuracy(outputs, targets)

    return Workshop(model, task, trainer, judge, (batches()[0][0],))


def test_runs_as_the_network_of_the_decoded_state_does():
    model = mixed().eval()
    code = coded(model)
    tokens = batches()[0][0]
    assert torch.equal(TunedNetwork(model, code)(tokens), fitted(model, code)(tokens))


def test_parameters_are_the_floats_of_the_code_and_what_is_not_coded():
    model = mixed()
    network = TunedNetwork(model, coded(model))
    trained = sorted(each.numel() for each in network.parameters() if each.requires_grad)
    coded_names = [name for name, each in model.named_parameters() if each.ndim > 1]
    assert len(coded_names) == 6  # the embedding, two matrices of both recurrent layers, the convolution
    code = coded(model)
    centroids = [code.nodes[name].parts["values"].parts["centroids"].values.numel() for name in coded_names]
    others = [each.numel() for name, each in model.named_parameters() if each.ndim == 1]
    assert trained == sorted(centroids + others)


def test_the_gradient_of_a_centroid_is_the_sum_over_its_cluster():
    model = nn.Sequential(nn.Linear(20, 15), nn.Tanh(), nn.Linear(15, 4)).double()
    code = coded(model, density=0.6)
    network, plain = TunedNetwork(model, code), fitted(model, code)
    inputs = torch.randn(9, 20, dtype=torch.float64)
    network(inputs).square().sum().backward()
    plain(inputs).square().sum().backward()
    form = code.nodes["0.weight"]
    codes = form.parts["values"].parts["codes"].values
    gradient = plain[0].weight.grad
    gradient = (gradient.movedim(0, -1) if form.parameters["order"] else gradient).flatten()
    kept = plain[0].weight.detach()
    kept = (kept.movedim(0, -1) if form.parameters["order"] else kept).flatten() != 0
    sums = np.bincount(codes, gradient[kept].numpy(), minlength=len(form.parts["values"].parts["centroids"].values))
    found = next(each.grad for each in network.trees.parameters())
    assert found.numpy() == pytest.approx(sums, rel=1e-5)


def test_training_keeps_places_and_codes_and_ties_and_changes_floats_and_statistics():
    model = mixed()
    code = coded(model)
    after = tuned(code, workshop(model), epochs=3, lr=1e-2, phase="tune")
    assert after is not code
    before, now = code.nodes["embedding.weight"], after.nodes["embedding.weight"]
    assert np.array_equal(now.parts["gaps"].values, before.parts["gaps"].values)
    assert np.array_equal(now.parts["values"].parts["codes"].values, before.parts["values"].parts["codes"].values)
    changed = now.parts["values"].parts["centroids"].values != before.parts["values"].parts["centroids"].values
    assert changed.all()
    assert not torch.equal(after.nodes["norm.running_mean"].values, code.nodes["norm.running_mean"].values)
    assert int(after.nodes["norm.num_batches_tracked"].values) == 12
    state = after.decode()
    assert state["embedding.weight"] is state["decoder.weight"]
    score = [workshop(model).evaluate(fitted(model, each))[0] for each in (code, after)]
    assert score[1] < score[0]


def test_what_the_trained_network_says_is_what_its_code_says():
    model = mixed()
    network = TunedNetwork(model, coded(model))
    workshop(model).train(network, epochs=2, lr=1e-2, phase="tune")
    network.eval()
    tokens = batches()[1][0]
    assert torch.equal(network(tokens), fitted(model, network.code())(tokens))


def test_copies_of_a_network_that_has_run_are_apart():
    model = mixed()
    network = TunedNetwork(model, coded(model))
    network(batches()[0][0]).sum().backward()
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert not torch.equal(network.eval()(batches()[0][0]), twin.eval()(batches()[0][0]))


def test_the_network_that_is_given_stays_as_it_is():
    model = mixed()
    before = copy.deepcopy(model.state_dict())
    tuned(coded(model), workshop(model), epochs=1, lr=1e-2, phase="tune")
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert all(each.requires_grad for each in model.parameters())


def test_some_floats_only():
    model = mixed()
    code = coded(model)
    after = tuned(
        code,
        workshop(model),
        epochs=1,
        lr=1e-2,
        phase="tune",
        trained=lambda name, path: name == "norm.bias" and not path,
    )
    changed = [name for name in code.nodes if not torch.equal(code.decode()[name], after.decode()[name])]
    assert "norm.bias" in changed
    assert all("running" in name or "tracked" in name for name in set(changed) - {"norm.bias"})


def test_frozen_parameters_stay():
    model = mixed()
    model.lstm.requires_grad_(False)
    code = coded(model)
    after = tuned(code, workshop(model), epochs=2, lr=1e-2, phase="tune")
    assert torch.equal(after.decode()["lstm.weight_ih_l0"], code.decode()["lstm.weight_ih_l0"])
    assert torch.equal(after.decode()["lstm.bias_ih_l0"], code.decode()["lstm.bias_ih_l0"])
    assert not torch.equal(after.decode()["gru.weight_ih_l0"], code.decode()["gru.weight_ih_l0"])


def test_floats_of_two_bytes_move_by_less_than_their_rounding():
    model = nn.Linear(40, 30)
    code = Codebook(bits=4, centroids="float16", epochs=0).encode(model.state_dict())
    network = TunedNetwork(model, code)
    (centroids,) = network.trees.parameters()
    assert centroids.dtype == torch.float32
    with torch.no_grad():
        centroids.add_(1e-6)
        centroids.add_(1e-6)
    assert float(centroids.detach().max()) != float(centroids.detach().half().float().max())
    stored = network.code().nodes["weight"].parts["centroids"].values
    assert stored.dtype == torch.float16
    assert torch.equal(stored, centroids.detach().half())


def test_worse_is_not_taken():
    model = mixed()
    code = coded(model)
    assert tuned(code, workshop(model), epochs=1, lr=1e3, phase="tune") is code


def test_a_code_of_another_network_is_refused():
    with pytest.raises(InputError, match=r"the code is not that of the network.*give the network whose state it is"):
        fitted(nn.Linear(3, 4), packed(nn.Linear(4, 3).state_dict()))


def test_nothing_to_train_is_refused():
    model = mixed().requires_grad_(False)
    with pytest.raises(InputError, match="no floats that may be trained"):
        TunedNetwork(model, coded(model))


def test_damaged_forms_are_refused_before_training():
    model = nn.Linear(40, 30)
    code = Codebook(bits=3, epochs=0).encode(model.state_dict())
    form = code.nodes["weight"]
    assert isinstance(form, Form)
    short = replace(form, parts={**form.parts, "centroids": Numbers(torch.zeros(7))})
    with pytest.raises(InputError, match=r"8 symbols and centroids of shape \(7,\)"):
        TunedNetwork(model, replace(code, nodes={**code.nodes, "weight": short}))
