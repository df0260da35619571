"""Weights that are computed from other parameters: their channels go exactly, or stay for a reason."""

from __future__ import annotations

import copy
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
from ecc.network.copying import copy_sharing
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


def gated() -> nn.Module:
    rnn = nn.GRU(7, 5, batch_first=True)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        parametrizations.weight_norm(rnn, name, dim=None)
    return Net(lambda s, x: s.head(s.rnn(s.embed(x))[0]), embed=nn.Linear(6, 7), rnn=rnn, head=nn.Linear(5, 3)).double()


def upwards() -> nn.Module:
    """Transposed convolutions, whose columns come first."""
    layers = [parametrizations.weight_norm(nn.ConvTranspose2d(a, b, 2, stride=2), dim=1) for a, b in ((3, 8), (8, 6))]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], conv(6, 4)).double()


class ByFunction(nn.Module):
    """Weight-normalised by hand, masked and squeezed."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(rows, columns))
        self.g = nn.Parameter(torch.rand(rows, 1) + 0.5)
        self.register_buffer("kept", (torch.rand(rows, columns) > 0.2).double())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch._weight_norm(self.v, self.g, 0) * self.kept)


def functional() -> nn.Module:
    return nn.Sequential(ByFunction(6, 8), nn.Tanh(), ByFunction(8, 7), nn.Tanh(), ByFunction(7, 3)).double()


class Factor(nn.Linear):
    """Its output times the sum of all magnitudes of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.weight.abs().sum()


class Flattened(nn.Linear):
    """Its weight over the norm of all of it, taken from one long vector."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / (self.weight * self.weight).flatten().sum().sqrt(), self.bias)


def perceptron(reader: type[nn.Linear]) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), reader(8, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def of_one_scale() -> nn.Module:
    """Two weight-normalised layers with one g."""
    first, second = (nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)) for _ in range(2))
    second.parametrizations.weight.original0 = first.parametrizations.weight.original0  # type: ignore[union-attr]
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), first, nn.ReLU(), second, nn.Linear(8, 3)).double()


def after_sigmoid() -> nn.Module:
    normed = parametrizations.weight_norm(nn.Linear(8, 5))
    return nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), normed, nn.ReLU(), nn.Linear(5, 3)).double()


def symmetric() -> nn.Module:
    middle = mapped(lambda weight: weight + weight.T)(nn.Linear(8, 8))
    return nn.Sequential(nn.Linear(6, 8), middle, nn.Linear(8, 3)).double()


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    prunable: Mapping[str, int]
    reason: str = ""  # of the group "0", when it stays
    shape: tuple[int, ...] = (2, 3, 5, 5)
    renormalise: bool = False


ALL = {"0": 8, "2": 8, "4": 6}
LAST = {"4": 6}
WEIGHT = "2.parametrizations.weight.0"
SUMS = (
    "sums over weights that read these channels, so that removing some changes the rest; "
    "trace with renormalise=True to let it run over fewer"
)

CASES: dict[str, Case] = {
    "weight norm": Case(lambda: chain(parametrizations.weight_norm), ALL),
    "weight norm of columns": Case(lambda: chain(lambda layer: parametrizations.weight_norm(layer, dim=1)), ALL),
    "weight norm hook": Case(lambda: chain(old(nn.utils.weight_norm)), ALL),
    "weight norm of the whole": Case(lambda: chain(old(lambda layer: nn.utils.weight_norm(layer, dim=None))), ALL),
    "weight norm of a recurrent layer": Case(recurrent, {"embed": 7, "rnn": 5}, shape=(2, 4, 6)),
    "weight norm of a gated layer": Case(gated, {"embed": 7, "rnn": 5}, shape=(2, 4, 6)),
    "weight norm of transposed convolutions": Case(upwards, {"0": 8, "2": 6}),
    "weight norm by hand": Case(functional, {"0": 8, "2": 7}, shape=(2, 6)),
    "weight norms of one scale": Case(of_one_scale, {}, "_weight_norm in 2.parametrizations", shape=(2, 6)),
    "weight norm after a sigmoid": Case(after_sigmoid, {"2": 5}, "linear in 2 sums over channels", shape=(2, 6)),
    "spectral norm": Case(lambda: chain(parametrizations.spectral_norm), LAST, f"mv in {WEIGHT} {SUMS}"),
    "spectral norm hook": Case(lambda: chain(old(nn.utils.spectral_norm)), LAST, f"mv in 2 {SUMS}"),
    "factor": Case(lambda: perceptron(Factor), {"2": 5}, f"sum in 2 {SUMS}", shape=(2, 6)),
    "norm of a flat weight": Case(lambda: perceptron(Flattened), {"2": 5}, f"sum in 2 {SUMS}", shape=(2, 6)),
    "pruning hook": Case(lambda: chain(binary_layer_mask), ALL),
    "mask": Case(lambda: chain(by(FixedMask)), ALL),
    "quantiser": Case(lambda: chain(by(Quantiser)), ALL),
    "low rank": Case(lambda: chain(by(LowRank)), ALL),
    "tanh": Case(lambda: chain(mapped(torch.tanh)), ALL),
    "sign": Case(lambda: chain(mapped(torch.sign)), ALL),
    "rows of unit norm": Case(
        lambda: chain(mapped(lambda w: w / torch.linalg.vector_norm(w, dim=(1, 2, 3), keepdim=True))),
        LAST,
        f"linalg_vector_norm in {WEIGHT} {SUMS}",
    ),
    "normalised rows": Case(
        lambda: chain(mapped(lambda w: F.normalize(w.flatten(1)).view_as(w))),
        LAST,
        f"linalg_vector_norm in {WEIGHT} {SUMS}",
    ),
    "positive bias": Case(lambda: chain(mapped(torch.exp, "bias")), ALL),
    "symmetric": Case(symmetric, {"0": 8}, shape=(2, 6)),
    "positive": Case(
        lambda: chain(mapped(torch.exp)), {"4": 6}, "conv2d in 2 sums over channels that are not zero once removed"
    ),
    "standardised": Case(
        lambda: chain(mapped(standardised)), {"4": 6}, "mean in 2.parametrizations.weight.0 runs over its channels"
    ),
    "spectral norm over fewer": Case(lambda: chain(parametrizations.spectral_norm), ALL, renormalise=True),
    "spectral norm hook over fewer": Case(lambda: chain(old(nn.utils.spectral_norm)), ALL, renormalise=True),
    "normalised rows over fewer": Case(
        lambda: chain(mapped(lambda w: F.normalize(w.flatten(1)).view_as(w))), ALL, renormalise=True
    ),
    "factor over fewer": Case(lambda: perceptron(Factor), {"0": 8, "2": 5}, shape=(2, 6), renormalise=True),
    "orthogonal": Case(lambda: chain(parametrizations.orthogonal), {}, "to an axis of fixed size"),
}


def traced(name: str) -> tuple[nn.Module, Tensor, WidthGraph]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = CASES[name].make().eval()
    inputs = torch.randn(CASES[name].shape, dtype=torch.float64)
    return model, inputs, trace(model, inputs, renormalise=CASES[name].renormalise)


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
    assert {slot.tensor: slot.zeroed for slot in graph.group("0").slots} == {
        "0.parametrizations.weight.original0": True,
        "0.parametrizations.weight.original1": False,
        "0.bias": True,
        "2.parametrizations.weight.original1": False,
    }


def kill(model: nn.Module, graph: WidthGraph, kept: Mapping[str, np.ndarray]) -> None:
    """Set to zero what writes the dropped units, and nothing that reads them."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, units in kept.items():
        group = graph.group(name)
        dropped = np.setdiff1d(np.arange(group.units), units)
        for slot in group.slots:
            if slot.role == "write" and slot.zeroed and not slot.tensor.endswith("kept"):
                at = torch.from_numpy(slot.indices[dropped].reshape(-1))
                tensors[slot.tensor].data.index_fill_(slot.axis, at, 0)


