"""Whether this process is one of several that torchrun has started, as its environment says; needs no torch."""

from __future__ import annotations

import os

__all__ = ["launched", "launched_first"]

_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets


def launched() -> bool:
    """Whether torchrun, or something like it, has started this process as one of several."""
    return all(name in os.environ for name in _LAUNCHED) and os.environ["WORLD_SIZE"] != "1"


def launched_first() -> bool:
    """Whether this process is the one that speaks: the first of several, or alone."""
    return not launched() or os.environ["RANK"] == "0"
