"""The process that talks to Ray: what it says when a cluster cannot be used, and that it ends with the sweep."""

import io
import json
import os
from dataclasses import asdict

import pytest

from ecc.core.errors import UnavailableError
from ecc.sweeps.engines import ray_driver
from ecc.sweeps.engines.cluster import Node, versions
from ecc.sweeps.engines.protocol import Unit
from ecc.sweeps.engines.ray_connection import LOCAL, Settings

NODE = Node("n", "node", {"CPU": 2.0})
UNIT = Unit("a", {"x": 1}, resources={}, reads=("/r",), writes=("/w",))


class Last:
    """The timer that ends a process which Ray holds up; here it must not."""

    def __init__(self, seconds, function, arguments):
        assert (seconds > Settings().grace_s, function, arguments) == (True, os._exit, (1,))

    def start(self):
        """Do nothing."""


@pytest.fixture
def serve(monkeypatch):
    """Serves requests on a cluster that is made up; gives what is told, and the runs."""

    def go(*requests, nodes=(NODE,), found=None, where="the cluster", connects=True):
        told, runs = [], []

        class Run:
            def __init__(self, settings, where, work, emit, stop, waiting):
                runs.append((settings, work, list(waiting)))

            def run(self):
                pass

        def connect(settings):
            if not connects:
                raise UnavailableError("no cluster")
            return where

        monkeypatch.setattr(ray_driver, "connect", connect)
        monkeypatch.setattr(ray_driver, "alive", lambda: list(nodes))
        monkeypatch.setattr(ray_driver, "probe", lambda nodes: found or {node.name: versions() for node in nodes})
        monkeypatch.setattr(ray_driver, "Run", Run)
        monkeypatch.setattr(ray_driver.signal, "signal", lambda *_: None)
        monkeypatch.setattr(ray_driver.threading, "Timer", Last)
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(each) + "\n" for each in requests)))
        driver = ray_driver._Driver(told.append)
        driver.listen()
        assert driver.stop.is_set()  # stdin has ended, which is how the end of the sweep is noticed
        driver.stop.clear()
        driver.serve()
        return told, runs

    return go


def settings(**changes):
    return {"settings": asdict(Settings(**({"wait_s": 0.0} | changes)))}


def request(*units):
    return {"units": [asdict(unit) for unit in units or (UNIT,)], "work": "m:w"}


def test_units_arrive_as_they_were_sent_request_after_request(serve):
    told, runs = serve(settings(attempts=7), request(), request())
    assert [each["event"] for each in told] == ["ready", "over"] * 2
    assert told[0]["workers"] == 2
    assert [(given.attempts, work, units) for given, work, units in runs] == [(7, "m:w", [(UNIT, 1)])] * 2


def test_a_cluster_that_cannot_be_joined_is_refused_with_its_exit_code(serve):
    told, runs = serve(settings(), request(), connects=False)
    assert told[0] == {"event": "refused", "error": "no cluster", "code": 3}
    assert not runs


def test_units_that_fit_nowhere_refuse_the_sweep(serve):
    told, runs = serve(settings(), request(Unit("a", {}, cpus=3)))
    assert told[0]["code"] == 3
    assert told[0]["error"].startswith("no node of the cluster has 3 CPU for a unit (at most 2 CPU on node)")
    assert not runs


def test_one_unit_that_fits_is_enough_to_begin(serve):
    _, runs = serve(settings(), request(Unit("a", {}, cpus=3), UNIT))
    assert len(runs) == 1


def test_nothing_is_awaited_of_a_cluster_of_this_machine_alone(serve):
    told, _ = serve(settings(wait_s=1e6), request(Unit("a", {}, cpus=3)), where=LOCAL)
    assert told[0]["event"] == "refused"


@pytest.mark.parametrize("mixed", [False, True], ids=["alike", "mixed"])
def test_nodes_with_other_versions_are_named(serve, mixed):
    other = {"node": versions() | {"torch": "1.0"}}
    told, runs = serve(settings(mixed_versions=mixed), request(), found=other)
    named = [each for each in told if f"torch 1.0 on node and {versions()['torch']} here" in str(each)]
    assert [each["event"] for each in named] == (["note"] if mixed else ["refused"])
    assert bool(runs) == mixed
