"""What a store does when processes are killed, disks fill, files go away, and texts are not what it wrote."""

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store import GRAPH, VISITS, WHERE, add_all, alter, begin, fill, visit

from ecc.core.errors import InputError, MeterError, StorageError
from ecc.profiler.conditions import UNKNOWN, Conditions
from ecc.profiler.pairing import Pairs
from ecc.profiler.records import _CONDITION, conditions_from
from ecc.profiler.store import Store, configuration
from ecc.profiler.tables import tabulate

MANY = [visit(a, block, started=10.0 * block + a) for block in range(20) for a in range(1, 17)]
FORMAT_1 = (
    "CREATE TABLE devices (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, name TEXT NOT NULL)",
    "CREATE TABLE networks (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, name TEXT NOT NULL, "
    "input_shape TEXT NOT NULL, space TEXT NOT NULL, layers TEXT NOT NULL, UNIQUE (fingerprint, input_shape))",
    "CREATE TABLE runs (id INTEGER PRIMARY KEY, network INTEGER NOT NULL REFERENCES networks (id), "
    "device INTEGER NOT NULL REFERENCES devices (id), runtime TEXT NOT NULL, threads INTEGER NOT NULL, "
    "provenance TEXT NOT NULL, protocol TEXT NOT NULL, seed INTEGER NOT NULL, started REAL NOT NULL)",
    "CREATE TABLE rows (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs (id), "
    "config TEXT NOT NULL, widths TEXT NOT NULL, block INTEGER NOT NULL, position INTEGER NOT NULL, "
    "metric TEXT NOT NULL, n INTEGER NOT NULL, ratio REAL NOT NULL, ratio_low REAL, "
    "ratio_high REAL, value REAL NOT NULL, reference REAL NOT NULL, cpu_s REAL NOT NULL, "
    "pairs TEXT NOT NULL, started REAL NOT NULL, seconds REAL NOT NULL, steal_s REAL, switches INTEGER, "
    "flags TEXT NOT NULL, UNIQUE (config, block, metric))",
)
WARM = Conditions(clock_hz=1.7e9, temperature_c=61.0, throttled=("thermal", "power-cap"), foreign=1)


