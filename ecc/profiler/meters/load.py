"""Load: work that keeps a GPU busy while its sensors are compared."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["keep_busy"]

_SIZE = 4096
_AHEAD = 8  # products enqueued between two looks at the clock


def keep_busy(device: str) -> Callable[[float], None]:
    """What multiplies matrices on a torch CUDA device for so many seconds and waits for the last."""

    def load(seconds: float) -> None:
        a = torch.randn(_SIZE, _SIZE, device=device, dtype=torch.float16)
        out, end = torch.empty_like(a), time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(_AHEAD):
                torch.mm(a, a, out=out)
            torch.cuda.synchronize(torch.device(device))

    return load
