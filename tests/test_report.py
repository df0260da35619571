"""Figures and pages: they show the values they are given, nothing else, and let no text out of its place."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from oracles import simulated_profile

from ecc.core.errors import InputError
from ecc.core.verdict import BudgetCheck
from ecc.energy_models.judging import Fit, judge
from ecc.fronts import Front, Fronts, LeftOut, Point
from ecc.report import figures
from ecc.report.front_drawing import SYMBOLS
from ecc.report.front_figures import FAINT, axis_scale, fronts_figure, look_of
from ecc.report.front_page import render_fronts
from ecc.report.page import Report, pictures, render
from ecc.report.style import COLOURS, MARKERS, plain, quantity, scale, to_png, to_svg

HOSTILE = (
    '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)> $\\frac{1}{$ 漢字 --> ]]> \x1b[2J'
)


@pytest.fixture(scope="module")
def fit() -> Fit:
    return judge(simulated_profile(40), "latency", form="bilinear")


def groups(
    n: int, name: str = "backbone.encoder.features.stage.denseblock3.denselayer{}.bottleneck.projection.conv1"
) -> tuple[dict[str, int], dict[str, int]]:
    """n groups, each a little narrower than the one before."""
    dense = {name.format(i): 2048 for i in range(n)}
    return dense, {group: 2048 - 16 * i for i, group in enumerate(dense)}


def a_front(method: str = "admm", label: str = "") -> Front:
    points = (
        Point("dense", 4e-3, 0.99, None, 3.9e-3, 4.1e-3),
        Point(method, 2e-3, 0.97, 0, 1.9e-3, 2.2e-3, label),
        Point("uniform", 2.1e-3, 0.93, 1),
    )
    return Front(points, "latency", "s")


def a_history(phase: str = "admm") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "phase": [phase, phase, "fine-tune"],
            "epoch": [0, 1, 0],
            "loss": [2.0, 1.0, np.nan],
            "score": [0.5, 0.9, 1.0],
            "latency": [1.0, 0.7, 0.5],
            "z_latency": [0.0, 1.0, 2.0],
        }
    )


CHECKS = (
    BudgetCheck("latency", 2e-3, 4e-3, 1.97e-3, 1.96e-3, 1.94e-3, 1.98e-3, True, 0.99999),
    BudgetCheck("latency", 1.95e-3, 4e-3, 1.94e-3, 1.96e-3, 1.94e-3, float("inf"), False, 0.3),
    BudgetCheck("macs", 20e6, 40e6, 24e6, 24e6, 24e6, 24e6, False, 0.0),
    BudgetCheck("energy", 6e-3, 12e-3, None, None, None, None, None, None, "no energy counter answers here"),
)


def full(fit: Fit, **changes: Any) -> Report:
    dense, kept = groups(5)
    values: dict[str, Any] = {
        "title": "a network",
        "summary": {"method": "admm"},
        "budgets": CHECKS,
        "accuracy_dense": 0.99,
        "accuracy": 0.97,
        "dense": dense,
        "widths": kept,
        "history": a_history(),
        "fits": (fit,),
        "front": a_front(),
        "device": "a CPU",
        "environment": {"torch": "2.6"},
        "unmeasured": {"energy": "RAPL is hidden"},
        "notes": ("the head stays dense",),
        "created": "today",
    }
    return Report(**values | changes)


class Page(HTMLParser):
    """The tags, the attributes and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_a_page_says_what_its_values_hold(fit: Fit) -> None:
    text = Page(render(full(fit))).text
    assert (
        "latency ≤ 2.00 ms holds 1.96 ms [1.94 ms, 1.98 ms] 2.0 % to spare [+1.0 %, +3.0 %] · 49.0 % of dense" in text
    )
    assert "probability that it holds: > 99.9 %" in text
    assert "is not certain to hold 1.96 ms [1.94 ms, ∞] 0.5 % too much" in text
    assert "is not certain to hold 1.96 ms [1.94 ms, ∞]" in text
    assert "macs ≤ 20.0 MMAC does not hold 24.0 MMAC" in text
    assert "energy ≤ 6.00 mJ not measured no energy counter answers here" in text
    assert "12.0 mJ 6.00 mJ – not measured: no energy counter answers here" in text
    assert "accuracy 97.0 % dense network: 99.0 %" in text
    assert "uniform 93.00 % 2.10 ms 1 dominated" in text
    assert f"{100 * fit.holdout['mape']:.1f} % on average" in text
    assert "energy: not measured: RAPL is hidden" in text
    assert "0.00 mJ" not in text


