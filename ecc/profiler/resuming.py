"""Resuming: whether a device still measures what it measured when the rows of a store were made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ecc.core.meter import Meter
from ecc.core.widths import Widths
from ecc.profiler.clock import Clock
from ecc.profiler.pairing import Pairs, Ready, alternate, estimate, median_interval
from ecc.profiler.window import Window

__all__ = ["Old", "moved"]

_MOVED = 0.03
_PAIRS = 24  # by which a short window tells
_LONG_PAIRS = 3

Interval = tuple[float, float, float]
Old = tuple[Widths, Mapping[str, Sequence[Pairs]]]
"""A configuration, and its visits by metric."""


def moved(
    reference: Ready,
    known: Mapping[str, Interval],
    old: Sequence[Old],
    warm: Callable[[Widths], Ready],
    meters: Sequence[Meter],
    window: Window,
    clock: Clock,
    seed: int,
) -> str:
    """Measure the reference and old rows again.

    Args:
        known: Per metric, what the reference was: value and 95 % interval.
        old: Rows to measure again, as ratios to the reference.
        warm: Makes a network ready.
    Returns:
        What has moved by more than 3 % and beyond both intervals, in words; empty if nothing has.
    """
    rng = np.random.default_rng(seed)
    for meter in meters:
        if meter.metric in known:
            readings = _alternate(reference, reference, meter, window, clock, rng).values
            now = (float(np.median(readings)), *median_interval(readings))
            if _apart(now, known[meter.metric]):
                return f"the dense network's {meter.metric}"
    for widths, visits in old:
        network = warm(widths)
        for meter in meters:
            if meter.metric in visits:
                found = estimate([_alternate(network, reference, meter, window, clock, rng)])
                before = estimate(list(visits[meter.metric]))
                if _apart((found.ratio, found.low, found.high), (before.ratio, before.low, before.high)):
                    return f"the {meter.metric} of a configuration measured before"
    return ""


def _alternate(
    network: Ready, reference: Ready, meter: Meter, window: Window, clock: Clock, rng: np.random.Generator
) -> Pairs:
    n = _PAIRS if window.brief(meter) else _LONG_PAIRS
    return alternate(network, reference, meter, n, rng, burst=window.burst_of(meter), clock=clock)


def _apart(now: Interval, before: Interval) -> bool:
    return abs(now[0] / before[0] - 1) > _MOVED and (now[1] > before[2] or now[2] < before[1])
