"""Units on Ray, with a stand-in for Ray that loses, harms and refuses what a test asks for."""

import threading
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest

from ecc.sweeps.engines import ray_connection, ray_run
from ecc.sweeps.engines.cluster import Node
from ecc.sweeps.engines.protocol import Unit
from ecc.sweeps.engines.ray_connection import Settings
from ecc.sweeps.engines.remote import Errand, Sign

ONE_CORE = (Node("n", "node", {"CPU": 1.0}),)


class RayError(Exception):
    """As Ray's."""


class RayTaskError(RayError):
    """As Ray's: the function itself raised."""

    cause = None


class NodeDiedError(RayError):
    """As Ray's."""


class StandIn:
    """As much of Ray as is used. ``scripts`` changes what a unit says at an attempt."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, scripts):
        self.scripts, self.attempts, self.cancelled, self.options_seen = scripts, {}, [], []
        self.most, self.stubborn = 0, ()

    def put(self, value):
        return value

    def get(self, value):
        if isinstance(value, Exception):
            raise value
        return value

    def wait(self, generators, *, num_returns, timeout, fetch_local):
        self.most = max(self.most, len(generators))
        ready = [each for each in generators if each.script is not None and not each.hangs][:num_returns]
        return ready, [each for each in generators if each not in ready]

    def cancel(self, generator, *, force):
        self.cancelled.append((generator.id, force))
        if force or generator.id not in self.stubborn:
            generator.script = iter([RayError("cancelled")])

    def remote(self, function):
        def options(**given):
            self.options_seen.append(given)

            def submit(errand):
                return Generator(self, function, errand)

            return SimpleNamespace(remote=submit)

        return SimpleNamespace(options=options)


class Hanging:
    """Says where it runs, and nothing any more."""

    def __init__(self, said):
        self.said, self.begun = said, False

    def __iter__(self):
        return self

    def __next__(self):
        self.begun = True
        return next(self.said)


class Generator:
    """What Ray gives for a task."""

    def __init__(self, ray, function, errand):
        self.id = errand.unit.id
        attempt = ray.attempts[self.id] = ray.attempts.get(self.id, 0) + 1
        change = ray.scripts.get(self.id, {}).get(attempt, lambda said: said)
        said = change(function(errand))
        self.script = None if said is None else iter(said)

    @property
    def hangs(self):
        return isinstance(self.script, Hanging) and self.script.begun

    def __next__(self):
        return next(self.script)

    def completed(self):
        return self


def make(description):
    """Work: write a file."""
    root = Path(description["root"])
    (root / description["id"]).write_text(description["id"] * 3)
    return {"made": str(root / description["id"])}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs units on the stand-in; gives what the engine is told."""

    def go(units, *, scripts=None, nodes=ONE_CORE, here=True, stop=None, stubborn=(), **settings):
        ray, told = StandIn(scripts or {}), []
        ray.stubborn = stubborn
        monkeypatch.setattr(ray_run, "the_ray", lambda: ray)
        monkeypatch.setattr(ray_run, "alive", lambda: nodes)
        if not here:
            monkeypatch.setattr(Sign, "seen", property(lambda self: False))
        waiting = deque((unit, 1) for unit in units)
        given = Settings(**({"wait_s": 0.0, "grace_s": 0.1} | settings))
        work = f"{__name__}:make"
        ray_run.Run(given, "the cluster", work, told.append, stop or threading.Event(), waiting).run()
        ended = {each["id"]: each for each in told if each["event"] == "ended"}
        assert sum(each["event"] == "ended" for each in told) == len(ended)
        assert stop or sorted(ended) == sorted(unit.id for unit in units)  # every unit, once
        assert not list(tmp_path.glob(".*.sign"))
        return SimpleNamespace(ray=ray, told=told, ended=ended)

    return go


def unit(root, id="a", **changes):
    return Unit(id, {"id": id, "root": str(root)}, writes=(str(root / id),), root=str(root), **changes)


def dies(said):
    """Say where it runs, and die."""
    return [next(said), NodeDiedError("the node is dead")]


@pytest.mark.parametrize("here", [True, False], ids=["one disk", "no common disk"])
def test_units_run_and_their_results_are_in_their_places(run, tmp_path, here):
    units = [unit(tmp_path, name) for name in "abc"]
    outcome = run(units, here=here)
    assert all(each["value"] == {"made": str(tmp_path / id)} for id, each in outcome.ended.items())
    assert {file.name: file.read_text() for file in tmp_path.iterdir() if file.is_file()} == {
        "a": "aaa",
        "b": "bbb",
        "c": "ccc",
    }
    assert [each["event"] for each in outcome.told[:2]] == ["started", "ended"]


def test_a_unit_whose_node_dies_is_run_again(run, tmp_path):
    outcome = run([unit(tmp_path)], scripts={"a": {1: dies, 2: dies}})
    assert outcome.ended["a"]["value"]
    assert outcome.ended["a"]["attempt"] == 3
    notes = [each["text"] for each in outcome.told if each["event"] == "note"]
    assert notes == ["a is run again: the node that it ran on died"] * 2


