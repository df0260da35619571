"""Networks of torchvision, whole or with fewer layers, are pruned exactly; what stays dense says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import import_torchvision
from oracles import removal_error
from random_networks import random_units
from torch import nn
from vision_networks import VISION, enliven

from ecc.network.checking import perturbed
from ecc.network.tracing import trace

try:
    MODELS: Any = import_torchvision()
except ImportError as error:
    pytest.skip(f"torchvision is not installed ({error}): pip install ecc-compress[test]", allow_module_level=True)


def maxvit() -> nn.Module:
    return MODELS.MaxVit(
        input_size=(32, 32),
        stem_channels=8,
        partition_size=2,
        block_channels=[16],
        block_layers=[1],
        head_dim=8,
        stochastic_depth_prob=0.0,
        num_classes=5,
    )


def swin() -> nn.Module:
    return MODELS.SwinTransformer([4, 4], 12, [2, 2], [2, 4], [2, 2], num_classes=5)


def vit() -> nn.Module:
    model = MODELS.VisionTransformer(16, 4, 2, 4, 16, 24, num_classes=5)
    nn.init.normal_(model.heads.head.weight)  # zeros as it comes
    return model


def convnext() -> nn.Module:
    config = MODELS.convnext.CNBlockConfig
    return MODELS.ConvNeXt([config(8, 16, 1), config(16, None, 1)], num_classes=5)


def resnext() -> nn.Module:
    return MODELS.ResNet(MODELS.resnet.Bottleneck, [1, 1, 1, 1], num_classes=5, groups=4, width_per_group=16)


# Factory, side of the input, how many groups may be pruned, and what the reasons of the rest say.
NETWORKS: dict[str, tuple[Any, int, int, str]] = {
    "mobilenet": (lambda: VISION["mobilenet_v3_small"].build(num_classes=5)[0], 32, 27, ""),
    "shuffle": (
        lambda: MODELS.ShuffleNetV2([2, 2, 1], [8, 16, 32, 64, 32], num_classes=5),
        32,
        10,
        "go together, so none can",
    ),
    "resnext": (resnext, 32, 13, ""),
    "dense": (lambda: MODELS.DenseNet(8, (2, 3), 12, num_classes=5), 32, 12, ""),
    "vit": (vit, 16, 8, "layer_norm"),
    "swin": (swin, 32, 4, "insists on its size"),
    "maxvit": (maxvit, 32, 7, "insists on its size"),
    "convnext": (convnext, 32, 2, "layer_norm"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_vision_network_is_pruned_exactly(name: str) -> None:
    torch.manual_seed(0)
    make, size, prunable, reason = NETWORKS[name]
    model, inputs = make().double().eval(), torch.randn(2, 3, size, size, dtype=torch.float64)
    enliven(model, inputs.shape)
    graph = trace(model, inputs)
    assert len(graph.prunable) == prunable
    reasons = [group.reason for group in graph.groups if not group.prunable]
    assert "it is an output of the network" in reasons
    assert not reason or any(reason in given for given in reasons)
    trial, generator = perturbed(model, 1), np.random.default_rng(0)
    for _ in range(2):
        error, _small = removal_error(trial, graph, random_units(graph, generator), (inputs,))
        assert error < 1e-9
