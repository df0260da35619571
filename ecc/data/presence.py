"""Which files a reader needs, so that it can be told without reading them whether a data folder holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ecc.data.files import find

__all__ = ["FILES", "Files", "missing_files"]


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one data set.

    Attributes:
        folder: Where they are within the data folder, unless they are in it.
        parts: Of each part, the files that may hold it; one of them is enough.
    """

    folder: str
    parts: tuple[tuple[str, ...], ...]

    def missing(self, data_dir: Path) -> tuple[str, ...]:
        """What is not there, a text for each part."""
        lacking = [names for names in self.parts if not any(find(data_dir, self.folder, name) for name in names)]
        return tuple(" or ".join(names) for names in lacking)


def _idx(folder: str) -> Files:
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return Files(folder, tuple((f"{name}.gz", name) for name in names))


_BINARY = tuple(
    f"cifar-10-batches-bin/{name}.bin" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
)
_LOSSLESS, _JPEG = "cifar10_lossless_subset.npz", "cifar10_jpeg.npz"

FILES: Mapping[str, Files] = MappingProxyType(
    {
        "banking77": Files("text", (("banking77_train.csv",), ("banking77_test.csv",))),
        "cifar10": Files("cifar10", ((_BINARY[-1], _LOSSLESS, _JPEG),)),
        "cifar10-binary": Files("cifar10", tuple((name,) for name in _BINARY)),
        "cifar10-jpeg": Files("cifar10", ((_JPEG,),)),
        "cifar10-lossless": Files("cifar10", ((_LOSSLESS,),)),
        "clinc150": Files("text", (("clinc150.csv",),)),
        "fashion-mnist": _idx("fashion-mnist"),
        "fashion-mnist-32": _idx("fashion-mnist"),
        "fsdd": Files("fsdd", (("fsdd.npz",),)),
        "mnist": _idx("mnist"),
        "mnist-32": _idx("mnist"),
        "stsb": Files("text", tuple((f"stsb_en_{part}.csv",) for part in ("train", "dev", "test"))),
    }
)
"""By reader; a test holds them against what the readers themselves open."""


def missing_files(data_dir: Path, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By reader, what is not in the folder; nothing where all is there."""
    return {name: FILES[name].missing(data_dir) for name in names}
