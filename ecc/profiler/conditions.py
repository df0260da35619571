"""Conditions: in what state a device was while something was measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

__all__ = ["UNKNOWN", "Conditions", "Gauge"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """The state of a device over one visit; None where the device does not tell.

    Attributes:
        clock_hz: Median clock of the cores that compute.
        clock_low_hz: Its minimum.
        memory_clock_hz: Median clock of the memory.
        temperature_c: At the end.
        temperature_rise_c: End minus start.
        throttled: Reasons for which clocks were held down meanwhile, as words (``thermal``, ``hardware-slowdown``,
            ``power-brake``, ``power-cap``); empty if none, None where it is not told.
        power_limit_w: Power cap of the board.
        foreign: Other processes that computed on the device meanwhile.
        idle_w: Power of the device with nothing to do, when that was last measured.
    """

    clock_hz: float | None = None
    clock_low_hz: float | None = None
    memory_clock_hz: float | None = None
    temperature_c: float | None = None
    temperature_rise_c: float | None = None
    throttled: tuple[str, ...] | None = None
    power_limit_w: float | None = None
    foreign: int | None = None
    idle_w: float | None = None

    def to_json(self) -> dict[str, Any]:
        """What is known, as a JSON value."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Conditions:
        """The inverse of ``to_json``.

        Raises:
            TypeError: If a name is unknown.
        """
        known = dict(value)
        if "throttled" in known:
            known["throttled"] = tuple(str(word) for word in known["throttled"])
        return cls(**known)


UNKNOWN = Conditions()
"""Nothing is known."""


class Gauge(Protocol):
    """Watches the state of a device; ``begin`` and ``end`` bracket one visit and never raise."""

    def begin(self) -> None:
        """Start watching."""

    def end(self) -> Conditions:
        """What was seen since ``begin``."""
