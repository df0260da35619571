"""A sweep in processes of its own, killed as the operating system kills: nothing finished is lost, nobody works on."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from sweep_cases import run_inline, weights_of, write_job

from ecc.cli.main import main


def _wait(condition, seconds=240):
    late = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < late
        time.sleep(0.02)


def _alive(pid):
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_sweep_that_is_killed_leaves_nobody_at_work_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # no other sweep makes this one wait
    out = tmp_path / "out"
    given = ["sweep", str(write_job(tmp_path)), "--out", str(out), "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ecc", *given], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        _wait(lambda: list(out.glob("jobs/*.json")))
    finally:
        process.kill()
        process.wait()
    (record,) = out.glob("jobs/*.json")
    worker = int(json.loads(record.read_text())["worker"].removeprefix("process ").partition(",")[0])
    _wait(lambda: not _alive(worker))
    done, when = weights_of(out), record.stat().st_mtime_ns
    engine = run_inline(monkeypatch)
    assert main([*given, "--resume", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 2
    assert record.stat().st_mtime_ns == when
    assert record.stem not in engine.ran
    assert weights_of(out).items() >= done.items()