ALIVE_AT_ZERO = ("positive", "positive bias", "rows of unit norm")  # channels that no zeros of parameters make zero


@pytest.mark.parametrize(
    "name",
    [name for name, case in CASES.items() if case.prunable and not case.renormalise and name not in ALIVE_AT_ZERO],
)
def test_removing_dead_channels_changes_nothing(name: str) -> None:
    model, inputs, graph = traced(name)
    for seed in range(3):
        kept, dead = half(graph.prunable, seed), copy_sharing(model, {})
        kill(dead, graph, kept)
        expected = dead(inputs)
        assert (slim(dead, graph, kept)(inputs) - expected).abs().max() < 1e-10 * expected.abs().max()


def test_norms_over_fewer_weights_change_the_rest() -> None:
    model, inputs, graph = traced("spectral norm over fewer")
    kept = half(graph.prunable)
    kill(model, graph, kept)
    assert (slim(model, graph, kept)(inputs) - model(inputs)).abs().max() > 1e-2 * model(inputs).abs().max()


def test_rows_whose_kept_directions_are_zero_stay_zero() -> None:
    model, inputs, graph = traced("weight norm by hand")
    kept = {"0": np.arange(4)}
    with torch.no_grad():
        model[2].v[1:3, :4] = 0
    small = slim(model, graph, kept)
    assert zero_then_remove(model, graph, kept, inputs) < 1e-10
    assert not small[2].g[1:3].any()
    assert small(inputs).isfinite().all()


def test_weights_of_kept_channels_are_those_of_the_dense_network() -> None:
    model, _, graph = traced("weight norm")
    kept = half(graph.prunable)
    small = slim(model, graph, kept)
    dense = model[2].weight[kept["2"]][:, kept["0"]]
    assert torch.allclose(small[2].weight, dense, rtol=1e-12, atol=0)


@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm], ids=lambda wrap: wrap.__name__)
def test_slim_networks_of_old_hooks_can_be_copied(wrap: Wrap) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), old(wrap)(nn.Linear(8, 5)), nn.ReLU(), nn.Linear(5, 3))
    inputs = torch.randn(2, 6)
    model(inputs)
    small = slim(model, trace(model, inputs), {"2": 3})
    assert torch.equal(copy.deepcopy(small).eval()(inputs), small.eval()(inputs))


def test_parametrisations_of_one_copy_are_its_own() -> None:
    model, inputs, graph = traced("weight norm")
    expected = model(inputs)
    small = slim(model, graph, {"0": 4})
    pruned, kind = small(inputs), type(small[0])
    assert kind.__name__ == type(model[0]).__name__ == "ParametrizedConv2d"
    assert isinstance(small[0], nn.Conv2d)
    parametrize.remove_parametrizations(small[0], "weight")
    assert type(small[0]) is nn.Conv2d
    assert torch.equal(model(inputs), expected)
    assert torch.allclose(small(inputs), pruned, rtol=1e-12)
