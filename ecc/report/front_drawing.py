"""Fronts as inline SVG that follows the page's colours, with what the page tells where a reader points.

Marks carry classes and no colours: the style sheet of the page gives them those of light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from ecc.fronts import DENSE, Front, Level, Point, SeedMean, mean_curve
from ecc.report.front_figures import accuracy_interval, axis_scale, cost_ends, is_wide, look_of, x_interval
from ecc.report.style import axis_label, quantity

__all__ = ["SYMBOLS", "Drawing", "Size", "draw_difference", "draw_front"]

SYMBOLS: tuple[str, ...] = (
    "M0-5.5A5.5 5.5 0 1 1 0 5.5A5.5 5.5 0 1 1 0-5.5Z",
    "M-5-5H5V5H-5Z",
    "M0-6.4L6 4.4H-6Z",
    "M0-6.8L6 0L0 6.8L-6 0Z",
    "M0 6.4L6-4.4H-6Z",
    "M-2.2-6H2.2V-2.2H6V2.2H2.2V6H-2.2V2.2H-6V-2.2H-2.2Z",
    "M0-2.9L3.1-6L6-3.1L2.9 0L6 3.1L3.1 6L0 2.9L-3.1 6L-6 3.1L-2.9 0L-6-3.1L-3.1-6Z",
    "M-6 0L-3-5.2H3L6 0L3 5.2H-3Z",
    "M0-8.5L2.1-2.9L8.1-2.6L3.4 1.1L5 6.9L0 3.6L-5 6.9L-3.4 1.1L-8.1-2.6L-2.1-2.9Z",
)
"""Outlines about the origin, in the order of ``style.MARKERS``; the last one is the dense network's."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 18.0, 12.0, 48.0
_NEAR = 1e-9


@dataclass(frozen=True, slots=True)
class Size:
    """Of a drawing, in its own units, which are pixels where it is shown in full."""

    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a page needs of a front.

    Attributes:
        svg: The picture.
        items: What can be pointed at: x and y in the picture, number of the method (−1 is dense), whether it is a mean,
            title, and lines of text.
    """

    svg: Markup
    items: list[list[Any]]


@dataclass(frozen=True, slots=True)
class _Frame:
    """From values to places in the picture."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    unit: str


def draw_front(front: Front, methods: Sequence[str], size: Size, accuracies: tuple[float, float], name: str) -> Drawing:
    """Accuracy against cost.

    Args:
        methods: Of all panels, so that each looks alike in all of them.
        accuracies: Ends of the y axis.
        name: Unlike that of any other drawing of the page: letters, digits and ``-``.
    """
    frame = _frame(front, size, accuracies)
    number = {method: i for i, method in enumerate(methods)}
    levels: dict[str, list[Level]] = {}
    for level in front.levels:
        levels.setdefault(level.method, []).append(level)
    items: list[list[Any]] = []
    drawn = [_method(front, own, frame, number.get(method, -1), items) for method, own in levels.items()]
    inner = (_text_of(size.width - _RIGHT - _LEFT), _text_of(size.height - _BOTTOM - _TOP))
    label = f"accuracy against {front.x_name}" + (f", {front.name}" if front.name else "")
    svg = (
        f'<svg viewBox="0 0 {size.width:g} {size.height:g}" tabindex="0" role="img" '
        f'aria-label="{escape(label)}; arrow keys go from point to point" data-panel="{name}">'
        f'<clipPath id="{name}"><rect x="{_LEFT:g}" y="{_TOP:g}" width="{inner[0]}" height="{inner[1]}"/></clipPath>'
        f"{_axes(front, frame, size)}"
        f'<g clip-path="url(#{name})">{_staircase(front, frame)}{"".join(drawn)}</g>'
        '<circle class="ring" r="11" cx="-99" cy="-99"/></svg>'
    )
    return Drawing(Markup(svg), items)


def draw_difference(difference: SeedMean, reach: float) -> Markup:
    """A difference and its interval about zero, in a cell of a table.

    Args:
        reach: The largest size of any end that is shown beside it.
    """
    width, height = 150.0, 16.0

    def place(value: float) -> str:
        return _text_of(width / 2 * (1 + 0.96 * max(-1.0, min(1.0, value / reach))) if reach > 0 else width / 2)

    bar = ""
    if difference.low is not None and difference.high is not None:
        bar = f'<path class="span" d="M{place(difference.low)} 8H{place(difference.high)}"/>'
    return Markup(
        f'<svg class="difference" viewBox="0 0 {width:g} {height:g}" aria-hidden="true">'
        f'<path class="zero" d="M{width / 2:g} 0V{height:g}"/>{bar}'
        f'<circle cx="{place(difference.mean)}" cy="8" r="3.5"/></svg>'
    )


