"""Sizes that are asked of stages: what keeps them, what they count, and how they are refused."""

from contextlib import suppress
from functools import partial

import pytest
import torch
from bits_toy import stage_with_data
from stage_workshop import BlobShop, blob_net
from torch import nn

import ecc
from ecc.api.stage_options import stages_of
from ecc.api.stage_start import start_of_network
from ecc.api.staging import StageJob
from ecc.api.workshop import Training
from ecc.core.errors import InputError, NothingToDo
from ecc.stages.code import packed
from ecc.stages.container import read
from ecc.stages.deepthin import DeepThin
from ecc.stages.hashed import Hashed
from ecc.stages.methods import STAGES
from ecc.stages.multi_hash import MultiHash
from ecc.stages.svd import Svd


def perceptron(seed, hidden=64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 4))


@pytest.mark.parametrize("behind", ["log-quant", "fixed-point", "codebook"])
def test_multi_hash_can_be_in_a_chain_with_a_limit_and_its_one_space_has_one_setting(behind):
    made = stage_with_data(["multi-hash", behind, "entropy"], nbytes="12x", options={"multi-hash.epochs": 1})
    assert made.nbytes <= made.dense_bytes / 12
    assert len(set(made.stages[1].choices.values())) == 1
    assert len(made.stages[1].choices) > 1


def test_fold_can_be_in_a_chain_with_a_limit():
    model = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4)).eval()
    made = ecc.stage(model, ["fold", "fixed-point", "entropy"], nbytes=2000, example_inputs=torch.zeros(2, 20))
    assert made.nbytes <= 2000


@pytest.mark.parametrize(("seed", "limit"), [(1, 1600), (1, 1595), (1, 1605), (2, 2000)])
def test_a_limit_is_kept_wherever_a_smaller_one_is(seed, limit):
    assert ecc.stage(perceptron(seed), ["svd", "log-quant", "entropy"], nbytes=limit).nbytes <= limit


STAGES_WITHOUT_DATA = [name for name in STAGES if name not in ("fold", "multi-hash", "multilevel-product-quant")]


@pytest.mark.parametrize("first", STAGES_WITHOUT_DATA)
def test_what_cannot_work_behind_a_stage_is_refused_before_any_work(first):
    for second in STAGES_WITHOUT_DATA:
        job = partial(StageJob, start_of_network(perceptron(0, 120)), tuple(stages_of([first, second])), Training())
        try:
            made = job()
        except InputError:
            continue
        with suppress(NothingToDo):  # of the first or the second: nothing to change, which is known when it is tried
            assert made.run().nbytes


SIZED = [Svd, Hashed, DeepThin, MultiHash]


@pytest.mark.parametrize("kind", SIZED)
@pytest.mark.parametrize(
    "given",
    [
        {"nbytes": 0},
        {"nbytes": "3KB"},
        {"nbytes": 2.5},
        {"nbytes": True},
        {"ratio": None},
        {"ratio": "4"},
        {"layers": 3},
    ],
)
def test_sizes_of_no_sense_are_refused_at_construction(kind, given):
    with pytest.raises(InputError, match=rf"^{kind.__name__}\({next(iter(given))}=...\) must be"):
        kind(**given)


@pytest.mark.parametrize("kind", [Svd, Hashed, DeepThin])
def test_what_is_named_as_reachable_is_reached(kind):
    state = perceptron(0).state_dict()
    with pytest.raises(InputError, match=rf"^{kind().name}\.nbytes=9 cannot be reached: .* or more$") as refused:
        kind(nbytes=9).encode(state)
    least = int(str(refused.value).rpartition("give ")[2].partition(" or")[0].replace(",", ""))
    assert kind(nbytes=least).encode(state).nbytes <= least
    with pytest.raises(InputError, match=rf"^{kind().name}\.ratio=1e\+09 cannot be reached: ") as refused:
        kind(ratio=1e9).encode(state)
    most = float(str(refused.value).rpartition(" ")[2])
    assert kind(ratio=most).encode(state).nbytes < packed(state).nbytes / 3


@pytest.mark.parametrize("stage", [Svd(whiten=True), Hashed(start="random"), DeepThin(start="random")])
def test_what_needs_data_is_refused_without(stage):
    with pytest.raises(InputError, match=rf"^{stage.name}\.\w+=\w+ .*needs data"):
        stage.encode(perceptron(0).state_dict())


def test_a_limit_that_is_kept_already_trains_nothing():
    with pytest.raises(NothingToDo, match="which is within 1,000,000 bytes already"):
        ecc.stage(perceptron(0), "svd", nbytes="1MB")


@pytest.mark.parametrize("kind", [Hashed, MultiHash])
def test_weights_that_are_all_zero_are_told(kind):
    state = {name: torch.zeros_like(each) for name, each in perceptron(0).state_dict().items()}
    with pytest.raises(InputError, match="finds weights that are all zero"):
        packed(kind().foreseen(packed(state)))


def test_biases_that_are_not_finite_are_named_before_training():
    workshop = BlobShop().workshop(blob_net())
    workshop.model.get_parameter("0.bias").data[2] = float("nan")
    with pytest.raises(InputError, match=r"'0\.bias' holds values that are not finite"):
        Hashed(epochs=1).encode(workshop.model.state_dict(), workshop)


def test_a_path_is_no_content_of_a_file():
    with pytest.raises(InputError, match="read takes the bytes of a file, not str; stream takes a path"):
        read("weights.ecz")
