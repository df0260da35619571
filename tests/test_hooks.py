"""Forward hooks of the user: observers are left out of the examination, others are a part of the network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ecc
from ecc.core.errors import InputError

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def means(log: list[float]) -> Callable[..., None]:
    return lambda module, given, output: log.append(output.abs().mean().item())


def test_observers_are_called_at_most_once_by_trace_and_once_by_slim_and_stay_on_the_slim_network():
    model, log = network(), list[float]()
    model[0].register_forward_hook(means(log))
    model[2].register_forward_pre_hook(lambda module, given: log.append(given[0].sum().item()))
    graph = ecc.trace(model, X)
    assert [group.name for group in graph.prunable] == ["0"]
    assert graph.notes == ()
    assert len(log) == 2
    small = ecc.slim(model, graph, {"0": 3})
    assert len(log) == 4
    small(X)
    assert len(log) == 6
    assert len(model[0]._forward_hooks) == len(small[0]._forward_hooks) == 1


def test_observers_of_gradients_are_observers():
    model = network()
    model[0].register_forward_hook(lambda module, given, output: output.register_hook(lambda gradient: None) and None)
    assert len(ecc.trace(model, X).prunable) == 1


def test_global_observers_are_set_aside_and_put_back():
    log: list[float] = []
    handle = nn.modules.module.register_module_forward_hook(means(log))
    try:
        graph = ecc.trace(network(), X)
        assert (len(graph.prunable), len(log)) == (1, 4)  # three layers and the network
        network()(X)
        assert len(log) == 8
    finally:
        handle.remove()


def test_hooks_that_change_the_output_are_followed():
    model = network()
    model[0].register_forward_hook(lambda module, given, output: torch.cat(output.chunk(2, 1)[::-1], 1))
    assert [group.step for group in ecc.trace(model, X).prunable] == [2]
    model[1].register_forward_hook(lambda module, given, output: torch.cumsum(output, 1))
    assert not ecc.trace(model, X).prunable


def test_a_hook_that_makes_a_weight_is_no_observer_though_the_weight_is_there_already():
    model = network()
    masks = torch.ones(8, 4)
    masks[:, 0] = 0

    def masked(module: nn.Module, given: Any) -> None:
        assert isinstance(module.weight, Tensor)
        module.weight.data *= masks

    model[0].weight.data *= masks
    model[0].register_forward_pre_hook(masked)
    graph = ecc.trace(model, X)
    assert not graph.prunable  # the mask is as large as the dense weight


def test_forwards_that_use_what_a_hook_keeps_are_followed_with_it():
    class Taps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.kept = network(), nn.Linear(8, 2), dict[str, Tensor]()
            self.body[1].register_forward_hook(self.keep)

        def keep(self, module: nn.Module, given: Any, output: Tensor) -> None:
            self.kept["features"] = output

        def forward(self, x: Tensor) -> Tensor:
            self.body(x)
            return self.head(self.kept["features"])  # type: ignore[no-any-return]

    model = Taps()
    graph = ecc.trace(model, X)
    assert "body.0" in {group.name for group in graph.groups}
    for group in graph.prunable:
        ecc.slim(model, graph, {group.name: group.step})


def test_a_hook_that_depends_on_values_and_changes_the_output_is_named():
    model = network()
    model[0].register_forward_hook(lambda module, given, output: output * output.abs().mean().item())
    graph = ecc.trace(model, X)
    assert not graph.prunable
    assert graph.notes[0].startswith("0 (Linear) is not followed inside: its hook depends on the values of tensors")


def test_a_hook_that_fails_is_named():
    model = network()
    model[2].register_forward_hook(lambda module, given, output: output.nonsense)
    with pytest.raises(InputError, match=r"a forward hook of 2 \(Linear\) fails: 'Tensor' object has no attribute"):
        ecc.trace(model, X)


def test_on_the_meta_device_a_hook_that_needs_values_is_named():
    with torch.device("meta"):
        model = network()
    model[0].register_forward_hook(means([]))
    with pytest.raises(InputError, match=r"0 \(Linear\) cannot be followed: its hook depends on .*; remove the hook"):
        ecc.trace(model, X)
