import importlib.metadata
import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from fake_nvml import (
    ADA,
    AMPERE,
    HOPPER,
    TURING,
    VOLTA,
    FakeError,
    FakeNvml,
    ReplayedBoard,
    SimulatedBoard,
    SimulatedClock,
)

from ecc.core.errors import InputError, MeterError, MeterReset
from ecc.profiler.clock import HostClock
from ecc.profiler.meters.board import Board
from ecc.profiler.meters.estimators import Sampling, counted, integrate, integrated, slope
from ecc.profiler.meters.nvml import NvmlMeter
from ecc.profiler.meters.polling import Poll, Samples, Ticks
from ecc.profiler.meters.recording import read_trace, record_trace
from ecc.profiler.meters.sensors import instant_sampling, usage_sampling

COUNTER, POWER = "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"


def fake(watts=200.0, *, board=None, **options):
    clock = options.pop("clock", None) or SimulatedClock()
    simulated = {
        name: options.pop(name) for name in ("tick_s", "jitter", "gain", "period_s", "seed") if name in options
    }
    return FakeNvml(board or SimulatedBoard(watts, **simulated), clock, **options)


def meter_of(library, **options):
    return NvmlMeter(library=library, clock=library.clock, **options)


def window(meter, clock, seconds=2.0):
    meter.begin()
    clock.wait(seconds)
    return meter.end()


# -- estimators


@pytest.mark.parametrize(
    ("tick_s", "window_s", "rms", "plain"),
    [(0.02, 1.0, 0.0020, 0.003), (0.1, 2.0, 0.0020, 0.008), (0.1, 5.0, 0.0003, 0.003), (0.5, 10.0, 0.0010, 0.009)],
    ids=["20ms/1s", "100ms/2s", "100ms/5s", "500ms/10s"],
)
def test_the_slope_over_ticks_is_right_where_end_minus_start_is_not(tick_s, window_s, rms, plain):
    errors, rng = [], np.random.default_rng(0)
    library = fake(300.0, tick_s=tick_s)
    for _ in range(60):
        library.clock.wait(rng.random() * tick_s)
        ticks, start = Ticks(), library.clock.now()
        poll = Poll(Board.open(library=library).energy_j, ticks, library.clock, 0.005)
        library.clock.wait(window_s)
        poll.stop()
        found = counted(ticks, start, library.clock.now())
        errors.append([found.joules / window_s / 300 - 1, ticks.delta / window_s / 300 - 1])
    by_slope, by_delta = np.sqrt(np.mean(np.square(errors), axis=0))
    assert by_slope < rms < plain < by_delta


def test_the_slope_is_the_one_of_least_squares():
    rng = np.random.default_rng(0)
    times, values = np.sort(rng.random(12)), rng.random(12)
    fit, covariance = np.polyfit(times, values, 1, cov="unscaled")
    error = np.sqrt(covariance[0, 0] * np.sum((np.polyval(fit, times) - values) ** 2) / 10)
    assert slope(times, values) == pytest.approx((fit[0], error))


def test_the_standard_error_of_the_slope_is_the_scatter_over_windows():
    rng = np.random.default_rng(1)
    joules, errors = [], []
    for _ in range(400):
        times = np.arange(20) * 0.1
        ticks = Ticks(list(times + 0.003 * rng.standard_normal(20)), [0.005] * 20, list(200.0 * times))
        found = counted(ticks, -0.05, 1.95)
        joules.append(found.joules)
        errors.append(found.error)
    assert np.std(joules) == pytest.approx(np.mean(errors), rel=0.15)


def test_the_error_of_a_plain_delta_is_that_of_its_two_ends():
    rng = np.random.default_rng(2)
    starts, lengths = rng.random((2, 20000)) * [[1.0], [10.0]]
    misses = np.floor(starts + lengths) - np.floor(starts) - lengths
    found = counted(Ticks(first=0.0, last=330.0), 0.0, 3.3, 1.0)  # 100 W, ticks of a second: 100 J each
    assert found.error == pytest.approx(100 * np.sqrt(np.mean(misses**2)), rel=0.02)
    assert not found.by_slope


