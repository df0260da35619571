"""Fronts in sentences: what the seeds support, and nothing beyond it."""

from __future__ import annotations

from collections.abc import Sequence

from ecc.fronts import Comparison, Front, Fronts, SeedMean, Standing, Verdict
from ecc.report.style import quantity

__all__ = ["across", "claims", "notes", "points_between", "sentence", "summary"]


def sentence(comparison: Comparison, unit: str = "") -> str:
    """What may be said of two methods.

    Args:
        unit: Of the budgets.
    """
    first, second, difference = comparison.first, comparison.second, comparison.difference
    if difference is None or comparison.start is None or comparison.end is None:
        return f"{first} and {second} are not compared: {comparison.reason}."
    where = _budgets(comparison.start, comparison.end, unit)
    if difference.p is None or comparison.p is None:
        apart = f"differ by {_points(abs(difference.mean))}" if difference.mean else "do not differ"
        return f"{first} and {second} {apart} {where}; {difference.reason}, so nothing is claimed."
    many = f", corrected for {comparison.comparisons} comparisons" if comparison.comparisons > 1 else ""
    tested = f"{difference.seeds} seeds; p {_probability(comparison.p)}{many}"
    if comparison.verdict is Verdict.OPEN:
        why = ""
        if comparison.p < 0.05:
            why = ", because the difference is smaller than one step of the test set"
        elif difference.p < 0.05:
            why = " once all comparisons are counted"
        return f"{first} and {second} are not distinguishable {where}{why}: {points_between(difference)} ({tested})."
    better, other, sign = (first, second, 1) if comparison.verdict is Verdict.FIRST else (second, first, -1)
    by = points_between(difference, sign).replace("+", "")
    return f"{better} is more accurate than {other} {where}, by {by} ({tested})."


def claims(front: Front) -> list[str]:
    """The sentences that claim something."""
    return [sentence(one, front.unit) for one in front.comparisons if one.verdict is not Verdict.OPEN]


def summary(front: Front) -> str:
    """How many of the comparisons of a front found something."""
    pairs, found = len(front.comparisons), len(claims(front))
    if len(front.methods) < 2:
        return "There is one method, so nothing is compared."
    if not pairs:
        return f"{len(front.methods)} methods are too many to compare in pairs."
    if not any(one.difference is not None and one.difference.p is not None for one in front.comparisons):
        return f"No pair of methods can be told apart: {_common_reason(front.comparisons)}."
    if found == pairs:
        return "The one pair of methods differs." if pairs == 1 else f"All {pairs} pairs of methods differ."
    if not found:
        if pairs == 1:
            return "The one pair of methods cannot be told apart at equal budgets with these seeds."
        return f"None of the {pairs} pairs of methods can be told apart at equal budgets with these seeds."
    differ, rest = "differs" if found == 1 else "differ", "other" if pairs - found == 1 else "others"
    return f"{found} of the {pairs} pairs of methods {differ} at equal budgets; the {rest} cannot be told apart."


def notes(fronts: Fronts) -> list[str]:
    """What a reader should mind, panel by panel."""
    found = []
    for front in fronts:
        where = f"{front.name}: " if len(fronts) > 1 else ""
        found += [f"{where}{_short(one)}" for one in front.standings if one.left_out]
        counts = {one.points / one.seeds for one in front.standings if not one.left_out}
        if len(counts) > 1:
            found.append(
                f"{where}the methods have different numbers of points per seed; hypervolumes favour those with more."
            )
    return found


def across(fronts: Fronts) -> str:
    """What the points are, in one line: how many networks, methods, seeds and panels."""
    methods = fronts.methods
    points = [point for front in fronts for found in front.methods.values() for point in found]
    seeds = {point.seed for point in points if point.seed is not None}
    parts = [_count(len(points), "network"), _count(len(methods), "method"), _count(len(seeds), "seed")]
    if len(fronts) > 1:
        parts.append(f"{len(fronts)} pairs of axes")
    return ", ".join(parts)


def points_between(difference: SeedMean, sign: int = 1) -> str:
    """A difference of accuracies and its interval in percentage points; ``sign`` −1 turns it round."""
    text = f"{_signed(sign * difference.mean)} points"
    if difference.low is None or difference.high is None:
        return text
    low, high = sorted((sign * difference.low, sign * difference.high))
    return f"{text} [{_signed(low)}, {_signed(high)}]"


def _short(standing: Standing) -> str:
    seeds = ", ".join("none" if seed is None else str(seed) for seed in standing.left_out)
    one = len(standing.left_out) == 1
    return (
        f"{standing.method} has fewer points of seed{'' if one else 's'} {seeds}, which its hypervolume therefore "
        "leaves out."
    )


def _common_reason(comparisons: Sequence[Comparison]) -> str:
    reasons = dict.fromkeys(one.reason if one.difference is None else one.difference.reason for one in comparisons)
    return "; ".join(filter(None, reasons))


def _budgets(start: float, end: float, unit: str) -> str:
    if start == end:
        return f"at {quantity(start, unit)}"
    return f"between {quantity(start, unit)} and {quantity(end, unit)}"


def _points(share: float) -> str:
    return f"{100 * share:.2f} points"


def _signed(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
