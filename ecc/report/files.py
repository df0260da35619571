"""Files are written whole or not at all, and never over something else."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ecc.core.errors import InputError

__all__ = [
    "COST",
    "CSV",
    "DRAWING",
    "PAGE",
    "PARQUET",
    "PICTURE",
    "POINTS",
    "STORE",
    "FileKind",
    "demand_target",
    "write_file",
]

_HEAD_BYTES = 1 << 16  # the first line of a CSV file names every group
_SIDE_FILES = ("-wal", "-shm", "-journal")  # of an SQLite database: rows may lie there alone


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file holds, so that only its like is replaced by it.

    Attributes:
        words: What to call it, with its article.
        example: A name for one.
        starts: Whether a file that starts so is one.
    """

    words: str
    example: str
    starts: Callable[[bytes], bool]


PAGE = FileKind("a page", "report.html", lambda head: _text(head).lower().startswith(("<!doctype html", "<html")))
COST = FileKind(
    "a cost model", "cost.json", lambda head: _text(head).startswith("{") and '"ecc cost model"' in _text(head)[:1000]
)
CSV = FileKind("exported rows", "rows.csv", lambda head: "_ratio," in _text(head).partition("\n")[0])
PARQUET = FileKind("a Parquet file", "rows.parquet", lambda head: head.startswith(b"PAR1"))
PICTURE = FileKind("a PNG picture", "front.png", lambda head: head.startswith(b"\x89PNG"))
DRAWING = FileKind("an SVG picture", "front.svg", lambda head: _text(head).startswith(("<svg", "<?xml")))
POINTS = FileKind("the points of a front", "front.csv", lambda head: _text(head).startswith("method,x,accuracy,seed,"))
STORE = FileKind("a profile store", "profile.db", lambda head: head.startswith(b"SQLite format 3\0"))


def demand_target(path: str | Path, kind: FileKind | None = None) -> Path:
    """Refuse a file that could not be written, or is something else, before the work that ends in it; returns its path.

    Args:
        kind: What will be written; an existing file that is neither empty nor of that kind is then refused.

    Raises:
        InputError: If it is a folder or no plain file, belongs to a database, would be lost, or its folder does not
            exist or does not take new files.
    """
    path = Path(path)
    try:
        if path.is_dir():
            example = (PAGE if kind is None else kind).example
            raise InputError(f"{str(path)!r} is a folder; give the name of a file such as {path / example}")
        if path.exists() and not path.is_file():
            example = (PAGE if kind is None else kind).example
            raise InputError(f"{path} is no plain file; give the name of a file such as {example}")
        if not path.parent.exists():
            raise InputError(f"the folder {str(path.parent)!r} does not exist; make it, or write {path.name} elsewhere")
        if not path.parent.is_dir():
            raise NotADirectoryError(0, f"{str(path.parent)!r} is a file")
        if kind is not None:
            _refuse_other(path, kind)
        _try(path)
    except (OSError, ValueError) as error:  # a name that is too long, or that holds a zero byte
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path} cannot be written: {reason}; choose another place") from error
    return path


def _refuse_other(path: Path, kind: FileKind) -> None:
    """Refuse to replace what is not of the kind, which may be what the work starts from."""
    for end in _SIDE_FILES:
        if path.name.endswith(end) and path.with_name(path.name.removesuffix(end)).exists():
            raise InputError(f"{path} belongs to the database {path.name.removesuffix(end)}; choose another name")
    if not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head and not kind.starts(head):
        raise InputError(f"{path} exists and is not {kind.words}, so it is not overwritten; choose another name")


def _try(path: Path) -> None:
    """Make the file beside it that ``write_file`` makes: permissions alone do not tell whether a folder takes one."""
    partial = _partial(path)
    try:
        partial.touch()
    finally:
        with suppress(OSError):
            partial.unlink()


def write_file(path: str | Path, content: bytes) -> Path:
    """Replace a file as a whole; returns its path.

    Raises:
        InputError: If its folder does not exist or it cannot be written.
    """
    path = demand_target(path)
    partial = _partial(path)
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error
    return path


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _text(head: bytes) -> str:
    """The beginning of a text, without what may stand before it."""
    return head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