def _frame(front: Front, size: Size, accuracies: tuple[float, float]) -> _Frame:
    factor, unit = axis_scale(front)
    wide, (bottom, top) = is_wide(front), accuracies
    shape: Callable[[float], float] = math.log if wide else float
    low, high = map(shape, cost_ends(front))
    across, up = size.width - _LEFT - _RIGHT, size.height - _TOP - _BOTTOM

    def x(value: float) -> float:
        value *= factor
        if wide and value <= 0:
            return _LEFT
        return _LEFT + across * (shape(value) - low) / (high - low)

    def y(value: float) -> float:
        return _TOP + up * (top - value) / (top - bottom)

    ticks = _log_ticks(low, high) if wide else _ticks(low, high, 8 if size.width > 600 else 5)
    shown = _ticks(100 * bottom, 100 * top, 7)
    across_ticks = [(x(tick / factor), text) for tick, text in ticks]
    up_ticks = [(y(tick / 100), f"{text} %") for tick, text in shown]
    return _Frame(x, y, across_ticks, up_ticks, unit)


def _ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    found = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = _NEAR * (high - low)
    return [(float(tick), f"{tick:.10g}") for tick in found if low - slack <= tick <= high + slack]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """1, 2 and 5 of each power of ten, or the powers alone where those are many; the ends are logarithms."""
    powers = range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)) + 1)
    steps = (1, 2, 5) if len(powers) <= 5 else (1,)
    found = [step * 10.0**power for power in powers for step in steps]
    return [(tick, f"{tick:g}") for tick in found if low <= math.log(tick) <= high]


def _axes(front: Front, frame: _Frame, size: Size) -> str:
    right, foot = size.width - _RIGHT, size.height - _BOTTOM
    lines, words = [], []
    for place, text in frame.x_ticks:
        lines.append(f"M{_text_of(place)} {_TOP:g}V{foot:g}")
        words.append(f'<text x="{_text_of(place)}" y="{foot + 18:g}" text-anchor="middle">{escape(text)}</text>')
    for place, text in frame.y_ticks:
        lines.append(f"M{_LEFT:g} {_text_of(place)}H{right:g}")
        words.append(f'<text x="{_LEFT - 8:g}" y="{_text_of(place + 4)}" text-anchor="end">{escape(text)}</text>')
    label = axis_label(front.x_name, frame.unit).replace(r"\$", "$")
    middle = (_LEFT + right) / 2
    return (
        f'<path class="grid" d="{"".join(lines)}"/><path class="axis" d="M{_LEFT:g} {_TOP:g}V{foot:g}H{right:g}"/>'
        f'<g class="ticks">{"".join(words)}</g>'
        f'<text class="label" x="{middle:g}" y="{size.height - 8:g}" text-anchor="middle">{escape(label)}</text>'
    )


def _staircase(front: Front, frame: _Frame) -> str:
    """What a budget buys: the best mean accuracy up to it."""
    best = sorted((level.x.mean, level.accuracy.mean) for level in front.levels if not level.dominated)
    if len(best) < 2:
        return ""
    path = f"M{_text_of(frame.x(best[0][0]))} {_text_of(frame.y(best[0][1]))}"
    path += "".join(f"H{_text_of(frame.x(x))}V{_text_of(frame.y(accuracy))}" for x, accuracy in best[1:])
    return f'<path class="stairs" d="{path}"/>'


