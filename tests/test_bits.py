"""Limits shared out among tensors: real bytes within them, by losses that are what they say."""

import itertools

import numpy as np
import pytest
import torch
from bits_toy import data, stage_with_data, trained, workshop
from torch import nn
from torch.nn import functional as F

import ecc
from ecc.api.stage_start import start_of_network
from ecc.core.errors import InputError
from ecc.stages.bits import ByteExpense, Sharing
from ecc.stages.calibration import Calibration, scaled
from ecc.stages.candidates import applied, candidates
from ecc.stages.code import decode_node, packed
from ecc.stages.codebook import Codebook
from ecc.stages.entropy import Entropy
from ecc.stages.fixed_point.stage import FixedPoint
from ecc.stages.log_quant import LogQuant
from ecc.stages.product_quant import ProductQuant
from ecc.stages.prune import Prune

# -- bytes


@pytest.mark.parametrize("ratio", [5, 9, 14])
@pytest.mark.parametrize(
    "apply", [["codebook", "entropy"], ["log-quant"], ["product-quant", "entropy"], ["fixed-point"], ["prune", "half"]]
)
def test_the_file_is_within_the_limit_and_most_of_it_is_used(apply, ratio):
    dense = start_of_network(trained()).dense_bytes
    limit = dense // ratio
    try:
        made = ecc.stage(trained(), apply, nbytes=limit)
    except InputError as error:
        assert "the least is" in str(error)  # noqa: PT017
        assert ratio > 5
        return
    assert 0.8 * limit < made.nbytes <= limit
    assert made.to_json()["bytes_limit"] == limit
    assert made.nbytes == len(made.code.to_bytes())
    assert set(made.stages[0].choices) <= {"0.weight", "2.weight", "4.weight"}


def test_pruning_and_bits_share_one_limit_with_training():
    made = stage_with_data(
        ["prune", "codebook", "entropy"], nbytes="12x", options={"prune.epochs": 12, "codebook.epochs": 1}
    )
    assert made.nbytes <= made.dense_bytes / 12
    assert made.accuracy > made.accuracy_before - 0.06
    densities, bits = (stage.choices for stage in made.stages[:2])
    assert all(label.endswith("%") for label in densities.values())
    assert len(densities) == 3
    assert all(label.endswith("bits") for label in bits.values())


def test_what_cannot_be_reached_is_told_with_the_least_that_can():
    with pytest.raises(InputError, match=r"100 bytes cannot be reached .* the least is ([\d,]+) bytes") as refused:
        ecc.stage(trained(), ["codebook", "entropy"], nbytes=100)
    least = int(str(refused.value).partition("the least is ")[2].partition(" bytes")[0].replace(",", ""))
    assert ecc.stage(trained(), ["codebook", "entropy"], nbytes=least + 20).nbytes <= least + 20
    with pytest.raises(InputError, match="half has none to choose; apply svd, prune"):
        ecc.stage(trained(), "half", nbytes=5000)


def test_options_that_are_given_are_not_chosen():
    made = ecc.stage(trained(), ["prune", "codebook"], nbytes="10x", options={"prune.density": 0.3})
    kept = sum(int(each.count_nonzero()) for name, each in made.model.named_parameters() if each.ndim > 1)
    size = sum(each.numel() for each in made.model.parameters() if each.ndim > 1)
    assert kept / size == pytest.approx(0.3, abs=0.01)
    assert made.stages[0].choices == {}
    assert made.stages[1].choices
    same = ecc.stage(trained(), [Prune(density=0.3), "codebook"], nbytes="10x")
    assert same.code.to_bytes() == made.code.to_bytes()


def test_of_all_choices_there_are_the_one_of_least_loss_is_taken():
    code, steps = packed(trained().state_dict()), [(stage := Codebook(epochs=0), stage), (Entropy(), None)]
    found = candidates(code, steps)
    nodes = {name: [one.node for one in each] for name, each in found.items()}
    losses = Calibration.of(code, workshop(), examples=512).losses(nodes, "measured")
    limit = 7000
    best = np.inf
    for places in itertools.product(*(range(len(each)) for each in found.values())):
        plan = {name: each[place].settings for (name, each), place in zip(found.items(), places, strict=True)}
        loss = sum(losses[name][place] for name, place in zip(found, places, strict=True))
        if loss < best and applied(code, steps, plan).nbytes <= limit:
            best = loss
    made, share = Sharing((ByteExpense(limit),)).encode(code, stage, (Entropy(),), workshop())
    assert applied(made, steps[1:], {}).nbytes <= limit
    assert share.loss == pytest.approx(best, rel=1e-9)
    assert share.bound <= best * (1 + 1e-9)
    assert share.judged == "measured"


