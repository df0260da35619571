"""Engine ray on a cluster of three nodes (processes of this machine), one of which is killed in the middle."""

import os
import socket
import sys
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

from ecc.core.errors import UnavailableError
from ecc.sweeps.engines import ray as ray_engine
from ecc.sweeps.engines.protocol import Ended, Started, Unit
from ecc.sweeps.engines.ray import RayEngine
from ecc.sweeps.engines.ray_connection import Settings, connect

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra ray)")
OWN = Path("/proc/self/cwd")  # another folder in every process: machines that share no disk, on one machine


def make(description):
    """Work: write a folder with what was read, and a record of it."""
    root = Path(description["root"])
    time.sleep(description["seconds"])
    folder = root / "jobs" / description["id"]
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(Path(description["input"]).read_bytes() * 300_000)
    (folder.parent / f"{description['id']}.json").write_text(description["id"])
    return {"artefact": str(folder), "cwd": os.getcwd()}


def unit(id, seconds=0.3, **changes):
    root = OWN / "sweep"
    description = {"id": id, "root": str(root), "input": str(OWN / "input"), "seconds": seconds}
    writes = (str(root / "jobs" / id), str(root / "jobs" / f"{id}.json"))
    return Unit(id, description, reads=(str(OWN / "input"),), writes=writes, root=str(root), **changes)


@pytest.fixture
def cluster(monkeypatch):
    """A head and two nodes of one core each; the head takes no units."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    own = {"include_dashboard": False, "include_log_monitor": False, "object_store_memory": 80 << 20}
    cluster = cluster_utils.Cluster()
    try:
        for own_args in ({"num_cpus": 0, "no_monitor": True}, {"num_cpus": 1}, {"num_cpus": 1}):
            try:
                cluster.add_node(**own_args, **own)
            except Exception as error:  # Ray raises no other, and gives a node 30 s, however busy the machine is
                if "timed out during startup" not in str(error):
                    raise
                pytest.skip("this machine is too busy to start three nodes in the time that Ray gives them")
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="machines without a common disk are played with /proc")
@needs_ray
def test_a_node_dies_and_nothing_that_was_finished_is_lost(cluster, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").write_bytes(b"0123456789")
    (tmp_path / "sweep").mkdir()
    units = [unit(str(number)) for number in range(6)] + [unit("never", resources={"lab": 1.0})]
    settings = Settings(address=cluster.address, wait_s=1.0)
    ended, started, before = {}, [], {}
    with closing(RayEngine(settings, tmp_path / "logs").run(units, f"{__name__}:make")) as events:
        for event in events:
            if isinstance(event, Started):
                started.append(event)
            if isinstance(event, Ended):
                assert event.id not in ended
                ended[event.id] = event
                if len([each for each in ended.values() if each.value]) == 2 and not before:
                    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("*.json")}
                    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert "no lab on any" in ended.pop("never").error
    assert sorted(ended) == list("012345")
    for id, event in ended.items():
        assert event.value["artefact"] == f"{OWN}/sweep/jobs/{id}", event.error
        assert event.value["cwd"] != str(tmp_path)
        assert (tmp_path / "sweep" / "jobs" / id / "weights").stat().st_size == 3_000_000
        assert (tmp_path / "sweep" / "jobs" / f"{id}.json").read_text() == id
    assert all(
        path.stat().st_mtime_ns == changed for path, changed in before.items()
    )  # finished work is not made again
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"jobs"}
    assert capfd.readouterr().out == ""


@needs_ray
def test_an_address_where_nobody_answers_is_refused_at_once():
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(
            UnavailableError, match=f"nobody answers at {address} .*; start a Ray cluster with ray start"
        ):
            connect(Settings(address=address))


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    with pytest.raises(
        UnavailableError, match=r"the engine ray needs Ray, which is not installed; pip install .*\[ray\]"
    ):
        list(RayEngine(Settings(), tmp_path).run([unit("a")], "x:y"))


DRIVER = """
import json, os, signal, sys, time
settings, request = (json.loads(sys.stdin.readline()) for _ in range(2))
def say(**event):
    print(json.dumps(event), flush=True)
mode = request["work"]
if mode == "dies":
    print("the head node is gone", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "refuses":
    say(event="refused", error="no such nodes", code=3)
say(event="ready", workers=7)
say(event="note", text="something else")
say(event="started", id="a", worker="there", attempt=1)
if mode == "hangs":
    time.sleep(60)
say(event="ended", id="a", value={"x": 1}, error="", detail="", worker="there", attempt=1)
say(event="over")
sys.stdin.read()
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """An engine whose driver plays what the work's name says."""
    (tmp_path / "played_driver.py").write_text(DRIVER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: True)
    monkeypatch.setattr(ray_engine, "_MODULE", "played_driver")
    engine = RayEngine(Settings(workers=2), tmp_path / "logs")
    yield engine
    engine.close()


def test_events_come_as_the_driver_tells_them_and_the_rest_ends_too(engine, caplog):
    assert engine.workers == 2
    events = [each for each in engine.run([unit("a"), unit("b")], "works") if each is not None]
    assert events[0] == Started("a", "there", 1)
    assert events[1] == Ended("a", {"x": 1}, worker="there")
    assert events[2] == Ended("b", None, "Ray has said nothing of it")
    assert engine.workers == 7
    assert [record.getMessage() for record in caplog.records] == ["something else"]


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("dies", r"Ray has ended \(the head node is gone\); run what is missing with --resume"),
        ("refuses", "no such nodes"),
    ],
)
def test_a_driver_that_cannot_go_on_is_one_sentence(engine, mode, told):
    with pytest.raises(UnavailableError, match=told):
        list(engine.run([unit("a")], mode))


def test_a_sweep_that_is_closed_leaves_no_process(engine):
    events = engine.run([unit("a")], "hangs")
    while not isinstance(next(events), Started):
        pass
    process = engine._process
    events.close()
    assert process.poll() is not None
    engine.close()  # once more does no harm