def test_power_is_integrated_to_the_edges_of_the_window():
    assert integrate([0.0, 1.0, 2.0], [10.0, 20.0, 20.0], 0.5, 3.0) == pytest.approx(0.5 * 17.5 + 2 * 20)


def test_what_a_power_sensor_tells_of_the_time_before_is_left_out():
    samples = Samples([0.0, 1.0, 2.0, 3.0, 4.0], [10.0, 10.0, 100.0, 100.0, 100.0])
    found = integrated(samples, 0.0, 4.0, Sampling(1.0, 0.1))
    assert found.joules == pytest.approx(400.0)
    assert integrated(Samples([0.1], [5.0]), 0.0, 4.0, Sampling(1.0, 0.1)) is None


def test_a_tick_is_known_to_lie_between_the_readings_that_it_separates():
    ticks = Ticks()
    for time, value in [(0.0, 5.0), (1.0, 5.0), (3.0, 6.0), (4.0, 6.0), (4.5, 9.0)]:
        ticks.add(time, value)
    assert (ticks.times, ticks.gaps, ticks.values, ticks.delta) == ([3.0, 4.5], [2.0, 0.5], [6.0, 9.0], 4.0)


def test_uneven_polling_hurts_less_where_each_tick_is_weighed_by_what_is_known_of_it():
    rng, weighed, plain = np.random.default_rng(3), [], []
    for _ in range(300):
        gaps = np.where(rng.random(400) < 0.1, 0.01 + 0.05 * rng.random(400), 0.005)
        polls = np.cumsum(gaps)
        ticks = Ticks()
        for time in polls[polls < 2.0]:
            ticks.add(time, 10.0 * (1 + np.floor(time / 0.1)))
        weighed.append(counted(ticks, 0.0, 2.0, 0.1).joules / 200 - 1)
        plain.append(slope(ticks.times, ticks.values)[0] / 100 - 1)
    assert np.std(weighed) < 0.6 * np.std(plain)


def test_weights_count_a_reading_as_often_as_they_say():
    assert slope([0, 1, 3], [0, 2, 3], [1, 2, 1])[0] == pytest.approx(slope([0, 1, 1, 3], [0, 2, 2, 3])[0])


# -- sensors of each generation


@pytest.mark.parametrize(
    ("architecture", "capability", "driver", "instant", "usage"),
    [
        (HOPPER, (9, 0), 550, (0.025, 0.1), (1.0, 0.1)),
        (ADA, (8, 9), 525, (0.1, 0.1), (1.0, 0.1)),
        (AMPERE, (8, 6), 530, (0.1, 0.1), (0.1, 0.1)),
        (AMPERE, (8, 6), 550, (0.1, 0.1), (1.0, 0.1)),
        (AMPERE, (8, 0), 550, (0.025, 0.1), (0.025, 0.1)),
        (TURING, (7, 5), 550, (0.1, 0.1), (0.1, 0.1)),
        (VOLTA, (7, 0), 470, (0.01, 0.02), (0.01, 0.02)),
        (0, (0, 0), 0, (0.1, 0.1), (1.0, 0.1)),
    ],
    ids=["H100", "Ada", "Ampere-530", "Ampere", "A100", "Turing", "Volta", "unknown"],
)
def test_power_is_read_as_the_generation_samples_it(architecture, capability, driver, instant, usage):
    assert instant_sampling(architecture, capability) == Sampling(*instant)
    assert usage_sampling(architecture, capability, driver) == Sampling(*usage)


@pytest.mark.parametrize(
    ("errors", "source", "flag", "window_s"),
    [
        ({}, "NVML energy counter", "", 1.0),
        ({COUNTER: 3}, "NVML instant power, integrated", "power", 2.0),
        ({COUNTER: 3, 186: 3}, "NVML power (averaged over 1 s), integrated", "power-average", 5.0),
    ],
    ids=["counter", "instant", "average"],
)
def test_the_best_sensor_that_answers_is_read(errors, source, flag, window_s):
    library = fake(errors=errors)
    meter = meter_of(library)
    assert meter.probe().source == source
    assert meter.shortest_window_s == pytest.approx(window_s, rel=0.05)
    reading = window(meter, library.clock, window_s)
    assert reading.flag == flag
    assert reading.value == pytest.approx(200 * window_s, rel=0.01)


