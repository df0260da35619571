import pytest
import torch

from ecc.core.errors import UnavailableError
from ecc.solvers.failures import Failure, failure_of, told

LOST = [
    "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: device-side assert triggered",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "NCCL error in: ProcessGroupNCCL.cpp:123, unhandled cuda error",
]
FULL = [
    "CUDA out of memory. Tried to allocate 20.00 MiB",
    "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.",
]


@pytest.mark.parametrize("text", LOST)
def test_a_lost_device_is_recognised(text):
    assert failure_of(RuntimeError(text)) is Failure.LOST


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), MemoryError(), *map(RuntimeError, FULL)], ids=repr)
def test_a_full_memory_is_recognised(error):
    assert failure_of(error) is Failure.MEMORY


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("CUDA error"),
        UnavailableError("CUDA error"),
    ],
)
def test_other_errors_are_not_the_device_s(error):
    assert failure_of(error) is None


def test_this_torch_s_own_allocator_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert failure_of(caught.value) is Failure.MEMORY


def test_an_error_is_told_in_one_line():
    assert told(RuntimeError(LOST[0])) == "RuntimeError: CUDA error: unspecified launch failure"
    assert told(MemoryError()) == "MemoryError"
