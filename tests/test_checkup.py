"""doctor: what is missing is named with its mend; what cannot work here ends with 3, what few need does not."""

import json
import re
import sqlite3
import sys
import tempfile
from importlib import metadata

import pytest
from cli_toy import run

from ecc.api import checkup, libraries, surroundings
from ecc.api.checkup import NOTE, OK, PROBLEM, examine
from ecc.api.libraries import install_line
from ecc.api.surroundings import available_bytes, core_quota
from ecc.core.errors import InputError
from ecc.data.loading import READERS
from ecc.data.presence import FILES

STATES = {OK, NOTE, PROBLEM}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ECC_DATA", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def named(found, name):
    (check,) = (check for check in found.checks if check.name == name)
    return check


def test_a_machine_that_runs_these_tests_is_usable():
    said = run("doctor --json")
    assert said.code == 0
    value = said.value
    assert value["usable"] is True
    assert value["problems"] == 0
    assert {check["state"] for check in value["checks"]} <= STATES
    assert all(check["found"] for check in value["checks"])
    assert all(check["mend"] for check in value["checks"] if check["state"] != OK)
    assert value["notes"] == sum(check["state"] == NOTE for check in value["checks"])
    assert {"Python", "PyTorch", "libraries", "latency of cpu", "threads", "current folder", "digits"} <= {
        check["name"] for check in value["checks"]
    }
    assert {"name", "kind", "fingerprint", "meters"} <= set(value["devices"][0])


def test_the_text_has_a_row_per_check_and_a_verdict(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fsdd.npz").touch()
    said = run("doctor --data-dir data")
    assert said.code == 0
    assert said.out.splitlines()[-1].startswith("ecc can be used here; ")
    assert re.search("found +fsdd", said.out)  # columns are as wide as what is installed here makes them
    assert "there is no stsb_en_train.csv; put it into data/text" in said.out


# -- software


def test_what_is_not_installed_is_named_with_what_brings_it(monkeypatch):
    given = [
        "numpy>=1.0",
        "no-such-library>=2",
        "torch>=99",
        'nvidia-none>=1; extra == "gpu"',
        'pytest; extra == "test"',
        "what is this",
    ]
    monkeypatch.setattr(libraries, "_own_requirements", lambda: given)
    found = examine()
    assert named(found, "libraries").state == PROBLEM
    text = named(found, "libraries").found
    assert text.startswith("no-such-library is not installed, torch ")
    assert text.endswith(" (>=99 is needed)")
    assert named(found, "libraries").mend == f"run `{install_line()}`"
    gpu = named(found, "extra gpu")
    assert (gpu.state, gpu.found) == (NOTE, "nvidia-none is not installed")
    assert gpu.mend == "for energy and clocks of NVIDIA GPUs: pip install 'ecc-compress[gpu]'"
    assert not any("pytest" in check.found for check in found.checks if check.part == "software")
    assert not found.usable


def test_every_extra_for_users_has_a_purpose():
    extras = set(metadata.metadata(libraries.DISTRIBUTION).get_all("Provides-Extra") or ())
    assert extras - set(libraries.PURPOSES) <= {"docs", "peers", "test"}


def test_a_pytorch_that_cannot_be_imported_is_a_problem_not_a_traceback(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = examine()
    torch = named(found, "PyTorch")
    assert torch.state == PROBLEM
    assert torch.found.startswith("cannot be imported: ")
    assert found.devices == ()
    assert not found.usable


def test_a_problem_ends_with_3_and_its_mend(monkeypatch):
    monkeypatch.setattr(checkup, "available_bytes", lambda: 10**8)
    said = run("doctor")
    assert said.code == 3
    assert said.out.splitlines()[-1] == (
        "ecc cannot be used here yet: memory: end other programs, or take smaller batches: --batch-size"
    )


# -- machine


@pytest.mark.parametrize(
    ("threads", "cores", "quota", "state"), [(1, 2, None, OK), (4, 2, None, NOTE), (4, 8, 2.5, NOTE), (2, 8, 2.5, OK)]
)
def test_more_threads_than_cores_are_noted(monkeypatch, threads, cores, quota, state):
    monkeypatch.setattr(checkup, "allowed_cores", lambda: cores)
    monkeypatch.setattr(checkup, "core_quota", lambda: quota)
    check = checkup._threads(threads)
    assert check.state == state
    assert check.mend == ("" if state == OK else "they wait for each other: set OMP_NUM_THREADS=2")


@pytest.mark.parametrize(("governor", "state"), [("performance", OK), ("powersave", NOTE), ("unknown", NOTE)], ids=str)
def test_a_governor_that_changes_clocks_is_noted(governor, state):
    assert checkup._governor({"governor": governor, "boost": "on", "smt": "off"}).state == state


def test_memory_is_what_the_container_has_left(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    proc.mkdir(), groups.mkdir()
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    assert available_bytes(proc, groups) == 5_120_000
    (groups / "memory.max").write_text("max\n")
    (groups / "memory.current").write_text("100\n")
    assert available_bytes(proc, groups) == 5_120_000
    (groups / "memory.max").write_text("1000100\n")
    assert available_bytes(proc, groups) == 1_000_000
    assert available_bytes(tmp_path / "none", tmp_path / "none") is None


@pytest.mark.parametrize(
    ("name", "text", "quota"),
    [
        ("cpu.max", "max 100000", None),
        ("cpu.max", "150000 100000", 1.5),
        ("cpu.max", "1 0", None),
        ("cpu.max", "", None),
        ("cpu/cpu.cfs_quota_us", "-1", None),
        ("cpu/cpu.cfs_quota_us", "200000", 2.0),
    ],
)
def test_the_quota_of_a_container_is_read_from_either_version_of_control_groups(tmp_path, name, text, quota):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / name).write_text(text + "\n")
    assert core_quota(tmp_path) == quota


def test_a_folder_that_cannot_be_written_is_a_problem(monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    found = examine()
    assert named(found, "current folder").state == PROBLEM
    assert named(found, "current folder").found.endswith("cannot be written: Permission denied")


def test_a_disk_without_write_ahead_logs_is_noted(monkeypatch):
    def refuse(path):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(surroundings.sqlite3, "connect", refuse)
    check = named(examine(), "current folder")
    assert check.state == NOTE
    assert check.mend == "give ecc profile a --store on a local disk"


# -- data


def test_a_folder_that_is_not_there_is_noted(tmp_path, monkeypatch):
    assert named(examine(), "folder").mend.endswith("give --data-dir DIR, or set ECC_DATA")
    monkeypatch.setenv("ECC_DATA", str(tmp_path / "none"))
    assert named(examine(), "folder").found == f"{tmp_path / 'none'} is no folder"


def test_every_reader_has_its_files():
    assert set(FILES) == set(READERS)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_opens_what_is_said_to_be_needed(tmp_path, name):
    files = FILES[name]
    assert len(files.missing(tmp_path)) == len(files.parts)
    with pytest.raises(InputError, match=r"^there is no ") as caught:
        READERS[name](tmp_path, 8)
    assert files.parts[0][0].split("/")[0] in str(caught.value)
    for part in files.parts:
        path = tmp_path / files.folder / part[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert files.missing(tmp_path) == ()
    with pytest.raises(InputError, match=r"^(?!there is no )"):  # it is opened, and found to be empty
        READERS[name](tmp_path, 8)


def test_the_value_is_json_and_has_a_repr():
    found = examine()
    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    assert repr(found).startswith("Checkup(usable, 0 problems, ")
