"""The page of a network on a systolic array: which layers take the energy, and for what.

Nothing is fetched and nothing is scripted; all text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ecc.energy_models.systolic.energy import SystolicEnergy
from ecc.report.files import write_file
from ecc.report.style import COLOURS, MUTED, canvas, plain, to_svg
from ecc.report.templates import fill

__all__ = ["PARTS", "amount", "energy_axis", "render_systolic", "systolic_figure", "write_systolic"]

PARTS = {"mac": "multiply-accumulates", "weights": "weights", "inputs": "inputs", "outputs": "outputs"}
"""What energy is spent on: attributes of LayerEnergy, and their names for people."""

_UNITS = {"e_RF": r"register accesses, $e_\mathrm{RF}$", "e_MAC": r"multiply-accumulates, $e_\mathrm{MAC}$"}
_WIDTH_IN = 9.2
_ROW_IN = 0.26
_MOST_ROWS = 60  # of a chart; layers beyond are those that take least
_PREFIXES = (
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
)


def systolic_figure(energy: SystolicEnergy) -> Figure:
    """A bar per layer, in order of execution, of what its energy is spent on; the largest where there are many."""
    largest = sorted(range(len(energy.layers)), key=lambda i: -energy.layers[i].total)[:_MOST_ROWS]
    shown = [energy.layers[i] for i in sorted(largest)]
    total = energy.total
    factor, label = energy_axis(max((each.total for each in shown), default=0.0), energy.unit)
    place, left = np.arange(len(shown)), np.zeros(len(shown))
    with canvas(_WIDTH_IN, 1.1 + _ROW_IN * len(shown)) as (figure, (ax,)):
        for colour, (part, name) in zip(COLOURS, PARTS.items(), strict=False):
            values = np.array([getattr(each, part) for each in shown]) * factor
            ax.barh(place, values, left=left, height=0.74, color=colour, edgecolor="white", linewidth=0.6, label=name)
            left = left + values
        for y, (end, each) in enumerate(zip(left, shown, strict=True)):
            share = f" {100 * each.total / total:.1f} %" if total else ""
            ax.text(end, y, share, va="center", fontsize=8, color=MUTED)
        ax.set_yticks(place, [plain(each.layer.name, 34, keep="end") for each in shown], fontsize=8)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.set_xlim(0, 1.1 * max(left, default=1.0) or 1.0)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_xlabel(label)
        ax.grid(visible=False, axis="y")
        figure.legend(loc="outside upper center", ncols=len(PARTS))
    return figure


def render_systolic(energy: SystolicEnergy, name: str, *, input_shapes: Sequence[Sequence[int]] = ()) -> str:
    """The page as HTML text; it opens from disk and needs no network."""
    return fill(
        "systolic.html",
        {"number": _number, "amount": amount, "percent": lambda value: f"{100 * value:.1f} %"},
        network=name,
        energy=energy,
        array=energy.array,
        unit=energy.unit,
        cycles=energy.cycles(),
        parts=PARTS,
        hidden=max(0, len(energy.layers) - _MOST_ROWS),
        input="; ".join("×".join(map(str, shape)) for shape in input_shapes),
        figure=Markup(to_svg(systolic_figure(energy))),
    )


def write_systolic(
    energy: SystolicEnergy, name: str, path: str | Path, *, input_shapes: Sequence[Sequence[int]] = ()
) -> Path:
    """Write the page of ``render_systolic``; returns its path.

    Raises:
        InputError: If the file cannot be written.
    """
    return write_file(path, render_systolic(energy, name, input_shapes=input_shapes).encode())


def energy_axis(largest: float, unit: str) -> tuple[float, str]:
    """Factor and label of an axis that shows energies up to that size."""
    factor, prefix = _prefix(largest)
    return factor, f"energy ({f'{prefix}J' if unit == 'J' else f'{prefix} {_UNITS[unit]}'.strip()})"


def _prefix(largest: float) -> tuple[float, str]:
    """Factor and prefix that show numbers of this size."""
    scale, prefix = next(((scale, prefix) for scale, prefix in _PREFIXES if largest >= scale), (1.0, ""))
    return 1 / scale, prefix


def amount(value: float, unit: str) -> str:
    """An energy with its unit: ``2.274 mJ``, ``27.28 G e_RF``."""
    return f"{_number(value)}{unit}" if unit == "J" and value else f"{_number(value)} {unit}"


def _number(value: float) -> str:
    """A number in four digits with a prefix."""
    factor, prefix = _prefix(abs(value))
    return f"{value * factor:#.4g}".rstrip(".") + f" {prefix}"
