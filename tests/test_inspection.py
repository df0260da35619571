"""What `ecc inspect` says of a store: the manifest against counts by hand, the text, the page, the files."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from cli_toy import run
from profiler_toy import toy_graph
from test_store import VISITS, WHERE, begin, fill, visit

from ecc.profiler.conditions import Conditions
from ecc.profiler.host import Disturbance
from ecc.profiler.inspection import FLAGS, half_widths
from ecc.profiler.pairing import Pairs
from ecc.profiler.store import Store
from ecc.profiler.tables import Visit
from ecc.report.profiles import profile_figures, render_profile
from ecc.report.stability import _Clock, span

HOSTILE = "\"><script>alert(1)<∕script><img src=x onerror=alert(2)>{{7*7}}' -->"
GRAPH = toy_graph()
DAY_S = 86_400.0


@pytest.fixture
def store(tmp_path):
    """Two runs a day apart; one reading disturbed, one configuration of wide scatter, energy read once."""
    path = tmp_path / "p.db"
    with Store.open(path) as opened:
        first, second = begin(opened), 0
        for each in VISITS:
            if each.block == 1 and not second:
                second = opened.begin_run(
                    WHERE, GRAPH.space, GRAPH.layers, protocol={"blocks": 3}, seed=4, started=DAY_S
                )
            later = replace(each, started=each.started + DAY_S * (each.block > 0))
            opened.add(second or first, replace(later, conditions=Conditions(clock_hz=2e9, throttled=())))
        stolen = replace(visit(5, 0, started=2 * DAY_S), disturbance=Disturbance(0.0, 5.0, 0), seconds=10.0)
        opened.add(second, stolen)
        lone = Pairs(np.array([0.5]), np.array([1.0]), np.array([0.1]), ("delta",))
        opened.add(second, Visit({"a": 5, "b": 8}, 0, 0, "energy", lone, 2 * DAY_S, 2.0, Disturbance(0.0, None, None)))
    return path


def test_the_manifest_counts_what_is_there(store):
    with Store(store) as opened:
        found, table = opened.inspect(), opened.table()
    assert (found["rows"], found["readings"], found["schema"]) == (4, 11, 2)
    assert [(each["run"], each["seed"], each["readings"]) for each in found["runs"]] == [(1, 0, 3), (2, 4, 8)]
    assert found["runs"][1]["ended"] == 2 * DAY_S + 10.0
    assert found["measuring_s"] == pytest.approx(0.9 + 12.0)
    assert found["flags"]["steal"] == {"readings": 1, "configurations": 1}
    assert found["flags"]["delta"] == {"readings": 1, "configurations": 1}
    assert found["flags"]["noisy"] == {"readings": 0, "configurations": 4}
    assert found["conditions"] == {"clock_hz": [2e9, 2e9, 2e9], "throttled": {}}
    assert found["slowest"]["latency"][0]["widths"] == {"a": 16, "b": 8}
    widest = found["noisiest"]["latency"]
    assert widest[0]["noise"] == np.nanmax(half_widths(table, "latency"))
    assert [row["noise"] for row in widest] == sorted((row["noise"] for row in widest), reverse=True)


def test_what_one_reading_cannot_tell_is_null_and_not_infinite(store):
    found = json.loads(json.dumps(run(f"inspect {store} --json").value, allow_nan=False))
    assert found["noise"]["energy"] is None
    assert found["drift"]["energy"] is None
    assert found["slowest"]["energy"][0]["ratio_high"] is None


def test_people_read_dates_and_not_unix_times(store):
    text = run(f"inspect {store}").out
    assert re.search(r"^ +2  19\d\d-\d\d-\d\d \d\d:\d\d:\d\d ", text, re.MULTILINE)
    assert "cpu of the test (dddddddd)" in text
    assert "4 configurations, 11 readings, 4 flagged" in text
    assert FLAGS["steal"] in text
    assert "±unknown" not in text
    for line in text.splitlines():
        assert len(line) < 140


def test_an_empty_store_is_told_in_a_sentence(tmp_path):
    Store.open(tmp_path / "p.db").close()
    assert "without rows; run `ecc profile` on it" in run(f"inspect {tmp_path / 'p.db'}").out
    assert run(f"inspect {tmp_path / 'p.db'} --html {tmp_path / 'p.html'}").code == 2


def test_files_are_written_and_named_and_never_over_the_store(store, tmp_path):
    found = run(f"inspect {store} --json --csv {tmp_path / 'a.csv'} --html {tmp_path / 'a.html'}")
    assert set(found.value["written"]) == {"csv", "html"}
    for file in ("a.csv", "a.html"):
        assert (tmp_path / file).stat().st_size > 500
    before = store.read_bytes()
    for option in ("csv", "parquet", "html"):
        refused = run(f"inspect {store} --{option} {store}")
        assert (refused.code, "so it is not overwritten" in refused.err) == (2, True)
    assert store.read_bytes() == before


class Page(HTMLParser):
    """Tags, and everything that could load or run something."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loading = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loading += [
            (name, value)
            for name, value in attrs
            if name.startswith("on") or (name in ("src", "href", "xlink:href") and not str(value).startswith("#"))
        ]


