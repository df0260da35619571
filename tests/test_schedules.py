import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from ecc.solvers.schedules import SCHEDULES, Shape
from ecc.solvers.settings import TrainConfig

ORACLES = {
    "cosine": lambda optimizer, total: lr_scheduler.CosineAnnealingLR(optimizer, total),
    "linear": lambda optimizer, total: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total),
    "constant": lambda optimizer, total: lr_scheduler.ConstantLR(optimizer, 1.0),
    "step": lambda optimizer, total: lr_scheduler.MultiStepLR(optimizer, [total // 2, 3 * total // 4], 0.1),
    "one-cycle": lambda optimizer, total: lr_scheduler.OneCycleLR(optimizer, 0.3, total, cycle_momentum=False),
}


@pytest.mark.parametrize("total", [4, 20, 100])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_named_schedule_is_torch_s(name, total):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.3)
    oracle = ORACLES[name](optimizer, total)
    config = TrainConfig(epochs=4, lr=0.3, schedule=name)
    for step in range(total):
        assert config.rate(step, total // 4) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6, abs=1e-12)
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # OneCycleLR counts its steps aloud
            if step + 1 < total:
                oracle.step()


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    warm=st.floats(0, 30),
    total=st.integers(1, 40),
    step=st.integers(0, 39),
)
def test_a_factor_is_above_0_up_to_the_last_step_and_never_above_1(name, warm, total, step):
    factor = SCHEDULES[name](min(step, total - 1), Shape(warm, total, (0.5,), 0.1))
    assert 0 <= factor <= 1
    assert factor > 0 or warm >= total


def test_one_cycle_rises_as_long_as_the_warm_up():
    config = TrainConfig(epochs=10, lr=1.0, schedule="one-cycle", warmup_epochs=2)
    rates = [config.rate(step, 5) for step in range(50)]
    assert rates.index(max(rates)) == 9
    assert rates[9] == 1.0


@pytest.mark.parametrize("name", ["step", "linear", "constant", "cosine"])
def test_the_warm_up_rises_linearly_before_every_other_schedule(name):
    config = TrainConfig(epochs=10, lr=1.0, schedule=name, warmup_epochs=2)
    assert [config.rate(step, 5) for step in range(10)] == pytest.approx([0.1 * k for k in range(1, 11)])
