"""Progress on stderr: one line that is rewritten on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from typing import TextIO

__all__ = ["ProgressLine"]

_TERMINAL_PERIOD_S = 0.1
_LOG_PERIOD_S = 10.0
_MOMENT_S = 2.0  # stages that end sooner are not in logs


class ProgressLine:
    """Shows how far each stage is, with the time that is probably left.

    Args:
        stream: Where to write; stderr by default.
        quiet: Write nothing at all.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._period_s = _TERMINAL_PERIOD_S if self._terminal else _LOG_PERIOD_S
        self._stage = ""
        self._begun: dict[str, tuple[float, float]] = {}
        """When each stage that is not finished was first heard of, and how much of it was done then."""
        self._shown = 0.0
        self._open = False
        self._drawn = 0
        self._later: threading.Timer | None = None

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """``done`` of ``total`` units of ``stage`` are finished."""
        if self._quiet:
            return
        now = time.monotonic()
        if stage != self._stage:
            self.end_line()
            self._stage, self._shown = stage, 0.0
            self._begun.setdefault(stage, (now, done))  # it may have stopped for another one
        if now - self._shown < self._period_s and done < total:
            return
        self._shown = now
        self._write(self._line(done, total, now, note))
        if done >= total:
            self.end_line()
            self._stage = ""
            del self._begun[stage]

    def begin(self, stage: str) -> None:
        """A stage of which nobody knows how long it takes.

        On a terminal it is shown at once, in the line of the one before; elsewhere when it takes more than a moment.
        """
        if self._quiet:
            return
        self._cancel()
        self._stage = ""
        if self._terminal:
            self._write(f"{stage} …")
        else:
            self._later = threading.Timer(_MOMENT_S, self._write, [f"{stage} …"])
            self._later.daemon = True
            self._later.start()

    def say(self, text: str) -> None:
        """One line of its own, above the progress line."""
        if not self._quiet:
            self.end_line()
            self._stream.write(text + "\n")
            self._stream.flush()

    def end_line(self) -> None:
        """Leave the line that is being rewritten as it stands."""
        self._cancel()
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False
            self._drawn = 0

    def _cancel(self) -> None:
        """The stage that is over is no longer announced."""
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _line(self, done: float, total: float, now: float, note: str) -> str:
        share = min(done / total, 1.0) if total > 0 else 1.0
        started, first = self._begun[self._stage]
        spent, gained = now - started, done - first
        if done >= total:
            clock = f"{_clock(spent)}"
        else:
            clock = f"{_clock(spent * (total - done) / gained)} left" if gained > 0 else "…"
        return f"{self._stage:<28} {share:4.0%}  {clock:>10}  {note}".rstrip()

    def _write(self, line: str) -> None:
        if self._terminal:
            line = line[: shutil.get_terminal_size((119, 24)).columns - 1]  # a longer one would take two lines
            self._stream.write(f"\r{line.ljust(self._drawn)}")  # blanks over what was longer: no terminal lacks them
            self._drawn, self._open = len(line), True
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
