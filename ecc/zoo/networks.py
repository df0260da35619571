"""The zoo's register: every network by name, with its input and what its source says about its size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ecc.zoo import resnet, resnet_cifar, resnet_digits

__all__ = ["NETWORKS", "Network"]


@dataclass(frozen=True, slots=True)
class Network:
    """A network of the zoo.

    Attributes:
        name: As in ``zoo:NAME``.
        factory: Makes the network with fresh weights; its keyword arguments are the options.
        input_shape: One example with default options, no batch axis.
        task: Name of the data that the network is for; ``imagenet`` where ecc has no reader.
        params: Parameters as published, at the precision of ``source``; None where nothing is published.
        macs: Multiply-accumulates of one example as published, at the precision of ``source``, or None.
        source: Where the two figures are from.
        input_dtype: float32, or int64 for token ids.
        vocabulary: Token ids are below this; 0 for other inputs.
        sets: Which axes of ``input_shape`` an option sets.
    """

    name: str
    factory: Callable[..., nn.Module]
    input_shape: tuple[int, ...]
    task: str
    params: float | None
    macs: float | None
    source: str
    input_dtype: torch.dtype = torch.float32
    vocabulary: int = 0
    sets: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"in_channels": (0,)})

    def shape(self, options: Mapping[str, Any]) -> tuple[int, ...]:
        """The input shape of one example with these options."""
        sizes = list(self.input_shape)
        for option, axes in self.sets.items():
            for axis in axes:
                sizes[axis] = options.get(option, sizes[axis])
        return tuple(sizes)


_RESNET = "He et al., CVPR 2016"
_TORCHVISION = "torchvision's table of weights"

_ALL = (
    Network("resnet18", resnet.resnet18, (3, 224, 224), "imagenet", 11_689_512, 1.81e9, _TORCHVISION),
    Network("resnet50", resnet.resnet50, (3, 224, 224), "imagenet", 25_557_032, 4.09e9, _TORCHVISION),
    Network("resnet20", resnet_cifar.resnet20, (3, 32, 32), "cifar10", 0.27e6, None, _RESNET),
    Network("resnet56", resnet_cifar.resnet56, (3, 32, 32), "cifar10", 0.85e6, None, _RESNET),
    Network("digits-resnet", resnet_digits.digits_resnet, (1, 8, 8), "digits", None, None, "the demo's own"),
)

NETWORKS: Mapping[str, Network] = MappingProxyType(
    {network.name: network for network in sorted(_ALL, key=lambda n: n.name)}
)
"""Every network of the zoo by name."""
