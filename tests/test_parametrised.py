"""Weights that are computed from other parameters: their channels go exactly, or stay for a reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_cases import Net, conv
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from ecc.core.widths import WidthGroup
from ecc.network.equality import zero_then_remove
from ecc.network.graph import WidthGraph
from ecc.network.masking import mask
from ecc.network.slimming import slim
from ecc.network.tracing import trace

Wrap = Callable[[nn.Module], nn.Module]


class Mapped(nn.Module):
    """A parametrisation by a function of the weight."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, weight: Tensor) -> Tensor:
        return self.function(weight)


class FixedMask(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", (torch.rand(weight.shape) > 0.3).to(weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.kept


class Quantiser(nn.Module):
    """Rounds to multiples of a learned step per row."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.step = nn.Parameter(0.02 + 0.05 * torch.rand(len(weight), *[1] * (weight.ndim - 1)))

    def forward(self, weight: Tensor) -> Tensor:
        return (weight / self.step).round().clamp(-8, 7) * self.step


class LowRank(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(len(weight), 3))
        self.down = nn.Parameter(torch.randn(3, weight[0].numel()))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view(weight.shape)


def by(make: Callable[[Tensor], nn.Module], name: str = "weight") -> Wrap:
    return lambda layer: parametrize.register_parametrization(layer, name, make(getattr(layer, name)))


def mapped(function: Callable[[Tensor], Tensor], name: str = "weight") -> Wrap:
    return by(lambda _: Mapped(function), name)


def standardised(weight: Tensor) -> Tensor:
    mean, std = weight.mean((1, 2, 3), keepdim=True), weight.std((1, 2, 3), keepdim=True)
    return (weight - mean) / (std + 1e-5)


def binary_layer_mask(layer: nn.Module) -> nn.Module:
    pruned: nn.Module = prune.random_unstructured(layer, "weight", amount=0.4)
    return prune.random_unstructured(pruned, "weight", amount=0.2)


def old(wrap: Wrap) -> Wrap:
    def quietly(layer: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return wrap(layer)

    return quietly


def chain(wrap: Wrap) -> nn.Module:
    layers = [wrap(conv(3, 8)), nn.ReLU(), wrap(conv(8, 8)), nn.ReLU(), wrap(nn.Conv2d(8, 6, 1)), conv(6, 4)]
    return nn.Sequential(*layers).double()


def recurrent() -> nn.Module:
    rnn = nn.LSTM(7, 5, batch_first=True)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        parametrizations.weight_norm(rnn, name)
    return Net(lambda s, x: s.head(s.rnn(s.embed(x))[0]), embed=nn.Linear(6, 7), rnn=rnn, head=nn.Linear(5, 3)).double()


def symmetric() -> nn.Module:
    middle = mapped(lambda weight: weight + weight.T)(nn.Linear(8, 8))
    return nn.Sequential(nn.Linear(6, 8), middle, nn.Linear(8, 3)).double()


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    prunable: Mapping[str, int]
    reason: str = ""  # of the group "0", when it stays
    shape: tuple[int, ...] = (2, 3, 5, 5)


ALL = {"0": 8, "2": 8, "4": 6}

CASES: dict[str, Case] = {
    "weight norm": Case(lambda: chain(parametrizations.weight_norm), ALL),
    "weight norm of columns": Case(lambda: chain(lambda layer: parametrizations.weight_norm(layer, dim=1)), ALL),
    "weight norm hook": Case(lambda: chain(old(nn.utils.weight_norm)), ALL),
    "weight norm of the whole": Case(lambda: chain(old(lambda layer: nn.utils.weight_norm(layer, dim=None))), ALL),
    "weight norm of a recurrent layer": Case(recurrent, {"embed": 7, "rnn": 5}, shape=(2, 4, 6)),
    "spectral norm": Case(lambda: chain(parametrizations.spectral_norm), ALL),
    "spectral norm hook": Case(lambda: chain(old(nn.utils.spectral_norm)), ALL),
    "pruning hook": Case(lambda: chain(binary_layer_mask), ALL),
    "mask": Case(lambda: chain(by(FixedMask)), ALL),
    "quantiser": Case(lambda: chain(by(Quantiser)), ALL),
    "low rank": Case(lambda: chain(by(LowRank)), ALL),
    "tanh": Case(lambda: chain(mapped(torch.tanh)), ALL),
    "sign": Case(lambda: chain(mapped(torch.sign)), ALL),
    "rows of unit norm": Case(
        lambda: chain(mapped(lambda w: w / torch.linalg.vector_norm(w, dim=(1, 2, 3), keepdim=True))), ALL
    ),
    "normalised rows": Case(lambda: chain(mapped(lambda w: F.normalize(w.flatten(1)).view_as(w))), ALL),
    "positive bias": Case(lambda: chain(mapped(torch.exp, "bias")), ALL),
    "symmetric": Case(symmetric, {"0": 8}, shape=(2, 6)),
    "positive": Case(
        lambda: chain(mapped(torch.exp)), {"4": 6}, "conv2d in 2 sums over channels that are not zero once removed"
    ),
    "standardised": Case(
        lambda: chain(mapped(standardised)), {"4": 6}, "mean in 2.parametrizations.weight.0 runs over its channels"
    ),
    "orthogonal": Case(lambda: chain(parametrizations.orthogonal), {}, "to an axis of fixed size"),
}


def traced(name: str) -> tuple[nn.Module, Tensor, WidthGraph]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = CASES[name].make().eval()
    inputs = torch.randn(CASES[name].shape, dtype=torch.float64)
    return model, inputs, trace(model, inputs)


def half(groups: tuple[WidthGroup, ...], seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {g.name: np.sort(generator.choice(g.units, max(1, g.units // 2), replace=False)) for g in groups}


@pytest.mark.parametrize("name", CASES)
def test_channels_of_computed_weights_go_or_stay_for_a_reason(name: str) -> None:
    model, inputs, graph = traced(name)
    assert {group.name: group.width for group in graph.prunable} == dict(CASES[name].prunable)
    if CASES[name].reason:
        assert CASES[name].reason in graph.group("0").reason
    for seed in range(3):
        assert zero_then_remove(model, graph, half(graph.prunable, seed), inputs) < 1e-10


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.prunable])
def test_slim_networks_are_parametrised_and_train_like_masked_ones(name: str) -> None:
    model, inputs, graph = traced(name)
    kept = half(graph.prunable)
    small = slim(model.train(), graph, kept)
    small.eval()
    for layer in small.modules():  # before the first forward, which old hooks wait for
        if isinstance(layer, nn.Conv2d):
            assert tuple(layer.weight.shape) == (len(layer.bias), layer.in_channels, *layer.kernel_size)
            assert len(layer.bias) == layer.out_channels
    mask(model, graph, kept)
    assert torch.allclose(small.train()(inputs), model(inputs), atol=1e-10)
    before = {key: value.clone() for key, value in small.state_dict().items()}
    assert set(before) == set(model.state_dict())
    optimiser = torch.optim.SGD(small.parameters(), 0.1)
    (small(inputs) - 1).square().mean().backward()
    optimiser.step()
    changed = {key for key, value in small.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    second = slim(model, graph, kept, check=False)
    second.load_state_dict(small.state_dict())
    assert torch.equal(second.eval()(inputs), small.eval()(inputs))


def test_directions_are_not_zeroed() -> None:
    _, _, graph = traced("weight norm")
    assert {slot.tensor: slot.zeroed for slot in graph.group("0").slots if slot.role == "write"} == {
        "0.parametrizations.weight.original0": True,
        "0.parametrizations.weight.original1": False,
        "0.bias": True,
    }
