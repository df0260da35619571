"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from ecc.core.errors import InputError

__all__ = ["demand_target", "write_file"]


def demand_target(path: str | Path) -> Path:
    """Refuse a file that could not be written, before the work that is to end in it; returns its path.

    Raises:
        InputError: If it is a folder, or its folder does not exist or does not take new files.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{str(path)!r} is a folder; give the name of a file such as {path / 'report.html'}")
        if not path.parent.exists():
            raise InputError(f"the folder {str(path.parent)!r} does not exist; make it, or write {path.name} elsewhere")
        reason = "" if path.parent.is_dir() else f"{str(path.parent)!r} is a file"
        reason = reason or ("" if os.access(path.parent, os.W_OK | os.X_OK) else os.strerror(errno.EACCES))
    except (OSError, ValueError) as error:  # a name that is too long, or that holds a zero byte
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
    if reason:
        raise InputError(f"{path} cannot be written: {reason}; choose another place")
    return path


def write_file(path: str | Path, content: bytes) -> Path:
    """Replace a file as a whole; returns its path.

    Raises:
        InputError: If its folder does not exist or it cannot be written.
    """
    path = demand_target(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error
    return path
