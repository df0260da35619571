"""A small trained network with its digits, for tests of secondary stages."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from ecc.data.loading import load_data
from ecc.data.values import Data
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train

__all__ = ["INPUTS", "digits", "small", "trained"]

INPUTS = torch.zeros(1, 1, 8, 8)


def small() -> nn.Module:
    """Untrained: a convolution, a norm, two linear layers of which the last is tied to nothing."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(192, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )


@cache
def digits() -> Data:
    """The embedded data, in large batches."""
    return load_data("digits", batch_size=256)


@cache
def trained() -> nn.Module:
    """The network after three epochs; not to be changed."""
    torch.manual_seed(0)
    model = small()
    train(model, digits().task(), TrainConfig(epochs=6, lr=1e-2, distill=0.0))
    return model.eval()
