"""Budgets: metric ≤ limit, the limit a fraction of dense or absolute."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ecc.core.cost import METRICS, NORMALISED, units_of
from ecc.core.errors import InputError

__all__ = ["Budget"]

_PREFIX = {
    "n": 1e-9,
    "u": 1e-6,
    "µ": 1e-6,
    "μ": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
}
_UNITS = {"latency": ("s",), "energy": ("J", *NORMALISED), "macs": ("MAC", "MACs"), "params": ("", "params")}
_BYTES = {"B": 1} | {  # whole ones, by thousands (SI) or by 1024 (IEC)
    f"{prefix}{suffix}": base**power
    for base, prefixes, suffix in ((1000, "kMGT", "B"), (1024, "KMGT", "iB"))
    for power, prefix in enumerate(prefixes, 1)
}
_EXAMPLE = {"latency": "5ms", "energy": "12mJ", "macs": "1.2GMAC", "params": "1.5M", "memory": "2MB"}
_LIMIT = re.compile(r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)\s*(|[^\d\s]\S*)")  # a number and perhaps a unit


@dataclass(frozen=True, slots=True)
class Budget:
    """metric ≤ limit.

    Attributes:
        metric: A key of METRICS.
        limit: A fraction of the dense network's value when ``relative``, else in ``unit``.
        relative: Which of the two.
        unit: Of an absolute limit on what an analytic model says, where that is not the unit of METRICS; else empty.
    """

    metric: str
    limit: float
    relative: bool = True
    unit: str = ""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(f"budget metric {self.metric!r} is unknown; choose from {', '.join(METRICS)}")
        if self.unit and (self.relative or self.unit not in units_of(self.metric)):
            raise InputError(f"budget {self.metric} cannot be in {self.unit!r:.80}; it is in {METRICS[self.metric]}")
        if not math.isfinite(self.limit) or self.limit <= 0:
            raise InputError(f"budget limit of {self.metric} must be a positive number, got {self.limit}")
        if self.relative and self.limit > 1:
            raise InputError(
                f"budget {self.metric}={self.limit:g} is above the dense network; give a fraction of dense up to 1, "
                f"or an absolute limit such as {_EXAMPLE[self.metric]}"
            )

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``METRIC=LIMIT`` or ``METRIC<=LIMIT``; LIMIT is ``0.6``, ``60%``, ``5ms``, ``12mJ``, ``1.2GMAC``,
        ``2MiB``.

        A number without a unit is a fraction of dense. Spaces are free; counts may be written out (``90000 params``).

        Raises:
            InputError: If it is none of these.
        """
        metric, separator, limit = (part.strip() for part in re.sub("<=|≤", "=", text).partition("="))
        where = f"budget {text[:60]!r}"
        if not separator:
            raise InputError(f"{where} has no limit; write METRIC=LIMIT, for example latency=0.6 or latency=5ms")
        if metric not in METRICS:
            raise InputError(f"{where}: metric {metric[:60]!r} is unknown; choose from {', '.join(METRICS)}")
        expected = f"a fraction of dense (0.6, 60%) or an absolute value ({_EXAMPLE[metric]})"
        match = _LIMIT.fullmatch(limit)
        if match is None:
            raise InputError(f"{where}: {limit[:60]!r} is not a number; give {expected}")
        number, unit = float(match[1]), match[2]
        if unit in ("", "%"):
            return cls(metric, number / 100 if unit else number)
        scales = _scales(metric)
        if unit not in scales:
            like = [known for known in scales if len(unit) > 1 and known.lower() == unit.lower()]
            hint = f"did you mean {' or '.join(like)}?" if like else f"give {expected}"
            raise InputError(f"{where}: unit {unit[:60]!r} does not measure {metric}; {hint}")
        base = next((known for known in NORMALISED if unit.endswith(known)), "")
        return cls(metric, number * scales[unit], relative=False, unit=base)

    @classmethod
    def parse_list(cls, text: str) -> tuple[Budget, ...]:
        """Read ``METRIC=LIMIT,LIMIT…``: one budget per limit, as of ``parse``.

        Raises:
            InputError: If one of them is no budget.
        """
        metric, _, limits = re.sub("<=|≤", "=", text).partition("=")
        return tuple(cls.parse(f"{metric}={limit}") for limit in limits.split(",")) if limits else (cls.parse(text),)

    def absolute(self, dense: float, unit: str = "") -> float:
        """The limit in the unit of the dense network's value.

        Args:
            dense: The dense network's value.
            unit: Its unit; that of METRICS when empty.
        Raises:
            InputError: If an absolute limit is in another unit, or above dense, so that nothing would be pruned.
        """
        if self.relative:
            return self.limit * dense
        own, unit = self.unit or METRICS[self.metric], unit or METRICS[self.metric]
        if own != unit:
            raise InputError(
                f"budget {self} is in {own}, and its cost model in {unit}; give a fraction of dense such as "
                f"{self.metric}=0.5, or a limit in {unit}"
            )
        if self.limit > dense:
            raise InputError(
                f"budget {self.metric} ≤ {self.limit:.4g} {unit} is above the dense network's {dense:.4g} {unit}; "
                "give a smaller limit"
            )
        return self.limit

    def __str__(self) -> str:
        shown = (
            f"{self.limit:.3g} of dense" if self.relative else f"{self.limit:.4g} {self.unit or METRICS[self.metric]}"
        )
        return f"{self.metric} ≤ {shown}"


def _scales(metric: str) -> Mapping[str, float]:
    """The units that measure a metric, and what they are in its own."""
    if metric == "memory":
        return _BYTES
    return {prefix + base: scale for base in _UNITS[metric] for prefix, scale in _PREFIX.items()}
