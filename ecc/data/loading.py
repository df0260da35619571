"""DATA of the command line → Data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from ecc.core.errors import InputError
from ecc.core.factories import suggestion
from ecc.data.cifar import cifar10, cifar10_binary, cifar10_jpeg, cifar10_lossless
from ecc.data.custom import load_custom
from ecc.data.digits import digits
from ecc.data.mnist import fashion_mnist, mnist
from ecc.data.speech import fsdd
from ecc.data.text import banking77, clinc150, stsb
from ecc.data.values import Data

__all__ = ["READERS", "load_data"]

READERS: Mapping[str, Callable[[Path, int], Data]] = MappingProxyType(
    {
        "banking77": banking77,
        "cifar10": cifar10,
        "cifar10-binary": cifar10_binary,
        "cifar10-jpeg": cifar10_jpeg,
        "cifar10-lossless": cifar10_lossless,
        "clinc150": clinc150,
        "fashion-mnist": fashion_mnist,
        "fashion-mnist-32": partial(fashion_mnist, border=2),
        "fsdd": fsdd,
        "mnist": mnist,
        "mnist-32": partial(mnist, border=2),
        "stsb": stsb,
    }
)
"""(data folder, batch size) → Data, by name; ``digits`` needs no folder and is not among them."""


def load_data(spec: str, *, data_dir: str | Path | None = None, batch_size: int = 128, seed: int = 0) -> Data:
    """Read the data that DATA names.

    The parts of the readers' data are the same whatever the seed, so that a network is never tested on what it was
    trained on in an earlier run; the order of training batches comes from torch's global generator.

    Args:
        spec: ``digits``, a key of READERS, or the user's ``package.module:factory`` or ``file.py:factory``.
        data_dir: Folder of the data sets, or of this one; the environment variable ECC_DATA when None.
        batch_size: Examples per batch.
        seed: Handed to the user's factory, if it names it.

    Raises:
        InputError: If there is no such data, its folder or a file is missing or damaged, or the factory fails.
        UnavailableError: If a library that the reader needs is not installed.
    """
    if batch_size < 1:
        raise InputError(f"batch size must be at least 1, got {batch_size}")
    if spec == "digits":
        return digits(batch_size)
    given = data_dir if data_dir is not None else os.environ.get("ECC_DATA") or None
    folder = None if given is None else Path(given).expanduser()
    if ":" in spec:
        return load_custom(spec, data_dir=folder, batch_size=batch_size, seed=seed)
    if spec not in READERS:
        raise InputError(f"there is no data {spec!r}{suggestion(spec, ['digits', *READERS])}")
    if folder is None:
        raise InputError(f"data {spec!r} is read from a folder; give it as --data-dir DIR, or as ECC_DATA")
    if not folder.is_dir():
        raise InputError(f"the data folder {folder} does not exist; give the folder of {spec} as --data-dir DIR")
    return READERS[spec](folder, batch_size)
