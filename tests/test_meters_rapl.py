import pytest

from ecc.core.errors import MeterError
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


def spend(tree, **energies_uj):
    meter = RaplMeter(tree)
    meter.begin()
    for folder, energy in energies_uj.items():
        (tree / folder.replace("_", ":").replace("rapl", "intel-rapl") / "energy_uj").write_text(f"{energy}\n")
    return meter.end().value


def test_joules_are_those_of_package_and_dram_and_nothing_twice(tree):
    spent = spend(tree, rapl_0=3_500_000, rapl_0_0=2_000_000, rapl_0_1=700_000, rapl_1=20_000_000)
    assert spent == pytest.approx(2.5 + 0.5)


def test_two_packages_are_added(tree):
    zone(tree, "intel-rapl:2", "package-1", 0)
    assert spend(tree, rapl_0=2_000_000, rapl_2=4_000_000) == pytest.approx(5.0)


def test_a_counter_that_wrapped_around_is_corrected(tree):
    zone(tree, "intel-rapl:0", "package-0", RANGE - 300_000)
    assert spend(tree, rapl_0=700_000) == pytest.approx(1.0)


def test_the_probe_names_what_is_read(tree):
    probe = RaplMeter(tree).probe()
    assert (probe.available, probe.source, probe.reason) == (True, "RAPL powercap (package-0, dram)", "")


def test_a_counter_that_does_not_move_is_an_error_and_not_zero(tree):
    with pytest.raises(MeterError, match=r"do not move; measure latency instead$"):
        spend(tree)


def test_without_a_tree_the_probe_says_why(tmp_path):
    probe = RaplMeter(tmp_path / "powercap").probe()
    assert not probe.available
    assert "virtual machines and containers hide it" in probe.reason


def test_psys_alone_is_not_taken_for_the_cpu(tmp_path):
    zone(tmp_path, "intel-rapl:0", "psys", 1)
    assert not RaplMeter(tmp_path).probe().available


def test_a_permission_error_carries_the_mend(tree, monkeypatch):
    def refuse(path, *_, **__):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    read = type(tree).read_text
    monkeypatch.setattr(type(tree), "read_text", refuse)
    reason = RaplMeter(tree).probe().reason
    assert "can be read by root only" in reason
    assert f"sudo chmod -R a+r {tree}/intel-rapl" in reason


def test_a_counter_that_holds_no_number_is_an_error(tree):
    zone(tree, "intel-rapl:0", "package-0", "soon")
    assert RaplMeter(tree).probe().reason.endswith("holds 'soon', not a number; measure latency instead")


def test_a_counter_that_disappears_is_an_error(tree):
    meter = RaplMeter(tree)
    meter.begin()
    (tree / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(MeterError, match=r"energy_uj cannot be read"):
        meter.end()
