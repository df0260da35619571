"""How a network is run when it is measured, one runtime a file."""

from __future__ import annotations

from ecc.core.errors import InputError
from ecc.core.meter import Runtime
from ecc.profiler.runtimes.eager import Eager

__all__ = ["RUNTIMES", "runtime_named"]

RUNTIMES: tuple[str, ...] = ("eager",)
"""Names of the runtimes."""


def runtime_named(name: str, device: str = "cpu") -> Runtime:
    """The runtime of that name on a torch device.

    Raises:
        InputError: If there is none of that name.
        UnavailableError: If the device is not here.
    """
    if name == "eager":
        return Eager(device)
    raise InputError(f"runtime {name!r} is unknown; choose from {', '.join(RUNTIMES)}")
