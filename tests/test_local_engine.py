"""The local engine: units in processes that live on; one that dies costs its unit an attempt."""

import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from ecc.core.errors import UnavailableError
from ecc.sweeps.engines.local import LocalEngine
from ecc.sweeps.engines.protocol import BEAT_S, Ended, Started, Unit

_WORK = "engine_works:Counting"


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    made = LocalEngine(1, tmp_path / "logs")
    yield made
    made.close()


def _ended(events):
    return {event.id: event for event in events if isinstance(event, Ended)}


def test_units_end_once_whatever_becomes_of_them(engine, tmp_path):
    units = [
        Unit("plain", {"x": 1}),
        Unit("raises", {"raises": True}),
        Unit("dies once", {"dies": str(tmp_path / "once")}),
        Unit("after", {}),
        Unit("dies", {"dies": "always"}),
    ]
    events = [event for event in engine.run(units, _WORK) if event is not None]
    ended = _ended(events)
    assert list(ended) == [unit.id for unit in units]
    assert ended["plain"].value == {"calls": 1, "x": 1, "threads": "1", "cores": ended["plain"].value["cores"]}
    assert ended["raises"].error == "ValueError: not today"
    assert "engine_works.py" in ended["raises"].detail
    assert ended["dies once"].attempt == 2
    assert ended["dies once"].value["calls"] == 1  # by a worker that is new
    assert ended["after"].value["calls"] == 2  # by the same one
    assert ended["dies"].value is None
    assert ended["dies"].error.startswith("its worker was killed by SIGKILL (often because memory was full), 2 times")
    assert "at work on {'dies': 'always'}" in ended["dies"].detail
    started = [(event.id, event.attempt) for event in events if isinstance(event, Started)]
    assert started.count(("dies once", 1)) == started.count(("dies once", 2)) == 1
    again = _ended(engine.run([Unit("more", {})], _WORK))
    assert again["more"].value["calls"] == 1  # the last worker has died


def test_workers_live_on_and_have_cores_of_their_own(engine):
    engine.workers = len(os.sched_getaffinity(0))
    units = [Unit(str(number), {}) for number in range(3 * engine.workers)]
    first = _ended(engine.run(units, _WORK))
    assert {len(event.value["cores"]) for event in first.values()} == {1}
    busy = {event.worker: event.value["cores"] for event in first.values()}
    assert len({tuple(cores) for cores in busy.values()}) == len(busy)
    (later,) = _ended(engine.run([Unit("later", {})], _WORK)).values()
    assert later.worker in busy


def test_beats_come_while_nothing_happens_and_a_closed_run_lets_workers_keep_their_state(engine, tmp_path):
    file = tmp_path / "state"
    with closing(engine.run([Unit("long", {"waits": str(file)})], _WORK)) as events:
        last = time.monotonic()
        for beat, event in enumerate(events):
            assert time.monotonic() - last < BEAT_S + 5
            last = time.monotonic()
            if event is None and file.exists() and beat > 2:
                break
        pid = int(file.read_text())
    assert file.read_text() == "kept"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("work", ["waits", "stubborn"])
def test_a_unit_that_takes_too_long_is_ended_and_the_rest_runs(engine, tmp_path, work):
    engine.grace_s = 0.3
    file = tmp_path / "state"
    units = [Unit("long", {work: str(file)}, timeout_s=0.5), Unit("after", {}, timeout_s=300.0)]
    ended = _ended(engine.run(units, _WORK))
    assert ended["long"].value is None
    assert ended["long"].error.startswith("it took longer than 0.5 s (timeout_s), so it was ended")
    assert ended["long"].attempt == 1
    assert ended["after"].value["calls"] == 1  # by a worker that is new
    if work == "waits":
        assert file.read_text() == "kept"
    else:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


def test_workers_that_cannot_start_are_refused_with_what_they_said(engine, monkeypatch):
    monkeypatch.setenv("ENGINE_WORKS_BREAK", "no such thing")
    with pytest.raises(
        UnavailableError, match=r"workers ended with code 1 as they start \(RuntimeError: no such thing"
    ):
        list(engine.run([Unit("one", {})], _WORK))
