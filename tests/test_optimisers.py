"""Training after the transfer goes on as the masked training would have."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import conv
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.network.graph import WidthGraph
from ecc.network.masking import mask
from ecc.network.optimisers import transfer_optimiser
from ecc.network.slimming import slim
from ecc.network.tracing import trace

IMAGE = torch.randn(3, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Make = Callable[[list[dict[str, object]]], torch.optim.Optimizer]

OPTIMISERS: dict[str, Make] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01, dampening=0.1),
    "nesterov": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.01),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01, weight_decay=0.01),
    "amsgrad": lambda groups: torch.optim.Adam(groups, lr=0.01, amsgrad=True, foreach=False),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1),
    "adamax": lambda groups: torch.optim.Adamax(groups, lr=0.01),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.005, momentum=0.5, centered=True),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.05, eps=1e-6),
    "adadelta": lambda groups: torch.optim.Adadelta(groups),
    "averaged": lambda groups: torch.optim.ASGD(groups, lr=0.05),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4), nn.Flatten(), nn.Linear(144, 5), nn.Linear(5, 2))
    return nn.Sequential(*layers).double()


@pytest.fixture(scope="module")
def graph() -> WidthGraph:
    return trace(network(), IMAGE, check=False)


def groups_of(model: nn.Module) -> list[dict[str, object]]:
    """Weights and biases apart; the last layer is in no group, and one bias is frozen."""
    model.get_parameter("3.bias").requires_grad_(False)
    named = [(name, p) for name, p in model.named_parameters() if not name.startswith("6")]
    return [
        {"params": [p for name, p in named if name.endswith("weight")]},
        {"params": [p for name, p in named if name.endswith("bias")], "lr": 0.02, "note": [1]},
    ]


def step(model: nn.Module, optimiser: torch.optim.Optimizer, silence: Callable[[], None] = lambda: None) -> None:
    optimiser.zero_grad()
    out: Tensor = model(IMAGE)
    (out.square() + out.sin()).mean().backward()
    silence()
    optimiser.step()


def silenced(model: nn.Module, graph: WidthGraph, kept: dict[str, np.ndarray]) -> Callable[[], None]:
    """Zero the gradients of the dropped slices; nothing else is allowed to know what they are."""
    flags = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in flags.parameters():
            parameter.fill_(1)
    mask(flags, graph, kept)
    kept_flags = dict(flags.named_parameters())

    def silence() -> None:
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(kept_flags[name])

    return silence


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=list(OPTIMISERS))
@settings(max_examples=5)
@given(seed=st.integers(0, 10**6), before=st.integers(0, 3), after=st.integers(1, 4))
def test_slim_training_continues_the_masked_one(
    graph: WidthGraph, make: Make, seed: int, before: int, after: int
) -> None:
    model = network().train()
    rng = np.random.default_rng(seed)
    kept = {
        group.name: np.sort(rng.choice(group.units, rng.integers(1, group.units + 1), replace=False))
        for group in graph.prunable
    }
    optimiser = make(groups_of(model))
    for _ in range(before):
        step(model, optimiser)
    mask(model, graph, kept)
    small = slim(model, graph, kept, check=False)
    moved = transfer_optimiser(optimiser, model, small, graph, kept)
    silence = silenced(model, graph, kept)
    for _ in range(after):
        step(model, optimiser, silence)
        mask(model, graph, kept)  # old moments push what is masked
        step(small, moved)
    expected = slim(model, graph, kept, check=False)
    for (name, found), wanted in zip(small.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9, msg=name)


def test_groups_settings_and_class_are_kept_and_the_old_optimiser_is_left_alone(graph: WidthGraph) -> None:
    model = network()
    optimiser = torch.optim.Adam(groups_of(model), lr=torch.tensor(0.01), betas=(0.5, 0.9))
    step(model, optimiser)
    before = copy.deepcopy(optimiser.state_dict())
    small = slim(model, graph, {"0": 2, "3": 3}, check=False)
    moved = transfer_optimiser(optimiser, model, small, graph, {"0": 2, "3": 3})
    assert type(moved) is torch.optim.Adam
    names = {id(parameter): name for name, parameter in small.named_parameters()}
    assert [[names[id(p)] for p in group["params"]] for group in moved.param_groups] == [
        ["0.weight", "1.weight", "3.weight", "5.weight"],
        ["0.bias", "1.bias", "3.bias", "5.bias"],
    ]
    assert [group["lr"] for group in moved.param_groups] == [torch.tensor(0.01), 0.02]
    assert moved.param_groups[0]["lr"] is not optimiser.param_groups[0]["lr"]
    assert moved.param_groups[1]["note"] == [1]
    assert moved.param_groups[1]["note"] is not optimiser.param_groups[1]["note"]
    assert moved.defaults["betas"] == (0.5, 0.9)
    assert all(group["betas"] == (0.5, 0.9) for group in moved.param_groups)
    held = {names[id(parameter)] for parameter in moved.state}
    assert held == {"0.weight", "1.weight", "3.weight", "5.weight", "0.bias", "1.bias", "5.bias"}  # 3.bias is frozen
    step(small, moved)
    after = optimiser.state_dict()
    assert all(torch.equal(old[key], after["state"][i][key]) for i, old in before["state"].items() for key in old)
    assert before["param_groups"] == after["param_groups"]


def test_the_state_of_removed_blocks_is_dropped_and_training_goes_on() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x) + x
            return out

    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 6), Residual(), Residual(), nn.Flatten(), nn.Linear(216, 2)).double()
    graph = trace(model, IMAGE)
    optimiser = torch.optim.AdamW([{"params": list(part.parameters())} for part in model if len([*part.parameters()])])
    step(model, optimiser)
    small = slim(model, graph, {"0": 4}, remove=["1"])
    moved = transfer_optimiser(optimiser, model, small, graph, {"0": 4}, remove=["1"])
    assert [len(group["params"]) for group in moved.param_groups] == [2, 0, 2, 2]
    assert len(moved.state) == 6
    assert moved.state[small[2].conv.weight]["exp_avg"].shape == (4, 4, 3, 3)
    step(small, moved)


def test_a_scheduler_of_the_old_optimiser_does_not_step_the_new_one(graph: WidthGraph) -> None:
    model = network()
    optimiser = torch.optim.SGD(groups_of(model), lr=0.1, momentum=0.9)
    torch.optim.lr_scheduler.StepLR(optimiser, 1)
    step(model, optimiser)
    small = slim(model, graph, {"0": 2}, check=False)
    moved = transfer_optimiser(optimiser, model, small, graph, {"0": 2})
    dense, weight = model[0].weight.clone(), small[0].weight.clone()
    step(small, moved)
    assert torch.equal(model[0].weight, dense)
    assert not torch.equal(small[0].weight, weight)


def test_state_of_factored_moments_is_sliced_along_the_axes_it_has(graph: WidthGraph) -> None:
    model = network().float()
    optimiser = torch.optim.Adafactor(model.parameters(), lr=0.01)
    model(IMAGE.float()).sum().backward()
    optimiser.step()
    small = slim(model, graph, {"5": np.array([1, 3])}, check=False)
    moved = transfer_optimiser(optimiser, model, small, graph, {"5": np.array([1, 3])})
    old, new = optimiser.state[model[5].weight], moved.state[small[5].weight]
    assert torch.equal(new["row_var"], old["row_var"][[1, 3]])
    assert torch.equal(new["col_var"], old["col_var"])


def test_an_optimiser_of_a_class_of_ones_own_keeps_its_attributes(graph: WidthGraph) -> None:
    class Scaled(torch.optim.SGD):
        def __init__(self, parameters: object, scale: float) -> None:
            super().__init__(parameters, lr=0.1)  # type: ignore[arg-type]
            self.scale = scale

        def step(self, closure: None = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.data -= self.scale * parameter.grad
                        self.state[parameter].setdefault("seen", [0])[0] += 1

    model = network()
    optimiser = Scaled(model.parameters(), 0.5)
    step(model, optimiser)
    small = slim(model, graph, {"0": 2}, check=False)
    moved = transfer_optimiser(optimiser, model, small, graph, {"0": 2})
    step(small, moved)
    assert isinstance(moved, Scaled)
    assert (moved.state[small[0].weight], optimiser.state[model[0].weight]) == ({"seen": [2]}, {"seen": [1]})


def refused(message: str) -> pytest.RaisesExc[InputError]:
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def test_an_optimiser_of_another_model_is_refused(graph: WidthGraph) -> None:
    model, other = network(), network()
    small = slim(model, graph, {"0": 2}, check=False)
    with refused(
        "the optimiser holds a parameter of shape (6, 3, 3, 3) that is none of the dense network's; "
        "give the optimiser that trained this network"
    ):
        transfer_optimiser(torch.optim.SGD(other.parameters(), lr=1.0), model, small, graph, {"0": 2})


def test_widths_other_than_those_of_the_slim_network_are_refused(graph: WidthGraph) -> None:
    model = network()
    small = slim(model, graph, {"0": 2}, check=False)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    with refused(
        "the slim network was not made with these widths: its parameter '0.weight' has shape (2, 3, 3, 3), "
        "not (3, 3, 3, 3); give the network, the widths and the removed blocks of one call of slim"
    ):
        transfer_optimiser(optimiser, model, small, graph, {"0": 3})
    with pytest.raises(InputError, match=r"its parameter '3.weight' is missing, not \(4, 2, 3, 3\)"):
        transfer_optimiser(optimiser, model, small[:2], graph, {"0": 2})
    with pytest.raises(InputError, match="belongs to another network"):
        transfer_optimiser(optimiser, nn.Sequential(conv(3, 5)), small, graph, {"0": 2})


def test_state_that_cannot_be_sliced_is_refused(graph: WidthGraph) -> None:
    model = network()
    small = slim(model, graph, {"0": 2}, check=False)
    lbfgs = torch.optim.LBFGS(model.parameters(), max_iter=1)

    def loss() -> Tensor:
        value: Tensor = model(IMAGE).square().sum()
        value.backward()
        return value

    lbfgs.step(loss)
    with refused("LBFGS keeps state of all parameters together; make a new optimiser for the slim network"):
        transfer_optimiser(lbfgs, model, small, graph, {"0": 2})
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    optimiser.state[model[0].weight]["sketch"] = torch.zeros(4)
    with refused(
        "SGD keeps 'sketch' of parameter '0.weight' of shape (4,), which cannot be sliced with it; "
        "make a new optimiser for the slim network"
    ):
        transfer_optimiser(optimiser, model, small, graph, {"0": 2})
