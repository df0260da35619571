import os

import pytest
from fake_nvml import FakeNvml, SimulatedBoard, SimulatedClock

from ecc.core.errors import MeterError
from ecc.profiler.conditions import UNKNOWN, Conditions
from ecc.profiler.gauges import cpu as cpu_module
from ecc.profiler.gauges import gauge_for
from ecc.profiler.gauges.cpu import CpuGauge
from ecc.profiler.gauges.nvml import NvmlGauge
from ecc.profiler.gauges.processes import Process, Processes, shows_whole_host
from ecc.profiler.meters.board import Board

REASONS = "nvmlDeviceGetCurrentClocksThrottleReasons"
OWN = os.getpid()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def process(proc, number, *, ticks=0, core=0, parent=1, name="cat"):
    fields = ["S", str(parent), *["0"] * 9, str(ticks), "0", *["0"] * 23, str(core), "0"]
    write(proc / str(number) / "stat", f"{number} ({name}) {' '.join(fields)}")


# -- GPU


@pytest.fixture
def library():
    return FakeNvml(SimulatedBoard(), SimulatedClock(), pids=[OWN])


@pytest.fixture
def host(tmp_path):
    write(tmp_path / "2" / "comm", "kthreadd")
    return tmp_path


def watch(library, host, during, seconds=1.0):
    gauge = NvmlGauge(lambda: Board.open(library=library), clock=library.clock, proc=host)
    gauge.begin()
    library.clock.wait(seconds / 2)
    during()
    library.clock.wait(seconds / 2)
    found = gauge.end()
    assert not library.clock._repeated
    return found


def test_a_quiet_visit_to_a_board_is_described(library, host):
    assert watch(library, host, lambda: None) == Conditions(
        clock_hz=1.5e9,
        clock_low_hz=1.5e9,
        memory_clock_hz=6e9,
        temperature_c=55.0,
        temperature_rise_c=0.0,
        throttled=(),
        power_limit_w=300.0,
        foreign=0,
    )


def test_a_visit_that_an_error_left_open_is_forgotten(library, host):
    gauge = NvmlGauge(lambda: Board.open(library=library), clock=library.clock, proc=host)
    gauge.begin()
    gauge.begin()
    library.clock.wait(1.0)
    assert gauge.end().clock_hz == 1.5e9
    assert not library.clock._repeated


def test_clocks_that_fall_and_heat_that_rises_are_seen(library, host):
    def heat():
        library.clocks, library.temperature = (1200, 6000), 70.0

    found = watch(library, host, heat)
    assert (found.clock_low_hz, found.temperature_c, found.temperature_rise_c) == (1.2e9, 70.0, 15.0)
    assert 1.2e9 <= found.clock_hz <= 1.5e9


@pytest.mark.parametrize(
    ("field", "word"),
    [(74, "power-cap"), (76, "sync-boost"), (269, "thermal"), (270, "thermal"), (271, "power-brake")],
)
def test_a_counter_of_throttling_that_rose_between_two_samples_is_told(library, host, field, word):
    library.throttle[field] = 10**9
    assert watch(library, host, lambda: library.throttle.update({field: 10**9 + 1})).throttled == (word,)


def test_a_reason_without_a_counter_is_taken_from_the_bits(library, host):
    library.throttle = {74: 0, 269: 0}
    library.reasons = 0x04 | 0x40 | 0x08 | 0x80 | 0x01
    found = watch(library, host, lambda: setattr(library, "reasons", 0x01))
    assert found.throttled == ("hardware-slowdown", "power-brake", "thermal")  # the power cap has its counter


def test_throttling_that_is_not_told_is_unknown_and_not_none(library, host):
    library.throttle, library.errors = {}, {REASONS: 3}
    assert watch(library, host, lambda: None).throttled is None


def test_other_processes_on_the_board_are_counted_where_their_numbers_can_be_known(library, host, tmp_path):
    library.pids = [OWN, 7, 8, 8]
    assert watch(library, host, lambda: None).foreign == 2
    assert watch(library, tmp_path / "container", lambda: None).foreign is None
    library.errors = {"nvmlDeviceGetComputeRunningProcesses": 4}
    assert watch(library, host, lambda: None).foreign is None


def test_a_driver_that_goes_away_leaves_unknowns_and_raises_nothing(library, host):
    def vanish():
        library.errors = dict.fromkeys(
            ("nvmlDeviceGetClockInfo", "nvmlDeviceGetTemperature", "nvmlDeviceGetFieldValues", REASONS), 999
        )

    found = watch(library, host, vanish)
    assert found.clock_hz == 1.5e9
    assert (found.temperature_c, found.temperature_rise_c) == (None, None)


def test_a_board_that_cannot_be_reached_is_unknown():
    def refuse():
        raise MeterError("no driver")

    gauge = NvmlGauge(refuse, clock=SimulatedClock())
    gauge.begin()
    assert gauge.end() == UNKNOWN
    assert NvmlGauge(refuse).end() == UNKNOWN


