"""Keeps the points of finished sweeps, and writes docs/fronts-results.md, its figures and pages from what is kept.

ecc sweep experiments/jobs/digits_front.toml --out digits-sweep
python experiments/fronts_page.py keep digits_front digits-sweep          # → measurements/fronts/digits_front.csv
python experiments/fronts_page.py                                         # → docs/fronts-results.md and its figures
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from records import MEASUREMENTS, environment
from results_page import table

from ecc.api.fronts import front_of
from ecc.fronts import Front, Fronts, Level, Point, SeedMean, Verdict
from ecc.report.front_figures import fronts_figure
from ecc.report.front_page import render_fronts
from ecc.report.front_words import claims, points_between, summary
from ecc.report.style import quantity, to_png

__all__ = ["keep", "write_page"]

FOLDER = MEASUREMENTS / "fronts"
DOCS = Path(__file__).resolve().parent.parent / "docs"
PLACE = ("network", "data", "device", "runtime", "threads", "batch")
POINT = ("method", "x", "accuracy", "seed", "x_low", "x_high", "label", "budget")


@dataclass(frozen=True)
class Study:
    """One job file and what is said of it."""

    name: str
    title: str
    text: str


STUDIES = (
    Study(
        "digits_front",
        "The demo's network on digits, over MACs",
        "`experiments/jobs/digits_front.toml`: `digits-resnet`, trained 4 epochs once, then 5 methods × 4 budgets × 3 "
        "seeds of 2 epochs each. 540 test images: one of them is 0.19 points.",
    ),
    Study(
        "fashion_front",
        "LeNet-300-100 on Fashion-MNIST, over the energy of a systolic array",
        "`experiments/jobs/fashion_front.toml`: `lenet-300-100`, trained 3 epochs once, then 5 methods × 4 budgets × 3 "
        "seeds of 2 epochs each; energy is what the array `eyeriss` would take. 10,000 test images.",
    ),
)


def keep(name: str, sweep: str, commit: str = "") -> None:
    """Write the points of a sweep with where and when they were made; by the sources of that commit, or by these."""
    fronts = front_of([sweep])
    rows = fronts.frame().assign(x_name=fronts.x, **environment() | ({"commit": commit} if commit else {}))
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows.to_csv(FOLDER / f"{name}.csv", index=False)


def kept(name: str) -> tuple[Fronts, pd.DataFrame]:
    """The points as they were kept."""
    rows = pd.read_csv(FOLDER / f"{name}.csv", dtype={"commit": str}, keep_default_na=True)
    panels = []
    for _, part in rows.groupby("panel"):
        first = part.iloc[0]
        values = part[list(POINT)].astype(object).where(part[list(POINT)].notna(), None)
        points = [
            Point(
                row.method, float(row.x), float(row.accuracy), None if row.seed is None else int(row.seed),
                row.x_low, row.x_high, row.label or "", row.budget or "",
            )
            for row in values.itertuples()
        ]  # fmt: skip
        place = {fact: str(first[fact]) for fact in PLACE if fact in part and isinstance(first[fact], str)}
        unit, source = (text if isinstance(text, str) else "" for text in (first.unit, first.source))
        panels.append(Front(tuple(points), first.x_name, unit, source, place))
    return Fronts(tuple(panels)), rows


def with_interval(mean: SeedMean, factor: float, digits: int) -> str:
    """A mean with the ends of its interval; without them where there are none."""
    text = f"{factor * mean.mean:.{digits}f}"
    if mean.low is None or mean.high is None:
        return text
    return f"{text} [{factor * mean.low:.{digits}f}, {factor * mean.high:.{digits}f}]"


def methods(front: Front) -> str:
    """Hypervolume, and accuracy per budget."""
    budgets = list(dict.fromkeys(level.budget for level in reversed(front.levels) if level.method in front.methods))
    cells: dict[tuple[str, str], Level] = {(level.method, level.budget): level for level in front.levels}
    lines = [
        [
            standing.method,
            with_interval(standing.hypervolume, 1, 4),
            *(
                with_interval(cells[standing.method, budget].accuracy, 100, 2)
                if (standing.method, budget) in cells
                else "–"
                for budget in budgets
            ),
        ]
        for standing in front.standings
    ]
    dense = ", ".join(f"{100 * point.accuracy:.2f} %" for point in front.points if point.method == "dense")
    header = ["method", "hypervolume", *(f"{budget}" for budget in budgets)]
    return f"{table(header, lines)}\n\nAccuracy in %, means over seeds with 95 % intervals; dense {dense}."


def pairs(front: Front) -> str:
    """Every pair of methods."""
    lines = [
        [
            f"{pair.first} − {pair.second}",
            f"{quantity(pair.start, front.unit)} – {quantity(pair.end, front.unit)}",
            points_between(pair.difference).replace(" points", ""),
            "–" if pair.p is None else f"{pair.p:.2g}",
            {Verdict.FIRST: f"**{pair.first}**", Verdict.SECOND: f"**{pair.second}**"}.get(pair.verdict, "open"),
        ]
        for pair in front.comparisons
        if pair.difference is not None and pair.start is not None and pair.end is not None
    ]
    return table(["pair", "measured budgets", "points [95 % interval]", "p, corrected", "more accurate"], lines)


def section(study: Study) -> str:
    """One study, with its figure and its page."""
    fronts, rows = kept(study.name)
    stem = f"fronts-{study.name.removesuffix('_front')}"
    (DOCS / f"{stem}.png").write_bytes(to_png(fronts_figure(fronts), 110))
    (DOCS / f"{stem}.html").write_text(render_fronts(fronts), encoding="utf-8")
    parts = [f"## {study.title}", study.text]
    for front in fronts:
        said = [summary(front), *(f"- {claim}" for claim in claims(front))]
        parts += ["\n".join([said[0], "", *said[1:]]).strip(), methods(front), pairs(front)]
    first = rows.iloc[0]
    parts += [
        f"![Accuracy against {fronts.panels[0].x_name}]({stem}.png)",
        f"[The page]({stem}.html) tells the values of every point. torch {first.torch}, Python {first.python}, one "
        f"thread; made {first.date} at {first.commit}.",
    ]
    return "\n\n".join(parts)


PAGE = """# Fronts: five methods compared, and what three seeds support

Written by `python experiments/fronts_page.py` from `experiments/measurements/fronts`. Both studies are job files:

    ecc sweep experiments/jobs/digits_front.toml --out digits-sweep
    ecc sweep experiments/jobs/fashion_front.toml --out fashion-sweep      # ECC_DATA names the folder of the data sets
    ecc front digits-sweep --out digits.html --csv digits.csv

Short trainings of small networks: they show what the comparison says and when it says nothing, not how good a method
can be. Two methods are compared at equal budgets, seed by seed; [how](fronts.md) tells the details. A hypervolume is
the best accuracy averaged over all budgets up to the dense network, 0 below the cheapest network. All runs of a study
start from one dense network, so the intervals tell what the seed of the compression changes, for this network and this
test set.

{sections}
"""


def write_page() -> None:
    """Write the page, its figures and its pages from disk."""
    found = [section(study) for study in STUDIES if (FOLDER / f"{study.name}.csv").exists()]
    (DOCS / "fronts-results.md").write_text(PAGE.format(sections="\n\n".join(found)), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["keep"]:
        keep(*sys.argv[2:5])
    elif sys.argv[1:]:
        sys.exit("usage: fronts_page.py [keep NAME SWEEP [COMMIT]]")
    else:
        write_page()
