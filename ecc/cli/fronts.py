"""front: finished compressions compared, at the budgets that were measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ecc.api.fronts import AXES, front_of
from ecc.cli.command import Command, Outcome
from ecc.cli.outputs import add_output
from ecc.cli.progress import ProgressLine
from ecc.cli.tables import table
from ecc.cli.text import percent
from ecc.core.errors import InputError
from ecc.energy_models.counting import COUNTED
from ecc.fronts import Front, Fronts, SeedMean
from ecc.report.files import PAGE, POINTS, write_file
from ecc.report.front_table import front_csv
from ecc.report.front_words import claims, notes, sentence, summary
from ecc.report.saving import WrittenFront, write_front
from ecc.report.style import quantity

__all__ = ["COMMANDS", "front_text", "front_value"]

_MOST_LEFT_OUT = 5  # reasons told; --json has all


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artefacts",
        metavar="DIR",
        nargs="+",
        help="what ecc compress or ecc stage has written, or a folder that holds such, as of ecc sweep",
    )
    parser.add_argument("--x", choices=AXES, help="horizontal axis (default: the metric of the first budget)")
    add_output(
        parser,
        "--out",
        kind=PAGE,
        required=True,
        metavar="FILE.html",
        help="page; its figure goes beside it as PNG and SVG",
    )
    add_output(parser, "--csv", kind=POINTS, metavar="FILE.csv", help="the points as a table, one row each")


def _run(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    page = Path(arguments.out)
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {page} would be a page of HTML; call it {page.with_suffix('.html').name}")
    found = front_of(arguments.artefacts, x=arguments.x)
    written = write_front(found, arguments.out)
    value = front_value(found, written)
    text = front_text(found, written)
    if arguments.csv is not None:
        value["csv"] = str(write_file(arguments.csv, front_csv(found)))
        text += f"\npoints: {arguments.csv}"
    return Outcome(value, text)


def front_value(fronts: Fronts, written: WrittenFront) -> dict[str, Any]:
    """The JSON object: points, hypervolumes, statistics with a sentence per pair of methods, and files."""
    value = fronts.to_json()
    for front, panel in zip(fronts, value["panels"], strict=True):
        panel["summary"] = summary(front)
        for comparison, pair in zip(front.comparisons, panel["comparisons"], strict=True):
            pair["sentence"] = sentence(comparison, front.unit)
    return value | {
        "notes": notes(fronts),
        "figure": str(written.picture),
        "svg": str(written.drawing),
        "page": str(written.page),
    }


def front_text(fronts: Fronts, written: WrittenFront) -> str:
    """The same for people: a table of means and one of methods per pair of axes, and what may be claimed."""
    parts = [_panel_text(front, named=len(fronts) > 1) for front in fronts]
    told = [f"mind: {note}" for note in notes(fronts)]
    for one in fronts.left_out[:_MOST_LEFT_OUT]:
        told.append(f"left out: {one.folder}: {one.reason}")
    if len(fronts.left_out) > _MOST_LEFT_OUT:
        told.append(f"left out: {len(fronts.left_out) - _MOST_LEFT_OUT} more; --json and the page tell all")
    return "\n\n".join([*parts, "\n".join([*told, f"page: {written.page}"])])


def _panel_text(front: Front, *, named: bool) -> str:
    reasons: dict[str, str] = {}
    levels = [
        [
            level.method,
            level.budget,
            str(len(level.points)),
            _mean(level.x, lambda value: quantity(value, front.unit), None if _counted(front) else reasons),
            _mean(level.accuracy, percent, reasons),
            "yes" if level.dominated else "no",
        ]
        for level in front.levels
    ]
    standings = [
        [one.method, str(one.points), str(one.seeds), _mean(one.hypervolume, lambda value: f"{value:.4f}", reasons)]
        for one in front.standings
    ]
    lines = [
        *([front.name, ""] if named and front.name else []),
        table(["method", "budget", "runs", front.x_name, "accuracy", "dominated"], levels),
        "",
        table(["method", "points", "seeds", "hypervolume"], standings),
        *(f"{mark} no interval: {reason}" for reason, mark in reasons.items()),
        "",
        summary(front),
        *(f"- {claim}" for claim in claims(front)),
    ]
    return "\n".join(lines)


def _mean(mean: SeedMean, shown: Callable[[float], str], reasons: dict[str, str] | None) -> str:
    """A mean with its interval, or with the mark of the reason why there is none.

    Args:
        reasons: Marks by reason, which grow; None where an interval is not expected.
    """
    if mean.low is None or mean.high is None:
        mark = "" if reasons is None else f" {reasons.setdefault(mean.reason, '*' * (len(reasons) + 1))}"
        return f"{shown(mean.mean)}{mark}"
    return f"{shown(mean.mean)} [{shown(mean.low)}, {shown(mean.high)}]"


def _counted(front: Front) -> bool:
    """Whether costs are exact, so that nothing about them is unknown."""
    return front.x in (*COUNTED, "bytes") or bool(front.source)


COMMANDS = (
    Command(
        "front",
        "ecc front half-admm half-uniform half-magnitude --x latency --out front.html --csv front.csv",
        _arguments,
        _run,
    ),
)
