"""The page of fronts: opens from disk, needs no network, and tells the values where a reader points.

All text is escaped. The one script of the page is allowed by its hash, and no other: a name can be no program even
where an escape were missing. Without scripts the figures and the tables say the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources

from markupsafe import Markup

from ecc.fronts import Comparison, Front, Fronts, SeedMean, Verdict
from ecc.report.front_drawing import SYMBOLS, Size, draw_difference, draw_front
from ecc.report.front_figures import accuracy_ends, accuracy_interval, axis_scale, look_of
from ecc.report.front_words import across, claims, notes, points_between, sentence, summary
from ecc.report.style import quantity
from ecc.report.templates import fill

__all__ = ["render_fronts"]

_ALONE, _BESIDE = Size(900, 460), Size(600, 420)
_MOST_PAIRS, _MOST_ROWS = 60, 200  # of tables; the table of all runs has every one


def render_fronts(fronts: Fronts) -> str:
    """The page as HTML text."""
    size = _ALONE if len(fronts) == 1 else _BESIDE
    ends = accuracy_ends(fronts)
    drawings = [
        draw_front(front, fronts.methods, size, own, f"panel-{i}")
        for i, (front, own) in enumerate(zip(fronts, ends, strict=True))
    ]
    script = resources.files("ecc.report").joinpath("front.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    looks = [look_of(i) for i in range(len(fronts.methods))]
    return fill(
        "front.html",
        {
            "mean": _mean,
            "percent": _percent,
            "probability": _probability,
            "quantity": quantity,
            "points": points_between,
            "budgets": _budgets,
            "difference": draw_difference,
            "sentence": sentence,
            "claims": claims,
            "summary": summary,
        },
        fronts=fronts,
        title=f"Accuracy against {fronts.x}",
        across=across(fronts),
        notes=notes(fronts),
        svgs=[drawing.svg for drawing in drawings],
        data=Markup(_json([drawing.items for drawing in drawings])),
        looks=looks,
        symbols=SYMBOLS,
        script=Markup(script),
        digest=digest,
        reach=[
            max((abs(end) for one in front.comparisons for end in _ends(one.difference)), default=0.0)
            for front in fronts
        ],
        OPEN=Verdict.OPEN,
        FIRST=Verdict.FIRST,
        numbers={method: i for i, method in enumerate(fronts.methods)},
        MOST_PAIRS=_MOST_PAIRS,
        MOST_ROWS=_MOST_ROWS,
    )


def _json(value: object) -> str:
    """JSON that may stand between tags: no character in it begins or ends one."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _ends(difference: SeedMean | None) -> tuple[float, ...]:
    if difference is None:
        return ()
    return tuple(end for end in (difference.low, difference.mean, difference.high) if end is not None)


def _mean(mean: SeedMean, unit: str = "") -> str:
    """A mean with its interval: of costs in their unit, of accuracies in per cent, of hypervolumes as numbers."""

    def shown(value: float) -> str:
        if unit == "%":
            return f"{100 * value:.2f}"
        return f"{value:.4f}" if unit == "area" else quantity(value, unit)

    end = " %" if unit == "%" else ""
    ends = accuracy_interval(mean) if unit in ("%", "area") else (mean.low, mean.high)
    if ends is None or ends[0] is None or ends[1] is None:
        return shown(mean.mean) + end
    return f"{shown(mean.mean)}{end} [{shown(ends[0])}, {shown(ends[1])}]"


def _budgets(pair: Comparison, front: Front) -> str:
    """The budgets that two methods are compared at, in the unit of the axis."""
    if pair.start is None or pair.end is None:
        return ""
    factor, unit = axis_scale(front)
    ends = dict.fromkeys(f"{factor * end:.3g}" for end in (pair.start, pair.end))
    return f"{' – '.join(ends)} {unit}".rstrip()


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"
