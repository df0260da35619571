"""Progress: long stages are seen at once on a terminal, in logs after a moment, and never with --quiet."""

import io

import pytest
from cli_toy import run
from torch import nn

import ecc
from ecc.cli import progress
from ecc.cli.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_stage_at_once_and_the_next_takes_its_line():
    stream = Terminal()
    line = ProgressLine(stream)
    line.begin("building net")
    assert stream.getvalue() == "\rbuilding net …"
    line.begin("tracing net")
    line("profile", 1, 2)
    line.end_line()
    shown = stream.getvalue()
    assert shown.count("\n") == 2
    assert "\rbuilding net …\rtracing net … \n" in shown
    assert "\x1b" not in shown
    assert "profile" in shown


def test_a_log_has_only_stages_that_take_more_than_a_moment(monkeypatch):
    stream = io.StringIO()
    line = ProgressLine(stream)
    line.begin("building net")
    quick = line._later
    line.end_line()
    quick.join()
    assert stream.getvalue() == ""
    monkeypatch.setattr(progress, "_MOMENT_S", 0.0)
    line.begin("tracing net")
    line._later.join()
    assert stream.getvalue() == "tracing net …\n"


def test_a_stage_that_others_interrupt_keeps_its_clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    line = ProgressLine(stream)
    line("codebook", 0, 1)
    now[0] += 60
    line("codebook tuning", 0, 4)
    now[0] += 30
    line("codebook tuning", 4, 4)
    now[0] += 2
    line("codebook", 1, 1, "12 bytes")
    line("codebook", 0, 1)  # another stage of the same name
    now[0] += 3
    line("codebook", 1, 1)
    clocks = [told.split()[-3 if "bytes" in told else -1] for told in stream.getvalue().splitlines() if "100%" in told]
    assert clocks == ["0:30", "1:32", "0:03"]


def test_every_stage_of_a_chain_is_shown_to_its_end():
    told = []
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    ecc.stage(model, ["codebook", "entropy"], progress=lambda *said: told.append(said[:3]))
    assert [said for said in told if said[0] in ("codebook", "entropy")] == [
        ("codebook", 0, 1),
        ("codebook", 1, 1),
        ("entropy", 0, 1),
        ("entropy", 1, 1),
    ]


def test_quiet_shows_no_stage():
    stream = Terminal()
    line = ProgressLine(stream, quiet=True)
    line.begin("building net")
    line.end_line()
    assert stream.getvalue() == ""


@pytest.mark.parametrize("command", ["graph", "profile --store nets.db --runtime openvino --device cuda"])
def test_building_and_tracing_are_announced(tmp_path, monkeypatch, command):
    (tmp_path / "net.py").write_text(
        "from torch import nn\nmake = lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    told = []
    monkeypatch.setattr(ProgressLine, "begin", lambda self, stage: told.append(stage))
    run(f"{command} net.py:make --input 1x4")
    assert told == ["building net.py:make", "tracing make"]