def test_the_user_may_choose_integrated_power_over_the_counter():
    library = fake()
    meter = meter_of(library, source="power")
    assert meter.probe().source == "NVML instant power, integrated"
    assert window(meter, library.clock).flag == "power"
    assert "nvmlDeviceGetTotalEnergyConsumption" in meter_of(fake(errors={COUNTER: 3}), source="counter").probe().reason
    with pytest.raises(InputError, match=r"^energy source 'sun' is unknown; choose from auto, counter, power$"):
        NvmlMeter(source="sun")


def test_a_module_that_tells_its_own_power_only_says_so():
    library = fake(errors={COUNTER: 3, POWER: 3, 186: 3})
    probe = meter_of(library).probe()
    assert (probe.source, probe.details["scope"]) == (
        "NVML instant power of the module (GPU and CPU), integrated",
        "module",
    )


@pytest.mark.parametrize("uint", [True, False], ids=["uint", "ulonglong"])
def test_fields_are_read_by_the_type_that_the_driver_gives_them(uint):
    board = Board.open(library=fake(uint=uint, throttle={74: 2**31 if uint else 2**40}))
    assert board.instant_w() == pytest.approx(200.0)
    assert board.throttle_counters() == {74: 2.0**31 if uint else 2.0**40}


def test_the_old_power_call_is_not_trusted_right_after_the_load_began():
    step = SimulatedBoard(lambda t: np.where(t > 1000.0, 300.0, 50.0), average_s=1.0)
    library = fake(board=step, errors={COUNTER: 3, 186: 3})
    assert window(meter_of(library), library.clock, 5.0).value == pytest.approx(1500.0, rel=0.002)


# -- windows


def test_a_window_has_its_standard_error_its_plain_delta_and_its_cross_check():
    library = fake(300.0)
    reading = window(meter_of(library), library.clock)
    assert reading.value == pytest.approx(600.0, abs=5 * reading.error)
    assert 0 < reading.error < 3.0
    assert reading.delta == pytest.approx(600.0, abs=33.0)
    assert reading.check == pytest.approx(600.0, rel=1e-3)


@pytest.mark.parametrize(("gain", "flag"), [(0.95, ""), (0.6, "counter-suspect"), (1.2, "counter-suspect")])
def test_a_counter_that_disagrees_with_power_is_flagged_unless_the_user_chose_it(gain, flag):
    for source, expected in (("auto", flag), ("counter", "")):
        library = fake(gain=gain)
        reading = window(meter_of(library, source=source), library.clock)
        assert reading.flag == expected
        assert reading.value / reading.check == pytest.approx(gain, rel=0.01)


def test_too_few_ticks_are_labelled_as_a_plain_delta():
    library = fake(tick_s=0.5, jitter=0.0)
    meter = meter_of(library)
    assert meter.shortest_window_s == pytest.approx(5.0, rel=0.02)
    reading = window(meter, library.clock, 2.0)
    assert reading.flag == "delta"
    assert reading.value == reading.delta
    assert reading.error == pytest.approx(reading.value / 2 * 0.5 / np.sqrt(6), rel=0.02)


@pytest.mark.parametrize("tick_s", [0.02, 0.1, 0.5])
def test_the_period_of_the_counter_is_measured_and_told(tick_s):
    library = fake(tick_s=tick_s, jitter=0.05)
    meter = meter_of(library)
    assert "tick_s" not in meter.probe().details
    assert meter.shortest_window_s == pytest.approx(max(1.0, 10 * tick_s), rel=0.05)
    assert meter.probe().details["tick_s"] == pytest.approx(tick_s, rel=0.05)
    assert library.clock.now() - 1000 < 15.1


