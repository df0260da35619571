"""Figures and tables as people read them in a terminal."""

from __future__ import annotations

import math

from ecc.core.cost import METRICS

__all__ = ["interval", "percent", "precision", "probability", "quantity"]

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
_UNITS = {"macs": METRICS["macs"], "memory": METRICS["memory"], "bytes": "B"}


def quantity(value: float, metric: str) -> str:
    """A value of a metric with its unit: ms and mJ, MMAC, MB."""
    if metric in ("latency", "energy"):
        return f"{value * 1e3:.4g} m{METRICS[metric]}"
    scale, prefix = next(((s, p) for s, p in _PREFIXES if abs(value) >= s), (1.0, ""))
    unit = _UNITS.get(metric, "")
    return f"{value / scale:.4g} {prefix}{unit}".rstrip()


def percent(value: float) -> str:
    """A fraction as per cent."""
    return f"{100 * value:.1f} %"


def probability(share: float) -> str:
    """A probability as per cent, never rounded to a certainty."""
    if share > 0.999:
        return "99.9 %"
    return "0 %" if share < 0.001 else percent(share)


def interval(low: float | None, high: float | None, metric: str) -> str:
    """The ends of an interval; of a single reading nothing is known."""
    if low is None or high is None or not math.isfinite(high):
        return "[unknown]"
    return f"[{quantity(low, metric)}, {quantity(high, metric)}]"


def precision(noise: float) -> str:
    """How well ratios are known; one pair of each says nothing about that."""
    return f"ratios known to ±{percent(noise)}" if math.isfinite(noise) else "how well ratios are known is not clear"
