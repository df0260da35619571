"""The page of a fit: figures and tables hold what the fit holds, names stay text, nothing is fetched."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_toy import run
from matplotlib.figure import Figure
from oracles import residual_net, simulated_profile
from test_report import HOSTILE, Page

from ecc.cli.fitting import fit_text
from ecc.core.errors import InputError
from ecc.core.layers import Layer, Side
from ecc.core.table import ProfileTable
from ecc.core.widths import WidthSpace
from ecc.energy_models.choice import Candidate
from ecc.energy_models.diagnostics import diagnose
from ecc.energy_models.fitted import conformal_quantile
from ecc.energy_models.judging import Fit, judge
from ecc.energy_models.samples import Samples
from ecc.energy_models.terms import Term
from ecc.report import fit_figures
from ecc.report.fits import fit_pictures, render_fit, write_fit
from ecc.report.style import quantity, to_svg

LONG = "backbone.encoder.features.stage.denseblock3.denselayer{}.bottleneck.projection.conv1"
ROWS = 60


@pytest.fixture(scope="module")
def table() -> ProfileTable:
    return with_odd_row(simulated_profile(ROWS))


@pytest.fixture(scope="module")
def fit(table: ProfileTable) -> Fit:
    return judge(table, "latency", form="bilinear")


@pytest.fixture(scope="module")
def html(fit: Fit, table: ProfileTable) -> str:
    return render_fit(fit, table)


def with_odd_row(table: ProfileTable) -> ProfileTable:
    """Row 7 takes half as long again as it should, and bears a flag."""
    rows = table.rows.copy()
    for name in ("latency_ratio", "latency_ratio_low", "latency_ratio_high"):
        rows.loc[7, name] *= 1.5
    rows.loc[7, "flags"] = "switches"
    return replace(table, rows=rows)


def chain(groups: int, name: str = LONG) -> tuple[WidthSpace, tuple[Layer, ...]]:
    """A chain of layers."""
    names = tuple(name.format(i) for i in range(groups))
    sides = [Side(), *(Side(((1.0, (each,)),)) for each in names), Side()]
    layers = tuple(Layer(f"l{i}", "conv", sides[i], sides[i + 1], 1000 + i) for i in range(groups + 1))
    return WidthSpace(names, (64,) * groups, (1,) * groups), layers


def chain_cost(relative: np.ndarray) -> np.ndarray:
    ends = np.ones((len(relative), 1))
    padded = np.concatenate([ends, relative, ends], 1)
    return 0.2 + 0.8 * (padded[:, 1:] * padded[:, :-1]).mean(1)


def cells(html: str) -> list[list[str]]:
    """The rows of all tables, as text."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html, flags=re.DOTALL)
    return [
        [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", cell)).strip() for cell in re.findall(r"<td.*?</td>", row, re.S)]
        for row in rows
    ]


def lines(figure: Figure) -> dict[str, Any]:
    (ax,) = figure.axes
    return {str(line.get_label()): line for line in ax.lines}


def points(figure: Figure) -> np.ndarray:
    """Of the one cloud of the figure: shape (n, 2)."""
    (ax,) = figure.axes
    (cloud,) = (line for line in ax.lines if line.get_marker() == "o" and line.get_linestyle() == "None")
    return np.asarray(cloud.get_xydata())


def test_points_are_the_held_out_rows_in_units(fit: Fit) -> None:
    figure = fit_figures.agreement(fit)
    expected = fit.residuals[["predicted", "measured"]].to_numpy() * fit.cost.dense * 1e3
    assert points(figure) == pytest.approx(expected)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == (
        "predicted latency (ms)",
        "measured latency (ms)",
    )


def test_the_band_is_the_interval_of_a_prediction(fit: Fit) -> None:
    (band,) = fit_figures.agreement(fit).axes[0].collections
    ratios = {round(y / x, 9) for x, y in band.get_paths()[0].vertices if x > 0}
    reach = conformal_quantile(fit.cost.calibration, 0.95)
    assert {min(ratios), max(ratios)} == {round(np.exp(-reach), 9), round(np.exp(reach), 9)}


def test_errors_are_those_of_the_rows_by_size_and_by_row(fit: Fit) -> None:
    error = 100 * fit.residuals["relative_error"].to_numpy()
    edge = fit_figures.errors_by_row(fit).axes[0].get_ylim()[0]
    inside = np.abs(error) <= -edge
    assert points(fit_figures.errors_by_row(fit)) == pytest.approx(
        np.column_stack([fit.residuals.index[inside], error[inside]])
    )
    assert points(fit_figures.errors_by_size(fit))[:, 1] == pytest.approx(error[inside])
    assert inside.sum() >= len(error) - 1  # the odd row may lie beyond the axis, and is then marked on its edge
    marks = [line for line in fit_figures.errors_by_row(fit).axes[0].lines if line.get_marker() == "v"]
    assert len(marks) == len(error) - inside.sum()


def test_every_row_is_in_the_histogram_even_those_beyond_its_axis(fit: Fit) -> None:
    (ax,) = fit_figures.distribution(fit).axes
    assert sum(bar.get_height() for bar in ax.patches) == ROWS


def test_noise_alone_is_normal_noise_of_the_rows(fit: Fit) -> None:
    figure = fit_figures.within(fit)
    x, share = np.asarray(lines(figure)["noise alone"].get_xydata()).T
    noise = 100 * float(fit.residuals["noise"].iloc[0])  # every row of this profile is as noisy as the next
    assert np.interp(1.96 * noise, x, share) == pytest.approx(0.95, abs=0.002)
    steps = np.asarray(lines(figure)["held-out rows"].get_xydata())
    error = np.sort(100 * fit.residuals["relative_error"].abs())
    assert steps[30] == pytest.approx([error[29], 30 / ROWS])


def test_the_learning_curve_lies_between_the_floor_and_macs_alone(fit: Fit) -> None:
    found = lines(fit_figures.learning_curve(fit))
    curve = np.asarray(found["this model"].get_xydata())
    assert curve == pytest.approx(np.array([[rows, 100 * mape] for rows, mape in fit.learning_curve]))
    assert curve[-1, 1] == pytest.approx(100 * fit.holdout["mape"])
    assert found["noise floor"].get_ydata()[0] == pytest.approx(100 * fit.noise_floor)
    assert found["MACs alone, all rows"].get_ydata()[0] == pytest.approx(100 * fit.macs_only)


def test_bars_are_the_terms_and_sum_to_the_dense_prediction(fit: Fit) -> None:
    (ax,) = fit_pictures(fit)["shares"].axes
    widths = [bar.get_width() for bar in ax.containers[0]]
    costs = sorted((value for value in fit.coefficients.values() if value > 0), reverse=True)
    assert widths == pytest.approx([1e3 * value for value in costs])
    assert sum(widths) == pytest.approx(1e3 * float(fit.cost({})))
    assert len(ax.get_yticklabels()) == len(costs)


def test_the_page_says_what_the_fit_holds(fit: Fit, html: str) -> None:
    text = Page(html).text.replace("\u00a0", " ")
    for value in (fit.holdout["mape"], fit.noise_floor, fit.macs_only, fit.interval_coverage, fit.holdout["worst"]):
        assert f"{100 * value:.1f} %" in text
    assert "Latency of made up" in text
    assert "simulated device" in text
    assert "eager, 1 thread" in text
    assert "4.00 ms" in text
    found = {row[0]: row[1:] for row in cells(html.replace("\u00a0", " ")) if row}
    total = sum(fit.coefficients.values())
    for name, value in fit.coefficients.items():
        if value > 0:
            assert found[name][1] == f"{100 * value / total:.2f} %"


def test_the_worst_rows_come_with_their_widths_and_flags(fit: Fit, table: ProfileTable, html: str) -> None:
    rows = html.replace("\u00a0", " ").partition("Rows that decide the fit")[0]
    listed = [row for row in cells(rows) if row and row[0].isdecimal()]
    worst = fit.residuals["relative_error"].abs().sort_values(ascending=False).index[: len(listed)]
    assert [int(row[0]) for row in listed] == worst.tolist()
    number, _, _, error, noise, widths, flags = listed[0]
    assert (number, noise, flags) == ("7", "± 2.0 %", "switches")
    assert error == f"{100 * fit.residuals.loc[7, 'relative_error']:+.1f} %".replace("-", "−")
    assert widths.startswith(f"{table.widths[7].sum()} of {sum(table.space.dense)} ")
    relative = table.widths[7] / np.array(table.space.dense)
    least = int(np.argmin(relative))
    assert f"{table.space.names[least]} {table.widths[7, least]}/{table.space.dense[least]}" in widths


def test_parts_have_the_standard_errors_of_the_diagnostics(fit: Fit, table: ProfileTable, html: str) -> None:
    known = diagnose(fit.cost, Samples.of(table, "latency"))
    column = "robust_error" if known.uneven < 0.05 else "standard_error"
    found = {row[0]: row[1:] for row in cells(html.replace("\u00a0", " ")) if row}
    for name, error in known.coefficients[column].items():
        assert found[name][2] == (f"± {quantity(error, 's')}" if np.isfinite(error) else "in sums only")
    assert f"p = {known.uneven:.3f}" in html or "p = &lt; 0.001" in html


def test_rows_that_decide_the_fit_are_listed_by_their_influence(fit: Fit, table: ProfileTable, html: str) -> None:
    known = diagnose(fit.cost, Samples.of(table, "latency")).rows
    expected = known[known["decides"]].sort_values("cooks_distance", ascending=False)
    assert len(expected)
    section = html.replace("\u00a0", " ").partition("Rows that decide the fit")[2]
    listed = [row for row in cells(section) if len(row) == 7]
    assert [int(row[0]) for row in listed] == expected.index.tolist()
    assert [float(row[4]) for row in listed] == pytest.approx(expected["cooks_distance"], abs=0.0006)
    assert [float(row[3]) for row in listed] == pytest.approx(expected["leverage"], abs=0.006)


def test_rows_that_cannot_carry_standard_errors_say_why(fit: Fit, table: ProfileTable) -> None:
    other = replace(table, space=replace(table.space, names=tuple(f"{name}2" for name in table.space.names)))
    text = Page(render_fit(fit, other)).text
    assert "No standard errors: the cost model is of the latency of" in text
    assert "Rows that decide" not in text


def test_forms_are_listed_with_their_errors_and_why(fit: Fit) -> None:
    forms = (
        Candidate("bilinear", 0.0234, 0.0012, 4),
        Candidate("staircase", 0.0221, 0.0034, 1),
        Candidate("additive", left_out="it needs an operator profile"),
    )
    because = "bilinear is the simplest form whose held-out error cannot be told from the least one"
    html = render_fit(replace(fit, forms=forms, chosen_because=because)).replace("\u00a0", " ")
    found = {row[0]: row[1:] for row in cells(html) if row}
    assert found["bilinear"][:3] == ["2.34 %", "± 0.12 %", "4 of 5 folds"]
    assert found["staircase"][:3] == ["2.21 %", "± 0.34 %", "1 of 5 folds"]
    assert found["additive"] == ["–", "", "–", "it needs an operator profile"]
    assert f"{because[0].upper()}{because[1:]}." in html
    assert 'class="chosen"' in html
    assert {len(row) for row in cells(html) if row and row[0].isdecimal()} == {5}  # no profile, so no widths or flags


def test_a_page_fetches_nothing_and_runs_nothing(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"href", "xlink:href", "src"}:
            assert value.startswith("#")
        if "url(" in value:
            assert "url(#" in value


def test_hostile_names_stay_text(html: str) -> None:
    space, layers = chain(3, HOSTILE.replace("{", "{{").replace("}", "}}") + "{}")
    table = simulated_profile(30, net=(space, layers), cost=chain_cost)
    place = replace(
        table.provenance,
        network=HOSTILE,
        fingerprint=HOSTILE,
        device=HOSTILE,
        device_fingerprint=HOSTILE,
        runtime=HOSTILE,
        environment={HOSTILE: HOSTILE},
    )
    table = replace(table, provenance=place, rows=table.rows.assign(flags=HOSTILE))
    fit = replace(judge(table, "latency", form="bilinear"), chosen_because=HOSTILE)
    hostile = render_fit(fit, table)
    honest, page = Page(html), Page(hostile)
    assert set(page.tags) <= set(honest.tags)
    assert {name for name, _ in page.attributes} <= {name for name, _ in honest.attributes}
    assert "<script" not in hostile
    assert "<img" not in hostile
    assert page.text.count("<script>alert(1)</script>") >= 12


@pytest.mark.parametrize(("rows", "groups"), [(10, 1), (10_000, 3)], ids="{}".format)
def test_pages_of_any_size_are_small(rows: int, groups: int) -> None:
    table = simulated_profile(rows, net=chain(groups), cost=chain_cost)
    assert len(render_fit(judge(table, "latency", form="bilinear"), table)) < 1_500_000


def test_hundreds_of_groups_are_drawn_in_part_and_the_rest_is_named() -> None:
    groups = 300
    table = simulated_profile(30, net=chain(groups), cost=chain_cost)
    small = judge(simulated_profile(30), "latency", form="bilinear")
    space = table.space
    many = tuple(Term(name, (Side(((1.0, (name,)),)),), 1e-5 * (groups - i)) for i, name in enumerate(space.names))
    cost = replace(small.cost, space=space, terms=many, constant=2e-3, profiled=((1, 64),) * groups)
    html = render_fit(replace(small, cost=cost), table)
    total = 2e-3 + sum(term.value for term in many)
    left = sum(sorted([2e-3, *(term.value for term in many)])[: groups + 1 - 24])
    assert f"277 smaller parts, together {100 * left / total:.1f} %, are not drawn" in html.replace("\u00a0", " ")
    assert "The 300 largest parts as a table" in html
    assert len(html) < 1_500_000
    (ax,) = fit_pictures(replace(small, cost=cost))["shares"].axes
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert len(shown) == len(set(shown)) == 24


def test_many_points_become_one_picture_inside_the_page() -> None:
    table = simulated_profile(2000)
    svg = to_svg(fit_figures.agreement(judge(table, "latency", form="bilinear")))
    assert svg.count("<image") == 1
    links = re.findall(r'href="([^"]+)"', svg)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_rows_of_unknown_noise_say_so(table: ProfileTable, tmp_path: Path) -> None:
    rows = table.rows.drop(columns=["latency_ratio_low", "latency_ratio_high"])
    bare = judge(replace(table, rows=rows), "latency", form="bilinear")
    text = Page(write_fit(bare, tmp_path / "fit.html").read_text(encoding="utf-8")).text
    assert "the rows do not tell their noise" in text
    assert "nan" not in text.lower().split()
    assert "noise alone" not in lines(fit_figures.within(bare))


def test_a_page_that_has_no_place_is_refused(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_fit(fit, tmp_path / "nowhere" / "fit.html")


def test_inspect_shows_what_a_model_is_made_of(fit: Fit, tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    fit.cost.save(path)
    value = run(f"inspect {path} --json").value
    assert value["parts"] == fit.coefficients
    assert list(value["parts"].values()) == sorted(value["parts"].values(), reverse=True)
    assert (value["kind"], value["form"], value["metric"], value["unit"]) == ("cost model", "bilinear", "latency", "s")
    assert value["provenance"]["device"] == "simulated device"
    assert value["holdout"] == dict(fit.holdout)
    space = residual_net()[0]
    assert {name: group["dense"] for name, group in value["groups"].items()} == dict(
        zip(space.names, space.dense, strict=True)
    )
    text = run(f"inspect {path}").out
    assert f"held-out error {100 * fit.holdout['mape']:.1f} %" in text
    assert "simulated device" in text
    name, cost = next(iter(value["parts"].items()))
    share = f"{100 * cost / sum(value['parts'].values()):.1f} %"
    assert re.search(rf"{re.escape(name)} +\S+ ms +{re.escape(share)}", text)


def test_a_model_that_is_nearer_than_its_rows_are_known_is_said_to_be_so(fit: Fit) -> None:
    error = fit.holdout["mape"]
    assert "(what a perfect model would show)" in fit_text(replace(fit, noise_floor=0.9 * error), "cost.json")
    assert "less noisy than these say" in fit_text(replace(fit, noise_floor=2 * error), "cost.json")
    assert "noise floor unknown (what a perfect" in fit_text(replace(fit, noise_floor=float("nan")), "cost.json")
