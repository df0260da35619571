"""CIFAR-10 (Krizhevsky, 2009) from the official binary files, a lossless subset, or a pack of JPEG images.

The official Python files are pickles and are refused. Accuracies compare only within one pack: JPEG costs a network
that was trained on the original pixels about ten points.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecc.core.errors import InputError, UnavailableError
from ecc.core.factories import reason
from ecc.data.files import check, find, locate, pieces, read_npz
from ecc.data.images import Normalise, image_data
from ecc.data.values import Data

__all__ = ["cifar10", "cifar10_binary", "cifar10_jpeg", "cifar10_lossless"]

_FOLDER = "cifar10"
_BINARY = "cifar-10-batches-bin"
_LOSSLESS = "cifar10_lossless_subset.npz"
_JPEG = "cifar10_jpeg.npz"
_RECORD = 1 + 3 * 32 * 32  # label, then red, green and blue planes

_Part = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def cifar10(data_dir: Path, batch_size: int) -> Data:
    """The pack that is there, the best first: official binary files, lossless subset, JPEG."""
    readers: dict[str, Callable[[Path, int], Data]] = {
        f"{_BINARY}/test_batch.bin": cifar10_binary,
        _LOSSLESS: cifar10_lossless,
        _JPEG: cifar10_jpeg,
    }
    for name, reader in readers.items():
        if find(data_dir, _FOLDER, name):
            return reader(data_dir, batch_size)
    if pickled := find(data_dir, _FOLDER, "cifar-10-batches-py"):
        raise InputError(f"{pickled} holds pickles, which ecc never loads; get CIFAR-10's binary version ({_BINARY})")
    raise InputError(
        f"there is no {_BINARY}, {_LOSSLESS} or {_JPEG} in {data_dir / _FOLDER} or {data_dir}; "
        "give the folder that holds one of them as --data-dir, or as ECC_DATA"
    )


def cifar10_binary(data_dir: Path, batch_size: int) -> Data:
    """The official 50,000 + 10,000 images; 5,000 of the training images are for validation."""
    train = [_binary(locate(data_dir, _FOLDER, f"{_BINARY}/data_batch_{i}.bin")) for i in range(1, 6)]
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    test = _binary(locate(data_dir, _FOLDER, f"{_BINARY}/test_batch.bin"))
    return _data("cifar10-binary", (images, labels), test, batch_size)


def cifar10_lossless(data_dir: Path, batch_size: int) -> Data:
    """4,000 original training images, 400 of them for validation, and 249 original test images.

    Networks pretrained on CIFAR-10 have seen the 4,000, so only the test score says how good such a network is.
    """
    path = locate(data_dir, _FOLDER, _LOSSLESS)
    arrays = read_npz(path, [f"{part}_{what}" for part in ("train", "test") for what in ("image", "label")])
    parts = []
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_image"], arrays[f"{part}_label"]
        check(path, images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3), f"{part}_image is no 32×32 RGB bytes")
        parts.append((images.transpose(0, 3, 1, 2), _labels(path, labels, len(images))))
    return _data("cifar10-lossless", parts[0], parts[1], batch_size)


def cifar10_jpeg(data_dir: Path, batch_size: int) -> Data:
    """50,000 + 10,000 images that were compressed as JPEG, decoded; 5,000 of the training images are for validation.

    Raises:
        UnavailableError: If Pillow is not installed.
    """
    path = locate(data_dir, _FOLDER, _JPEG)
    arrays = read_npz(path, [f"{part}_{what}" for part in ("train", "test") for what in ("jpeg", "offset", "label")])
    train, test = (
        _decode(path, *(arrays[f"{part}_{what}"] for what in ("jpeg", "offset", "label"))) for part in ("train", "test")
    )
    return _data("cifar10-jpeg", train, test, batch_size)


def _data(name: str, train: _Part, test: _Part, batch_size: int) -> Data:
    return image_data(
        name,
        train,
        test,
        batch_size=batch_size,
        normalise=Normalise((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        held_out=0.1,
        augment=True,
    )


def _labels(path: Path, labels: NDArray[Any], count: int) -> NDArray[np.uint8]:
    whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    check(path, whole and len(labels) == count > 0, f"its labels are not {max(count, 1)} integers")
    check(path, labels.min() >= 0 and labels.max() <= 9, "a label is not in 0 to 9")
    return labels.astype(np.uint8)


def _binary(path: Path) -> _Part:
    try:
        size = path.stat().st_size
        check(path, size > 0 and size % _RECORD == 0, f"its {size} bytes are not whole records of {_RECORD}")
        records = np.fromfile(path, np.uint8).reshape(-1, _RECORD)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); get the file again") from error
    return records[:, 1:].reshape(-1, 3, 32, 32), _labels(path, records[:, 0], len(records))


def _decode(path: Path, stream: NDArray[Any], offset: NDArray[Any], label: NDArray[Any]) -> _Part:
    try:
        from PIL import Image
    except ImportError as error:
        raise UnavailableError("reading JPEG images needs Pillow; pip install 'ecc-compress[data]'") from error
    check(path, stream.dtype == np.uint8 and stream.ndim == 1, "its JPEG stream is no row of bytes")
    cuts = pieces(path, offset, len(stream))
    labels = _labels(path, label, len(cuts))
    images = np.empty((len(labels), 3, 32, 32), np.uint8)
    for i, (start, stop) in enumerate(cuts):
        try:
            with Image.open(io.BytesIO(stream[start:stop].tobytes()), formats=["JPEG"]) as image:
                check(path, image.size == (32, 32), f"image {i} is not 32×32 pixels")  # before anything is unpacked
                images[i] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        except InputError:
            raise
        except Exception as error:  # a damaged image makes Pillow raise almost anything
            raise InputError(f"{path} is damaged: image {i} is no JPEG; get the file again") from error
    return images, labels
