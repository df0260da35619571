"""Silencing: standard output belongs to the caller, and exporters print on it from Python and from C++."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import tempfile
from collections.abc import Iterator

__all__ = ["quiet_output"]

_LOG = logging.getLogger("ecc")
_STDOUT = 1
_MOST_LETTERS = 10_000  # of what was printed, in a log entry


@contextlib.contextmanager
def quiet_output() -> Iterator[None]:
    """Keep standard output clean while the body runs; what it printed, from whatever language, is logged at debug."""
    spoken = io.StringIO()
    try:
        with contextlib.redirect_stdout(spoken), _quiet_descriptor(spoken):
            yield
    finally:
        if text := spoken.getvalue().strip():
            _LOG.debug("an exporter printed: %s", text[:_MOST_LETTERS])


@contextlib.contextmanager
def _quiet_descriptor(spoken: io.StringIO) -> Iterator[None]:
    """What is written to the descriptor itself goes to a file meanwhile; a process without one needs nothing."""
    try:
        kept = os.dup(_STDOUT)
    except OSError:
        yield
        return
    try:
        with tempfile.TemporaryFile() as file:
            _flush()  # what was printed before belongs where it was meant to go
            os.dup2(file.fileno(), _STDOUT)
            try:
                yield
            finally:
                _flush()
                os.dup2(kept, _STDOUT)
                file.seek(0)
                spoken.write(file.read(_MOST_LETTERS).decode(errors="replace"))
    finally:
        os.close(kept)


def _flush() -> None:
    """Empty the buffers of the C library, where C++ keeps what it prints into a pipe."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no library of that name
        ctypes.CDLL(None).fflush(None)
