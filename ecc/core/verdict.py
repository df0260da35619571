"""Verdict: whether a budget holds, measured against its limit, with the confidence that the measurement allows.

A measured budget holds when the upper end of the 95 % interval is within the limit: not when the point estimate is. The
interval is that of the *paired* ratio to the dense network where the budget is relative, so that drift of the device
cancels, and that of the network's own value where the budget is absolute. Counts, and what an analytic model says of an
accelerator, are exact and simply compared; such a model is always named.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ecc.core.budget import Budget
from ecc.core.cost import METRICS, NORMALISED, units_of
from ecc.core.errors import InputError
from ecc.core.fields import Fields

__all__ = ["BudgetCheck", "Measured", "all_met", "joint_confidence", "marked", "quantity"]

_Z95 = 1.959963984540054
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric of a network, measured in turns with the dense one; every interval is one of 95 %.

    Attributes:
        ratio: Metric relative to the dense network, the median of the paired ratios.
        ratio_low: Lower end of its interval; 0 when the pairs were too few for one.
        ratio_high: Upper end; infinite when the pairs were too few.
        dense: The dense network's value in the same run, s or J.
        value: The network's own value, unpaired, s or J.
        value_low: Lower end of its interval.
        value_high: Upper end.
    """

    ratio: float
    ratio_low: float
    ratio_high: float
    dense: float
    value: float
    value_low: float
    value_high: float

    def __post_init__(self) -> None:
        for low, middle, high in (
            (self.ratio_low, self.ratio, self.ratio_high),
            (self.value_low, self.value, self.value_high),
            (self.dense, self.dense, self.dense),
        ):
            if not (0 <= low <= middle <= high and 0 < middle < math.inf):
                raise InputError(f"a measurement must have 0 ≤ low ≤ value ≤ high, got {low:g}, {middle:g}, {high:g}")


@dataclass(frozen=True, slots=True)
class BudgetCheck:
    """One budget and whether it holds.

    Attributes:
        metric: A key of METRICS.
        limit: In the metric's unit.
        dense: The dense network's value, in the metric's unit.
        predicted: The cost model's value of the compressed network.
        measured: Its measured (or counted) value; None when nothing was measured.
        low: Lower end of the 95 % interval of ``measured``.
        high: Upper end.
        met: Whether the budget holds; None when nothing was measured.
        confidence: Probability that the true value is within the limit, from a normal distribution of the log ratio.
        reason: Why nothing was measured; empty otherwise.
        relative: Whether the limit was given as a fraction of dense.
        unit: Of all values, where it is not that of METRICS; empty otherwise.
        source: The analytic model that all values are of; empty where they are measured or counted.
    """

    metric: str
    limit: float
    dense: float
    predicted: float | None
    measured: float | None
    low: float | None
    high: float | None
    met: bool | None
    confidence: float | None
    reason: str = ""
    relative: bool = False
    unit: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(f"budget metric {self.metric!r} is unknown; choose from {', '.join(METRICS)}")
        if self.unit and (self.unit not in units_of(self.metric) or not self.source):
            raise InputError(f"a budget on {self.metric} of {self.source or 'a device'} cannot be in {self.unit!r:.80}")

    @property
    def shown_in(self) -> str:
        """The unit of all values."""
        return self.unit or METRICS[self.metric]

    @property
    def budget(self) -> Budget:
        """What was asked for."""
        if self.relative:
            return Budget(self.metric, self.limit / self.dense)
        return Budget(self.metric, self.limit, relative=False, unit=self.unit)

    @classmethod
    def of_measurement(cls, budget: Budget, measured: Measured, *, predicted: float | None = None) -> BudgetCheck:
        """Judge a latency or energy budget by a measurement."""
        if budget.relative:
            limit = budget.limit * measured.dense
            value, low, high = (
                ratio * measured.dense for ratio in (measured.ratio, measured.ratio_low, measured.ratio_high)
            )
        else:
            limit, value, low, high = budget.limit, measured.value, measured.value_low, measured.value_high
        return cls(
            metric=budget.metric,
            limit=limit,
            dense=measured.dense,
            predicted=predicted,
            measured=value,
            low=low,
            high=high,
            met=high <= limit,
            confidence=_probability_below(limit, value, low, high),
            relative=budget.relative,
        )

    @classmethod
    def of_count(
        cls,
        budget: Budget,
        *,
        dense: float,
        value: float,
        predicted: float | None = None,
        unit: str = "",
        source: str = "",
    ) -> BudgetCheck:
        """Judge a budget on what is exact: a count, or what the analytic model ``source`` says, in its ``unit``.

        Args:
            predicted: What was expected; the value itself when None.
        """
        limit = budget.limit * dense if budget.relative else budget.limit
        met = value <= limit
        return cls(
            metric=budget.metric,
            limit=limit,
            dense=dense,
            predicted=value if predicted is None else predicted,
            measured=value,
            low=value,
            high=value,
            met=met,
            confidence=float(met),
            relative=budget.relative,
            unit="" if unit == METRICS[budget.metric] else unit,
            source=source,
        )

    @classmethod
    def unmeasured(cls, budget: Budget, *, dense: float, predicted: float | None, reason: str) -> BudgetCheck:
        """A budget that could not be measured here, and why."""
        limit = budget.limit * dense if budget.relative else budget.limit
        return cls(
            metric=budget.metric,
            limit=limit,
            dense=dense,
            predicted=predicted,
            measured=None,
            low=None,
            high=None,
            met=None,
            confidence=None,
            reason=reason,
            relative=budget.relative,
        )

    def to_json(self) -> dict[str, Any]:
        """The fields of the interface; what was not measured is null, with its reason."""
        return {
            "metric": self.metric,
            "unit": self.shown_in,
            "limit": self.limit,
            "dense": self.dense,
            "predicted": self.predicted,
            "measured": self.measured,
            "low": self.low,
            "high": None if self.high is None or math.isinf(self.high) else self.high,
            "met": self.met,
            "confidence": self.confidence,
            "reason": self.reason,
            "relative": self.relative,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, value: object) -> BudgetCheck:
        """The inverse of ``to_json``; names beyond those are ignored.

        Raises:
            InputError: If it is not such a record.
        """
        fields = Fields(value, "a budget of the manifest")
        measured, high = fields.optional_number("measured"), fields.optional_number("high")
        metric, unit = fields.text("metric"), fields.text("unit", "")
        return cls(
            metric=metric,
            limit=fields.number("limit"),
            dense=fields.number("dense"),
            predicted=fields.optional_number("predicted"),
            measured=measured,
            low=fields.optional_number("low"),
            high=math.inf if high is None and measured is not None else high,
            met=fields.optional_flag("met"),
            confidence=fields.optional_number("confidence"),
            reason=fields.text("reason", ""),
            relative=bool(fields.optional_flag("relative")),
            unit="" if unit == METRICS.get(metric) else unit,
            source=fields.text("source", ""),
        )

    def __str__(self) -> str:
        named = f"{self.metric} of {self.source}" if self.source else self.metric
        limit = quantity(self.limit, self.limit, self.shown_in)
        if self.measured is None or self.low is None or self.high is None:
            predicted = (
                "" if self.predicted is None else f" {quantity(self.predicted, self.limit, self.shown_in)} predicted"
            )
            return f"{named}{predicted}, limit {limit}: not measured ({self.reason})"
        value = quantity(self.measured, self.limit, self.shown_in)
        sign = "≤" if self.measured <= self.limit else ">"
        if self.low == self.high:
            return f"{named} {value} {sign} {limit}: {'holds' if self.met else 'does not hold'}"
        ends = ", ".join(_number(end, self.limit) for end in (self.low, self.high))
        verdict = "holds" if self.met else "does not hold" if self.low > self.limit else "is not certain to hold"
        return f"{named} {value} [{ends}] {sign} {limit}: {verdict} ({_percent(self.confidence or 0.0)})"


