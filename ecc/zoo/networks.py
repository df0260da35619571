"""The zoo's register: every network by name, with its input and what its source says about its size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ecc.zoo import acoustic, lenet, mobilenet, resnet, resnet_cifar, text
from ecc.zoo.alexnet import alexnet
from ecc.zoo.densenet import densenet121
from ecc.zoo.resnet_digits import digits_resnet
from ecc.zoo.squeezenet import squeezenet
from ecc.zoo.vgg import vgg16
from ecc.zoo.vit import vit_small

__all__ = ["NETWORKS", "Network"]


@dataclass(frozen=True, slots=True)
class Network:
    """A network of the zoo.

    Attributes:
        name: As in ``zoo:NAME``.
        factory: Makes the network with fresh weights; its keyword arguments are the options.
        input_shape: One example with default options, no batch axis.
        data: Name of the data that the network is for; ``imagenet`` where ecc has no reader.
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
    data: str
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


_IMAGE = (3, 224, 224)
_VISION = "torchvision, meta data of the weights"
_HAN = "Han et al., NIPS 2015, tables 3 and 4"
_FPGM = "He et al., CVPR 2016 (parameters); He et al. (FPGM), CVPR 2019, table 2 (MACs)"
_OWN = "none: the sizes are ecc's own"


def _text(name: str, factory: Callable[..., nn.Module], shape: tuple[int, ...], data: str) -> Network:
    return Network(name, factory, shape, data, None, None, _OWN, torch.int64, vocabulary=8192, sets={})


_ALL = (
    Network("alexnet", alexnet, _IMAGE, "imagenet", 61_100_840, 0.714e9, _VISION),
    Network("densenet121", densenet121, _IMAGE, "imagenet", 7_978_856, 2.834e9, _VISION),
    Network("digits-resnet", digits_resnet, (1, 8, 8), "digits", None, None, _OWN),
    Network("gru-acoustic", acoustic.gru_acoustic, (64, 40), "fsdd", None, None, _OWN, sets={"features": (1,)}),
    Network("lenet-300-100", lenet.lenet_300_100, (1, 28, 28), "mnist", 266_610, 266e3, _HAN),
    Network("lenet5", lenet.lenet5, (1, 32, 32), "mnist-32", 61_706, None, "LeCun et al., Proc. IEEE 1998, C3 full"),
    Network("lenet5-caffe", lenet.lenet5_caffe, (1, 28, 28), "mnist", 431_080, 2293e3, _HAN),
    Network("lstm-acoustic", acoustic.lstm_acoustic, (64, 40), "fsdd", None, None, _OWN, sets={"features": (1,)}),
    Network(
        "mlp-acoustic",
        acoustic.mlp_acoustic,
        (64, 40),
        "fsdd",
        None,
        None,
        _OWN,
        sets={"frames": (0,), "features": (1,)},
    ),
    Network(
        "mobilenet-v1",
        mobilenet.mobilenet_v1,
        _IMAGE,
        "imagenet",
        4.2e6,
        569e6,
        "Howard et al., arXiv 1704.04861, table 8",
    ),
    Network("mobilenet-v2", mobilenet.mobilenet_v2, _IMAGE, "imagenet", 3_504_872, 0.301e9, _VISION),
    Network("resnet18", resnet.resnet18, _IMAGE, "imagenet", 11_689_512, 1.814e9, _VISION),
    Network("resnet20", resnet_cifar.resnet20, (3, 32, 32), "cifar10", 0.27e6, 4.06e7, _FPGM),
    Network("resnet50", resnet.resnet50, _IMAGE, "imagenet", 25_557_032, 4.089e9, _VISION),
    Network("resnet56", resnet_cifar.resnet56, (3, 32, 32), "cifar10", 0.85e6, 1.25e8, _FPGM),
    Network("squeezenet", squeezenet, _IMAGE, "imagenet", 1_248_424, 0.819e9, _VISION),
    _text("text-bow", text.text_bow, (32,), "banking77"),
    _text("text-bow-match", text.text_bow_match, (2, 32), "stsb"),
    _text("text-cnn", text.text_cnn, (32,), "banking77"),
    _text("text-cnn-match", text.text_cnn_match, (2, 32), "stsb"),
    Network("vgg16", vgg16, _IMAGE, "imagenet", 138_357_544, 15.47e9, _VISION),
    Network(
        "vit-small",
        vit_small,
        _IMAGE,
        "imagenet",
        22.05e6,
        4.6e9,
        "timm (parameters); Touvron et al., ICML 2021, table 5 (MACs)",
        sets={"in_channels": (0,), "image_size": (1, 2)},
    ),
)

NETWORKS: Mapping[str, Network] = MappingProxyType({network.name: network for network in _ALL})
"""Every network of the zoo by name."""