def test_a_page_fetches_nothing_and_runs_nothing(fit: Fit) -> None:
    html = render(full(fit))
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"href", "xlink:href", "src"}:
            assert value.startswith("#")
        if "url(" in value:
            assert "url(#" in value
    assert "@import" not in html
    assert html.count("<svg") == len(pictures(full(fit))) == 6


def test_hostile_names_stay_text(fit: Fit) -> None:
    dense = {HOSTILE: 8, HOSTILE * 9: 16}
    check = BudgetCheck("energy", 1.0, 2.0, None, None, None, None, None, None, HOSTILE)
    report = full(
        fit,
        title=HOSTILE,
        summary={HOSTILE: HOSTILE},
        budgets=(check,),
        dense=dense,
        widths={HOSTILE: 4},
        history=a_history(HOSTILE),
        front=a_front(HOSTILE, HOSTILE),
        device=HOSTILE,
        environment={HOSTILE: HOSTILE},
        unmeasured={HOSTILE: HOSTILE},
        notes=(HOSTILE,),
        created=HOSTILE,
    )
    html = render(report)
    page = Page(html)
    honest = Page(render(full(fit)))
    assert set(page.tags) == set(honest.tags)
    assert {name for name, _ in page.attributes} == {name for name, _ in honest.attributes}
    assert "<script" not in html
    assert "<img" not in html
    assert page.text.count("<script>alert(1)</script>") >= 12
    assert all(png.startswith(b"\x89PNG") for png in pictures(report).values())


def test_what_is_absent_is_left_out(fit: Fit) -> None:
    bare = Page(render(Report(title="only a title")))
    assert bare.text.endswith("only a title")
    assert not {"section", "svg", "table"} & set(bare.tags)
    front_only = render(Report(title="a front", front=a_front()))
    assert front_only.count("<svg") == 1
    assert "Budgets" not in Page(front_only).text
    assert "not measured" in Page(render(Report(title="", accuracy=0.5))).text
    blind = replace(fit, noise_floor=float("nan"))
    text = Page(render(Report(title="", fits=(blind,)))).text
    assert "makes an unknown part of it (not measured: the rows do not tell their noise)" in text
    assert "nan" not in text


def test_widths_of_a_group_that_is_not_there_are_refused() -> None:
    with pytest.raises(InputError, match=r"Report\(widths=\.\.\.\) names the group 'b'"):
        Report(title="", dense={"a": 1}, widths={"b": 1})


@pytest.mark.parametrize("n", [1, 12, 53, 121], ids="{} groups".format)
def test_bars_are_fractions_and_labels_keep_apart(n: int) -> None:
    dense, kept = groups(n)
    figure = figures.widths(dense, kept)
    shown = [bar.get_width() for ax in figure.axes for bar in ax.containers[1]]  # type: ignore[attr-defined]
    assert shown == pytest.approx([kept[name] / 2048 for name in dense])
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    page = figure.bbox
    for ax in figure.axes:
        names = [label.get_window_extent(renderer) for label in ax.get_yticklabels()]
        counts = [text.get_window_extent(renderer) for text in ax.texts]
        for boxes in (names, counts):
            assert all(
                page.x0 <= box.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1 for box in boxes
            )
            assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
    columns = [ax.get_tightbbox(renderer) for ax in figure.axes]
    assert all(left.x1 <= right.x0 for left, right in pairwise(columns))  # type: ignore[union-attr]


def test_a_group_that_is_not_named_is_dense() -> None:
    (ax,) = figures.widths({"a": 4, "b": 8}, {"b": 2}).axes
    assert [bar.get_width() for bar in ax.containers[1]] == [1.0, 0.25]  # type: ignore[attr-defined]
    assert [text.get_text() for text in ax.texts] == ["4 / 4", "2 / 8"]


def test_the_front_shows_means_intervals_and_what_is_dominated() -> None:
    (ax,) = fronts_figure(Fronts((a_front(),))).axes
    assert ax.get_xlabel() == "latency (ms)"
    (step,) = (line for line in ax.lines if line.get_drawstyle() == "steps-post")  # what a budget of x buys
    assert step.get_xydata().tolist() == [[pytest.approx(2.0), 0.97], [pytest.approx(4.0), 0.99]]  # type: ignore[union-attr]
    admm, uniform, dense = ax.containers
    assert admm[0].get_xydata().tolist() == [[pytest.approx(2.0), 0.97]]  # type: ignore[index, union-attr]
    ((interval,),) = (bar.get_segments() for bar in admm[2])  # type: ignore[index, union-attr]
    assert interval[:, 0].tolist() == pytest.approx([1.9, 2.2])
    assert not uniform.has_xerr  # type: ignore[attr-defined]
    assert [line[0].get_alpha() for line in (admm, uniform, dense)] == [1.0, FAINT, 1.0]  # type: ignore[index]
    looks = {(line[0].get_marker(), to_hex(line[0].get_color())) for line in (admm, uniform, dense)}  # type: ignore[index]
    assert len({marker for marker, _ in looks}) == len({colour for _, colour in looks}) == 3


