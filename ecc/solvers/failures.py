"""What goes wrong in the middle of training through no fault of the solver, told apart."""

from __future__ import annotations

import re
from enum import Enum

import torch

from ecc.core.errors import EccError

__all__ = ["Failure", "failure_of", "told"]

_MEMORY = re.compile(r"out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)
_DEVICE = re.compile(
    r"CUDA error|CUDA driver error|CUBLAS_STATUS|CUDNN_STATUS|cuDNN error|CUSOLVER_STATUS|cuFFT error|HIP error|"
    r"NCCL error|MPS backend|XPU error|device-side assert|device is (lost|unavailable)",
    re.IGNORECASE,
)


class Failure(Enum):
    """How a device failed; the value is what to do about it."""

    MEMORY = "make batches smaller, or set mixed_precision"
    LOST = (
        "start the program again; if it happens again, see whether a target is out of the range of the outputs "
        "(on the CPU its message names the line)"
    )


def failure_of(error: BaseException) -> Failure | None:
    """Whether an error means that the device has no memory left or is lost; None for any other error."""
    if isinstance(error, EccError):
        return None
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return Failure.MEMORY
    if not isinstance(error, RuntimeError):
        return None
    if _MEMORY.search(str(error)):
        return Failure.MEMORY
    return Failure.LOST if _DEVICE.search(str(error)) else None


def told(error: BaseException) -> str:
    """Type and first line of an error's text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
