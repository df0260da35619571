"""Files of data sets: where they are, and reading them so that a damaged one is one plain error."""

from __future__ import annotations

import csv
import gzip
import math
import zipfile
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecc.core.errors import InputError
from ecc.core.factories import reason

__all__ = ["check", "find", "locate", "pieces", "read_csv", "read_idx", "read_npz"]

_MOST_EXAMPLES = 10_000_000  # a header that claims more is damaged; nothing is allocated for it
_MOST_BYTES = 4 << 30  # of one archive, unpacked


def find(data_dir: Path, folder: str, name: str) -> Path | None:
    """``name`` in ``data_dir/folder`` or in ``data_dir`` itself, or None."""
    return next((path for path in (data_dir / folder / name, data_dir / name) if path.exists()), None)


def locate(data_dir: Path, folder: str, *names: str) -> Path:
    """The first of these files that exists in ``data_dir/folder`` or ``data_dir``.

    Raises:
        InputError: If none does.
    """
    for name in names:
        if path := find(data_dir, folder, name):
            return path
    raise InputError(
        f"there is no {' or '.join(names)} in {data_dir / folder} or {data_dir}; "
        "give the folder that holds it as --data-dir, or as ECC_DATA"
    )


def check(path: Path, holds: bool, otherwise: str) -> None:
    """Refuse a file of which something that must hold does not.

    Raises:
        InputError: If so; ``otherwise`` completes "the file is damaged: …".
    """
    if not holds:
        raise InputError(f"{path} is damaged: {otherwise}; get the file again")


def read_idx(path: Path, example: tuple[int, ...]) -> NDArray[np.uint8]:
    """Unsigned bytes of shape (n, *example) from an IDX file, gzipped or not.

    Raises:
        InputError: If the file cannot be read, or holds anything else.
    """
    dimensions = 1 + len(example)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            header = stream.read(4 + 4 * dimensions)
            check(path, header[:4] == bytes([0, 0, 8, dimensions]), "it does not begin as IDX bytes of this kind do")
            check(path, len(header) == 4 + 4 * dimensions, "its header is cut short")
            count, *sizes = (int(size) for size in np.frombuffer(header, ">i4", offset=4))
            check(path, tuple(sizes) == example, f"an example is {tuple(sizes)} instead of {example}")
            check(path, 0 < count <= _MOST_EXAMPLES, f"it claims {count} examples")
            body = stream.read(count * math.prod(example) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); get the file again") from error
    check(path, len(body) == count * math.prod(example), f"its length does not fit the {count} examples it claims")
    return np.frombuffer(body, np.uint8).reshape(count, *example)


def read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of an ``.npz`` file, each read once, never pickled.

    Raises:
        InputError: If the file cannot be read, lacks one of them, or unpacks to more than 4 GiB.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        lacking = [name for name in names if f"{name}.npy" not in sizes]
        check(path, not lacking, f"it holds no array {', '.join(lacking)}")
        check(path, sum(sizes[f"{name}.npy"] for name in names) <= _MOST_BYTES, "it unpacks to more than 4 GiB")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except InputError:
        raise
    except Exception as error:  # a damaged archive makes zipfile and numpy raise almost anything
        raise InputError(f"{path} cannot be read ({reason(error)}); get the file again") from error


def pieces(path: Path, offset: NDArray[Any], length: int) -> list[tuple[int, int]]:
    """(start, stop) of each piece of a row of ``length`` values that ``offset`` cuts.

    Raises:
        InputError: If the offsets are not whole, rising and within the row.
    """
    whole = offset.ndim == 1 and np.issubdtype(offset.dtype, np.integer) and len(offset) > 1
    check(path, whole, "its offsets are no integers")
    cuts = offset.astype(np.int64)
    rising = cuts[0] >= 0 and cuts[-1] <= length and bool((np.diff(cuts) > 0).all())
    check(path, rising, "its offsets are out of order or beyond the end")
    return list(pairwise(cuts.tolist()))


def read_csv(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The named columns of a CSV file with a header, UTF-8, one tuple per row.

    Raises:
        InputError: If the file cannot be read, lacks a column or a field, or has no rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            check(path, not lacking, f"it has no column {', '.join(lacking)}")
            rows = [tuple(row[name] for name in columns) for row in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); get the file again") from error
    check(path, bool(rows), "it has no rows")
    short = next((i for i, row in enumerate(rows) if None in row), None)
    check(path, short is None, f"row {(short or 0) + 2} has too few fields")
    return rows
