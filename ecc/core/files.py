"""Files that are whole whenever somebody reads them."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

__all__ = ["flush", "write_whole"]


def write_whole(path: Path, content: bytes) -> None:
    """Make or replace a file; whoever reads it, whenever, finds the old one or the new one.

    Raises:
        OSError: If it cannot be written; what was there is still there.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def flush(path: Path) -> None:
    """Make sure that a file or folder is on the disk and not in a cache.

    Raises:
        OSError: If it cannot be read, or a file system does not do so for folders.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
