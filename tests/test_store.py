import json
import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profiler_toy import DENSE, NAMES, toy_graph

from ecc.core.errors import InputError, StorageError
from ecc.core.table import Provenance
from ecc.core.widths import WidthSpace
from ecc.profiler.exports import to_csv
from ecc.profiler.host import Disturbance
from ecc.profiler.pairing import Pairs
from ecc.profiler.store import Store, configuration
from ecc.profiler.tables import Visit, drift, long_run, tabulate

GRAPH = toy_graph()
WHERE = Provenance("net", "f" * 16, (1, 3), "cpu of the test", "d" * 16, environment={"torch": "2.9"})


def visit(a, block, *, metric="latency", started=0.0, seed=0, flags=(), scale=1.0):
    rng = np.random.default_rng([a, block, seed])
    pairs = Pairs(scale * rng.lognormal(0, 0.1, 9) * a, rng.lognormal(0, 0.1, 9) * 20, np.full(9, 0.5), flags)
    return Visit({"a": a, "b": 8}, block, a, metric, pairs, started, 0.1, Disturbance(0.5, 0.0, 2), run=1)


VISITS = [visit(a, block, started=10.0 * block + a) for block in range(3) for a in (16, 4, 9)]


def begin(store, where=WHERE):
    return store.begin_run(where, GRAPH.space, GRAPH.layers, protocol={"blocks": 3}, seed=0, started=0.0)


def fill(path, visits=VISITS):
    with Store.open(path) as store:
        run = begin(store)
        add_all(store, run, visits)
    return path


def add_all(store, run, visits):
    for each in visits:
        store.add(run, each)


def alter(path, *statements):
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_a_table_read_back_is_the_table_of_the_visits(tmp_path):
    fill(tmp_path / "p.db")
    with Store(tmp_path / "p.db") as store:
        found = store.table()
    expected = tabulate(WHERE, GRAPH.space, GRAPH.layers, VISITS)
    pd.testing.assert_frame_equal(found.rows, expected.rows)
    assert found.widths.tolist() == expected.widths.tolist() == [[16, 8], [4, 8], [9, 8]]
    assert (found.provenance, found.space, found.layers) == (WHERE, GRAPH.space, GRAPH.layers)
    assert found.reference == expected.reference


def test_the_table_pools_the_pairs_of_all_blocks():
    rows = tabulate(WHERE, GRAPH.space, GRAPH.layers, VISITS).rows
    mine = [each for each in VISITS if each.widths["a"] == 4]
    assert rows["latency_ratio"][1] == np.median(np.concatenate([each.pairs.ratios for each in mine]))
    assert rows["latency_s"][1] == np.median(np.concatenate([each.pairs.values for each in mine]))
    assert rows["block_ratios"][1] == rows["latency_block_ratios"][1]
    assert rows["block_ratios"][1] == [np.median(each.pairs.ratios) for each in mine]
    assert rows["n"][1] == 27
    assert rows["switches"][1] == 6


def test_a_metric_that_was_not_measured_is_missing_and_not_zero():
    table = tabulate(WHERE, GRAPH.space, GRAPH.layers, [*VISITS, visit(4, 0, metric="energy")])
    assert table.rows["energy_ratio"].isna().tolist() == [True, False, True]
    assert table.rows["energy_n"].tolist() == [0, 9, 0]
    assert set(tabulate(WHERE, GRAPH.space, GRAPH.layers, VISITS).reference) == {"latency"}


def test_the_long_run_value_of_the_reference_has_an_interval_that_knows_of_drift():
    rng = np.random.default_rng(0)

    def visits(slope):
        return [
            Visit(
                {}, 0, 0, "latency",
                Pairs(np.ones(9), np.exp(slope * i / 100) * rng.lognormal(0, 0.01, 9), np.ones(9)),
                float(i), 0.1, Disturbance(0.0, None, None),
            )
            for i in range(100)
        ]  # fmt: skip

    steady, drifting = visits(0.0), visits(0.3)
    assert np.diff(long_run(steady)[1:]) < 0.01 < 0.05 < np.diff(long_run(drifting)[1:])
    found = drift(drifting)
    assert found.low <= np.expm1(0.3 * 0.95) <= found.high  # 20 batches: the ends are half a batch inside
    assert found.significant
    assert not drift(steady).significant
    assert drift(steady[:2]) is None


