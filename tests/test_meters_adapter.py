from types import SimpleNamespace

import pytest
from fake_nvml import SimulatedClock

from ecc.core.errors import InputError, MeterError
from ecc.profiler.meters.adapter import WindowMeter


class FakeMonitor:
    """A monitor of 50 W on simulated time; ``wrap`` makes its answer."""

    def __init__(self, clock, wrap=float, watts=50.0):
        self.clock, self.wrap, self.watts = clock, wrap, watts
        self.keys = []

    def begin_window(self, key, sync_execution=True):
        self.keys.append(key)
        self.start = self.clock.now()

    def end_window(self, key, sync_execution=True, cancel=False):
        self.keys.remove(key)
        return self.wrap(self.watts * (self.clock.now() - self.start))


def measurement(joules):
    return SimpleNamespace(time=1.0, gpu_energy={0: joules}, total_energy=joules)


@pytest.mark.parametrize("wrap", [float, int, measurement], ids=["float", "int", "measurement"])
def test_joules_are_those_of_the_monitor(wrap):
    clock, waits = SimulatedClock(), []
    monitor = FakeMonitor(clock, wrap)
    meter = WindowMeter(monitor, clock=clock, synchronise=lambda: waits.append(1))
    assert meter.probe().source == "FakeMonitor (adapter)"
    meter.begin()
    clock.wait(4.0)
    assert meter.end().value == pytest.approx(200.0)
    assert not monitor.keys
    assert len(waits) == 4


def test_the_probe_measures_once():
    clock = SimulatedClock()
    meter = WindowMeter(FakeMonitor(clock), clock=clock, shortest_window_s=3.0)
    assert meter.probe().available
    assert meter.probe().available
    assert clock.now() == 1003.0


@pytest.mark.parametrize("watts", [0.0, -1.0, float("nan"), float("inf")])
def test_a_monitor_without_a_sensor_is_unavailable_and_never_zero(watts):
    clock = SimulatedClock()
    meter = WindowMeter(FakeMonitor(clock, measurement, watts), clock=clock)
    probe = meter.probe()
    assert not probe.available
    assert "which means that it has no sensor here; give it a device that it can measure" in probe.reason
    meter.begin()
    clock.wait(1.0)
    with pytest.raises(MeterError, match=r"^FakeMonitor measured"):
        meter.end()


@pytest.mark.parametrize("answer", [None, "12 J", SimpleNamespace(time=1.0), SimpleNamespace(total_energy=None)])
def test_an_answer_that_is_no_energy_is_refused(answer):
    clock = SimulatedClock()
    reason = WindowMeter(FakeMonitor(clock, lambda joules: answer), clock=clock).probe().reason
    assert "neither joules nor an object with total_energy" in reason


def test_an_error_of_the_monitor_is_told_in_one_sentence():
    clock = SimulatedClock()
    meter = WindowMeter(FakeMonitor(clock), clock=clock)
    with pytest.raises(MeterError, match=r"^FakeMonitor failed: .*; measure latency instead$"):
        meter.end()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_window_that_is_no_time_is_refused(seconds):
    with pytest.raises(InputError, match="must be positive seconds"):
        WindowMeter(FakeMonitor(SimulatedClock()), shortest_window_s=seconds)