def format_1(path):
    """The store of VISITS as the first format held it."""
    fill(path.with_suffix(".new"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        for statement in (*FORMAT_1, "PRAGMA application_id = 0x65636370", "PRAGMA user_version = 1"):
            connection.execute(statement)
        connection.execute("ATTACH ? AS new", (str(path.with_suffix(".new")),))
        for table in ("devices", "networks", "runs", "rows"):
            columns = ", ".join(name for _, name, *_ in connection.execute(f"PRAGMA main.table_info({table})"))
            connection.execute(f"INSERT INTO main.{table} SELECT {columns} FROM new.{table}")
    return path


def version(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


# -- formats


def test_a_store_of_the_first_format_is_read_and_left_as_it_is(tmp_path):
    path = format_1(tmp_path / "p.db")
    with Store(path) as store:
        found = store.visits()
        pd.testing.assert_frame_equal(store.table().rows, tabulate(WHERE, GRAPH.space, GRAPH.layers, VISITS).rows)
        assert store.inspect()["schema"] == 1
    assert {each.conditions for each in found} == {UNKNOWN}
    with Store.open(path) as store, pytest.raises(InputError, match="belongs to another profile"):
        store.check(replace(WHERE, fingerprint="e" * 16), GRAPH.space)
    assert version(path) == 1


def test_a_store_of_the_first_format_becomes_one_of_the_second_with_its_first_row(tmp_path):
    path = format_1(tmp_path / "p.db")
    with Store.open(path) as store:
        store.add(1, replace(visit(5, 0), conditions=WARM))
        assert [each.conditions for each in store.visits()] == [UNKNOWN] * 9 + [WARM]
        assert store.inspect()["schema"] == 2
    with Store.open(path) as store:
        assert len(store.visits()) == 10


def test_an_upgrade_that_is_cut_short_has_not_happened(tmp_path):
    path = format_1(tmp_path / "p.db")
    with Store.open(path) as store:
        with pytest.raises(InputError, match="damaged"), store._database.transaction() as connection:
            connection.execute("SELECT conditions, nothing FROM rows")  # the one is there by now, the other fails
        assert (store._database.version, len(store.visits())) == (1, 9)
    assert version(path) == 1


# -- conditions and readings


def test_conditions_and_run_come_back_and_what_is_no_number_is_unknown(tmp_path):
    with Store.open(tmp_path / "p.db") as store:
        run = begin(store)
        store.add(run, replace(VISITS[0], conditions=WARM))
        store.add(run, replace(VISITS[1], conditions=Conditions(clock_hz=float("nan"), idle_w=3.0)))
        store.add(begin(store), VISITS[2])
        found = store.visits()
        table = store.table()
    assert [each.conditions for each in found] == [WARM, Conditions(idle_w=3.0), UNKNOWN]
    assert [each.run for each in found] == [1, 1, 2]
    assert table.rows["latency_block_runs"].tolist() == [[1], [1], [2]]


def test_every_kind_of_condition_can_be_read():
    assert {str(field.type).removesuffix(" | None") for field in fields(Conditions)} <= set(_CONDITION)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not an object"),
        ('{"clock_hz": "fast"}', "no finite number 'clock_hz'"),
        ('{"clock_hz": NaN}', "NaN is not a number"),
        ('{"clock_hz": 1e999}', "no finite number"),
        ('{"clock_hz": true}', "no finite number"),
        ('{"foreign": -1}', "no whole number 'foreign'"),
        ('{"foreign": 1.5}', "no whole number"),
        ('{"mood": 1}', "name 'mood', which is none"),
        ('{"throttled": "thermal"}', "no list 'throttled'"),
        ('{"throttled": ["\\u001b[2J"]}', "no plain text"),
        ('{"throttled": ["a b"]}', "not words"),
        ('{"throttled": [7]}', "no plain text"),
        ("{" * 50_000, "not readable JSON"),
        ("", "not readable JSON"),
    ],
    ids=range(14),
)
def test_conditions_that_no_store_writes_are_refused_in_one_sentence(tmp_path, text, message):
    path = fill(tmp_path / "p.db")
    alter(path, f"UPDATE rows SET conditions = '{text}' WHERE id = 3")
    with pytest.raises(InputError, match=message) as caught:
        Store(path).visits()
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.integers(), lambda v: st.lists(v, max_size=3)
    ),
    st.sampled_from([field.name for field in fields(Conditions)]),
)
def test_any_value_of_a_condition_is_read_right_or_refused(value, name):
    try:
        found = conditions_from(json.dumps({name: value}))
    except (InputError, ValueError, TypeError):
        return
    assert found.to_json().get(name) in (value, tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("reading", [0.0, -1.0, float("nan"), float("inf")])
def test_a_reading_that_is_no_positive_number_is_refused_before_it_spoils_the_store(tmp_path, reading):
    fill(tmp_path / "p.db")
    bad = replace(visit(5, 0), pairs=Pairs(np.array([1.0, reading]), np.ones(2), np.ones(2)))
    with Store.open(tmp_path / "p.db") as store:
        with pytest.raises(MeterError, match="latency meter gave a reading that is not a positive number; the rows be"):
            store.add(1, bad)
        assert len(store.visits()) == 9


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE runs SET started = 'first'",
        "UPDATE runs SET started = 1e300",
        "UPDATE runs SET protocol = '[1]'",
        'UPDATE runs SET protocol = \'{"x": "\\u001b"}\'',
        "UPDATE rows SET started = -1",
        "UPDATE rows SET seconds = 1e300",
    ],
    ids=range(6),
)
def test_runs_and_times_that_no_store_writes_are_refused(tmp_path, statement):
    path = fill(tmp_path / "p.db")
    alter(path, statement)
    with pytest.raises(InputError, match="is damaged: a stored value cannot be read"):
        Store(path).inspect()