# -- losses


def test_measured_losses_are_those_of_the_network_with_one_tensor_coded():
    code, stage = packed(trained().state_dict()), Codebook()
    found = candidates(code, [(stage, stage)])
    nodes = {name: [one.node for one in each] for name, each in found.items()}
    losses = Calibration.of(code, workshop(), examples=10**6).losses(nodes, "measured")
    train = data()[0]

    def loss(state):
        model = nn.Sequential(*(type(each)() if isinstance(each, nn.ReLU) else each for each in trained()))
        with torch.no_grad():
            return float(F.cross_entropy(torch.func.functional_call(model, state, train.inputs), train.targets))

    base = loss({})
    for name, each in nodes.items():
        for node, found_loss in zip(each, losses[name], strict=True):
            assert found_loss == pytest.approx(max(loss({name: decode_node(node)}) - base, 0), abs=2e-3 * base + 1e-6)


def test_second_order_ranks_candidates_as_measuring_does():
    code, stage = packed(trained().state_dict()), Prune()
    nodes = {name: [one.node for one in each] for name, each in candidates(code, [(stage, stage)]).items()}
    calibration = Calibration.of(code, workshop(), examples=512)
    measured, estimated = (calibration.losses(nodes, judging) for judging in ("measured", "second-order"))
    for name in nodes:
        rank = [np.argsort(np.argsort(each[name])) for each in (measured, estimated)]
        assert np.corrcoef(*rank)[0, 1] > 0.98
        assert np.abs(measured[name] - estimated[name]).max() < 0.25 * measured[name].max()
    assert not np.array_equal(measured["0.weight"], estimated["0.weight"])


def test_scaling_keeps_what_was_measured_and_the_curve_of_the_proxy():
    proxies = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert scaled(proxies, np.array([0, 4]), 3 * proxies[[0, 4]]) == pytest.approx(3 * proxies)
    bent = scaled(proxies, np.array([0, 2, 4]), np.array([-1e-5, 1e-2, 0.1]))
    assert bent[[0, 2, 4]] == pytest.approx([-1e-5, 1e-2, 0.1])
    assert bent[1] == pytest.approx(1e-3)  # as of the nearest that says something
    assert 1e-2 < bent[3] < 0.1
    assert scaled(proxies, np.array([1]), np.array([0.0]))[2] == 1e-2


def test_without_data_errors_count_relative_to_the_weights():
    code = packed(trained().state_dict())
    node = FixedPoint().encode_node("0.weight", code.nodes["0.weight"], FixedPoint().choices("0.weight", None)[0])
    (loss,) = Calibration.of(code, None, examples=1).losses({"0.weight": [node]}, "auto")["0.weight"]
    weight = trained()[0].weight.detach().double()
    assert loss == pytest.approx(float((decode_node(node) - weight).square().sum() / weight.square().sum()))


def test_sharing_refuses_what_makes_no_sense():
    for given, said in (
        ({"expenses": ()}, "needs a limit"),
        ({"examples": 0}, "at least 1"),
        ({"judging": "guess"}, "must be auto, measured"),
    ):
        with pytest.raises(InputError, match=said):
            Sharing(**{"expenses": (ByteExpense(5),), **given})
    with pytest.raises(InputError, match="positive number of bytes"):
        ByteExpense(0)


def test_every_stage_with_settings_encodes_by_them():
    code = packed(trained().state_dict())
    for stage in (Prune(epochs=0), Codebook(epochs=0), LogQuant(), ProductQuant(), FixedPoint()):
        settings = {name: stage.choices(name, code.nodes[name])[0] for name in ("0.weight", "2.weight")}
        made = stage.encode(code, chosen=settings).decode()
        for name, setting in settings.items():
            alone = decode_node(stage.encode_node(name, code.nodes[name], setting))
            assert torch.equal(made[name], alone), stage.name
