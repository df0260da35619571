"""MNIST (LeCun et al.) and Fashion-MNIST (Xiao et al., 2017) from their IDX files, 28×28, or 32×32 with a border."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecc.data.files import check, locate, read_idx
from ecc.data.images import Normalise, image_data
from ecc.data.values import Data

__all__ = ["fashion_mnist", "mnist"]

_HELD_OUT = 1 / 12  # 5,000 of the 60,000 training images


def _part(data_dir: Path, folder: str, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images_name, labels_name = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    images_path = locate(data_dir, folder, f"{images_name}.gz", images_name)
    labels_path = locate(data_dir, folder, f"{labels_name}.gz", labels_name)
    images, labels = read_idx(images_path, (28, 28)), read_idx(labels_path, ())
    check(labels_path, len(labels) == len(images), f"{len(labels)} labels for {len(images)} images")
    check(labels_path, labels.max() <= 9, f"label {labels.max()} is not in 0 to 9")
    return images[:, np.newaxis], labels


def _read(name: str, mean: float, std: float, data_dir: Path, batch_size: int, *, border: int = 0) -> Data:
    """Test is the official one; validation is a twelfth of the official training images."""
    return image_data(
        f"{name}-32" if border else name,
        _part(data_dir, name, "train"),
        _part(data_dir, name, "t10k"),
        batch_size=batch_size,
        normalise=Normalise((mean,), (std,), border),
        held_out=_HELD_OUT,
    )


mnist = partial(_read, "mnist", 0.1307, 0.3081)
fashion_mnist = partial(_read, "fashion-mnist", 0.2860, 0.3530)
