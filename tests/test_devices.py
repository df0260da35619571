import json

import pytest
import torch
from fake_nvml import FakeNvml, SimulatedBoard, SimulatedClock

from ecc.cli.measuring import _sensor_text
from ecc.core.errors import InputError, UnavailableError
from ecc.profiler import devices, meters
from ecc.profiler.devices import current_device, list_devices
from ecc.profiler.meters import METRICS, meter_for
from ecc.profiler.meters.nvml import NvmlMeter
from ecc.profiler.runtimes import RUNTIMES, runtime_named


def test_the_cpu_is_always_listed_first_and_has_a_clock():
    cpu = list_devices()[0].to_json()
    assert (cpu["kind"], cpu["torch_name"]) == ("cpu", "cpu")
    assert cpu["meters"]["latency"] == {"available": True, "source": "monotonic clock", "reason": "", "details": {}}
    assert set(cpu["meters"]) == set(METRICS)
    json.dumps(cpu)


def test_a_meter_that_is_missing_gives_the_reason():
    for device in list_devices():
        for probe in device.meters().values():
            assert probe.available == bool(probe.source) != bool(probe.reason)


def test_the_fingerprint_is_the_same_tomorrow_and_another_for_another_governor(monkeypatch):
    first = current_device("cpu")
    assert current_device("cpu").fingerprint == first.fingerprint
    monkeypatch.setattr(devices, "_first_line", lambda path: "performance-of-the-test")
    assert current_device("cpu").fingerprint != first.fingerprint
    assert current_device("cpu").name == first.name


@pytest.mark.parametrize("name", ["abacus", "meta", "mps"])
def test_a_device_that_cannot_be_measured_is_refused(name):
    with pytest.raises(InputError, match=rf"^device '{name}' (is unknown|cannot be measured); choose cpu or cuda$"):
        current_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_without_a_device_says_how_to_go_on():
    for ask in (current_device, lambda name: runtime_named("eager", name)):
        with pytest.raises(UnavailableError, match=r"^no CUDA device is visible to PyTorch here; measure with"):
            ask("cuda")


def test_meters_and_runtimes_are_found_by_their_names():
    assert [meter_for(metric).metric for metric in METRICS] == list(METRICS)
    assert runtime_named(RUNTIMES[0]).name == "eager"
    with pytest.raises(InputError, match=r"^metric 'beauty' is not measured; choose from latency, energy$"):
        meter_for("beauty")
    with pytest.raises(
        InputError,
        match=r"^runtime 'magic' is unknown; choose from eager, compile, "
        r"cudagraph, onnxruntime, openvino$",
    ):
        runtime_named("magic")


def test_the_source_of_energy_is_chosen_where_there_is_a_choice(monkeypatch):
    chosen = []
    monkeypatch.setattr(NvmlMeter, "of", lambda device, source: chosen.append((device, source)))
    meter_for("energy", "cuda:0", source="power")
    meter_for("energy", "cuda:0")
    assert chosen == [("cuda:0", "power"), ("cuda:0", "auto")]
    assert meter_for("energy", "cpu", source="counter").metric == "energy"
    assert meter_for("latency", "cpu", source="power").metric == "latency"
    with pytest.raises(
        InputError, match=r"^a CPU has energy counters, no power sensor; choose the energy source auto or"
    ):
        meter_for("energy", "cpu", source="power")
    with pytest.raises(InputError, match=r"^energy source 'sun' is unknown; choose from auto, counter, power$"):
        meter_for("energy", "cpu", source="sun")


def test_slow_checks_are_done_when_asked_for_only(monkeypatch):
    board = FakeNvml(SimulatedBoard(gain=0.5), SimulatedClock())
    meter = NvmlMeter(library=board, clock=board.clock)
    monkeypatch.setattr(devices, "meter_for", lambda metric, device: meter if metric == "energy" else meter_for(metric))
    monkeypatch.setattr(meters, "keep_busy", lambda device: board.clock.wait)
    device = current_device("cpu")
    assert set(device.to_json()["meters"]["energy"]["details"]) == {
        *("kind", "scope", "board", "driver", "power_limit_w", "persistence"),
    }
    found = device.to_json(check=True)["meters"]
    assert found["energy"]["details"]["counter_over_power"] == pytest.approx({"loaded": 0.5, "idle": 0.5}, rel=0.03)
    assert found["energy"]["details"]["flag"] == "counter-suspect"
    assert found["latency"]["details"] == {}
    text = _sensor_text(found["energy"])
    assert text.startswith("NVML energy counter; ticks every 10")
    assert "; 0.50 of integrated power when loaded; 0.50 of integrated power when idle; counter-suspect: choose" in text
    json.dumps(found)


def test_the_check_of_a_cpu_tells_watts_or_why_not():
    probe = current_device("cpu").meters(check=True)["energy"]
    assert probe.available == ("watts" in probe.details)
    text = _sensor_text({"available": True, "source": "RAPL", "details": {"watts": {"package": 12.34, "dram": 2.0}}})
    assert text == "RAPL; package 12.3 W; dram 2.0 W"


@pytest.mark.parametrize("form", [lambda x: x, lambda x: (x,), lambda x: {"input": x}], ids=["tensor", "tuple", "dict"])
def test_eager_takes_what_forward_takes(form):
    network = torch.nn.Linear(3, 2)
    seen = []
    network.register_forward_hook(lambda *_: seen.append((torch.is_inference_mode_enabled(), network.training)))
    runtime_named("eager").prepare(network, form(torch.zeros(1, 3)))(3)
    assert seen == [(True, False)] * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
def test_a_gpu_is_listed_with_its_meters():
    gpu = current_device("cuda").to_json()
    assert gpu["kind"] == "cuda"
    assert gpu["meters"]["latency"]["available"]
