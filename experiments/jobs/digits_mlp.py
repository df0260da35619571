"""LeNet-300-100 with as many inputs as scikit-learn's digits have."""

from torch import nn


def factory() -> nn.Module:
    """64 inputs, two hidden layers of 300 and 100, ten classes."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
