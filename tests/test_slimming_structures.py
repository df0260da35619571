"""Every structure is pruned exactly, or kept dense by name with a reason; nothing is wrong in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from block_cases import BLOCKS
from network_cases import CASES, Case, Net
from oracles import removal_error
from torch import nn

from ecc.core.errors import EccError
from ecc.core.widths import Kept
from ecc.network.checking import perturbed
from ecc.network.equality import zero_then_remove
from ecc.network.graph import WidthGraph
from ecc.network.slimming import slim
from ecc.network.tracing import trace


def random_units(graph: WidthGraph, generator: np.random.Generator) -> Kept:
    return {
        group.name: np.sort(generator.choice(group.units, generator.integers(1, group.units + 1), replace=False))
        for group in graph.prunable
    }


def counted_macs(model: nn.Module, inputs: torch.Tensor) -> int:
    """Multiply-accumulates of one example, counted by hooks on convolutions and linear layers."""
    total = 0

    def hook(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += output.numel() * module.weight.shape[1]
        elif isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()

    handles = [module.register_forward_hook(hook) for module in model.modules()]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return total // inputs.shape[0]


EVERYTHING = {**CASES, **BLOCKS}


@pytest.mark.parametrize("case", EVERYTHING.values(), ids=list(EVERYTHING))
def test_pruned_exactly_or_refused_with_a_reason(case: Case) -> None:
    torch.set_num_threads(1)
    model, inputs = case.build()
    graph = trace(model, inputs)
    assert {group.name: (group.width, group.step) for group in graph.prunable} == dict(case.prunable)
    assert all(group.reason for group in graph.groups if not group.prunable)
    trial = perturbed(model, 1)
    generator = np.random.default_rng(0)
    for _ in range(5 if graph.prunable else 0):
        kept = random_units(graph, generator)
        assert zero_then_remove(trial, graph, kept, inputs) < 1e-10
        error, small = removal_error(trial, graph, kept, [inputs])
        assert error < 1e-10
        widths = {name: len(units) * graph.group(name).step for name, units in kept.items()}
        assert sum(parameter.numel() for parameter in small.parameters()) == graph.params(widths)


COUNTED = ["residual-projection", "residual-option-a", "depthwise-multiplier", "dense-concat", "grouped", "flatten"]


@pytest.mark.parametrize("name", COUNTED)
def test_the_graph_counts_the_macs_of_the_slim_network(name: str) -> None:
    model, inputs = CASES[name].build()
    graph = trace(model, inputs, check=False)
    assert graph.macs() == counted_macs(model, inputs)
    generator = np.random.default_rng(1)
    for _ in range(3):
        kept = random_units(graph, generator)
        widths = {group: len(units) * graph.group(group).step for group, units in kept.items()}
        assert graph.macs(widths) == counted_macs(slim(model, graph, kept, check=False), inputs)


@pytest.mark.parametrize("name", ["attention-fused", "lstm-two-ways", "outer-product", "transposed", "token-mixer"])
def test_the_graph_counts_what_a_trace_of_the_slim_network_counts(name: str) -> None:
    model, inputs = CASES[name].build()
    graph = trace(model, inputs)
    kept = random_units(graph, np.random.default_rng(2))
    widths = {group: len(units) * graph.group(group).step for group, units in kept.items()}
    again = trace(slim(model, graph, kept, check=False), inputs, check=False)
    assert (graph.macs(widths), graph.params(widths)) == (again.macs(), again.params())


def test_slim_networks_can_be_traced_and_slimmed_again() -> None:
    model, inputs = CASES["attention-fused"].build()
    graph = trace(model, inputs)
    once = slim(model, graph, {"attn.qkv": 30, "mlp.0": 12})
    again = trace(once, inputs)
    assert {group.name: group.width for group in again.prunable} == {"attn.qkv": 30, "attn.qkv@2": 30, "mlp.0": 12}
    slim(once, again, {"attn.qkv@2": 12})


def test_a_network_that_refuses_random_inputs_is_not_blamed_on_a_group() -> None:
    bags = nn.EmbeddingBag(10, 8)
    model = Net(lambda s, words, starts: s.head(s.bags(words, starts)), bags=bags, head=nn.Linear(8, 2))
    inputs = (torch.randint(0, 10, (9,)), torch.tensor([0, 3, 6]))
    graph = trace(model, inputs)
    with pytest.raises(
        EccError, match=r"^Net does not run on random inputs like the traced ones \(.*slim it with check"
    ):
        slim(model, graph, {"bags": 4})
    assert slim(model, graph, {"bags": 4}, check=False)(*inputs).shape == (3, 2)


def test_a_refused_trial_leaves_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    def run(s: Any, x: torch.Tensor) -> torch.Tensor:
        a, b = s.c(x).split((4, 4), 1)
        return s.head(torch.cat([b, a + torch.zeros(1, 1)], 1))

    model, inputs = Net(run, c=nn.Conv2d(3, 8, 1), head=nn.Conv2d(8, 2, 1)), torch.randn(1, 3, 4, 4)
    assert not trace(model, inputs).prunable
    assert capfd.readouterr() == ("", "")
