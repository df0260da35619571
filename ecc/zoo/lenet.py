"""LeNets: the two networks on which most compression papers report.

LeNet-300-100 and the convolutional LeNet-5 (LeCun et al., Proc. IEEE 1998), the latter also in the wider form of
Caffe's tutorial, which Han et al. (NIPS 2015) and their followers compress under the same name.
"""

from __future__ import annotations

from torch import Tensor, nn

from ecc.zoo.sizes import positive_ints

__all__ = ["LeNet", "lenet5", "lenet5_caffe", "lenet_300_100"]


class LeNet(nn.Module):
    """Features, flattened, then a classifier.

    Attributes:
        features: Convolutions and pools.
        classifier: Linear layers.
    """

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, num_classes) from images of shape (batch, in_channels, h, w)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def lenet_300_100(num_classes: int = 10, in_channels: int = 1) -> LeNet:
    """Two hidden layers of 300 and 100 units on 28×28 pixels."""
    positive_ints("lenet-300-100", num_classes=num_classes, in_channels=in_channels)
    classifier = nn.Sequential(
        nn.Linear(28 * 28 * in_channels, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, num_classes)
    )
    return LeNet(nn.Sequential(), classifier)


def lenet5(num_classes: int = 10, in_channels: int = 1) -> LeNet:
    """The classic 6-16-120-84 on 32×32 pixels, tanh and average pools; C3 reads all of S2, pools have no weights."""
    positive_ints("lenet5", num_classes=num_classes, in_channels=in_channels)
    features = nn.Sequential(
        nn.Conv2d(in_channels, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)
    )
    classifier = nn.Sequential(
        nn.Linear(16 * 5 * 5, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, num_classes)
    )
    return LeNet(features, classifier)


def lenet5_caffe(num_classes: int = 10, in_channels: int = 1) -> LeNet:
    """Caffe's 20-50-500 on 28×28 pixels: no activation after the convolutions, max pools."""
    positive_ints("lenet5-caffe", num_classes=num_classes, in_channels=in_channels)
    features = nn.Sequential(nn.Conv2d(in_channels, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2))
    classifier = nn.Sequential(nn.Linear(50 * 4 * 4, 500), nn.ReLU(), nn.Linear(500, num_classes))
    return LeNet(features, classifier)