def test_seeds_are_small_points_and_their_mean_has_the_interval() -> None:
    seeds = [Point("admm", 1.0 + i / 100, accuracy, i, budget="x") for i, accuracy in enumerate((0.90, 0.92, 0.97))]
    front = Front((*seeds, Point("dense", 4.0, 0.99)), "macs")
    (ax,) = fronts_figure(Fronts((front,))).axes
    (runs,) = (found for found in ax.collections if len(found.get_offsets()) == 3)  # type: ignore[arg-type]
    assert np.asarray(runs.get_offsets())[:, 1].tolist() == [0.90, 0.92, 0.97]
    mean = ax.containers[0]
    assert mean[0].get_xydata().tolist() == [[pytest.approx(1.01), pytest.approx(0.93)]]  # type: ignore[index, union-attr]
    across, up = (bar.get_segments()[0] for bar in mean[2])  # type: ignore[index, union-attr]
    (level,) = [level for level in front.levels if level.method == "admm"]
    assert up[:, 1].tolist() == pytest.approx([level.accuracy.low, 1.0])
    assert level.accuracy.high is not None
    assert level.accuracy.high > 1.0  # Student's interval knows no ends of an accuracy; what is shown does
    assert across[:, 0].tolist() == pytest.approx([level.x.low, level.x.high])


def of_two_seeds() -> Front:
    runs = [("a", 1.0, 0.98), ("a", 1.4, 0.9), ("b", 1.1, 0.95), ("b", 1.3, 0.97)]
    points = [Point(method, x, accuracy, i % 2, budget="half") for i, (method, x, accuracy) in enumerate(runs)]
    return Front((*points, *(replace(point, x=2 * point.x, budget="whole") for point in points)), "macs", "MAC")


def test_axes_hold_the_points_and_wide_intervals_are_cut() -> None:
    front = of_two_seeds()
    assert min(level.x.low for level in front.levels if level.x.low is not None) < 0
    (ax,) = fronts_figure(Fronts((front,))).axes
    low, high = ax.get_xlim()
    assert 0.9 < low < 1.0
    assert 2.8 < high < 3.0


def test_page_of_two_seeds_is_plain() -> None:
    front = of_two_seeds()
    html = render_fronts(Fronts((front,)))
    text = Page(html).text
    assert 'class="band"' in html
    shown = [line for line in html.splitlines() if ".band {" in line]
    assert shown == [".band { fill: var(--c); opacity: 0; }", ".lit .method.on .band { opacity: .22; }"]
    assert "The one pair of methods cannot be told apart" in text
    assert ", 100.00]" in text
    assert "<th></th>" not in html
    ends = [float(end) for end in re.findall(r"% \[([\d.−-]+), 100\.00\]", html)]
    assert ends
    assert min(ends) >= 0


def test_a_front_of_many_methods_and_of_one_point_is_drawn() -> None:
    points = tuple(Point(f"method {i}", 10.0**i, 0.5 + i / 100, i) for i in range(20))
    many = Front(points, "bytes", "B")
    assert to_png(fronts_figure(Fronts((many, a_front(), many)))).startswith(b"\x89PNG")
    assert fronts_figure(Fronts((many,))).axes[0].get_xscale() == "log"
    assert len({look_of(i) for i in range(64)}) == 64
    assert axis_scale(Front((Point("a", 5.6e7, 0.5),), "energy", "e_RF")) == (1e-6, "10⁶ e_RF")
    assert axis_scale(Front((Point("a", 5.6e7, 0.5),), "macs", "MAC")) == (1e-6, "MMAC")
    alone = Fronts((Front((Point("admm", 0.5, 0.9, x_low=0.4, x_high=float("inf")),), "latency"),))
    assert fronts_figure(alone).axes[0].get_xlabel() == "latency"
    assert to_png(fronts_figure(alone)).startswith(b"\x89PNG")
    for fronts in (alone, Fronts((many, a_front()))):
        page = Page(render_fronts(fronts))
        assert page.tags.count("circle") + page.tags.count("use") >= len(fronts.points)
    assert len(set(COLOURS)) == len(set(MARKERS)) == len(COLOURS) == len(MARKERS) == len(SYMBOLS) - 1


