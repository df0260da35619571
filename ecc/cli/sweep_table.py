"""How a sweep is going: a live table of what runs on a terminal, a line per finished job elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from ecc.cli.progress import ProgressLine
from ecc.cli.tables import Tone, table, toned
from ecc.cli.text import percent
from ecc.sweeps.beacon import Stage
from ecc.sweeps.ledger import Ledger, Record
from ecc.sweeps.sweeping import Running

if TYPE_CHECKING:
    from rich.live import Live

__all__ = ["SweepTable", "sweep_text", "verdict"]

_REDRAW_S = 0.4
_WORDS = {"jobs": "job", "dense": "dense network"}


class SweepTable:
    """Shows a sweep while it runs.

    Args:
        ledger: Where jobs tell how far they are.
        progress: For lines; it is quiet where the user wants that.
        quiet: Show nothing.
        stream: Where to show it; stderr by default.
    """

    def __init__(
        self,
        ledger: Ledger,
        progress: ProgressLine,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._ledger, self._progress = ledger, progress
        stream = stream or sys.stderr
        self._stream = stream
        self._drawn = not quiet and stream.isatty() and environment.get("TERM") != "dumb"
        self._live: Live | None = None
        self._units = self._known = self._done = self._failed = 0
        self._part, self._shown = "jobs", 0.0
        self._seconds: list[float] = []
        self._most = 1

    def begin(self, part: str, units: int, *, known: int) -> None:
        """So many units are to be run; so many were known before."""
        self._part, self._units, self._known, self._done, self._failed = part, units, known, 0, 0
        self._seconds.clear()
        if units or (known and part == "jobs"):
            self._say(f"{units} {_plural(_WORDS[part], units)} to run{f', {known} done before' if known else ''}")

    def beat(self, running: Sequence[Running]) -> None:
        """Redraw what runs, on a terminal."""
        self._most = max(self._most, len(running))
        now = time.monotonic()
        if self._drawn and now - self._shown >= _REDRAW_S:
            self._shown = now
            self._draw(running, now)

    def end(self, part: str, record: Record) -> None:
        """A line for what has ended."""
        self._done += record.done
        self._failed += not record.done
        self._seconds.append(record.seconds)
        count = f"{self._done + self._failed}/{self._units}"
        self._say(f"{count:>9}  {record.id}  {verdict(record)}  {record.seconds:.0f} s")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            self._progress.say(text)

    def _draw(self, running: Sequence[Running], now: float) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table
        from rich.text import Text

        if self._live is None:
            console = Console(file=self._stream, legacy_windows=False)
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()
        drawn = Table(box=None, pad_edge=False, header_style="dim")
        for name in (self._headline(), "worker", "doing", "", "time"):
            drawn.add_column(Text(name), no_wrap=True, overflow="ellipsis")
        for each in running:
            stage = Stage.read(self._ledger.work(each.id, each.part))
            again = f" (attempt {each.attempt})" if each.attempt > 1 else ""
            drawn.add_row(
                Text(f"{each.id}{again}"),
                Text(each.worker, style="dim"),
                Text(stage.name if stage else "…"),
                Text(f"{100 * stage.share:3.0f} %" if stage else ""),
                Text(_clock(now - each.since)),
            )
        self._live.update(drawn, refresh=True)

    def _headline(self) -> str:
        """``7 of 24 jobs, 1 failed, about 3:20 left``"""
        over = self._done + self._failed
        parts = [f"{over} of {self._units} {_plural(_WORDS[self._part], self._units)}"]
        parts += [f"{self._failed} failed"] if self._failed else []
        if self._seconds and over < self._units:
            each = sum(self._seconds) / len(self._seconds)
            parts.append(f"about {_clock(each * (self._units - over) / self._most)} left")
        return ", ".join(parts)


def verdict(record: Record) -> str:
    """What became of a job, in few words."""
    if not record.done:
        return f"failed: {record.error}"
    score = "" if record.accuracy is None else f"accuracy {percent(record.accuracy)}"
    if not record.budgets:
        return score
    words = {True: "budgets met", False: "budget missed", None: "not measured"}[record.met]
    return f"{score}, {words}" if score else words


def sweep_text(value: Mapping[str, Any]) -> str:
    """What ``Ledger.told`` says, for people."""
    rows = []
    for job in value["plan"]:
        record = None if job["record"] is None else Record.of_fields(job["record"])
        words = "to do" if record is None else verdict(record)
        name = " on ".join(filter(None, (job["network"], job["device"])))
        tone: Tone = "faint" if record is None else "good" if record.done and record.met is not False else "bad"
        rows.append([name, job["method"], " ".join(job["budgets"]), str(job["seed"]), toned(words, tone)])
    left = value["jobs"] - value["done"] - value["failed"]
    counts = f"{value['done']} of {value['jobs']} jobs done, {value['failed']} failed, {left} to do"
    return f"{table(['network', 'method', 'budgets', 'seed', 'state'], rows)}\n\n{counts}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