def test_readings_of_zero_and_refusals_of_fast_polling_are_no_readings():
    library = fake(zeros={COUNTER, 186})
    meter = meter_of(library)
    _ = meter.shortest_window_s
    reading = window(meter, library.clock)
    assert reading.flag == ""
    assert reading.value == pytest.approx(400.0, rel=0.01)
    assert reading.check == pytest.approx(400.0, rel=0.01)
    meter.begin()
    library.clock.wait(1.0)
    library.errors[186] = 3
    library.clock.wait(1.0)
    assert meter.end().value == pytest.approx(400.0, rel=0.01)


def test_a_part_time_sensor_and_a_steady_load_agree():
    board = SimulatedBoard(lambda t: 200 + 20 * np.sin(2 * np.pi * t / 0.013), average_s=0.025, period_s=0.1)
    library = fake(board=board, architecture=HOPPER, capability=(9, 0))
    reading = window(meter_of(library), library.clock, 5.0)
    assert reading.flag == ""
    assert reading.check == pytest.approx(reading.value, rel=0.02)


def test_a_part_time_sensor_and_a_load_of_its_own_period_are_flagged():
    board = SimulatedBoard(lambda t: np.where(t % 0.1 < 0.05, 300.0, 100.0), average_s=0.025, period_s=0.1, seed=3)
    library = fake(board=board, architecture=HOPPER, capability=(9, 0))
    assert window(meter_of(library), library.clock, 5.0).flag == "counter-suspect"


# -- cross-check


def test_the_check_compares_counter_and_power_loaded_and_idle():
    loads = []

    def power(times):
        return np.where(np.asarray(times) < 1020.0, 300.0, 40.0)

    library = fake(board=SimulatedBoard(power, tick_s=0.1))
    meter = meter_of(library)

    def load(seconds):
        loads.append(seconds)
        library.clock.wait(seconds)

    probe = meter.check(load)
    assert loads == [2.0, 10.0]
    assert probe.details["counter_over_power"] == pytest.approx({"loaded": 1.0, "idle": 1.0}, rel=0.05)
    assert probe.details["flag"] == ""
    assert probe.details["tick_s"] == pytest.approx(0.1, rel=0.05)
    assert (probe.details["board"], probe.details["driver"]) == ("Simulated 1000", "550.54.15")
    assert "ecc" not in probe.details  # the board does not tell


def test_the_check_names_a_suspect_counter_and_the_user_chooses():
    for source, flag in (("auto", "counter-suspect"), ("counter", "")):
        library = fake(gain=0.57)
        details = meter_of(library, source=source).check(library.clock.wait).details
        assert details["flag"] == flag
        assert details["counter_over_power"]["idle"] == pytest.approx(0.57, rel=0.02)


def test_without_a_second_sensor_the_check_says_that_nothing_was_compared():
    library = fake(errors={186: 3, POWER: 3})
    details = meter_of(library).check(library.clock.wait).details
    assert details["counter_over_power"] == {"loaded": None, "idle": None}


# -- what goes wrong


def test_a_counter_that_stands_still_is_an_error_and_not_zero():
    library = fake(tick_s=300.0)
    with pytest.raises(
        MeterError, match=r"^NVML energy counter does not move within 2\.000 s; measure latency instead$"
    ):
        window(meter_of(library), library.clock)
    with pytest.raises(MeterError, match=r"^NVML energy counter does not move within 15 s; measure latency instead$"):
        _ = meter_of(library).shortest_window_s


def test_a_reset_in_mid_window_is_an_error_of_its_own_and_the_next_window_is_sound():
    library = fake()
    meter = meter_of(library)
    library.board.energy_j(library.clock.now())
    library.board.resets_at = library.clock.now() + 1.0
    with pytest.raises(MeterReset, match=r"was reset in mid-window \(driver reloaded\?\); measure again$"):
        window(meter, library.clock)
    assert window(meter, library.clock).value == pytest.approx(400.0, rel=0.01)


