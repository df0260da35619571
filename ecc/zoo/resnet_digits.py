"""The demo's network: a residual network for 8×8 digits, small, with every coupling that pruning must respect.

Residual sums tie the channels of several layers, a strided 1×1 convolution makes the shortcut of the stage change, a
depthwise layer has one filter per channel, and a linear head reads pooled channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ecc.zoo.sizes import positive_ints

__all__ = ["DigitsResNet", "digits_resnet"]


class Residual(nn.Module):
    """Two 3×3 convolutions; a strided 1×1 convolution is the shortcut where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, out, h / stride, w / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class InvertedResidual(nn.Module):
    """1×1 to more channels, depthwise 3×3, 1×1 back (MobileNetV2), added to the input."""

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.project = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, h, w) to the same shape."""
        out = F.relu(self.bn1(self.expand(x)))
        out = F.relu(self.bn2(self.depthwise(out)))
        out = self.bn3(self.project(out))
        return F.relu(out + x)


class DigitsResNet(nn.Module):
    """Stem, a residual block at full resolution, a strided one, an inverted residual, a linear head."""

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.block1 = Residual(width, width)
        self.block2 = Residual(width, 2 * width, stride=2)
        self.block3 = InvertedResidual(2 * width)
        self.head = nn.Linear(2 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, num_classes) from images of shape (batch, in_channels, 8, 8)."""
        x = F.relu(self.bn(self.stem(x)))
        x = self.block3(self.block2(self.block1(x)))
        logits: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def digits_resnet(num_classes: int = 10, in_channels: int = 1, width: int = 64) -> DigitsResNet:
    """The demo's network for scikit-learn's digits."""
    positive_ints("digits-resnet", num_classes=num_classes, in_channels=in_channels, width=width)
    return DigitsResNet(num_classes, in_channels, width)
