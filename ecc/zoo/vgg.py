"""VGG-16 (Simonyan and Zisserman, ICLR 2015, configuration D), in the key layout of torchvision."""

from __future__ import annotations

from torch import Tensor, nn

from ecc.zoo.sizes import positive_ints

__all__ = ["VGG", "vgg16"]

_STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions, channels; a max pool ends each


class VGG(nn.Module):
    """Stages of 3×3 convolutions, a 7×7 pool, three linear layers."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        features: list[nn.Module] = []
        for convolutions, channels in _STAGES:
            for _ in range(convolutions):
                features += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
                in_channels = channels
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(in_channels * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, num_classes),
        )
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):  # the default would let the signal fade over 13 layers without norms
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, num_classes) from images of shape (batch, in_channels, h ≥ 32, w ≥ 32)."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def vgg16(num_classes: int = 1000, in_channels: int = 3) -> VGG:
    """VGG-16, 138.4 M parameters."""
    positive_ints("vgg16", num_classes=num_classes, in_channels=in_channels)
    return VGG(num_classes, in_channels)
