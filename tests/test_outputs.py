"""What commands write replaces its like alone: no input, no database's side file, nothing of another kind."""

import os
from pathlib import Path

import pytest
from cli_toy import NETWORK, run
from oracles import simulated_profile
from test_fitting import write_store

from ecc.core.errors import InputError
from ecc.report.files import COST, CSV, PAGE, PARQUET, PICTURE, STORE, demand_target

FOREIGN = b"name = 'mine'\n"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    write_store(folder / "s.db", simulated_profile(30))
    (folder / "net.py").write_text(NETWORK)
    (folder / "w.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    (folder / "own.toml").write_bytes(FOREIGN)
    (folder / "w.json").write_text('{"conv1": 2}')
    return folder


@pytest.fixture(autouse=True)
def here(kept, monkeypatch):
    monkeypatch.chdir(kept)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fit s.db -o s.db", "s.db exists and is not a cost model, so it is not overwritten; choose another name"),
        ("fit s.db -o ./s.db-wal", "s.db-wal belongs to the database s.db; choose another name"),
        ("fit s.db -o x.json --html s.db-shm", "s.db-shm belongs to the database s.db"),
        ("fit ops.db --operators s.db -o s.db", "s.db exists and is not a cost model"),
        ("fit s.db --model net.py:small --input 1x1x8x8 -o s.db", "s.db exists and is not a cost model"),
        ("fit s.db -o link", "link exists and is not a cost model"),
        ("fit s.db -o w.json", "w.json exists and is not a cost model"),
        ("fit s.db -o /dev/null", "/dev/null is no plain file; give the name of a file such as cost.json"),
        ("fit s.db -o x.json --html ./x.json", "-o and --html write the same file ./x.json; give each its own"),
        ("fit s.db -o .", "give the name of a file such as cost.json"),
        ("systolic net.py:small --html net.py", "net.py exists and is not a page"),
        (
            "systolic net.py:small --weights w.safetensors --html w.safetensors",
            "w.safetensors exists and is not a page",
        ),
        ("graph net.py:small --widths w.json --html w.json", "w.json exists and is not a page"),
        ("inspect s.db --html own.toml", "own.toml exists and is not a page"),
        ("inspect s.db --csv s.db", "s.db exists and is not exported rows"),
        ("inspect s.db --csv a --parquet a", "--csv and --parquet write the same file a"),
        ("front one --out own.toml", "own.toml exists and is not a page"),
        ("profile net.py:small --input 1x1x8x8 --store own.toml", "own.toml exists and is not a profile store"),
    ],
)
def test_nothing_else_is_overwritten(line, words, kept):
    link = kept / "link"
    link.unlink(missing_ok=True)
    link.symlink_to("s.db")
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    said = run(line)
    assert said.code == 2, said
    assert words in said.err
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_what_was_written_before_is_replaced(kept):
    line = "fit s.db --form bilinear -o cost.json --html fit.html"
    for _ in range(2):
        assert run(line).code == 0
    for _ in range(2):
        assert run("inspect s.db --csv rows.csv --html s.html").code == 0
        assert run("systolic net.py:small --input 1x1x8x8 --html systolic.html").code == 0
        assert run("graph net.py:small --input 1x1x8x8 --html graph.html").code == 0


def test_a_cost_that_is_read_is_not_overwritten(kept):
    assert run("fit s.db --form bilinear -o like.json").code == 0
    said = run("fit s.db --model net.py:small --input 1x1x8x8 --like like.json -o ./like.json")
    assert "--out would overwrite like.json, which --like reads" in said.err


@pytest.mark.parametrize("kind", [PAGE, COST, CSV, PARQUET, PICTURE, STORE], ids=lambda kind: kind.example)
def test_empty_and_absent_files_are_free_and_foreign_ones_are_not(kind, tmp_path):
    path = tmp_path / "file"
    assert demand_target(path, kind) == path
    path.touch()
    assert demand_target(path, kind) == path
    path.write_bytes(FOREIGN)
    with pytest.raises(InputError, match=f"exists and is not {kind.words}"):
        demand_target(path, kind)
    assert demand_target(path) == path  # Python's own calls replace what they are told to
    path.write_bytes(b"\xff\x00" * 40000)
    with pytest.raises(InputError, match="is not overwritten"):
        demand_target(path, kind)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no plain file"):
        demand_target(tmp_path / "pipe", PAGE)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_folder_that_takes_no_files_is_found_before_the_fit(monkeypatch):
    def fitted(*_, **__):
        raise AssertionError("fitted before the page was known to be impossible")

    monkeypatch.setattr("ecc.cli.fitting.judge", fitted)
    said = run("fit s.db -o x.json --html /proc/x.html")
    assert (said.code, "/proc/x.html cannot be written" in said.err) == (2, True)


@pytest.mark.parametrize("option", ["--like cost.json", "--input 1x1x8x8", "--form bilinear --input 1x1x8x8"])
def test_options_of_a_composed_cost_are_refused_without_its_model(option):
    said = run(f"fit s.db {option} -o x.json")
    assert (said.code, "goes with --model alone" in said.err) == (2, True)


def test_a_composed_cost_cannot_be_asked_to_extrapolate():
    said = run("fit s.db --model net.py:small --input 1x1x8x8 --extrapolate -o x.json")
    assert (said.code, "leave out --extrapolate" in said.err) == (2, True)
