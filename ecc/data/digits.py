"""scikit-learn's handwritten digits (UCI optical recognition, 1,797 images of 8×8): embedded, no folder needed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch.nn import functional as F

from ecc.data.splits import hold_out
from ecc.data.values import Data, TensorBatches, accuracy

__all__ = ["digits"]


def digits(batch_size: int) -> Data:
    """Images (1, 8, 8) with zero mean and unit variance over the training part; 70 / 15 / 15 %, stratified."""
    bunch = load_digits()
    images, labels = bunch.images.astype(np.float32), bunch.target.astype(np.int64)
    train, rest = hold_out(labels, 0.3)
    second, first = hold_out(labels[rest], 0.5)
    mean, std = images[train].mean(), images[train].std()
    inputs, targets = torch.from_numpy((images - mean) / std).unsqueeze(1), torch.from_numpy(labels)

    def batches(index: NDArray[np.int64], shuffle: bool = False) -> TensorBatches:
        return TensorBatches(inputs[index], targets[index], batch_size, shuffle)

    return Data(
        "digits",
        "classification",
        10,
        (1, 8, 8),
        train=batches(train, shuffle=True),
        validation=batches(rest[first]),
        test=batches(rest[second]),
        loss=F.cross_entropy,
        score=accuracy,
    )
