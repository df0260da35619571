"""Meters and runtimes: what a device spent between two instants, and how a network is run in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from torch import nn

__all__ = ["Meter", "Probe", "Reading", "Runnable", "Runtime"]

Runnable = Callable[[int], None]
"""A network ready to be timed: called with k it does k inferences; an accelerator may still be busy when it returns."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a sensor answers, found out by calling it.

    Attributes:
        available: Whether a measurement can be had.
        source: What is read, for example ``NVML energy counter``; empty when unavailable.
        reason: Why there is none and how to mend it, in one sentence; empty when available.
        details: What else is known of the sensor, by name: ``scope``, ``tick_s``, ``window_s``, ``flag`` … Of energy,
            ``kind`` says in one word what must agree between measurements: ``counter`` or ``power``.
    """

    available: bool
    source: str = ""
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What must agree between measurements: ``counter``, ``power``, or else the source."""
        return str(self.details.get("kind", self.source))

    def to_json(self) -> dict[str, Any]:
        """The fields that ``ecc devices`` shows."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was spent in one window.

    Attributes:
        value: Seconds or joules, of the whole window.
        flag: Words, apart by a space, when the reading is of lesser quality, for example ``delta``; empty when clean.
        error: Standard error of ``value``, same unit; None where it is not known.
        delta: End minus start of the counter, same unit, where ``value`` is a better estimate from it.
        check: The same window by a second sensor, same unit, where there is one.
        parts: What ``value`` is the sum of, by name (``package``, ``dram``), same unit; empty where it has no parts.
    """

    value: float
    flag: str = ""
    error: float | None = None
    delta: float | None = None
    check: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)


class Meter(Protocol):
    """One sensor; ``begin`` and ``end`` bracket a window on the device it watches.

    ``begin`` and ``end`` wait for the device, so that all of the work in between is counted and nothing else. They
    raise MeterError when the sensor is missing or stops answering; a missing value is never reported as 0.
    """

    @property
    def metric(self) -> str:
        """``latency`` or ``energy``."""

    @property
    def shortest_window_s(self) -> float:
        """How long a window has to last for its reading to be trusted; the first call may take seconds."""

    def probe(self) -> Probe:
        """Call the sensor; never raises."""

    def begin(self) -> None:
        """Open a window."""

    def end(self) -> Reading:
        """Close the window."""


class Runtime(Protocol):
    """How a network is run when it is measured; found by ``name``."""

    @property
    def name(self) -> str:
        """As on the command line and in the provenance."""

    @property
    def device(self) -> str:
        """Torch device string."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Versions and settings of its own that may matter, for the provenance; PyTorch's is there anyway."""

    def prepare(self, module: nn.Module, inputs: Any) -> Runnable:
        """The network on the device, in evaluation mode (the module is moved and switched in place).

        Args:
            inputs: A tensor, or a tuple (positional) or dict (by keyword) of what ``forward`` takes.
        Raises:
            InputError: If the runtime cannot take the network.
            EccError: If it computes something else than eager.
        """

    def synchronise(self) -> None:
        """Wait until the device has finished all work."""