def test_a_unit_is_given_up_after_as_many_attempts_as_are_allowed(run, tmp_path):
    outcome = run([unit(tmp_path), unit(tmp_path, "b")], scripts={"a": dict.fromkeys(range(9), dies)}, attempts=2)
    assert outcome.ended["a"]["error"] == "it was lost 2 times, at last since the node that it ran on died"
    assert outcome.ray.attempts == {"a": 2, "b": 1}
    assert outcome.ended["b"]["value"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda said: [each if isinstance(each, dict) else each + b"x" for each in said],
        lambda said: [each for each in said if isinstance(each, dict)],
        lambda said: list(said)[:-1],
        lambda said: [each for each in said if not isinstance(each, dict) or "listings" not in each],
    ],
    ids=["longer", "pieces lost", "no last word", "no listing"],
)
def test_results_that_do_not_come_whole_are_made_again(run, tmp_path, harm):
    outcome = run([unit(tmp_path)], scripts={"a": {1: harm}}, here=False)
    assert outcome.ended["a"]["attempt"] == 2
    assert (tmp_path / "a").read_text() == "aaa"
    assert not (tmp_path / ".incoming").exists()


def test_an_error_of_the_program_there_is_told_and_not_repeated(run, tmp_path):
    outcome = run([unit(tmp_path)], scripts={"a": {1: lambda said: [RayTaskError("No module named 'ecc'")]}})
    assert outcome.ended["a"]["error"] == "RayTaskError: No module named 'ecc'"
    assert outcome.ray.attempts == {"a": 1}


def test_units_that_no_node_can_run_end_with_the_reason_and_the_rest_runs(run, tmp_path):
    outcome = run([unit(tmp_path, "a", resources={"lab": 1.0}), unit(tmp_path, "b"), unit(tmp_path, "c", cpus=9)])
    assert "no node of the cluster has 1 CPU, 1 lab for a unit (no lab on any)" in outcome.ended["a"]["error"]
    assert "at most 1 CPU on node" in outcome.ended["c"]["error"]
    assert outcome.ended["b"]["value"]


def test_units_that_wait_on_a_node_that_is_gone_end_too(run, tmp_path):
    nodes = [Node("n", "node", {"CPU": 1.0})]

    def vanish(said):
        nodes.clear()  # Ray keeps the task, and never says anything of it

    outcome = run([unit(tmp_path)], scripts={"a": {1: vanish}}, nodes=nodes)
    assert outcome.ended["a"]["error"] == "the cluster has no node that is alive"
    assert outcome.ray.cancelled == [("a", True)]


def test_no_more_is_handed_out_than_fits_twice(run, tmp_path):
    outcome = run([unit(tmp_path, str(number)) for number in range(9)])
    assert outcome.ray.most == 2


def test_what_a_unit_claims_is_asked_of_ray(run, tmp_path):
    has = {"CPU": 4.0, "GPU": 1.0, "memory": 2e9, "lab": 2.0}
    claims = {"cpus": 3, "gpus": 0.5, "memory_bytes": 10**9, "resources": {"lab": 1.0}}
    (options,) = run([unit(tmp_path, **claims)], nodes=[Node("n", "node", has)]).ray.options_seen
    asked = {name: options[name] for name in ("num_cpus", "num_gpus", "memory", "resources", "max_retries")}
    assert asked == {"num_cpus": 3, "num_gpus": 0.5, "memory": 10**9, "resources": {"lab": 1.0}, "max_retries": 0}


def test_files_that_units_share_are_kept_with_ray_once(run, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    put, seen = [], []
    monkeypatch.setattr(StandIn, "put", lambda self, value: put.append(value) or value)
    monkeypatch.setattr(ray_run, "carry_out", lambda errand, fetch: seen.append(errand) or iter([{"value": {}}]))
    run([unit(tmp_path, name, reads=(str(source),)) for name in "abc"])
    assert put == [b"x"]
    assert all(isinstance(each, Errand) and each.contents == ((b"x",),) for each in seen)


@pytest.mark.parametrize("stubborn", [False, True], ids=["willing", "stubborn"])
def test_a_unit_that_takes_too_long_is_ended_and_the_rest_runs(run, tmp_path, stubborn):
    units = [unit(tmp_path, "a", timeout_s=0.05), unit(tmp_path, "b", timeout_s=300.0)]
    outcome = run(units, scripts={"a": dict.fromkeys(range(9), Hanging)}, stubborn=("a",) if stubborn else ())
    assert outcome.ended["a"]["error"].startswith("it took longer than 0.05 s (timeout_s), so it was ended")
    assert outcome.ray.attempts["a"] == 1
    assert outcome.ray.cancelled == [("a", False)] + [("a", True)] * stubborn
    assert outcome.ended["b"]["value"]


@pytest.mark.parametrize("stubborn", [False, True], ids=["willing", "stubborn"])
def test_a_stop_asks_what_runs_to_keep_its_state_before_it_is_ended(run, tmp_path, stubborn):
    stop = threading.Event()
    script = {"a": {1: lambda said: stop.set()}}
    outcome = run([unit(tmp_path)], scripts=script, stop=stop, stubborn=("a",) if stubborn else ())
    assert outcome.ray.cancelled == [("a", False)] + [("a", True)] * stubborn
    assert not outcome.ended  # it is run when the sweep is resumed


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ray://head:10001", "is of Ray's client"),
        ("head", "is no address of a Ray cluster; give HOST:PORT or 'auto'"),
        ("head:0", "is no address"),
        ("head:port", "is no address"),
    ],
    ids=lambda value: value[:10],
)
def test_addresses_that_are_none_are_refused(address, told):
    with pytest.raises(ValueError, match=told):
        Settings(address=address)


@pytest.mark.parametrize(
    "changes", [{"attempts": 0}, {"workers": -1}, {"wait_s": float("inf")}, {"wait_s": -1}], ids=str
)
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match="of Ray must be"):
        Settings(**changes)


def test_hosts_may_be_numbers_of_version_six():
    assert ray_connection.split_address("[::1]:6379") == ("::1", 6379)
