"""What a meter tells beside its readings is kept per pair, shown in the table and exported."""

import io
import sqlite3
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
from profiler_toy import INPUTS, Host, Timed, Watch, toy_graph
from test_store import VISITS, alter, begin, fill

from ecc.core.errors import InputError
from ecc.core.meter import Reading
from ecc.profiler.exports import frame_of, to_csv, units_of
from ecc.profiler.host import Disturbance
from ecc.profiler.pairing import Ready, alternate
from ecc.profiler.protocol import profile
from ecc.profiler.store import Store
from ecc.profiler.window import Window

GRAPH = toy_graph()
DESIGN = [{"a": 8, "b": 8}, {"a": 16, "b": 4}]
QUICK = Window(
    device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=2, max_blocks=2, pairs=4, long_pairs=2, idle_s=0.0
)


class Talkative(Watch):
    """Tells of each window its error (0.5 %), an end minus start that is 3 % off and a check that is 5 % off."""

    silent = ()

    def end(self):
        joules = super().end().value
        told = {"error": 0.005 * joules, "delta": 1.03 * joules, "check": 0.95 * joules}
        return Reading(
            joules,
            **{name: value for name, value in told.items() if name not in self.silent},
            parts={"package": 0.75 * joules, "dram": 0.25 * joules},
        )


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    monkeypatch.setattr(Disturbance, "now", classmethod(lambda cls: cls(0.0, 0.0, 0)))


def measured(path, silent=()):
    host = Host(slow=1.0)
    energy = Talkative(host, metric="energy", shortest_window_s=1.0)
    energy.silent = silent
    return profile(
        *(Timed(1.0), GRAPH, INPUTS, DESIGN, [Watch(host), energy]),
        window=QUICK, runtime=host, build=host.build, clock=host, store=path,
    )  # fmt: skip


def test_both_estimates_of_each_window_come_back_per_pair_and_per_inference(tmp_path):
    measured(tmp_path / "p.db")
    with Store(tmp_path / "p.db") as store:
        visits = store.visits()
    energy = [visit.pairs for visit in visits if visit.metric == "energy"]
    assert len(energy) == 4
    for pairs in energy:
        both = np.stack([pairs.values, pairs.references], 1)
        assert both.shape == (2, 2)
        for name, factor in (("delta", 1.03), ("check", 0.95), ("error", 0.005), ("package", 0.75), ("dram", 0.25)):
            assert pairs.extras[name] == pytest.approx(factor * both)
    assert not any(visit.pairs.extras for visit in visits if visit.metric == "latency")


def test_the_table_shows_and_exports_them(tmp_path):
    table = measured(tmp_path / "p.db").table
    rows = table.rows
    assert rows["energy_delta_j"].tolist() == pytest.approx((1.03 * rows["energy_j"]).tolist(), rel=0.01)
    assert rows["energy_check_j"].tolist() == pytest.approx((0.95 * rows["energy_j"]).tolist(), rel=0.01)
    assert rows["energy_error"].tolist() == pytest.approx([0.005] * 2)
    assert "latency_error" not in rows
    read = pd.read_csv(io.BytesIO(to_csv(table)))
    assert read["energy_delta_j"].tolist() == pytest.approx(rows["energy_delta_j"].tolist())
    units = units_of(frame_of(table))
    assert {name: units[name] for name in ("energy_delta_j", "energy_error", "energy_dram_j")} == {
        "energy_delta_j": "J",
        "energy_error": "1",
        "energy_dram_j": "J",
    }


def test_what_the_meter_does_not_tell_is_no_column_and_never_zero(tmp_path):
    rows = measured(tmp_path / "p.db", silent=("check",)).table.rows
    assert "energy_check_j" not in rows
    assert "energy_delta_j" in rows


def test_what_is_known_of_some_pairs_is_null_for_the_others(tmp_path):
    class Now(Talkative):
        def end(self):
            self.silent = ("error",) if self.reads % 4 < 2 else ()
            return super().end()

    host = Host(jitter=0.0, slow=1.0)
    ready = Ready(host.prepare(Timed(1e-3), None), 1e-3)
    pairs = alternate(ready, ready, Now(host, shortest_window_s=1.0), 2, host.rng, clock=host)
    assert np.isnan(pairs.extras["error"]).tolist() == [[True, True], [False, False]]
    with Store.open(tmp_path / "p.db") as store:
        run = begin(store)
        store.add(run, type(VISITS[0])(**{**_members(VISITS[0]), "pairs": pairs}))
        (found,) = store.visits()
    np.testing.assert_array_equal(found.pairs.extras["error"], pairs.extras["error"])
    with closing(sqlite3.connect(tmp_path / "p.db")) as connection:
        assert connection.execute("SELECT json_extract(extras, '$.error[0]') FROM rows").fetchone() == ("[null,null]",)


def _members(visit):
    return {name: getattr(visit, name) for name in visit.__dataclass_fields__}


def test_a_store_without_the_column_is_read_and_gets_it_with_its_next_row(tmp_path):
    path = fill(tmp_path / "p.db", VISITS[:8])
    alter(path, "ALTER TABLE rows DROP COLUMN extras")
    with Store(path) as store:
        assert [visit.pairs.extras for visit in store.visits()] == [{}] * 8
    with Store.open(path) as store:
        store.add(1, VISITS[8])
        assert len(store.visits()) == 9
        assert "extras" in store._database.columns
    assert len(Store(path).visits()) == 9


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ('{"delta": [[1, 2]]}', "its extras are not pairs of numbers"),
        ('{"delta": 3}', "has no list 'delta'"),
        ('{"a b": []}', "its extras are not named by words"),
        ('{"\\u001b": []}', "damaged"),
        ("[1]", "damaged"),
        ('{"delta": [["x", 2]]}', "a stored value cannot be read"),
        ("[" * 100_000, "damaged"),
    ],
    ids=range(7),
)
def test_altered_extras_are_refused_in_one_sentence(tmp_path, extras, message):
    path = fill(tmp_path / "p.db", VISITS[:1])
    alter(path, f"UPDATE rows SET extras = '{extras}'")
    with pytest.raises(InputError, match=message) as caught:
        Store(path).table()
    assert "\n" not in str(caught.value)