# -- CPU


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Two folders, /sys and /proc, of a machine of four cores on which we are pinned to two."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    system, proc = tmp_path / "sys", tmp_path / "proc"
    for core, khz in enumerate((3_000_000, 2_000_000, 800_000, 800_000)):
        write(system / f"devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", khz)
        write(system / f"devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count", 5)
    write(system / "class/hwmon/hwmon0/name", "nvme")
    write(system / "class/hwmon/hwmon0/temp1_input", 99_000)
    write(system / "class/hwmon/hwmon1/name", "coretemp")
    write(system / "class/hwmon/hwmon1/temp1_input", 60_000)
    write(system / "class/hwmon/hwmon1/temp2_input", 58_000)
    write(proc / "2/comm", "kthreadd")
    process(proc, OWN, ticks=100)
    return system, proc


def look(machine, during=lambda: None, seconds=1.0):
    clock = SimulatedClock()
    gauge = CpuGauge(*machine, clock=clock)
    gauge.begin()
    clock.wait(seconds)
    during()
    return gauge.end()


def test_a_quiet_visit_to_a_cpu_is_described(machine):
    assert look(machine) == Conditions(
        clock_hz=2.5e9, clock_low_hz=2e9, temperature_c=60.0, temperature_rise_c=0.0, throttled=(), foreign=0
    )


def test_heat_and_throttling_of_our_cores_are_told(machine):
    def heat():
        write(machine[0] / "class/hwmon/hwmon1/temp2_input", 75_000)
        write(machine[0] / "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", 6)
        write(machine[0] / "devices/system/cpu/cpu3/thermal_throttle/core_throttle_count", 900)

    found = look(machine, heat)
    assert (found.temperature_c, found.temperature_rise_c, found.throttled) == (75.0, 15.0, ("thermal",))


def test_a_process_that_is_not_pinned_has_the_clock_of_its_core(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    process(machine[1], "self", core=1)
    assert look(machine).clock_hz == 2e9
    (machine[1] / "self" / "stat").unlink()
    assert look(machine).clock_low_hz == 0.8e9


def test_without_cpufreq_clocks_come_from_the_list_of_processors(machine):
    for path in machine[0].glob("devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"):
        path.unlink()
    entries = [f"processor\t: {core}\ncpu MHz\t\t: {mhz}\n" for core, mhz in ((0, 2600.5), (1, 2400.5), (2, 800))]
    write(machine[1] / "cpuinfo", "\n".join(entries))
    assert look(machine).clock_hz == pytest.approx(2500.5e6)


def test_without_hwmon_the_temperature_is_that_of_the_cpus_zone(machine):
    (machine[0] / "class/hwmon/hwmon1/name").write_text("acpitz")
    write(machine[0] / "class/thermal/thermal_zone0/type", "acpitz")
    write(machine[0] / "class/thermal/thermal_zone0/temp", 20_000)
    write(machine[0] / "class/thermal/thermal_zone1/type", "x86_pkg_temp")
    write(machine[0] / "class/thermal/thermal_zone1/temp", 47_500)
    assert look(machine).temperature_c == 47.5


def test_processes_that_take_our_cores_are_counted_and_our_own_are_not(machine):
    proc, hz = machine[1], os.sysconf("SC_CLK_TCK")
    for number, parent in ((10, 1), (11, 1), (12, 1), (13, OWN), (14, 13), (15, 2)):
        process(proc, number, ticks=1000, parent=parent, name="a) b (c")

    def work():
        process(proc, 10, ticks=1000 + hz // 2, core=1)  # half of one of our cores
        process(proc, 11, ticks=1000 + hz // 10)  # a tenth
        process(proc, 12, ticks=1000 + hz, core=3)  # not our core
        process(proc, 13, ticks=1000 + hz, parent=OWN)  # our child
        process(proc, 14, ticks=1000 + hz, parent=13)  # and its child
        process(proc, 15, ticks=1000 + hz, parent=2)  # the kernel
        process(proc, 16, ticks=hz)  # came meanwhile

    assert look(machine, work).foreign == 2


def test_whether_others_work_is_unknown_in_a_container_and_over_short_times(machine):
    assert look(machine, seconds=0.05).foreign is None
    (machine[1] / "2" / "comm").write_text("bash")
    assert look(machine).foreign is None
    assert look(machine, lambda: process(machine[1], 10, ticks=1000)).foreign == 1
    assert not shows_whole_host(machine[1] / "none")


def test_a_machine_that_tells_nothing_is_unknown(tmp_path):
    assert look((tmp_path, tmp_path / "proc")) == UNKNOWN
    assert CpuGauge(tmp_path, tmp_path).end() == UNKNOWN


def test_processes_that_end_and_lines_that_cannot_be_read_are_passed_over(tmp_path):
    write(tmp_path / "7" / "stat", "rubbish")
    (tmp_path / "8").mkdir()
    process(tmp_path, 9, ticks=5, core=2)
    assert Processes(tmp_path).now() == {9: Process(1, 5, 2)}


def test_the_gauge_of_this_machine_never_raises():
    gauge = gauge_for("cpu")
    gauge.begin()
    found = gauge.end()
    assert found.clock_hz is None or 1e7 < found.clock_hz < 1e11
    assert found.temperature_c is None or -50 < found.temperature_c < 150
    assert Conditions.from_json(found.to_json()) == found
    assert cpu_module._allowed() <= set(range(os.cpu_count()))


def test_the_gauge_of_a_gpu_asks_its_board():
    assert isinstance(gauge_for("cuda:0"), NvmlGauge)
