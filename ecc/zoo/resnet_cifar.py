"""ResNet for 32×32 images (He et al., CVPR 2016, section 4.2), with the paper's parameter-free shortcut (option A)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.zoo.sizes import positive_ints

__all__ = ["CifarResNet", "PadShortcut", "resnet20", "resnet56"]


class PadShortcut(nn.Module):
    """Option A: every ``stride``-th pixel, then zero channels before and after.

    Attributes:
        before: Zero channels put in front.
        after: Zero channels put behind.
    """

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, c, h, w) to (batch, before + c + after, ⌈h / stride⌉, ⌈w / stride⌉)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        extra = out_channels - in_channels
        changes = stride > 1 or extra > 0
        self.shortcut = PadShortcut(stride, extra // 2, extra - extra // 2) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, out, h / stride, w / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages of basic blocks at 16, 32 and 64 channels (times ``width`` / 16).

    Attributes:
        conv1, bn1, layer1, layer2, layer3, linear: In the common key layout of published CIFAR weights.
    """

    def __init__(self, blocks: int, *, num_classes: int = 10, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, blocks, stride=1)
        self.layer2 = self._stage(width, 2 * width, blocks, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, stride=2)
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, num_classes) from images of shape (batch, in_channels, h, w)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _build(depth: int, num_classes: int, in_channels: int, width: int) -> CifarResNet:
    name = f"resnet{depth}"
    positive_ints(name, num_classes=num_classes, in_channels=in_channels, width=width)
    if width % 2:
        raise InputError(f"{name}: option width must be even, so that shortcuts pad both sides equally, got {width}")
    return CifarResNet((depth - 2) // 6, num_classes=num_classes, in_channels=in_channels, width=width)


def resnet20(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """ResNet-20 for CIFAR: 3 blocks per stage, 0.27 M parameters."""
    return _build(20, num_classes, in_channels, width)


def resnet56(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """ResNet-56 for CIFAR: 9 blocks per stage, 0.85 M parameters."""
    return _build(56, num_classes, in_channels, width)
