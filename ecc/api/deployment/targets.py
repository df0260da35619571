"""Targets: files of an export appear whole or not at all, and over nothing but their like."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ecc.artefact.manifest import KIND
from ecc.artefact.reading import MANIFEST
from ecc.core.errors import InputError
from ecc.core.files import flush

__all__ = ["DATA", "demand_place", "publish", "staged", "writing"]

DATA = ".data"
"""What the file of an ONNX model's weights is called behind the model's name."""

_HEAD_BYTES = 1 << 12


def demand_place(path: str | Path, kind: str, alike: Callable[[bytes], bool]) -> Path:
    """Refuse a file that could not be written, or would be lost, before any work; returns its absolute path.

    Args:
        kind: What is written, with its article.
        alike: Whether a file that begins so is one; no other is replaced.

    Raises:
        InputError: If it is no plain file, of another kind, or in a folder that is missing, read-only or an artefact.
    """
    target = Path(os.path.abspath(Path(path).expanduser()))
    with writing(target):
        if "\0" in str(path) or target.is_dir() or (target.exists() and not target.is_file()):
            raise InputError(f"{str(path)!r} is no plain file; give the name of a file")
        if not target.parent.is_dir():
            raise InputError(f"the folder {str(target.parent)!r} does not exist; make it, or choose another")
        if (manifest := target.parent / MANIFEST).is_file() and f'"{KIND}"'.encode() in _head(manifest):
            raise InputError(f"{str(target.parent)!r} is an artefact, whose files are its own; choose another folder")
        if target.exists() and (head := _head(target)) and not alike(head):
            raise InputError(f"{str(path)!r} exists and is not {kind}, so it is not overwritten; choose another name")
        with staged(target):  # permissions alone do not tell whether a folder takes one
            pass
    return target


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """An empty folder beside the target; whatever is left of it in the end is removed."""
    folder = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    with writing(target):
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, target: Path) -> tuple[Path, ...]:
    """Move the files of a staged folder beside the target, itself last, once they are on the disk; returns where to.

    Raises:
        InputError: If they cannot be moved, or a file that is not of an earlier export would be lost.
    """
    files = sorted(folder.iterdir(), key=lambda file: file.name == target.name)
    for file in files:
        if file.name == f"{target.name}{DATA}" and (target.parent / file.name).exists() and not target.exists():
            raise InputError(
                f"{file.name} beside {target} is of no export, so it is not overwritten; choose another name"
            )
    with writing(target):
        for file in files:
            flush(file)
        moved = tuple(file.replace(target.parent / file.name) for file in files)
        with suppress(OSError):  # not every file system lets a folder be flushed
            flush(target.parent)
    return moved[::-1]


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Translate what the file system says."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}; choose another place") from error