# -- processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_kills_lose_no_row_that_was_promised_and_double_none(tmp_path):
    script = Path(__file__).parents[1] / "experiments" / "profiler_faults.py"
    command = [sys.executable, str(script), "--kills", "20", "--out", str(tmp_path / "faults.csv")]
    subprocess.run(command, check=True, timeout=200, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = pd.read_csv(tmp_path / "faults.csv")
    assert len(found) == 21
    assert found["opened"].all()
    assert found[["lost", "altered", "twice"]].to_numpy().sum() == 0
    assert (found["rows"] >= found["promised"]).all()
    assert set(found["check"]) <= {"ok", "none"}
    assert found["promised"].max() > 10
    assert found["rows"].iloc[-1] == 120  # the last life was left alone


# -- disks and files


@contextmanager
def small_files(most):
    """No file grows beyond so many bytes, as a quota would have it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def add_until_refused(store, message):
    run = begin(store)
    with pytest.raises(StorageError, match=message) as caught:
        add_all(store, run, MANY)
    assert caught.value.exit_code == 3  # nothing is wrong with the input
    assert "\n" not in str(caught.value)
    return len(store.visits())


def test_a_limit_on_the_size_of_files_keeps_the_rows_before_it(tmp_path):
    with Store.open(tmp_path / "p.db") as store, small_files(150_000):
        kept = add_until_refused(
            store, r"^the disk did not take a row of profile store .* rows written before are kept"
        )
        assert 1 < kept < len(MANY)
    with Store.open(tmp_path / "p.db") as store:
        assert len(store.visits()) == kept
        add_all(store, 1, MANY[kept:])
        assert len(store.visits()) == len(MANY)


def test_a_real_disk_that_is_full_keeps_the_rows_before_it(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with Store.open(disk / "p.db") as store:
            kept = add_until_refused(store, r"^the disk is full: profile store .* keeps the rows written before; free")
        assert 1 < kept < len(MANY)
        for side in disk.iterdir():  # the log as well: what did not fit into the file is in there
            shutil.copy(side, tmp_path)
        with Store(disk / "p.db") as store:
            assert len(store.visits()) == kept
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    with Store.open(tmp_path / "p.db") as store:
        add_all(store, 1, MANY[kept:])
        assert len(store.visits()) == len(MANY)


@pytest.mark.parametrize("fate", ["deleted", "replaced"])
def test_rows_of_a_file_that_was_taken_away_are_rescued_beside_it(tmp_path, fate):
    path = tmp_path / "p.db"
    with Store.open(path) as store:
        run = begin(store)
        add_all(store, run, VISITS[:4])
        path.unlink()
        if fate == "replaced":
            path.write_text("something else")
        with pytest.raises(
            StorageError, match=r"was deleted or replaced while it was written; its rows are in '.*': ren"
        ):
            add_all(store, run, VISITS[4:])
    (rescued,) = tmp_path.glob("p.db.rescued-*")
    with Store.open(rescued) as store:
        assert [each.widths for each in store.visits()] == [each.widths for each in VISITS[:4]]
        add_all(store, 1, VISITS[4:])
    assert path.exists() == (fate == "replaced")


def test_a_file_made_read_only_meanwhile_says_so_and_keeps_its_rows(tmp_path):
    path = tmp_path / "p.db"
    with Store.open(path) as store:
        run = begin(store)
        add_all(store, run, VISITS[:4])
        path.chmod(0o444)
        store.add(run, VISITS[4])  # who has it open may go on
        store._database.read("PRAGMA query_only = ON")  # what a disk says that was mounted anew, read-only
        with pytest.raises(InputError, match=r"cannot be written, and what it holds is kept; give a file in a folder"):
            store.add(run, VISITS[5])
    assert len(Store(path).visits()) == 5


def test_a_store_copied_while_it_is_written_is_a_store(tmp_path):
    path = tmp_path / "p.db"
    with Store.open(path) as store:
        shutil.copy(path, tmp_path / "young.db")
        run = begin(store)
        add_all(store, run, MANY)
        shutil.copy(path, tmp_path / "alone.db")
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{tmp_path / 'both.db'}{suffix}")
    with Store(tmp_path / "young.db") as store:
        assert store.inspect()["rows"] == 0
    with Store(tmp_path / "alone.db") as store:
        found = [(configuration(each.widths), each.block) for each in store.visits()]
    assert found == [(configuration(each.widths), each.block) for each in MANY[: len(found)]]
    assert len(MANY) - 30 < len(found)
    with Store(tmp_path / "both.db") as store:
        assert len(store.visits()) == len(MANY)


def test_rows_in_a_log_that_cannot_be_read_are_not_passed_over(tmp_path, monkeypatch):
    path = tmp_path / "p.db"
    connect = sqlite3.connect

    def read_only_folder(address, **options):
        if "immutable" not in str(address):
            raise sqlite3.OperationalError("unable to open database file")
        return connect(address, **options)

    with Store.open(path) as store:
        add_all(store, begin(store), VISITS)
        monkeypatch.setattr(sqlite3, "connect", read_only_folder)
        with pytest.raises(InputError, match=r"has rows in 'p.db-wal' that cannot be read without write permission; "):
            Store(path)


def test_a_store_whose_maker_was_killed_at_once_is_empty_and_can_be_gone_on_with(tmp_path):
    path = tmp_path / "p.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    with pytest.raises(InputError, match=r"is empty; run `ecc profile` on it$"):
        Store(path)
    fill(path)
    assert len(Store(path).visits()) == 9
