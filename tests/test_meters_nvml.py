import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from ecc.core.errors import MeterError
from ecc.profiler.meters import nvml
from ecc.profiler.meters.nvml import NvmlMeter, Trace, integrate, slope


class FakeError(Exception):
    def __init__(self, value):
        super().__init__(f"code {value}")
        self.value = value


class FakeNvml:
    """A board of constant power whose counter ticks; ``broken`` names the calls that raise NVML's error 3."""

    NVMLError = FakeError

    def __init__(self, *, watts=200.0, tick_s=0.01, broken=(), mig=0, clock=time.monotonic):
        self.watts, self.tick_s, self.broken, self.mig, self.clock = watts, tick_s, set(broken), mig, clock
        self.reset_at = float("inf")
        self.handle = None

    def _call(self, name):
        if name in self.broken:
            raise FakeError(3)

    def nvmlInit(self):  # noqa: N802
        self._call("init")

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return f"board {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return f"board {uuid}"

    def nvmlDeviceGetMigMode(self, handle):  # noqa: N802
        self._call("mig")
        return self.mig, self.mig

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        self._call("counter")
        self.handle = handle
        now = self.clock()
        since = now if now < self.reset_at else now - self.reset_at
        return int(1e3 * self.watts * (1.0 + np.floor(since / self.tick_s) * self.tick_s))

    def nvmlDeviceGetFieldValues(self, handle, fields):  # noqa: N802
        assert fields == [186]
        supported = "instant" not in self.broken
        value = SimpleNamespace(uiVal=int(1e3 * self.watts) if supported else 0)
        return [SimpleNamespace(nvmlReturn=0 if supported else 3, value=value)]

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        self._call("average")
        return int(1e3 * self.watts)


def simulated(tick_s, window_s, rng, poll_s=0.005, watts=300.0):
    """Times and joules at the changes of a counter with 2 % jitter, as polling every 5 ms sees them in a window."""
    ticks = np.cumsum(tick_s * (1 + 0.02 * rng.standard_normal(int(window_s / tick_s) + 8))) - 3 * tick_s * rng.random()
    polls = np.arange(rng.random() * poll_s, window_s, poll_s)
    last = np.searchsorted(ticks, polls, side="right") - 1
    value = np.where(last >= 0, watts * ticks[np.maximum(last, 0)], 0.0)
    seen = np.flatnonzero(np.diff(value) > 0) + 1
    return polls[seen], value[seen], value[-1] - value[0]


@pytest.mark.parametrize(
    ("tick_s", "window_s", "rms", "plain"),
    [(0.02, 1.0, 0.0020, 0.003), (0.1, 2.0, 0.0010, 0.008), (0.1, 5.0, 0.0003, 0.003), (0.5, 10.0, 0.0010, 0.009)],
    ids=["20ms/1s", "100ms/2s", "100ms/5s", "500ms/10s"],
)
def test_the_slope_over_ticks_is_right_where_end_minus_start_is_not(tick_s, window_s, rms, plain):
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(400):
        times, joules, delta = simulated(tick_s, window_s, rng)
        errors.append([slope(times, joules)[0] / 300 - 1, delta / window_s / 300 - 1])
    found = np.sqrt(np.mean(np.square(errors), axis=0))
    assert found[0] < rms < plain < found[1]


def test_the_slope_is_the_one_of_least_squares():
    rng = np.random.default_rng(0)
    times, values = np.sort(rng.random(12)), rng.random(12)
    fit, covariance = np.polyfit(times, values, 1, cov="unscaled")
    error = np.sqrt(covariance[0, 0] * np.sum((np.polyval(fit, times) - values) ** 2) / 10)
    assert slope(times, values) == pytest.approx((fit[0], error))


def test_power_is_integrated_to_the_edges_of_the_window():
    assert integrate([0.0, 1.0, 2.0], [10.0, 20.0, 20.0], 0.5, 3.0) == pytest.approx(0.5 * 17.5 + 2 * 20)


def test_polling_keeps_the_changes_only():
    now = [0.0]
    trace = Trace()
    trace.poll(
        lambda: np.floor(now[0] / 0.1),
        lambda: now[0] < 1.04,
        changes=True,
        clock=lambda: now[0],
        sleep=lambda s: now.__setitem__(0, now[0] + s),
    )
    assert trace.values == list(range(11))
    assert np.diff(trace.times[1:]) == pytest.approx(0.1, abs=0.006)