def test_the_page_stands_alone_and_shows_every_metric_and_flag(store):
    with Store(store) as opened:
        text = render_profile(opened)
        assert set(profile_figures(opened)) == {"drift-latency", "noise-latency", "drift-energy", "noise-energy"}
    page = Page(text)
    assert page.tags.count("figure") == 4
    assert "script" not in page.tags
    assert page.loading == []
    for word in ("steal", "delta", "noisy", FLAGS["steal"], "cpu of the test"):
        assert word in text


def test_names_from_a_store_stay_text(tmp_path):
    path = tmp_path / "p.db"
    with Store.open(path) as opened:
        opened.add(begin(opened, replace(WHERE, network=HOSTILE, device=HOSTILE)), VISITS[0])
    page = render_profile(Store(path))
    assert {"script", "img"} & set(Page(page).tags) == set()
    assert "49" not in page.partition("<title>")[2].partition("</title>")[0]


def test_the_time_axis_leaves_idle_time_out_and_marks_runs():
    starts = [0.0, 10.0, 20.0, 4000.0, 4010.0, 4020.0]
    runs = [1, 1, 1, 1, 2, 2]
    visits = [replace(visit(4, i, started=start), run=n) for i, (start, n) in enumerate(zip(starts, runs, strict=True))]
    clock = _Clock.of(visits)
    assert clock.unit == "seconds"
    assert clock.times == pytest.approx([0, 10, 20, 20.1, 30.1, 40.1])  # the pause begins where the third reading ends
    assert [words for _, words in clock.breaks] == ["run 1", "after 66 min idle", "run 2"]
    assert [part.tolist() for part in clock.parts] == [[0, 1, 2], [3], [4, 5]]
    assert _Clock.of(visits[:3]).breaks == ()


def test_the_time_axis_of_a_long_run_is_in_minutes():
    visits = [replace(visit(4, i), started=30.0 * i, seconds=29.9) for i in range(9)]
    clock = _Clock.of(visits)
    assert clock.unit == "minutes"
    assert clock.times == pytest.approx([i / 2 for i in range(9)])


@pytest.mark.parametrize("visits", [VISITS[:1], VISITS[:2], [VISITS[0], VISITS[0]]], ids=["one", "two", "same time"])
def test_a_young_store_has_a_page_too(tmp_path, visits):
    path = fill(tmp_path / "p.db", [replace(each, block=i) for i, each in enumerate(visits)])
    assert "<svg" in render_profile(Store(path))


def test_a_store_of_widely_scattered_readings_is_drawn(tmp_path):
    path = fill(tmp_path / "p.db", [*VISITS, visit(5, 0, scale=1e6)])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE rows SET flags = 'unheard-of' WHERE id = 1")
    assert "unheard-of" in render_profile(Store(path))


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 days")]
)
def test_lengths_of_time_are_round(seconds, text):
    assert span(seconds) == text
