"""Random draws that follow from a seed and a position alone, so that nothing of them has to be kept to resume."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["kept_generators", "seed_generators"]


def seed_generators(device: torch.device, *position: int) -> None:
    """Seed the global generators of torch, numpy and Python by a hash of the numbers."""
    digest = hashlib.blake2b(" ".join(map(str, position)).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little")
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would queue a call for a CUDA that is not in use
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def kept_generators(device: torch.device) -> Iterator[None]:
    """Put the state of the global generators back at the end."""
    python, numeric = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numeric)
