"""Files are written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ecc.core.errors import InputError

__all__ = ["write_file"]


def write_file(path: str | Path, content: bytes) -> Path:
    """Replace a file as a whole; returns its path.

    Raises:
        InputError: If its folder does not exist or it cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the name of a file such as {path / 'report.html'}")
    if not path.parent.exists():
        raise InputError(f"the folder {str(path.parent)!r} does not exist; make it, or write {path.name} elsewhere")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error
    return path
