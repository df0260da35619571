"""ResNet for ImageNet (He et al., CVPR 2016), in the key layout of torchvision.

ResNet-50 strides in the 3×3 convolution of a bottleneck (form 1.5), as torchvision's does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.zoo.sizes import positive_ints

__all__ = ["ResNet", "resnet18", "resnet50"]


class Residual(nn.Module, ABC):
    """A residual block: subclasses say what is between input and sum."""

    expansion: ClassVar[int]

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """What the block adds to its shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, channels × expansion, h / stride, w / stride)."""
        return F.relu(self.branch(x) + self.downsample(x))


class BasicBlock(Residual):
    """Two 3×3 convolutions."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def branch(self, x: Tensor) -> Tensor:
        """Convolution, norm, ReLU, convolution, norm."""
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return out


class Bottleneck(Residual):
    """1×1 to fewer channels, 3×3, 1×1 to four times as many."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)

    def branch(self, x: Tensor) -> Tensor:
        """Three convolutions, each with its norm, ReLU between them."""
        x = F.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x)))))
        return out


class ResNet(nn.Module):
    """A 7×7 stem, four stages of residual blocks, global average pooling, one linear layer."""

    def __init__(
        self, block: type[Residual], blocks: tuple[int, int, int, int], num_classes: int, in_channels: int, width: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        wide = block.expansion
        self.layer1 = self._stage(block, width, width, blocks[0], stride=1)
        self.layer2 = self._stage(block, width * wide, 2 * width, blocks[1], stride=2)
        self.layer3 = self._stage(block, 2 * width * wide, 4 * width, blocks[2], stride=2)
        self.layer4 = self._stage(block, 4 * width * wide, 8 * width, blocks[3], stride=2)
        self.fc = nn.Linear(8 * width * wide, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(block: type[Residual], in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = block(in_channels, channels, stride)
        return nn.Sequential(first, *(block(channels * block.expansion, channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, num_classes) from images of shape (batch, in_channels, h, w)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def resnet18(num_classes: int = 1000, in_channels: int = 3, width: int = 64) -> ResNet:
    """ResNet-18: 2, 2, 2, 2 basic blocks."""
    positive_ints("resnet18", num_classes=num_classes, in_channels=in_channels, width=width)
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, width)


def resnet50(num_classes: int = 1000, in_channels: int = 3, width: int = 64) -> ResNet:
    """ResNet-50: 3, 4, 6, 3 bottlenecks."""
    positive_ints("resnet50", num_classes=num_classes, in_channels=in_channels, width=width)
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, width)