def test_a_row_is_durable_when_the_process_is_killed(tmp_path):
    script = f"""
import os, sys
sys.path.insert(0, {str(__import__("pathlib").Path(__file__).parent)!r})
from test_store import VISITS, Store, begin
store = Store.open({str(tmp_path / "p.db")!r})
run = begin(store)
for each in VISITS[:4]:
    store.add(run, each)
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", script], check=False, timeout=120)
    assert len(Store(tmp_path / "p.db").visits()) == 4
    with Store.open(tmp_path / "p.db") as store:
        store.add(store.last_run(), VISITS[4])
        assert len(store.visits()) == 5


def test_a_row_cannot_be_there_twice(tmp_path):
    fill(tmp_path / "p.db")
    with (
        Store.open(tmp_path / "p.db") as store,
        pytest.raises(InputError, match="another process has written the same row"),
    ):
        store.add(1, VISITS[0])


def test_pandas_reads_the_rows(tmp_path):
    connection = sqlite3.connect(fill(tmp_path / "p.db"))
    frame = pd.read_sql("SELECT * FROM rows", connection)
    connection.close()
    assert frame["ratio"].tolist() == [np.median(each.pairs.ratios) for each in VISITS]
    assert json.loads(frame["widths"][0]) == {"a": 16, "b": 8}
    assert frame["config"][0] == configuration({"b": 8, "a": 16})


def test_inspect_and_csv_tell_what_is_in_it(tmp_path):
    with Store(fill(tmp_path / "p.db")) as store:
        manifest = store.inspect()
        (tmp_path / "rows.csv").write_bytes(to_csv(store.table()))
    assert (manifest["rows"], manifest["readings"], len(manifest["runs"])) == (3, 9, 1)
    assert manifest["provenance"]["device"] == "cpu of the test"
    json.dumps(manifest)
    frame = pd.read_csv(tmp_path / "rows.csv")
    assert frame["width:a"].tolist() == [16, 4, 9]
    assert frame["latency_ratio"].notna().all()


def test_an_empty_store_says_so(tmp_path):
    Store.open(tmp_path / "p.db").close()
    with Store(tmp_path / "p.db") as store:
        assert store.inspect()["rows"] == 0
        with pytest.raises(InputError, match=r"holds no measured row yet; run `ecc profile` on it$"):
            store.table()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "e" * 16}, r"network net \(eeeeeeee\) instead of net \(ffffffff\)"),
        ({"device": "gpu", "device_fingerprint": "9" * 16}, r"device gpu \(99999999\) instead of cpu of the test"),
        ({"threads": 4, "runtime": "compile"}, "runtime compile instead of eager, threads 4 instead of 1"),
    ],
    ids=["network", "device", "runtime"],
)
def test_rows_of_something_else_are_not_mixed_in(tmp_path, change, message):
    fill(tmp_path / "p.db")
    other = Provenance(**{**{name: getattr(WHERE, name) for name in WHERE.__dataclass_fields__}, **change})
    with Store.open(tmp_path / "p.db") as store, pytest.raises(InputError, match=message):
        begin(store, other)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            WidthSpace(NAMES, DENSE, (4, 1)),
            "a step of 4 in group 'a' instead of 1; give the --step that it",
        ),
        (WidthSpace(NAMES, (16, 16), (1, 1)), "a dense width of 16 in group 'b' instead of 8; give another --store$"),
        (WidthSpace(("a", "c"), DENSE, (1, 1)), "group 'c' instead of 'b'; give another --store$"),
        (WidthSpace(("a",), (16,), (1,)), "groups 1 instead of 2; give another --store$"),
    ],
    ids=["step", "width", "name", "count"],
)
def test_a_store_of_other_widths_says_what_differs(tmp_path, space, message):
    fill(tmp_path / "p.db")
    with Store.open(tmp_path / "p.db") as store, pytest.raises(InputError, match=message):
        store.check(WHERE, space)


def test_a_full_disk_keeps_the_rows_before_it_and_says_so(tmp_path):
    with Store.open(tmp_path / "p.db") as store:
        run = begin(store)
        store.add(run, VISITS[0])
        (pages,) = store._database.read("PRAGMA page_count")[0]
        store._database.read(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageError, match=r"^the disk is full: .* keeps the rows written before; free some space"):
            add_all(store, run, VISITS[1:])
        kept = len(store.visits())
    assert 1 <= kept < 9
    assert len(Store(tmp_path / "p.db").visits()) == kept


def test_a_store_without_write_permission_can_be_read(tmp_path, monkeypatch):
    path = fill(tmp_path / "p.db")
    connect = sqlite3.connect

    def read_only_folder(address, **options):  # what SQLite says where it cannot make its side files
        if "immutable" not in str(address):
            raise sqlite3.OperationalError("unable to open database file")
        return connect(address, **options)

    monkeypatch.setattr(sqlite3, "connect", read_only_folder)
    assert len(Store(path).visits()) == 9
    with pytest.raises(InputError, match=r"cannot be written, and what it holds is kept; give a file in a fold"):
        Store.open(path)


@pytest.mark.parametrize("name", ["no/such/folder/p.db", "."], ids=["missing", "folder"])
def test_a_place_that_holds_no_file_is_refused_and_nothing_is_left_there(tmp_path, name):
    with pytest.raises(InputError, match=r"cannot be written|is a folder"):
        Store.open(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist; make it with"):
        Store(tmp_path / "none.db")


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_bytes_that_are_no_store_are_refused_and_left_alone(tmp_path_factory, content, magic):
    path = tmp_path_factory.mktemp("hostile") / "p.db"
    written = (b"SQLite format 3\0" if magic else b"") + content
    path.write_bytes(written)
    with pytest.raises(InputError):
        Store(path).table()
    if written:
        with pytest.raises(InputError):
            Store.open(path)
        assert path.read_bytes() == written


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_store_is_read_right_or_refused(tmp_path_factory, data):
    path = fill(tmp_path_factory.mktemp("hostile") / "p.db")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    try:
        with Store(path) as store:
            store.inspect()
    except InputError:
        pass


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["PRAGMA application_id = 7"], "is not a profile store"),
        (
            ["PRAGMA user_version = 99"],
            "has format 99, this ecc reads up to 2; use the ecc that wrote it, or profile again$",
        ),
        (["CREATE VIEW v AS SELECT 1"], "its tables are not those of a store"),
        (["CREATE TRIGGER t AFTER INSERT ON rows BEGIN DELETE FROM rows; END"], "its tables are not those of a store"),
        (["UPDATE rows SET pairs = '[[1, 2]]'"], "its pairs are not triples"),
        (["UPDATE rows SET pairs = '[[1, 2, NaN]]'"], "a reading is not a positive number"),
        (["UPDATE rows SET pairs = '[[1, 0, 1]]'"], "a reading is not a positive number"),
        (["UPDATE rows SET pairs = '[[[['"], "a stored value cannot be read"),
        ([f"UPDATE rows SET pairs = '{'[' * 100_000}'"], "a stored value cannot be read"),
        (["UPDATE rows SET metric = 'beauty'"], "its metric is unknown"),
        (['UPDATE rows SET widths = \'{"a": 99, "b": 8}\''], "width 99 of group 'a' is not admissible"),
        (["UPDATE rows SET widths = '{\"x\": 1}'"], "unknown group 'x'"),
        (["UPDATE rows SET flags = '\x1b[2J'"], "its flags are not words"),
        (["UPDATE rows SET started = 'first'"], "a stored value cannot be read"),
        (["UPDATE networks SET layers = '{\"layers\": [1]}'"], "damaged"),
        (["UPDATE networks SET space = x'00'"], "damaged"),
        (["UPDATE runs SET provenance = '[]'"], "damaged"),
        (["UPDATE runs SET provenance = replace(provenance, 'cpu of', '\\u001b')"], "damaged"),
    ],
    ids=range(18),
)
def test_an_altered_store_is_refused_in_one_sentence(tmp_path, statements, message):
    path = fill(tmp_path / "p.db")
    alter(path, *statements)
    with pytest.raises(InputError, match=message) as caught:
        Store(path).table()
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE rows SET run = 77 WHERE id = 2", "a row has a 'run' that there is not"),
        ("UPDATE rows SET run = 'x'", "a row has a 'run' that there is not"),
        ("UPDATE rows SET cpu_s = 'much'", "a row has no finite number 'cpu_s'"),
        ("UPDATE rows SET steal_s = 9e999", "a row has no finite number 'steal_s'"),
        ("UPDATE rows SET steal_s = 'some'", "a row has no finite number 'steal_s'"),
        ("UPDATE rows SET switches = -1", "a row has no whole number 'switches' of 0 or more"),
        ("UPDATE rows SET n = 0", "a row has no whole number 'n' of 1 or more"),
        ("UPDATE rows SET n = 8", "its number of pairs is not that of its pairs"),
        ("UPDATE rows SET block = 'first' WHERE id = 1", "a row has no whole number 'block' of 0 or more"),
        ("UPDATE rows SET value = -1", "a row has a 'value' below 0"),
        ("UPDATE rows SET started = 'first'", "a row has no finite number 'started'"),
        ("UPDATE rows SET pairs = '[[1, 2, \"x\"]]'", "its pairs are not numbers"),
        ("UPDATE rows SET widths = '{}'", "its widths lack a group"),
        ("UPDATE runs SET threads = -4", "the runtime or the threads of a run are not those of its provenance"),
        ("UPDATE runs SET runtime = 'warp'", "the runtime or the threads of a run are not those of its provenance"),
    ],
    ids=range(15),
)
@pytest.mark.parametrize("reads", [Store.table, Store.inspect], ids=["table", "inspect"])
def test_an_edited_cell_is_named_without_words_of_python(tmp_path, reads, statement, message):
    path = fill(tmp_path / "p.db")
    alter(path, "PRAGMA foreign_keys = OFF", statement)
    with Store(path) as store, pytest.raises(InputError) as caught:
        reads(store)
    assert str(caught.value) == (
        f"profile store {str(path)!r} is damaged: a stored value cannot be read ({message}); profile again"
    )


@pytest.mark.parametrize("purpose", ["random", "corner", "sweep", "adaptive"])
def test_a_row_says_why_it_was_measured(tmp_path, purpose):
    with Store.open(tmp_path / "p.db") as store:
        run = begin(store)
        store.add(run, replace(visit(4, 0), purpose=purpose))
        store.add(run, replace(visit(4, 1), purpose="random"))
        assert [found.purpose for found in store.visits()] == [purpose, "random"]
        assert store.table().rows["purpose"].tolist() == [purpose]  # by the first visit
