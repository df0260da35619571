"""How figures look and leave: one palette that colour-blind readers can tell apart, units for people, SVG and PNG.

Figures are built through matplotlib's object interface; no window, no backend and no global state is touched.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecc.core.cost import NORMALISED
from ecc.core.markup import printable

__all__ = [
    "COLOURS",
    "INK",
    "MARKERS",
    "MUTED",
    "TRACK",
    "axis_label",
    "canvas",
    "plain",
    "quantity",
    "scale",
    "themed",
    "to_png",
    "to_svg",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6F4E9C", "#7A6A53")
"""Okabe and Ito's palette without black and yellow, and two more; of equal order with MARKERS."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
"""Shapes to go with COLOURS, so that colour is never the only difference."""

INK, MUTED, TRACK = "#1F2933", "#697586", "#E4E7EB"
"""Text, secondary text, and what lies behind: grids and empty bars."""

_STYLE = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "white",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "grid.color": TRACK,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "ecc",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}
_SYMBOL = {"s": "s", "J": "J", "MAC": "MAC", "B": "B", "parameters": ""}
_COUNTED = frozenset({"MAC", "B", "parameters"})  # whole numbers: no thousandths of them
_PREFIX = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}


@contextmanager
def canvas(width_in: float, height_in: float, rows: int = 1, columns: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """An empty figure in the house style with rows × columns axes, in reading order."""
    with mpl.style.context(["default", _STYLE]):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def scale(unit: str, values: Iterable[float]) -> tuple[float, str]:
    """How to show values of a unit: (factor, unit with its prefix), for example (1e3, "ms").

    Args:
        unit: As in METRICS, or ``B``; any other is shown as it is.
        values: What will be shown; the largest decides.
    """
    if unit not in _SYMBOL:
        return 1.0, unit
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    power = 3 * (_magnitude(largest) // 3) if largest else 0
    power = min(max(power, 0 if unit in _COUNTED else -9), 12)
    return 10.0**-power, _PREFIX[power] + _SYMBOL[unit]


def quantity(value: float, unit: str) -> str:
    """A value for people, in three digits: ``2.31 ms``, ``12.4 mJ``, ``1.20 GMAC``."""
    if not math.isfinite(value):
        return "unknown" if math.isnan(value) else "∞"
    if unit in NORMALISED:
        return f"{value:.3g} {unit}"
    factor, shown = scale(unit, [value])
    digits = max(2 - _magnitude(value * factor), 0) if value else 0
    if unit in _COUNTED and factor == 1.0 and value == round(value):
        digits = 0
    return f"{value * factor:{f'.{digits}f' if digits < 6 else '.2e'}} {shown}".rstrip()


def axis_label(name: str, unit: str) -> str:
    """Name of an axis with its unit, if it has one."""
    return f"{plain(name)} ({unit})" if unit else plain(name)


def _magnitude(value: float) -> int:
    """Power of ten of a value as it looks in three digits (999.6 looks like 1000)."""
    return int(f"{value:.2e}".partition("e")[2])


def plain(text: str, longest: int = 40, keep: Literal["start", "end"] = "start") -> str:
    """Text that a figure shows as it stands: no formulas, no control characters, one end cut off when it is long."""
    text = printable(text)
    if len(text) > longest:
        text = f"{text[: longest - 1]}…" if keep == "start" else f"…{text[1 - longest :]}"
    return text.replace("$", r"\$")


def to_svg(figure: Figure) -> str:
    """The figure as one ``<svg>`` element for a page: text as outlines, nothing fetched, the same bytes each time."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _rendering():
        figure.savefig(buffer, format="svg", metadata=nothing, dpi=200)  # of what is a picture in it: large clouds
    svg = buffer.getvalue()
    return re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)


def themed(svg: str) -> str:
    """A figure for a page that has dark colours too: those of the palette and of the paper become variables of CSS.

    The page must define ``--ink``, ``--muted``, ``--line``, ``--card`` and ``--c0`` to ``--c7``.
    """
    names = {INK: "ink", MUTED: "muted", TRACK: "line", "#ffffff": "card", "#FFFFFF": "card"}
    names |= {colour: f"c{place}" for place, colour in enumerate(COLOURS)}
    variables = {colour.lower(): f"var(--{name})" for colour, name in names.items()}
    pattern = "|".join(variables)
    return re.sub(rf"(?<=: )(?:{pattern})\b", lambda found: variables[found.group().lower()], svg, flags=re.IGNORECASE)


def to_png(figure: Figure, dots_per_inch: int = 160) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with _rendering():
        figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _rendering() -> Iterator[None]:
    """The style once more (some of it is read when drawing); a letter that the font lacks becomes a box, silently."""
    with mpl.style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield
