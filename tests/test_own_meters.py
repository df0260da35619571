"""Meters of the user's own, as docs/meters.md shows them, and what little they may say about precision."""

import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from profiler_toy import Host, Timed, Watch, toy_graph
from torch import nn

import ecc
from ecc.api.ruler import meters_for, own_meters
from ecc.cli.measuring import _profile_text, _profiled
from ecc.core.errors import EccError, InputError, UnavailableError
from ecc.core.meter import Probe
from ecc.profiler.host import Disturbance
from ecc.profiler.meters.adapter import WindowMeter
from ecc.profiler.meters.latency import CpuLatency
from ecc.profiler.protocol import profile
from ecc.profiler.store import Store
from ecc.profiler.window import Window

PAGE = (Path(__file__).parents[1] / "docs" / "meters.md").read_text(encoding="utf-8")
QUICK = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=1, max_blocks=1, pairs=2, burst=1, idle_s=0)


class ZeusMonitor:
    """A monitor of 40 W."""

    def begin_window(self, key):
        self.start = time.perf_counter()

    def end_window(self, key):
        return SimpleNamespace(total_energy=40.0 * (time.perf_counter() - self.start))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 4))


def test_the_snippet_of_the_page_measures_energy_by_the_monitor(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zeus", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "zeus.monitor", SimpleNamespace(ZeusMonitor=ZeusMonitor))
    monkeypatch.setitem(WindowMeter.__init__.__kwdefaults__, "shortest_window_s", 1e-4)
    monkeypatch.setattr(Window, "of", classmethod(lambda cls, kind: QUICK))
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names = {"model": network(), "inputs": torch.zeros(1, 8)}
    exec(compile(snippet, "docs/meters.md", "exec"), names)
    table = names["table"]
    assert table.metrics == ("latency", "energy")
    assert len(table) > 20
    assert table.provenance.energy_source == "ZeusMonitor (adapter)"
    assert names["cost"].metric == "energy"
    with Store(tmp_path / "net.db") as store:
        assert store.energy_source() == "ZeusMonitor (adapter)"
    with pytest.raises(EccError, match=r"energy"):  # there is no other sensor here, or it is another source
        ecc.profile(network(), torch.zeros(1, 8), metrics=["energy"], samples=200, store="net.db")


def test_a_meter_of_the_users_own_stands_in_for_the_devices():
    own = Watch(Host())
    assert meters_for(["latency"], "cpu", own=[own]) == [own]
    meter, added = meters_for(["latency"], "cpu", own=[Watch(Host(), metric="energy")])
    assert isinstance(meter, CpuLatency)
    assert added.metric == "energy"


def test_meters_that_cannot_be_used_are_refused():
    host = Host()
    with pytest.raises(InputError, match=r"^give one meter of each metric$"):
        meters_for(["latency"], "cpu", own=[Watch(host), Watch(host)])
    with pytest.raises(InputError, match=r"^a meter has the metric 'beauty'; choose from latency, energy$"):
        meters_for(["latency"], "cpu", own=[Watch(host, metric="beauty")])
    broken = Watch(host, metric="energy")
    broken.probe = lambda: Probe(False, reason="it is unplugged; plug it in")
    with pytest.raises(UnavailableError, match=r"^energy cannot be measured on cpu: it is unplugged; plug it in$"):
        meters_for(["latency"], "cpu", own=[broken])


def test_a_source_of_energy_is_refused_where_no_energy_is_measured():
    with pytest.raises(InputError, match=r"^the energy source 'counter' is of the metric energy; measure that too"):
        meters_for(["latency"], "cpu", source="counter")
    with pytest.raises(InputError, match="a CPU has energy counters, no power sensor"):
        meters_for(["energy"], "cpu", source="power")


def test_one_meter_is_given_without_a_list_and_monitors_are_adapted():
    monitor, own = ZeusMonitor(), Watch(Host(), metric="energy")
    for given in (monitor, [monitor], (WindowMeter(monitor),), WindowMeter(monitor)):
        (meter,) = own_meters(given)
        assert isinstance(meter, WindowMeter)
        assert meter._monitor is monitor
    for given in (own, [own], (each for each in [own])):
        assert own_meters(given) == [own]
    assert own_meters(None) == own_meters(()) == []


def test_a_meter_whose_window_takes_seconds_to_know_is_not_asked_for_it():
    class Slow(Watch):
        @property
        def shortest_window_s(self):
            raise AssertionError

        @shortest_window_s.setter
        def shortest_window_s(self, value):
            pass

    (meter,) = own_meters(Slow(Host(), metric="energy"))
    assert meter.metric == "energy"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (7, "got int"),
        ("energy", "got str"),
        ({"energy": ZeusMonitor()}, "got dict"),
        ([ZeusMonitor(), None], "got NoneType"),
        (ZeusMonitor, "got the class ZeusMonitor; make one with it"),
        (SimpleNamespace(begin_window=print), "got SimpleNamespace"),
    ],
    ids=["number", "text", "dict", "none", "class", "half"],
)
def test_what_is_no_meter_is_refused_in_a_sentence(given, words):
    with pytest.raises(InputError, match=f"^meters are objects with begin_window and end_window.*{words}$"):
        ecc.profile(network(), torch.zeros(1, 8), meters=given)


def test_noise_that_one_pair_cannot_tell_is_null_in_json_and_said_in_words(monkeypatch):
    monkeypatch.setattr(Disturbance, "now", classmethod(lambda cls: cls(0.0, 0.0, 0)))
    host, graph = Host(slow=1.0), toy_graph()
    result = profile(
        *(Timed(1.0), graph, torch.zeros(1, 3), [{"a": 8, "b": 8}], [Watch(host, "energy", shortest_window_s=1.0)]),
        window=QUICK, runtime=host, build=host.build, clock=host,
    )  # fmt: skip
    value = json.loads(json.dumps(_profiled(result, "p.db"), allow_nan=False))
    assert value["noise"] == {"energy": None}
    assert "how well ratios are known is not clear" in _profile_text(result, None, "p.db", 1)
