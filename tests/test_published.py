import pytest
import torch

from ecc.energy_models.loading import load_cost as load
from ecc.energy_models.published import alexnet_tx2


def test_alexnet_on_the_tx2_by_hand():
    cost = alexnet_tx2()
    assert float(cost({})) == pytest.approx(0.04982352, abs=1e-12)
    # half of what conv1 writes is half of its own cost and half of what conv2 reads
    assert float(cost({"conv1": 32})) == pytest.approx(0.04982352 - (0.00223371 + 0.00753995) / 2, abs=1e-12)
    # a quarter of fc6 and half of fc7
    by_hand = 0.00248207 + 0.00223371 + 0.00753995 + 0.00390926 + 0.00494067 + 0.00339310
    by_hand += 0.01615652 / 4 + 0.00721406 / 8 + 0.00195418 / 2
    assert float(cost({"fc6": 1024, "fc7": 2048})) == pytest.approx(by_hand, abs=1e-12)


def test_alexnet_on_the_tx2_is_differentiated_saved_and_read(tmp_path):
    cost = alexnet_tx2()
    widths = torch.tensor(cost.space.dense, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cost(widths), widths)
    assert float(gradient[0]) == pytest.approx((0.00223371 + 0.00753995) / 64, rel=1e-12)
    cost.save(tmp_path / "tx2.json")
    assert load(tmp_path / "tx2.json").coefficients == cost.coefficients
