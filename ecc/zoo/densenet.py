"""DenseNet-121 (Huang et al., CVPR 2017), in the key layout of torchvision."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.zoo.sizes import positive_ints

__all__ = ["DenseNet", "densenet121"]

_BOTTLENECK = 4  # channels of the 1×1 convolution, in growths


class DenseLayer(nn.Module):
    """Adds ``growth`` channels to its input: norm, ReLU, 1×1, norm, ReLU, 3×3, concatenation."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        inner = _BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, in + growth, h, w)."""
        out = self.conv1(F.relu(self.norm1(x)))
        out = self.conv2(F.relu(self.norm2(out)))
        return torch.cat([x, out], 1)


class Transition(nn.Module):
    """Half as many channels at half the resolution."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, in / 2, h / 2, w / 2)."""
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """A 7×7 stem, dense blocks with transitions between them, norm, global average pooling, one linear layer."""

    def __init__(self, blocks: tuple[int, ...], num_classes: int, in_channels: int, growth: int) -> None:
        super().__init__()
        channels = 2 * growth
        features: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(channels),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(3, stride=2, padding=1),
        )
        for i, layers in enumerate(blocks, start=1):
            dense = [(f"denselayer{j + 1}", DenseLayer(channels + j * growth, growth)) for j in range(layers)]
            features[f"denseblock{i}"] = nn.Sequential(OrderedDict(dense))
            channels += layers * growth
            if i < len(blocks):
                features[f"transition{i}"] = Transition(channels)
                channels //= 2
        features["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(features)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, num_classes) from images of shape (batch, in_channels, h ≥ 29, w ≥ 29)."""
        x = F.adaptive_avg_pool2d(F.relu(self.features(x)), 1)
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def densenet121(num_classes: int = 1000, in_channels: int = 3, growth: int = 32) -> DenseNet:
    """DenseNet-121: dense blocks of 6, 12, 24 and 16 layers, each adding ``growth`` channels."""
    positive_ints("densenet121", num_classes=num_classes, in_channels=in_channels, growth=growth)
    return DenseNet((6, 12, 24, 16), num_classes, in_channels, growth)
