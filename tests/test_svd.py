"""The stage svd: exact errors, optimal factors for given inputs, ranks for a budget, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from stage_workshop import BlobShop
from torch import nn

from ecc.core.errors import InputError
from ecc.stages.code import decode_node, packed
from ecc.stages.low_rank import balanced, decompose
from ecc.stages.moments import input_moments
from ecc.stages.nodes import Form, Numbers
from ecc.stages.svd import Svd, SvdSetting
from ecc.stages.tuning import fitted


def state(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape).double() for name, shape in shapes.items()}


@pytest.mark.parametrize("rank", [1, 5, 19])
def test_the_error_is_the_root_of_the_sum_of_the_dropped_squares(rank):
    weights = state(w=(40, 2, 5, 6))
    node = Svd().encode_node("w", Numbers(weights["w"]), SvdSetting(rank))
    dropped = np.linalg.svd(weights["w"].numpy().reshape(40, 60), compute_uv=False)[rank:]
    assert float((decode_node(node) - weights["w"]).norm()) == pytest.approx(math.sqrt((dropped**2).sum()), rel=1e-12)


def test_factors_are_balanced_with_and_without_inputs():
    matrix, inputs = torch.randn(20, 30).double(), torch.randn(200, 30).double() * torch.logspace(-2, 1, 30)
    for moment in (None, inputs.T @ inputs / 200):
        left, right = decompose(matrix, moment).factors(7)
        assert torch.allclose(left.T @ left, right @ right.T, atol=1e-9)
    assert torch.allclose(torch.mm(*balanced(left, right)), left @ right)


def test_no_other_factors_of_the_rank_have_a_smaller_error_of_the_outputs():
    torch.manual_seed(1)
    matrix, x = torch.randn(12, 9).double(), torch.randn(60, 9).double() * torch.linspace(0.1, 3, 9)
    spectrum = decompose(matrix, x.T @ x / 60)
    left, right = (each.clone().requires_grad_() for each in spectrum.factors(3))

    def error() -> torch.Tensor:
        return ((matrix - left @ right) @ x.T).square().sum() / 60

    assert float(error().sqrt().detach()) == pytest.approx(spectrum.dropped(3), rel=1e-9)  # the closed form
    gradients = torch.autograd.grad(error(), (left, right))
    assert max(float(each.abs().max()) for each in gradients) < 1e-9  # stationary
    best = float(error().detach())
    plain = torch.mm(*decompose(matrix).factors(3))
    assert best < float(((matrix - plain) @ x.T).square().sum() / 60)
    for seed in range(2):  # and descents from elsewhere end no lower
        torch.manual_seed(seed)
        left, right = torch.randn(12, 3).double().requires_grad_(), torch.randn(3, 9).double().requires_grad_()
        optimiser = torch.optim.LBFGS([left, right], max_iter=80, line_search_fn="strong_wolfe")

        def closure(optimiser=optimiser) -> torch.Tensor:
            optimiser.zero_grad()
            value = error()
            value.backward()
            return value

        optimiser.step(closure)
        assert float(error().detach()) >= best * (1 - 1e-6)


def test_gates_are_factored_together_or_each():
    lstm = nn.LSTM(10, 16)
    for gates, shape in (("together", (64, 3)), ("each", (4, 16, 3))):
        code = Svd(gates=gates).encode(
            lstm.state_dict(), chosen={"weight_hh_l0": SvdSetting(3), "weight_ih_l0": SvdSetting(0)}
        )
        node = code.nodes["weight_hh_l0"]
        assert isinstance(node, Form)
        assert node.parts["left"].values.shape == shape
        assert isinstance(code.nodes["weight_ih_l0"], Numbers)
        weight = lstm.weight_hh_l0.detach()
        blocks = weight.reshape(-1, *shape[-2:-1], 16) if gates == "each" else weight[None]
        dropped = torch.linalg.svdvals(blocks.double())[:, 3:].square().sum().sqrt()
        assert float((code.decode()["weight_hh_l0"] - weight).norm()) == pytest.approx(float(dropped), rel=1e-5)


@pytest.mark.parametrize("ratio", [1.5, 3, 8])
def test_a_budget_is_kept_and_no_exchange_of_ranks_is_better(ratio):
    weights = state(a=(30, 40), b=(60, 20), c=(10, 10))
    weights["a"] = weights["a"] @ torch.diag(torch.logspace(0, -2, 40).double())  # drops off fast
    dense = packed(weights).nbytes
    code = Svd(nbytes=int(dense / ratio)).encode(weights)
    assert code.nbytes <= dense / ratio
    values = {name: np.linalg.svd(each.numpy(), compute_uv=False) ** 2 for name, each in weights.items()}
    values = {name: each / each.sum() for name, each in values.items()}
    prices = {name: 8 * sum(each.shape) for name, each in weights.items()}

    def rank(name: str) -> int:
        node = code.nodes[name]
        return node.parts["left"].values.shape[1] if isinstance(node, Form) else -1

    spare = dense / ratio - code.nbytes
    ranks = {name: rank(name) for name in weights if rank(name) > 0}
    for name, r in ranks.items():  # one value more here must not fit, or cost more than what goes elsewhere
        pays = r + 1 < weights[name].numel() / sum(weights[name].shape)
        assert not pays or prices[name] > spare
        for other, s in ranks.items():
            if pays and other != name and s > 1 and prices[name] <= prices[other] + spare:
                assert values[name][r] <= values[other][s - 1] * (1 + 1e-9)


def test_the_energy_that_is_kept_is_at_least_what_is_asked_for():
    weights = state(a=(50, 50), b=(4, 30))
    weights["a"] *= torch.logspace(0, -3, 50).double()
    code = Svd(energy=0.9).encode(weights)
    left = code.nodes["a"].parts["left"].values
    squares = torch.linalg.svdvals(weights["a"]).square()
    assert float(squares[: left.shape[1]].sum() / squares.sum()) >= 0.9
    assert float(squares[: left.shape[1] - 1].sum() / squares.sum()) < 0.9
    assert isinstance(code.nodes["b"], Numbers)  # where factors would be larger


def test_training_data_make_the_outputs_error_smaller_and_tuning_the_loss():
    shop = BlobShop()
    model = shop.trained()
    losses = [
        shop.judge(fitted(model, stage.encode(model.state_dict(), shop.workshop(model))))[0]
        for stage in (Svd(ratio=1.5, epochs=0, whiten=False), Svd(ratio=1.5, epochs=0), Svd(ratio=1.5, epochs=3))
    ]
    assert losses[2] < losses[1]
    assert shop.phases[-1] == "svd"


def test_moments_are_those_of_what_the_weights_read():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lstm = nn.Conv1d(1, 3, 5, stride=2, padding=2), nn.LSTM(3, 4, batch_first=True)
            self.head = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(self.conv(x[:, None]).mT)[0][:, -1])

    shop, model = BlobShop(), Net().eval()
    code = packed(model.state_dict())
    found = input_moments(code, shop.workshop(model), examples=32)
    x = torch.cat([batch for batch, _ in shop.task.train[:2]])
    with torch.no_grad():
        frames = model.conv(x[:, None]).mT
        hidden = model.lstm(frames)[0]
    rows = {
        "conv.weight": nn.functional.pad(x, (2, 2)).unfold(1, 5, 2).reshape(-1, 5),
        "lstm.weight_ih_l0": frames.reshape(-1, 3),
        "lstm.weight_hh_l0": hidden.reshape(-1, 4),
        "head.weight": hidden[:, -1],
    }
    assert set(found) == set(rows)
    for name, each in rows.items():
        moment = each.double().T @ each.double() / len(each)
        damped = moment + 0.01 * moment.diagonal().mean() * torch.eye(len(moment))
        assert torch.allclose(found[name], damped, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize(("options", "message"), [
    ({"ratio": 1.0}, "must be a number above 1"), ({"nbytes": -1}, "must be positive"), ({"energy": 1.0}, "below 1"),
    ({"energy": 0.5, "nbytes": 9}, "not both"), ({"gates": "some"}, "'together' or 'each'"),
    ({"epochs": -1}, "0 or more"), ({"lr": 0.0}, "positive"),
])  # fmt: skip
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Svd(**options)


def test_states_it_cannot_work_on_are_refused():
    with pytest.raises(InputError, match=r"^the weights 'w' hold values that are not finite and cannot be factored$"):
        Svd().encode({"w": torch.full((20, 20), math.nan)})
    with pytest.raises(InputError, match=r"^svd.nbytes=300 .* takes 372 bytes; give 372 or more$"):
        Svd(nbytes=300).encode({"w": torch.randn(40, 40)})
    with pytest.raises(InputError, match=r"makes none of the weights smaller"):
        Svd(energy=0.999).encode({"w": torch.randn(40, 40)})
    with pytest.raises(InputError, match=r"apply it before other stages$"):
        Svd().encode(Svd().encode({"w": torch.randn(40, 40)}))
