"""Every network of the zoo is pruned exactly at random widths, and its graph counts what is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecc.network.checking import perturbed
from ecc.network.equality import zero_then_remove
from ecc.network.ranking import select
from ecc.network.slimming import slim
from ecc.network.tracing import trace
from ecc.zoo.networks import NETWORKS, Network

# Smaller inputs where the network takes any size, so that the tests stay quick.
SMALL = {
    "densenet121": (3, 32, 32),
    "mobilenet-v1": (3, 32, 32),
    "mobilenet-v2": (3, 32, 32),
    "resnet18": (3, 32, 32),
    "resnet50": (3, 32, 32),
    "squeezenet": (3, 64, 64),
}
# Their forwards cut nothing by numbers, which is what the check in trace is for; it would take seconds each.
UNCHECKED = {"alexnet", "densenet121", "mobilenet-v1", "mobilenet-v2", "resnet50", "resnet56", "vgg16"}
FIXED = {"resnet20", "resnet56", "vit-small"}  # pads with zero channels; normalises over the embedding


def example(network: Network) -> torch.Tensor:
    shape = (1, *SMALL.get(network.name, network.input_shape))
    if network.input_dtype.is_floating_point:
        return torch.randn(shape)
    return torch.randint(0, network.vocabulary, shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_zoo_networks_are_pruned_exactly(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]
    model, inputs = network.factory().eval(), example(network)
    graph = trace(model, inputs, check=name not in UNCHECKED)
    dense = {group.name: group.reason for group in graph.groups if not group.prunable}
    if name not in FIXED:
        assert set(dense.values()) <= {"it is an output of the network"}
    generator = np.random.default_rng(0)
    widths = {g.name: int(generator.integers(1, g.units + 1)) * g.step for g in graph.prunable}
    kept = select(model, graph, widths)
    assert zero_then_remove(perturbed(model, 0), graph, kept, inputs) < 1e-4
    small = slim(model, graph, kept, check=False)
    assert sum(parameter.numel() for parameter in small.parameters()) == graph.params(widths)
    assert trace(small, inputs, check=False).macs() == graph.macs(widths)