def test_a_counter_that_goes_back_is_an_error():
    values = iter([5.0, 6.0, 1.0])
    with pytest.raises(MeterError, match=r"was reset \(driver reloaded\?\); measure again$"):
        Trace().poll(lambda: next(values), lambda: True, changes=True, sleep=lambda s: None)


def window(library, seconds=0.15, **options):
    meter = NvmlMeter(library=library, **options)
    meter.begin()
    start = time.monotonic()
    time.sleep(seconds)
    reading = meter.end()
    return reading, reading.value / (time.monotonic() - start)


@pytest.mark.parametrize(
    ("broken", "source", "flag"),
    [
        ((), "NVML energy counter", ""),
        (("counter",), "NVML instant power, integrated", "power"),
        (("counter", "instant"), "NVML average power, integrated", "power"),
    ],
    ids=["counter", "instant", "average"],
)
def test_the_best_sensor_that_answers_is_read(broken, source, flag):
    library = FakeNvml(broken=broken)
    assert NvmlMeter(library=library).probe().source == source
    reading, watts = window(library, 0.3)
    assert reading.flag == flag
    assert 100 < watts < 300  # polling in real time on any host; exact figures are tested on simulated time


def test_too_few_ticks_are_labelled_as_a_plain_delta():
    reading, _ = window(FakeNvml(tick_s=0.06))
    assert reading.flag == "delta"


def test_a_counter_that_stands_still_is_an_error_and_not_zero():
    with pytest.raises(MeterError, match=r"^NVML energy counter does not move; measure latency instead$"):
        window(FakeNvml(tick_s=1e9), 0.02)


def test_a_reset_in_mid_window_is_an_error():
    library = FakeNvml()
    library.reset_at = time.monotonic() + 0.1
    with pytest.raises(MeterError, match="was reset"):
        window(library, 0.3)


def test_a_driver_that_goes_away_in_mid_window_is_an_error():
    library = FakeNvml()
    meter = NvmlMeter(library=library)
    meter.begin()
    library.broken.add("counter")
    time.sleep(0.05)
    with pytest.raises(MeterError, match=r"^NVML failed at nvmlDeviceGetTotalEnergyConsumption \(code 3\)"):
        meter.end()


def test_the_window_is_twenty_ticks_and_two_seconds_at_least(monkeypatch):
    assert NvmlMeter(library=FakeNvml()).shortest_window_s == 2.0
    assert NvmlMeter(library=FakeNvml(broken=("counter", "instant"))).shortest_window_s == 5.0
    monkeypatch.setattr(nvml, "_tick_s", lambda sensor: 0.5)
    assert NvmlMeter(library=FakeNvml()).shortest_window_s == 10.0


def test_the_board_is_found_by_its_id():
    library = FakeNvml()
    NvmlMeter(3, uuid="GPU-7", library=library).probe()
    assert library.handle == "board GPU-7"
    NvmlMeter(3, library=library).probe()
    assert library.handle == "board 3"


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (FakeNvml(mig=1), "the GPU is split by MIG"),
        (FakeNvml(broken=("init",)), r"NVML failed at nvmlInit (code 3); this board cannot, measure latency instead"),
        (FakeNvml(broken=("counter", "instant", "average")), "NVML failed at nvmlDeviceGetPowerUsage (code 3)"),
        (FakeNvml(watts=0.0), "NVML average power, integrated reads 0"),
    ],
    ids=["mig", "init", "none", "zero"],
)
def test_a_board_that_cannot_be_metered_says_why(library, reason):
    probe = NvmlMeter(library=library).probe()
    assert not probe.available
    assert probe.reason.startswith(reason)


def test_boards_that_do_not_know_mig_are_metered():
    assert NvmlMeter(library=FakeNvml(broken=("mig",))).probe().available


def test_without_the_library_the_probe_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reason = NvmlMeter().probe().reason
    assert reason == "GPU energy needs nvidia-ml-py, which is not installed; run `pip install ecc-compress[gpu]`"


def test_the_real_library_without_a_driver_or_with_one_gives_an_answer():
    pytest.importorskip("pynvml")
    probe = NvmlMeter().probe()
    assert probe.available != bool(probe.reason)
