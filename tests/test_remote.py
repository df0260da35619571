"""A unit on a machine that may share no disk: it finds what it reads, and what it writes comes back."""

from pathlib import Path

import pytest

from ecc.sweeps.engines.cluster import releases
from ecc.sweeps.engines.parcels import Listing, listing, pieces
from ecc.sweeps.engines.protocol import Unit
from ecc.sweeps.engines.remote import Errand, Sign, carry_out, moved

ELSEWHERE = Sign("/nowhere/sign", "x")


def copy_input(description):
    """Work: copy what is read to what is written, and say where that was."""
    folder = Path(description["folder"])
    if description.get("fail"):
        raise ValueError(f"told to, in {folder}")
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out" / "copy").write_bytes(Path(description["input"].partition(":")[0]).read_bytes())
    (folder / "old").unlink(missing_ok=True)
    (folder / "record").write_text("done")
    return {"input": description["input"], "artefact": str(folder / "out")}


@pytest.fixture
def unit(tmp_path):
    root, source = tmp_path / "sweep", tmp_path / "input.py"
    root.mkdir()
    source.write_bytes(b"content")
    description = {"folder": str(root), "input": f"{source}:factory", "list": [str(source), 1, None]}
    writes = tuple(str(root / name) for name in ("out", "old", "record"))
    return Unit("u", description, reads=(str(source),), writes=writes, root=str(root))


def errand(unit, sign, **changes):
    there = [listing(path) for path in (*unit.reads, *(path for path in unit.writes if Path(path).exists()))]
    given = {"brought": tuple(there), "contents": tuple(tuple(pieces(each)) for each in there)}
    return Errand(unit, f"{__name__}:copy_input", sign, **(given | changes))


def carried(errand):
    return list(carry_out(errand, lambda piece: piece))


def test_where_the_folder_is_the_same_nothing_travels(unit):
    sign = Sign.put_up(Path(unit.root))
    worker, ended = carried(errand(unit, sign))
    assert "process" in worker["worker"]
    assert ended == {"value": {"input": unit.description["input"], "artefact": f"{unit.root}/out"}}
    assert (Path(unit.root) / "out" / "copy").read_bytes() == b"content"
    later = Sign.put_up(Path(unit.root))  # the first one was killed
    assert later.seen
    assert not sign.seen
    later.take_down()
    assert not list(Path(unit.root).glob(".*"))


def test_elsewhere_results_come_back_and_nothing_is_left(unit, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (Path(unit.root) / "old").write_bytes(b"of an earlier attempt")
    _, told, *content, ended = carried(errand(unit, ELSEWHERE))
    back = [Listing.from_json(each) for each in told["listings"]]
    assert [each.kind for each in back] == ["folder", "absent", "file"]  # in the order of the unit; old is to vanish
    assert content == [b"content", b"done"]
    assert ended["value"]["artefact"] == f"{unit.root}/out"
    assert [file.name for file in Path(unit.root).iterdir()] == ["old"]  # nothing was written here
    assert not list((tmp_path / "scratch").iterdir())


def test_what_is_read_is_brought_where_it_is_missing_or_another(unit, tmp_path):
    ready = errand(unit, ELSEWHERE)
    for here in (None, b"another"):
        source = tmp_path / "input.py"
        source.unlink() if here is None else source.write_bytes(here)
        assert b"content" in carried(ready)
    assert source.read_bytes() == b"another"  # what is here stays


def test_work_that_raises_says_so_with_the_places_of_the_sweep(unit):
    failing = Unit("u", {**unit.description, "fail": True}, reads=unit.reads, writes=unit.writes, root=unit.root)
    *_, ended = carried(errand(failing, ELSEWHERE))
    assert ended["error"] == f"ValueError: told to, in {unit.root}"
    assert "copy_input" in ended["detail"]
    assert "retry" not in ended


def test_a_piece_that_is_lost_or_harmed_is_no_fault_of_the_unit(unit, tmp_path):
    ready = errand(unit, ELSEWHERE)
    (tmp_path / "input.py").unlink()
    _, ended = list(carry_out(ready, lambda piece: b"harmed!"))
    assert ended["retry"]
    assert "another sha256" in ended["error"]


def test_a_machine_with_other_versions_runs_nothing(unit):
    other = releases() | {"torch": "1.0"}
    _, ended = carried(errand(unit, ELSEWHERE, versions=other))
    assert "other versions: torch 1.0 on the machine of the sweep and" in ended["error"]
    assert not list(Path(unit.root).iterdir())


@pytest.mark.parametrize(
    ("value", "then"),
    [
        ("/a/b", "/x"),
        ("/a/b/c", "/x/c"),
        ("/a/b.py", "/a/b.py"),
        ("/a", "/a"),
        ("/a/b:make", "/x:make"),
        ("systolic:/a/b", "systolic:/x"),
        ("/a/b/deep/er", "/y/er"),
        ({"n": ["/a/b", 3, {"m": "/a/b"}], "t": None}, {"n": ["/x", 3, {"m": "/x"}], "t": None}),
    ],
    ids=str,
)
def test_paths_move_where_they_are_meant(value, then):
    assert moved(value, {"/a/b": "/x", "/a/b/deep": "/y"}) == then
