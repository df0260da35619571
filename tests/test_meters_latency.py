import time

import pytest
import torch

from ecc.core.errors import MeterError
from ecc.profiler.meters.latency import CpuLatency, CudaLatency


def test_cpu_latency_is_what_the_monotonic_clock_says(monkeypatch):
    instants = iter([1_000_000_000, 3_500_000_000])
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(instants))
    meter = CpuLatency()
    meter.begin()
    assert meter.end().value == pytest.approx(2.5)
    assert meter.probe().available


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_latency_without_a_device_says_how_to_go_on():
    meter = CudaLatency()
    assert not meter.probe().available
    with pytest.raises(MeterError, match=r"^no CUDA device is visible to PyTorch here; measure with --device cpu$"):
        meter.begin()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_ending_what_was_not_begun_is_an_error():
    with pytest.raises(MeterError, match="without begin"):
        CudaLatency().end()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
def test_cuda_latency_waits_for_the_work():
    meter, big = CudaLatency(), torch.randn(4096, 4096, device="cuda")
    meter.begin()
    for _ in range(20):
        big @ big
    assert meter.end().value > 1e-3
