"""How a sweep is shown while it runs: redrawn on a terminal, lines without escape codes elsewhere."""

import io
import time

import pytest

from ecc.cli.progress import ProgressLine
from ecc.cli.sweep_table import SweepTable
from ecc.sweeps.beacon import Beacon
from ecc.sweeps.ledger import Ledger, Record
from ecc.sweeps.sweeping import Running


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _shown(stream, tmp_path, *, quiet=False):
    ledger = Ledger(tmp_path)
    Beacon(ledger.work("one")).show("tune", 44, 100)
    shown = SweepTable(ledger, ProgressLine(stream, quiet=quiet), quiet=quiet, stream=stream)
    shown.begin("jobs", 24, known=2)
    shown.end("jobs", Record("two", "done", accuracy=0.97, met=False, budgets=({},), seconds=66.0))
    shown.end("jobs", Record("three", "failed", error="no luck", seconds=6.0))
    shown.beat([Running("one", "jobs", "process 812, core 1", time.monotonic() - 65, 2)])
    shown.close()
    return stream.getvalue()


_LINES = """\
24 jobs to run, 2 done before
     1/24  two  accuracy 97.0 %, budget missed  66 s
     2/24  three  failed: no luck  6 s
"""


def test_what_is_piped_is_a_line_per_job_and_has_no_escape_codes(tmp_path):
    assert _shown(io.StringIO(), tmp_path) == _LINES


def test_a_terminal_shows_what_runs_and_what_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    said = _shown(_Terminal(), tmp_path)
    for part in ("2 of 24 jobs, 1 failed, about 13:12 left", "one (attempt 2)", "process 812, core 1", "44 %", "1:05"):
        assert part in said
    assert said.startswith(_LINES)


@pytest.mark.parametrize("kind", [io.StringIO, _Terminal], ids=["pipe", "terminal"])
def test_quiet_is_quiet(tmp_path, kind):
    assert _shown(kind(), tmp_path, quiet=True) == ""
