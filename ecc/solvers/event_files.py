"""EventFiles: the history of training for TensorBoard, while it grows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ecc.core.errors import StorageError, UnavailableError
from ecc.core.problem import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["EventFiles"]

_NOT_PLOTTED = ("phase", "epoch")


class EventFiles:
    """A ``Progress`` that writes every figure of every epoch to TensorBoard's event files.

    Tags are ``PHASE/COLUMN`` (``admm/score``, ``tune/loss``), steps are epochs. A resumed run writes another file
    into the same folder, which TensorBoard shows as one run.

    Args:
        folder: Where the files are made; TensorBoard is started with its name.
        progress: Told what this is told.

    Raises:
        UnavailableError: If tensorboard is not installed.
        StorageError: If the folder cannot be written.
    """

    def __init__(self, folder: str | Path, progress: Progress | None = None) -> None:
        self._progress = progress
        self._writer = _writer(folder)

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Passed on."""
        if self._progress is not None:
            self._progress(stage, done, total, note)

    def after_epoch(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of one row of the history."""
        for name, value in row.items():
            if name not in _NOT_PLOTTED and isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(f"{row['phase']}/{name}", value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _writer(folder: str | Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UnavailableError(
            "event files need tensorboard, which is not installed; pip install 'ecc-compress[tensorboard]'"
        ) from error
    try:
        return SummaryWriter(str(folder))
    except OSError as error:
        raise StorageError(
            f"event files cannot be written to {folder} ({error.strerror or error}); give a folder that is writable"
        ) from error