def _method(front: Front, levels: Sequence[Level], frame: _Frame, number: int, items: list[list[Any]]) -> str:
    """One method: band and curve, its seeds, its means."""
    method = levels[0].method
    colour, symbol = ("dense", len(SYMBOLS) - 1) if method == DENSE else (f"c{look_of(number)[0]}", look_of(number)[1])
    parts = [_curve(front, method, frame)]
    dots, bars, marks = [], [], []
    for level in levels:
        place = (frame.x(level.x.mean), frame.y(level.accuracy.mean))
        faint = ' class="faint"' if level.dominated else ""
        bars.append(f'<path{faint} d="{_bars(level, frame)}"/>')
        marks.append(f'<use{faint} href="#s{symbol}" x="{_text_of(place[0])}" y="{_text_of(place[1])}"/>')
        items.append([*_places(place), number, 1, *_words_of_level(level, front)])
        for point in level.points if len(level.points) > 1 else ():
            spot = (frame.x(point.x), frame.y(point.accuracy))
            dots.append(f'<circle cx="{_text_of(spot[0])}" cy="{_text_of(spot[1])}" r="2.4"/>')
            items.append([*_places(spot), number, 0, *_words_of_point(point, front)])
    parts += [
        f'<g class="seeds">{"".join(dots)}</g><g class="bars">{"".join(bars)}</g><g class="marks">{"".join(marks)}</g>'
    ]
    return f'<g class="method {colour}" data-m="{number}">{"".join(parts)}</g>'


def _curve(front: Front, method: str, frame: _Frame) -> str:
    if method not in front.curves:
        return ""
    knots, means = mean_curve(list(front.curves[method].values()))
    if len(knots) < 2:
        return ""
    middle = [f"{_text_of(frame.x(x))} {_text_of(frame.y(mean.mean))}" for x, mean in zip(knots, means, strict=True)]
    line = f'<path class="curve" d="M{"L".join(middle)}"/>'
    ends = [
        (frame.x(x), frame.y(mean.low), frame.y(mean.high))
        for x, mean in zip(knots, means, strict=True)
        if mean.low is not None and mean.high is not None
    ]
    if len(ends) < 2:
        return line
    there = [f"{_text_of(x)} {_text_of(low)}" for x, low, _ in ends]
    back = [f"{_text_of(x)} {_text_of(high)}" for x, _, high in reversed(ends)]
    return f'<path class="band" d="M{"L".join([*there, *back])}Z"/>{line}'


def _bars(level: Level, frame: _Frame) -> str:
    """The intervals of both axes."""
    x, y = frame.x(level.x.mean), frame.y(level.accuracy.mean)
    path = ""
    low, _, high = x_interval(level)
    if low is not None and high is not None and low < high:
        start, end = frame.x(low), frame.x(high) if math.isfinite(high) else 1e4
        path += f"M{_text_of(start)} {_text_of(y)}H{_text_of(end)}"
    if (ends := accuracy_interval(level.accuracy)) is not None:
        path += f"M{_text_of(x)} {_text_of(frame.y(ends[0]))}V{_text_of(frame.y(ends[1]))}"
    return path


def _words_of_level(level: Level, front: Front) -> tuple[str, list[str]]:
    if len(level.points) == 1:
        title, lines = _words_of_point(level.points[0], front)
    else:
        title, accuracy, ends = level.method, level.accuracy, accuracy_interval(level.accuracy)
        within = f" [{_percent(ends[0])}, {_percent(ends[1])}]" if ends else ""
        seeds = f"{accuracy.seeds} seed{'' if accuracy.seeds == 1 else 's'}"
        lines = [
            *filter(None, [level.budget]),
            f"accuracy {_percent(accuracy.mean)}{within}",
            f"{front.x} {_with_ends(level.x.low, level.x.mean, level.x.high, front.unit)}",
            f"mean of {seeds}" + (f", {len(level.points)} runs" * (len(level.points) > accuracy.seeds)),
        ]
    return title, [*lines, "dominated"] if level.dominated else lines


def _words_of_point(point: Point, front: Front) -> tuple[str, list[str]]:
    run = [] if point.seed is None else [f"seed {point.seed}"]
    return point.method, [
        *filter(None, [point.budget]),
        f"accuracy {_percent(point.accuracy)}",
        f"{front.x} {_with_ends(point.x_low, point.x, point.x_high, front.unit)}",
        *filter(None, [", ".join([*run, point.label])]),
    ]


def _with_ends(low: float | None, value: float, high: float | None, unit: str) -> str:
    if low is None or high is None or low >= high:
        return quantity(value, unit)
    return f"{quantity(value, unit)} [{quantity(low, unit)}, {quantity(high, unit)}]"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _places(place: tuple[float, float]) -> list[float]:
    return [round(place[0], 1), round(place[1], 1)]


def _text_of(place: float) -> str:
    """A coordinate, to a tenth of a unit; far outside it is cut."""
    return f"{max(-1e5, min(1e5, place)):.1f}".removesuffix(".0")
