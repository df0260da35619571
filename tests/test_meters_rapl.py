import errno
import os
import struct

import pytest
from fake_nvml import SimulatedClock

from ecc.core.errors import InputError, MeterError, MeterReset
from ecc.profiler.meters.perf_event import Kernel
from ecc.profiler.meters.rapl import RaplMeter

RANGE = 262_143_328_850


def zone(tree, folder, name, energy_uj, range_uj=RANGE):
    path = tree / folder
    path.mkdir(exist_ok=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    return path / "energy_uj"


@pytest.fixture
def tree(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 400_000)
    zone(tmp_path, "intel-rapl:0:1", "dram", 200_000)
    zone(tmp_path, "intel-rapl:1", "psys", 9_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    (tmp_path / "intel-rapl").mkdir()
    return tmp_path


def meter_of(tree, **options):
    return RaplMeter(tree, tree / "no-events", **{"clock": SimulatedClock(), **options})


def spend(tree, **energies_uj):
    meter = meter_of(tree)
    meter.begin()
    for folder, energy in energies_uj.items():
        (tree / folder.replace("_", ":").replace("rapl", "intel-rapl") / "energy_uj").write_text(f"{energy}\n")
    return meter.end()


def test_joules_are_those_of_package_and_dram_and_nothing_twice(tree):
    spent = spend(tree, rapl_0=3_500_000, rapl_0_0=2_000_000, rapl_0_1=700_000, rapl_1=20_000_000)
    assert spent.value == pytest.approx(2.5 + 0.5)
    assert spent.parts == pytest.approx({"package": 2.5, "dram": 0.5})


def test_two_packages_are_added(tree):
    zone(tree, "intel-rapl:2", "package-1", 0)
    assert spend(tree, rapl_0=2_000_000, rapl_2=4_000_000).value == pytest.approx(5.0)


def test_a_counter_that_wrapped_around_is_corrected(tree):
    zone(tree, "intel-rapl:0", "package-0", RANGE - 300_000)
    assert spend(tree, rapl_0=700_000).value == pytest.approx(1.0)


def test_a_window_that_an_error_left_open_is_forgotten(tree):
    clock = SimulatedClock()
    meter = meter_of(tree, clock=clock)
    meter.begin()
    meter.begin()
    zone(tree, "intel-rapl:0", "package-0", 2_000_000)
    assert meter.end().value == pytest.approx(1.0)
    assert not clock._repeated


def test_the_probe_names_what_is_read(tree):
    probe = meter_of(tree).probe()
    assert (probe.available, probe.source, probe.reason) == (True, "RAPL powercap (package-0, dram)", "")


def test_a_counter_that_does_not_move_is_an_error_and_not_zero(tree):
    with pytest.raises(MeterError, match=r"do not move; measure latency instead$"):
        spend(tree)


def test_without_a_tree_the_probe_says_why(tmp_path):
    probe = meter_of(tmp_path / "powercap").probe()
    assert not probe.available
    assert "virtual machines and containers hide it" in probe.reason


def test_psys_alone_is_not_taken_for_the_cpu(tmp_path):
    zone(tmp_path, "intel-rapl:0", "psys", 1)
    assert not meter_of(tmp_path).probe().available


def test_a_permission_error_carries_the_mend(tree, monkeypatch):
    def refuse(path, *_, **__):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    read = type(tree).read_text
    monkeypatch.setattr(type(tree), "read_text", refuse)
    reason = meter_of(tree).probe().reason
    assert "can be read by root only" in reason
    assert f"sudo chmod -R a+r {tree}/intel-rapl" in reason


def test_a_counter_that_holds_no_number_is_an_error(tree):
    zone(tree, "intel-rapl:0", "package-0", "soon")
    assert meter_of(tree).probe().reason.endswith("holds 'soon', not a number; measure latency instead")


def test_a_counter_that_disappears_is_an_error(tree):
    meter = meter_of(tree)
    meter.begin()
    (tree / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(MeterError, match=r"energy_uj cannot be read"):
        meter.end()


def test_one_domain_can_be_measured_alone(tree):
    meter = meter_of(tree, domains=("dram",))
    meter.begin()
    zone(tree, "intel-rapl:0", "package-0", 5_000_000)
    zone(tree, "intel-rapl:0:1", "dram", 450_000)
    reading = meter.end()
    assert (reading.value, dict(reading.parts)) == (pytest.approx(0.25), {"dram": pytest.approx(0.25)})
    with pytest.raises(
        InputError, match=r"^RaplMeter\(domains=\.\.\.\) must be some of package, dram, got \('psys',\)$"
    ):
        RaplMeter(domains=("psys",))


@pytest.mark.parametrize(("limit_w", "watts", "seconds"), [(150, 140.0, 6000.0), (None, 480.0, 3000.0)])
def test_a_window_over_several_wraps_is_right(tree, limit_w, watts, seconds):
    if limit_w is not None:
        (tree / "intel-rapl:0" / "constraint_0_power_limit_uw").write_text(f"{limit_w * 10**6}\n")
    clock, start = SimulatedClock(), 200_000_000_000

    class Tree(type(tree)):
        """Whose package counter follows the clock."""

        def read_text(self, *args, **kwargs):
            if self.name == "energy_uj" and self.parent.name == "intel-rapl:0":
                return str((start + round(watts * (clock.now() - 1000.0) * 1e6)) % RANGE)
            return super().read_text(*args, **kwargs)

    meter = meter_of(Tree(tree), clock=clock, domains=("package",))
    meter.begin()
    clock.wait(seconds)
    assert meter.end().value == pytest.approx(watts * seconds)
    assert watts * seconds > 2 * RANGE * 1e-6


def test_the_check_tells_the_power_of_each_domain(tree):
    meter = meter_of(tree, clock=IntegerClock(tree))
    details = meter.check().details
    assert details["watts"] == pytest.approx({"package": 20.0, "dram": 3.0})
    assert not meter_of(tree / "none").check().available


class IntegerClock(SimulatedClock):
    """Time in which 20 W and 3 W are spent."""

    def __init__(self, tree):
        super().__init__()
        self.tree = tree

    def wait(self, seconds):
        zone(self.tree, "intel-rapl:0", "package-0", 1_000_000 + round(20e6 * seconds))
        zone(self.tree, "intel-rapl:0:1", "dram", 200_000 + round(3e6 * seconds))
        super().wait(seconds)


# -- perf_event


class FakePerf:
    """Counters of the kernel that a test sets; ``refusal`` is the error of opening."""

    def __init__(self, refusal=None):
        self.refusal, self.opened, self.closed = refusal, [], []
        self.counts = {}

    def open(self, kind, config, cpu):
        if self.refusal is not None:
            raise OSError(self.refusal, os.strerror(self.refusal))
        self.opened.append((kind, config, cpu))
        self.counts[len(self.opened)] = 0
        return len(self.opened)

    def read(self, descriptor):
        return self.counts[descriptor]

    def close(self, descriptor):
        self.closed.append(descriptor)


@pytest.fixture
def events(tmp_path):
    folder = tmp_path / "power"
    (folder / "events").mkdir(parents=True)
    (folder / "type").write_text("22\n")
    (folder / "cpumask").write_text("0,18\n")
    for name, number in (("energy-pkg", "0x02"), ("energy-ram", "0x03"), ("energy-psys", "0x05")):
        (folder / "events" / name).write_text(f"event={number}\n")
        (folder / "events" / f"{name}.scale").write_text("2.3283064365386962890625e-10\n")
        (folder / "events" / f"{name}.unit").write_text("Joules\n")
    return folder


def perf_meter(events, perf, **options):
    return RaplMeter(events / "no-powercap", events, perf=perf, clock=SimulatedClock(), **options)


def test_without_powercap_the_perf_events_of_every_package_are_read(events):
    perf = FakePerf()
    meter = perf_meter(events, perf)
    assert meter.probe().source == "RAPL perf_event (package-0, package-1, dram-0, dram-1)"
    assert perf.opened == [(22, 2, 0), (22, 2, 18), (22, 3, 0), (22, 3, 18)]
    meter.begin()
    perf.counts = {1: 2**32, 2: 2**33, 3: 2**31, 4: 2**40}  # of 2**-32 J each
    reading = meter.end()
    assert reading.parts == pytest.approx({"package": 3.0, "dram": 0.5 + 256.0})
    assert reading.value == pytest.approx(259.5)
    del meter
    assert sorted(perf.closed) == [1, 2, 3, 4]


def test_powercap_is_preferred(tree, events):
    perf = FakePerf()
    assert RaplMeter(tree, events, perf=perf).probe().source.startswith("RAPL powercap")
    assert not perf.opened


def test_perf_events_that_go_back_or_stand_still_are_errors(events):
    perf = FakePerf()
    meter = perf_meter(events, perf, domains=("package",))
    meter.probe()
    perf.counts[1] = 50
    meter.begin()
    perf.counts[1] = 20
    with pytest.raises(MeterReset, match=r"^the perf event of package-0 went back in mid-window; measure again$"):
        meter.end()
    meter.begin()
    with pytest.raises(MeterError, match=r"^the RAPL counters do not move; measure latency instead$"):
        meter.end()


@pytest.mark.parametrize("refusal", [errno.EACCES, errno.EPERM])
def test_a_refusal_of_the_kernel_carries_the_mend(events, refusal):
    reason = perf_meter(events, FakePerf(refusal)).probe().reason
    assert reason.startswith("the kernel does not allow the perf event energy-pkg")
    assert "`sudo sysctl kernel.perf_event_paranoid=0`, give python CAP_PERFMON, or run as root" in reason


def test_powercap_that_is_closed_is_mended_first_and_perf_stands_in(tree, events, monkeypatch):
    def refuse(path, *_, **__):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    read = type(tree).read_text
    monkeypatch.setattr(type(tree), "read_text", refuse)
    assert RaplMeter(tree, events, perf=FakePerf()).probe().source.startswith("RAPL perf_event")
    assert "can be read by root only" in RaplMeter(tree, events, perf=FakePerf(errno.EACCES)).probe().reason


@pytest.mark.parametrize(
    ("file", "text"),
    [("events/energy-pkg", "config1=7"), ("events/energy-pkg.unit", "Wh"), ("events/energy-pkg.scale", "-1")],
)
def test_an_event_of_another_kind_is_refused(events, file, text):
    (events / file).write_text(text)
    assert "cannot be understood" in perf_meter(events, FakePerf()).probe().reason


def test_another_error_of_the_kernel_is_told(events):
    reason = perf_meter(events, FakePerf(errno.ENODEV)).probe().reason
    assert reason == (
        f"the kernel does not open the perf event energy-pkg ({os.strerror(errno.ENODEV)}); measure latency instead"
    )


def test_the_system_call_asks_for_one_counter_of_one_cpu_of_all_processes(monkeypatch):
    seen = {}

    def syscall(number, attributes, pid, cpu, group, flags):
        seen["attributes"] = attributes.raw
        seen["rest"] = (number.value, pid.value, cpu.value, group.value, flags.value)
        return 7

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert Kernel(syscall).open(22, 2, 18) == 7
    assert struct.unpack_from("=IIQ", seen["attributes"]) == (22, 64, 2)
    assert not any(seen["attributes"][16:])
    assert seen["rest"] == (298, -1, 18, -1, 8)
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        Kernel(syscall).open(22, 2, 18)


def test_the_real_kernel_counts_or_refuses():
    kernel, software_clock = Kernel(), (1, 0)
    try:
        descriptor = kernel.open(*software_clock, cpu=0)
    except OSError as error:
        assert error.errno  # noqa: PT017
        return
    first = kernel.read(descriptor)
    sum(range(10**5))
    assert kernel.read(descriptor) > first
    kernel.close(descriptor)