def test_the_page_of_fronts_says_what_is_claimed_and_no_more() -> None:
    points = [
        Point(method, x, 0.9 + gain + seed / 500 + noise * (seed == 1), seed, budget=f"x ≤ {x}")
        for method, gain, noise in (("good", 0.05, 0.001), ("bad", 0.0, 0.0), ("shaky", 0.001, 0.05))
        for seed in range(4)
        for x in (0.5, 1.0)
    ]
    fronts = Fronts((Front(tuple(points), "latency", "s"),), (LeftOut("lost", "has no accuracy"),))
    text = Page(render_fronts(fronts)).text
    assert "1 of the 3 pairs of methods differs at equal budgets" in text
    for said in (
        "good is more accurate than bad between 500 ms and 1.00 s, by 5.03 points [4.95, 5.10] (4 seeds; p < 0.001",
        "bad and shaky are not distinguishable between 500 ms and 1.00 s: −1.35 points [−5.33, +2.63] (4 seeds",
    ):
        assert said in text
    assert "lost: has no accuracy" in text
    assert "nan" not in text.lower().replace("dominant", "")


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([Point("a", 1.0, 0.5, 0)], "There is one method, so nothing is compared."),
        ([Point("a", 1.0, 0.5, 0), Point("b", 1.0, 0.6, 0)], "one seed tells nothing of the spread"),
        ([Point("a", 1.0, 0.5, 0), Point("b", 1.0, 0.6, 1)], "they have no seed in common"),
        ([Point(f"m{i}", 1.0, 0.5, 0) for i in range(30)], "30 methods are too many to compare in pairs"),
        (
            [Point("a", x, y, seed) for x, y, seed in ((1, 0.5, 0), (2, 0.6, 0), (1, 0.4, 1))],
            "a has fewer points of seed 1",
        ),
    ],
)
def test_what_few_points_say_is_told(points: list[Point], said: str) -> None:
    assert said in Page(render_fronts(Fronts((Front(tuple(points), "macs", "MAC"),)))).text


def test_history_shows_what_the_frame_holds_and_no_more() -> None:
    shown = [ax.get_title(loc="left") for ax in figures.history(a_history()).axes if ax.get_visible()]
    assert shown == ["training loss", "validation score", "cost, relative to dense", "dual variables"]
    frame = a_history().drop(columns=["latency", "phase"]).assign(z_latency=np.nan)
    shown = [ax.get_title(loc="left") for ax in figures.history(frame).axes if ax.get_visible()]
    assert shown == ["training loss", "validation score"]
    (loss, *_) = figures.history(a_history()).axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 2.0], [2, 1.0]]  # type: ignore[union-attr]
    assert to_svg(figures.history(pd.DataFrame({"phase": ["uniform"]}))).startswith("<svg")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00231, "s", "2.31 ms"),
        (9.996e-4, "s", "1.00 ms"),
        (0.0124, "J", "12.4 mJ"),
        (1.2e9, "MAC", "1.20 GMAC"),
        (61_100_840, "parameters", "61.1 M"),
        (640, "parameters", "640"),
        (0.0, "s", "0 s"),
        (0.5, "", "0.500"),
        (float("inf"), "s", "∞"),
        (float("nan"), "s", "unknown"),
        (1e-13, "s", "1.00e-04 ns"),
    ],
)
def test_quantities_are_for_people(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_one_scale_fits_all_values_of_an_axis() -> None:
    assert scale("s", [1e-6, 2e-3, float("inf")]) == (1e3, "ms")
    assert scale("s", []) == (1.0, "s")
    assert scale("MAC", [0.25]) == (1.0, "MAC")


def test_long_text_is_cut_where_asked() -> None:
    assert plain("abcdef", 4) == "abc…"
    assert plain("abcdef", 4, keep="end") == "…def"
    assert plain("a$b\x1b") == r"a\$b�"


def test_drawing_is_repeatable_and_leaves_matplotlib_alone(fit: Fit) -> None:
    before = dict(mpl.rcParams)
    report = full(fit, fits=())
    assert render(report) == render(report)
    assert dict(mpl.rcParams) == before
    assert to_svg(Figure()).startswith("<svg")
    code = (
        "import sys; from ecc.report.page import Report, pictures; "
        "pictures(Report(title='', dense={'a': 2}, widths={'a': 1})); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
