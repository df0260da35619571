import json

import pytest
import torch

from ecc.core.errors import InputError, UnavailableError
from ecc.profiler import devices
from ecc.profiler.devices import current_device, list_devices
from ecc.profiler.meters import METRICS, meter_for
from ecc.profiler.runtimes import RUNTIMES, runtime_named


def test_the_cpu_is_always_listed_first_and_has_a_clock():
    cpu = list_devices()[0].to_json()
    assert (cpu["kind"], cpu["torch_name"]) == ("cpu", "cpu")
    assert cpu["meters"]["latency"] == {"available": True, "source": "monotonic clock", "reason": ""}
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
    assert [runtime_named(name).name for name in RUNTIMES] == list(RUNTIMES)
    with pytest.raises(InputError, match=r"^metric 'beauty' is not measured; choose from latency, energy$"):
        meter_for("beauty")
    with pytest.raises(InputError, match=r"^runtime 'magic' is unknown; choose from eager$"):
        runtime_named("magic")


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
