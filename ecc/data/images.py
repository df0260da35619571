"""Images as bytes in memory: what is done to a batch on its way to the network, and the Data made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ecc.data.splits import hold_out
from ecc.data.values import Data, TensorBatches, accuracy

__all__ = ["CropAndFlip", "Normalise", "image_data"]


@dataclass(frozen=True, slots=True)
class Normalise:
    """Bytes (batch, channels, h, w) to zero mean and unit variance, after a black border.

    Attributes:
        mean: Of each channel, in [0, 1].
        std: Of each channel.
        border: Black pixels added on every side.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    border: int = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Float32 images of shape (batch, channels, h + 2 border, w + 2 border)."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (F.pad(images, [self.border] * 4).to(torch.float32) / 255 - mean) / std


@dataclass(frozen=True, slots=True)
class CropAndFlip:
    """Random shifts by up to ``margin`` pixels and mirror images, the usual augmentation of CIFAR; then ``after``.

    Draws from torch's global generator.
    """

    after: Normalise
    margin: int = 4

    def __call__(self, images: Tensor) -> Tensor:
        """Augmented, normalised images of the same shape."""
        count, channels, height, width = images.shape
        down, right = torch.randint(2 * self.margin + 1, (2, count, 1))
        columns = torch.arange(width).expand(count, width)
        columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns) + right
        rows = torch.arange(height) + down
        example, channel = torch.arange(count).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1)
        padded = F.pad(images, [self.margin] * 4)
        return self.after(padded[example, channel, rows[:, None, :, None], columns[:, None, None, :]])


def image_data(
    name: str,
    train: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    test: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    *,
    batch_size: int,
    normalise: Normalise,
    held_out: float,
    augment: bool = False,
) -> Data:
    """Data of ten classes from (images (n, channels, h, w), labels (n,)); validation is held out from ``train``."""
    kept, held = hold_out(train[1], held_out)
    images, labels = torch.from_numpy(np.array(train[0])), torch.from_numpy(train[1].astype(np.int64))
    test_images, test_labels = torch.from_numpy(np.array(test[0])), torch.from_numpy(test[1].astype(np.int64))
    _, channels, height, width = images.shape
    return Data(
        name,
        "classification",
        10,
        (channels, height + 2 * normalise.border, width + 2 * normalise.border),
        train=TensorBatches(
            *(images[kept], labels[kept], batch_size, True), CropAndFlip(normalise) if augment else normalise
        ),
        validation=TensorBatches(images[held], labels[held], batch_size, transform=normalise),
        test=TensorBatches(test_images, test_labels, batch_size, transform=normalise),
        loss=F.cross_entropy,
        score=accuracy,
    )