@pytest.mark.parametrize(
    ("code", "mend"),
    [
        (1, "the driver was unloaded meanwhile; load it again, then repeat the command: finished rows are kept"),
        (4, "reading it is not allowed here; ask the administrator for access to the GPU's counters, or run as root"),
        (15, "the GPU is lost (off the bus or out of power); reset it or restart the machine, then repeat the command: "
         "finished rows are kept"),
        (999, "the NVIDIA driver no longer answers; reload it or restart the machine, then repeat the command: "
         "finished rows are kept"),
    ],
    ids=["uninitialised", "permission", "lost", "unknown"],
)  # fmt: skip
def test_a_driver_that_goes_away_in_mid_window_is_one_sentence_with_the_mend(code, mend):
    library = fake()
    meter = meter_of(library)
    meter.begin()
    library.clock.wait(0.5)
    library.errors[COUNTER] = code
    library.clock.wait(1.5)
    with pytest.raises(MeterError) as caught:
        meter.end()
    assert str(caught.value) == f"NVML failed at {COUNTER} (code {code}): {mend}"
    assert not library.clock._repeated  # nothing polls any more


def test_a_window_that_an_error_left_open_is_forgotten():
    library = fake()
    meter = meter_of(library)
    meter.begin()
    library.clock.wait(1.0)
    assert window(meter, library.clock).value == pytest.approx(400.0, rel=0.01)
    assert not library.clock._repeated


def test_ending_what_was_not_begun_is_an_error():
    with pytest.raises(MeterError, match="without begin"):
        NvmlMeter(library=fake()).end()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mig": 1}, "the GPU is split by MIG, so its energy counter covers other users too; measure latency instead"),
        (
            {"errors": {"nvmlInit": 9}},
            "NVML failed at nvmlInit (code 9): the NVIDIA driver is not loaded; load it",
        ),
        (
            {"errors": {COUNTER: 4, POWER: 4, "nvmlDeviceGetFieldValues": 4}},
            f"NVML failed at {COUNTER} (code 4): reading it is not allowed here; ask the administrator",
        ),
        (
            {"errors": {COUNTER: 3, POWER: 3, "nvmlDeviceGetFieldValues": 3}},
            f"NVML failed at {COUNTER} (code 3): this board does not tell it; measure latency instead",
        ),
        ({"watts": 0.0, "errors": {COUNTER: 3}}, f"NVML failed at {COUNTER} (code 3): this board does not tell it"),
    ],
    ids=["mig", "init", "permission", "unsupported", "zero"],
)
def test_a_board_that_cannot_be_metered_says_why(options, reason):
    probe = meter_of(fake(**options)).probe()
    assert not probe.available
    assert probe.reason.startswith(reason)


def test_boards_that_do_not_know_mig_are_metered():
    assert meter_of(fake(errors={"nvmlDeviceGetMigMode": 3})).probe().available


def test_the_board_is_found_by_its_id(monkeypatch):
    library = fake()
    Board.open(3, uuid="GPU-7", library=library)
    assert library.handle == "board GPU-7"
    meter_of(library, index=3).probe()
    assert library.handle == "board 3"
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"abc-{index}"))
    Board.of("cuda", library=library)
    assert library.handle == "board GPU-abc-1"


def test_a_board_that_nvml_does_not_see_says_so():
    library = fake(errors={"nvmlDeviceGetHandleByUUID": 6})
    with pytest.raises(MeterError, match=r"looking for the board \(code 6\): NVML does not see this board"):
        Board.open(uuid="MIG-1", library=library)


def test_without_the_library_the_probe_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reason = NvmlMeter().probe().reason
    assert reason == "GPU energy needs nvidia-ml-py, which is not installed; run `pip install ecc-compress[gpu]`"


def test_the_unofficial_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", ModuleType("pynvml"))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "11.5.3")
    reason = NvmlMeter().probe().reason
    assert reason.startswith(
        "the module pynvml here is that of the unofficial package pynvml 11.5.3, not NVIDIA's; run"
    )
    assert "pip uninstall pynvml" in reason


def test_a_library_that_lacks_a_call_is_to_be_updated():
    class Old:
        NVMLError = FakeError
        nvmlInit = staticmethod(lambda: None)  # noqa: N815
        nvmlDeviceGetHandleByIndex = staticmethod(lambda index: "board")  # noqa: N815

    reason = NvmlMeter(library=Old()).probe().reason
    assert reason.endswith("update it with `pip install -U nvidia-ml-py`")