def marked(checks: Sequence[BudgetCheck]) -> list[tuple[str, str]]:
    """Each check as a sentence behind a mark, for tables."""
    marks = {True: "✓", False: "✗", None: "?"}
    return [(marks[check.met], str(check)) for check in checks]


def all_met(verdicts: Iterable[bool | None]) -> bool | None:
    """True where every budget holds, False where one does not, None where that is open."""
    found = set(verdicts)
    return False if False in found else None if None in found else True


def joint_confidence(checks: Sequence[BudgetCheck]) -> float | None:
    """Probability that all budgets hold, at least: 1 less the sum of those that each does not (Bonferroni).

    The errors of metrics that were measured together are not independent. None where one was not measured.
    """
    known = [check.confidence for check in checks if check.confidence is not None]
    return max(0.0, 1 - sum(1 - each for each in known)) if len(known) == len(checks) else None


def _probability_below(limit: float, value: float, low: float, high: float) -> float:
    """P(true ≤ limit) of a log-normal value, with the half of the interval that faces the limit as its spread.

    With that half the probability passes 97.5 % exactly where the limit passes the end of the 95 % interval, so the
    figure never contradicts the verdict.
    """
    inner, outer = (value, high) if limit >= value else (low, value)
    spread = math.log(outer / inner) if inner > 0 else math.inf
    if spread == 0:
        return float(limit >= value)
    return 0.5 * (1 + math.erf(_Z95 * math.log(limit / value) / spread / math.sqrt(2)))


def _prefix(size: float) -> tuple[float, str]:
    """The largest prefix that keeps ``size`` at 1 or more."""
    return next(((scale, name) for scale, name in _PREFIXES if abs(size) >= scale * 0.9995), _PREFIXES[-1])


def _number(value: float, like: float) -> str:
    """``value`` with the prefix and the decimals that suit ``like``: three significant digits of it."""
    scale, _ = _prefix(like)
    digits = max(0, 2 - math.floor(math.log10(max(abs(like) / scale, 1.0))))
    return f"{value / scale:.{digits}f}"


def quantity(value: float, like: float, unit: str) -> str:
    """``value`` with its unit, prefixed and rounded as suits ``like``; without a prefix where that would read badly."""
    if unit in NORMALISED:
        return f"{value:.4g} {unit}"
    if unit == METRICS["params"]:
        return f"{_number(value, like)}{_prefix(like)[1]}"
    return f"{_number(value, like)} {_prefix(like)[1]}{unit}"


def _percent(share: float) -> str:
    """A probability that is not rounded to a certainty."""
    if share > 0.999:
        return "> 99.9 %"
    return "< 0.1 %" if share < 0.001 else f"{share * 100:.1f} %"
