"""What energy was read from is known of every run, and counter and power are never mixed."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from fake_nvml import FakeNvml, SimulatedBoard, SimulatedClock
from profiler_toy import INPUTS, Host, Timed, Watch, toy_graph
from torch import nn

from ecc.api import keeping, ruler
from ecc.api.ruler import Ruler
from ecc.core.errors import InputError
from ecc.core.meter import Probe
from ecc.core.table import Provenance
from ecc.profiler.devices import current_device
from ecc.profiler.host import Disturbance
from ecc.profiler.meters.latency import CpuLatency
from ecc.profiler.meters.nvml import NvmlMeter
from ecc.profiler.protocol import profile
from ecc.profiler.store import Store
from ecc.profiler.window import Window

GRAPH = toy_graph()
DESIGN = [{"a": 8, "b": 8}, {"a": 16, "b": 4}, {"a": 4, "b": 4}]
QUICK = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=1, max_blocks=1, pairs=4, idle_s=0.0)


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    monkeypatch.setattr(Disturbance, "now", classmethod(lambda cls: cls(0.0, 0.0, 0)))


@dataclass
class Sensor(Watch):
    """An energy meter that says what it is."""

    metric: str = "energy"
    shortest_window_s: float = 1.0
    kind: str = "counter"

    def probe(self):
        details = {"scope": "gpu", "tick_s": 0.07, "counter_over_power": {"loaded": 1.02, "idle": None}, "odd": [1]}
        return Probe(True, f"simulated {self.kind}", details={"kind": self.kind, **details})


def measured(path, *kinds, design=DESIGN[:2]):
    """A profile of latency, and of energy from each kind."""
    host = Host(slow=1.0)
    return profile(
        *(Timed(1.0), GRAPH, INPUTS, design, [Watch(host), *(Sensor(host, kind=kind) for kind in kinds)]),
        window=QUICK, runtime=host, build=host.build, clock=host, store=path,
    )  # fmt: skip


def test_a_run_tells_what_its_sensors_were(tmp_path):
    where = measured(tmp_path / "p.db", "counter").table.provenance
    assert (where.energy_source, where.environment["energy"]) == ("counter", "counter")
    with Store(tmp_path / "p.db") as store:
        (run,) = store.runs()
    told = {name: value for name, value in run.protocol.items() if name.startswith(("energy_", "latency_"))}
    assert told == {
        "latency_source": "simulated",
        "energy_source": "simulated counter",
        "energy_kind": "counter",
        "energy_scope": "gpu",
        "energy_tick_s": 0.07,
        "energy_counter_over_power_loaded": 1.02,
        "energy_counter_over_power_idle": None,
    }


@pytest.mark.parametrize(("before", "now"), [("counter", "power"), ("power", "counter")])
def test_rows_of_another_source_are_not_mixed_in(tmp_path, before, now):
    path = tmp_path / "p.db"
    measured(path, before)
    with pytest.raises(
        InputError,
        match=rf"this one has energy source {now} instead of {before}; choose --energy-source {before}, or give",
    ):
        measured(path, now, design=DESIGN)
    assert len(measured(path, before, design=DESIGN).table) == 3


def test_the_source_stays_known_while_latency_alone_is_added(tmp_path):
    path = tmp_path / "p.db"
    measured(path)
    assert measured(path, design=DESIGN[:1]).table.provenance.energy_source == ""
    measured(path, "power")
    assert measured(path, design=DESIGN).table.provenance.energy_source == "power"
    with pytest.raises(InputError, match="energy source counter instead of power"):
        measured(path, "counter", design=DESIGN)


@pytest.mark.parametrize(("source", "kind"), [("auto", "counter"), ("counter", "counter"), ("power", "power")])
def test_a_board_says_which_of_its_sensors_is_read(source, kind):
    clock = SimulatedClock()
    meter = NvmlMeter(source=source, library=FakeNvml(SimulatedBoard(), clock), clock=clock)
    assert meter.probe().kind == kind


class Own(Watch):
    """A meter of energy that the user brings."""

    def __init__(self, source):
        super().__init__(Host(), metric="energy")
        self._source = source

    def probe(self):
        return Probe(True, self._source)


def cost(metric, source):
    cpu = current_device("cpu")
    environment = {"energy": source} if source else {}
    return SimpleNamespace(
        metric=metric,
        exact=False,
        provenance=Provenance("net", "f", (1, 3), cpu.name, cpu.fingerprint, environment=environment),
    )


@pytest.mark.parametrize(
    ("latency", "energy", "asked"),
    [("", "", "auto"), ("", "counter", "counter"), ("counter", "power", "power")],
    ids=["unknown", "counter", "power"],
)
def test_a_budget_is_verified_by_the_source_of_its_profile(monkeypatch, latency, energy, asked):
    told = []

    def meters_for(metrics, device, *, source, own):
        told.append((list(metrics), source))
        return [Watch(Host(), metric=metric) for metric in metrics]

    monkeypatch.setattr(ruler, "meters_for", meters_for)
    found = Ruler.of(nn.Linear(3, 2), torch.zeros(1, 3), [cost("latency", latency), cost("energy", energy)])
    assert isinstance(found, Ruler)
    assert told == [(["latency", "energy"], asked)]


def test_a_budget_whose_source_is_not_clear_is_not_verified():
    mixed = Ruler.of(nn.Linear(3, 2), torch.zeros(1, 3), [cost("energy", "counter"), cost("energy", "power")])
    assert mixed == "the energies of the cost models were read from different sources: counter, power"
    own = Ruler.of(nn.Linear(3, 2), torch.zeros(1, 3), [cost("energy", "ZeusMonitor (adapter)")])
    assert own == (
        "energy was measured by ZeusMonitor (adapter), a meter of your own that is not known here; "
        "give it in Python: ecc.verify(..., meters=[...])"
    )


def test_a_budget_is_verified_by_the_meter_of_ones_own_that_its_profile_was_measured_by():
    costs = [cost("latency", "ZeusMonitor (adapter)"), cost("energy", "ZeusMonitor (adapter)")]
    own, unused = Own("ZeusMonitor (adapter)"), Watch(Host(), metric="latency")
    found = Ruler.of(nn.Linear(3, 2), torch.zeros(1, 3), costs, [own])
    assert isinstance(found, Ruler)
    assert isinstance(found.meters[0], CpuLatency)
    assert found.meters[1] is own
    assert Ruler.of(nn.Linear(3, 2), torch.zeros(1, 3), [costs[1]], [own, unused]).meters == (own,)
    assert Ruler.of(nn.Linear(3, 2), torch.zeros(1, 3), costs, [Own("a clamp")]) == (
        "energy was measured by ZeusMonitor (adapter), and the meter given here reads a clamp; give the former"
    )


def test_the_artefact_is_measured_by_the_meters_given(monkeypatch):
    seen = []

    def of(dense, inputs, costs, own):
        seen.extend(own)
        return "nothing is measured here"

    monkeypatch.setattr(keeping.Ruler, "of", of)
    manifest = SimpleNamespace(budgets=(), data="", weight_method="", settings={})
    unpacked = SimpleNamespace(packed=False)
    kept = SimpleNamespace(
        artefact=unpacked, manifest=manifest, costs=dict, dense=None, inputs=None, model=None, graph=None
    )
    own = Own("a clamp")
    keeping.verify(kept, meters=[own])
    assert seen == [own]