def test_the_real_library_without_a_driver_or_with_one_gives_an_answer():
    pytest.importorskip("pynvml")
    probe = NvmlMeter().probe()
    assert probe.available != bool(probe.reason)


# -- recordings


def test_a_recording_says_what_the_board_said(tmp_path):
    library = fake(seed=5)
    path = tmp_path / "trace.jsonl"
    lines = record_trace("cuda", 3.0, path, board=Board.open(library=library), clock=library.clock)
    recording = read_trace(path)
    assert len(recording.times) == lines - 1
    assert recording.facts["board"] == "Simulated 1000"
    for time in np.linspace(0.0, 3.0, 50):
        state = recording.at(time)
        assert state["clock_hz"] == 1.5e9
        assert state["instant_w"] == pytest.approx(200.0)
        assert state["energy_j"] == pytest.approx(library.board.energy_j(1000.0 + time), abs=0.02 * 200 * 0.1 + 21)
    assert recording.at(-1.0) == recording.states[0]


def test_a_recording_replayed_gives_the_joules_of_the_board(tmp_path):
    library = fake(lambda t: np.full(np.shape(t), 250.0), seed=6)
    path = tmp_path / "trace.jsonl"
    record_trace("cuda", 12.0, path, board=Board.open(library=library), clock=library.clock)
    clock = SimulatedClock()
    replayed = FakeNvml(ReplayedBoard(read_trace(path), clock.now()), clock)
    meter = meter_of(replayed)
    assert meter.shortest_window_s == pytest.approx(1.0, rel=0.1)
    reading = window(meter, clock, 4.0)
    assert reading.value == pytest.approx(1000.0, rel=0.002)
    assert reading.flag == ""


def test_what_a_board_does_not_tell_is_not_in_its_recording(tmp_path):
    library = fake(errors={COUNTER: 3, 270: 3})
    record_trace("cuda", 0.2, tmp_path / "t", board=Board.open(library=library), clock=library.clock)
    state = read_trace(tmp_path / "t").at(0.1)
    assert "energy_j" not in state
    assert set(state["throttle"]) == {"74", "76", "269", "271"}


@pytest.mark.parametrize(
    "text", ["", "{}", "nonsense", '{"nvml_trace": 1}', '{"nvml_trace": 1}\n[]', '{"nvml_trace": 9}']
)
def test_a_file_that_is_no_recording_is_refused(tmp_path, text):
    (tmp_path / "t").write_text(text)
    with pytest.raises(InputError, match=r"t' is not a recording of NVML \(.*\); record it again$"):
        read_trace(tmp_path / "t")


def test_a_recording_that_cannot_be_read_or_written_is_one_sentence(tmp_path):
    library = fake()
    with pytest.raises(InputError, match=r"^cannot read '.*none'"):
        read_trace(tmp_path / "none")
    with pytest.raises(InputError, match=r"^cannot write '.*t'"):
        record_trace("cuda", 1, tmp_path / "x" / "t", board=Board.open(library=library), clock=library.clock)


# -- the clock of the host


def test_the_host_clock_repeats_beside_the_caller_until_told_to_stop():
    enough, calls = threading.Event(), []

    def action():
        calls.append(threading.current_thread().name)
        if len(calls) >= 3:
            enough.set()

    stop = HostClock().repeat(action, 1e-4)
    assert enough.wait(60)
    stop()
    seen = len(calls)
    HostClock().wait(0)
    assert len(calls) == seen
    assert set(calls) == {"ecc-clock"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
def test_a_real_board_is_recorded_and_checked(tmp_path):
    from ecc.profiler.meters import checked, meter_for

    assert record_trace("cuda", 1.0, tmp_path / "t") > 5
    assert read_trace(tmp_path / "t").facts["driver"]
    details = checked(meter_for("energy", "cuda"), "cuda").details
    assert 0.005 < details["tick_s"] < 1.1
    assert set(details["counter_over_power"]) == {"loaded", "idle"}
