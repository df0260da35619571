"""Sizes that are asked of stages: what keeps them, what they count, and how they are refused."""

from contextlib import suppress
from functools import partial

import pytest
import torch
from bits_toy import stage_with_data
from torch import nn

import ecc
from ecc.api.stage_options import stages_of
from ecc.api.stage_start import start_of_network
from ecc.api.staging import StageJob
from ecc.api.workshop import Training
from ecc.core.errors import InputError, NothingToDo
from ecc.stages.methods import STAGES


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
