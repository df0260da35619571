"""MobileNets: V1 (Howard et al., arXiv 1704.04861) and V2 (Sandler et al., CVPR 2018, key layout of torchvision).

V1 has no layout that all share; here convolutions have no bias, a batch norm follows each, activations are ReLU, and
keys are ``features.0`` (stem), ``features.{1…13}.{depthwise,bn1,pointwise,bn2}`` and ``classifier``.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ecc.zoo.sizes import positive_ints, positive_number

__all__ = ["MobileNetV1", "MobileNetV2", "mobilenet_v1", "mobilenet_v2"]

_V1 = (  # output channels, stride of each separable block
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
_V2 = (  # expansion, output channels, blocks, stride of the first
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


class Separable(nn.Module):
    """A depthwise 3×3 convolution, then a 1×1, each with norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, out, h / stride, w / stride)."""
        x = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(x)))


class InvertedResidual(nn.Module):
    """1×1 to more channels, depthwise 3×3, 1×1 to few without activation; added to the input where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        expand = [_convolution(in_channels, inner, 1, 1, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            _convolution(inner, inner, 3, stride, inner),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, h, w) to (batch, out, h / stride, w / stride)."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


def _convolution(in_channels: int, out_channels: int, size: int, stride: int, groups: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True))


def _scaled(channels: int, width: float) -> int:
    """Channels times ``width``, to the nearest multiple of 8 that loses at most a tenth (as TensorFlow's models do)."""
    scaled = max(8, int(channels * width + 4) // 8 * 8)
    return scaled if scaled >= 0.9 * channels * width else scaled + 8


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # fan-in: fan-out would shrink depthwise weights to nothing
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


class MobileNetV1(nn.Module):
    """A stem, thirteen separable blocks, global average pooling, one linear layer."""

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        channels = _scaled(32, width)
        stem = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        blocks: list[nn.Module] = [nn.Sequential(stem, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))]
        for out_channels, stride in _V1:
            blocks.append(Separable(channels, _scaled(out_channels, width), stride))
            channels = _scaled(out_channels, width)
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, num_classes) from images of shape (batch, in_channels, h, w)."""
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits


class MobileNetV2(nn.Module):
    """A stem, seventeen inverted residuals, a 1×1 convolution, global average pooling, one linear layer."""

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        channels = _scaled(32, width)
        blocks: list[nn.Module] = [_convolution(in_channels, channels, 3, 2, 1)]
        for expansion, out_channels, count, stride in _V2:
            for i in range(count):
                blocks.append(InvertedResidual(channels, _scaled(out_channels, width), 1 if i else stride, expansion))
                channels = _scaled(out_channels, width)
        last = _scaled(1280, max(1.0, width))
        self.features = nn.Sequential(*blocks, _convolution(channels, last, 1, 1, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, num_classes) from images of shape (batch, in_channels, h, w)."""
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits


def mobilenet_v1(num_classes: int = 1000, in_channels: int = 3, width: float = 1.0) -> MobileNetV1:
    """MobileNet-V1; ``width`` is the paper's multiplier α."""
    positive_ints("mobilenet-v1", num_classes=num_classes, in_channels=in_channels)
    positive_number("mobilenet-v1", width=width)
    return MobileNetV1(num_classes, in_channels, width)


def mobilenet_v2(num_classes: int = 1000, in_channels: int = 3, width: float = 1.0) -> MobileNetV2:
    """MobileNet-V2; ``width`` is the paper's multiplier."""
    positive_ints("mobilenet-v2", num_classes=num_classes, in_channels=in_channels)
    positive_number("mobilenet-v2", width=width)
    return MobileNetV2(num_classes, in_channels, width)
