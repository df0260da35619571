"""What a page says beside its figures: where the work went, what was measured where, what it cost in time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from oracles import simulated_profile
from torch import nn

from ecc.artefact import Manifest, StageRecord
from ecc.core.fields import Fields
from ecc.core.verdict import BudgetCheck
from ecc.energy_models.judging import judge
from ecc.energy_models.loading import load_cost
from ecc.network.tracing import trace
from ecc.report.page import Report, render
from ecc.report.places import model_facts, moment, place_facts
from ecc.report.saving import report_of
from ecc.report.spending import Spent, times_of
from ecc.report.style import themed
from ecc.report.work import channel_rows, group_rows
from ecc.zoo.loading import load_model


def chain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 4, 1))


@pytest.fixture(scope="module")
def graph():
    return trace(chain(), torch.zeros(1, 3, 12, 12))


@pytest.fixture(scope="module")
def cost():
    return judge(with_times(simulated_profile(40)), "latency", form="bilinear").cost


def with_times(table: Any) -> Any:
    """The same, measured for three seconds a row on the second of January 2026."""
    rows = table.rows.copy()
    rows["started"] = 1767312000.0 + 10.0 * rows.index
    rows["seconds"] = 3.0
    return replace(table, rows=rows)


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "method": "admm",
        "network": "a network",
        "fingerprint": "f",
        "input_shapes": ((32, 3, 8, 8),),
        "input_dtypes": ("float32",),
        "dense": {},
        "widths": {},
        "kept": {},
        "device": "a CPU",
        "device_fingerprint": "abc",
        "runtime": "eager",
        "threads": 1,
        "seconds": 20.0,
        "created": "2026-01-02T03:04:05+00:00",
    }
    return Manifest(**values | changes)


def test_shares_of_layers_are_those_of_the_counted_macs(graph) -> None:
    first, second = graph.space.names[:2]
    for widths in ({}, {first: 2}, {first: 3, second: 5}):
        kept = graph.space.full | widths
        rows = channel_rows(graph, kept)
        dense = sum(layer.macs for layer in graph.layers)
        assert sum(row.share for row in rows) == pytest.approx(1)
        assert sum(row.share_now for row in rows) == pytest.approx(1)
        assert sum(row.share * row.left for row in rows) * dense == pytest.approx(graph.macs(kept))
        assert max(row.track for row in rows) == 1
    rows = channel_rows(graph, kept)
    assert [(row.taken, row.made) for row in rows] == [((), (8, 3)), ((8, 3), (16, 5)), ((16, 5), ())]
    assert all(row.kind == "conv" for row in rows)


def test_layers_of_a_block_that_went_are_empty() -> None:
    graph = trace(load_model("zoo:resnet20").module, torch.zeros(1, 3, 32, 32))
    block = next(block for block in graph.blocks if block.removable)
    widths = graph.without([block.name]).space.full
    rows = channel_rows(graph, widths, [block.name])
    gone = {row.name for row in rows if not row.left}
    assert gone == {row.name for row in rows if row.name in block.layers}
    assert len(gone) == 2
    dense = sum(layer.macs for layer in graph.layers)
    assert sum(row.share * row.left for row in rows) * dense == pytest.approx(graph.macs(removed=[block.name]))


def test_a_group_saves_what_the_cost_model_says_of_it_alone(cost) -> None:
    full = cost.space.full
    name = cost.space.names[0]
    low = cost.profiled[0][0]
    rows = group_rows([cost], full, full | {name: low})
    assert rows[0]["saved"] == [pytest.approx(1 - float(cost(full | {name: low})) / float(cost(full)))]
    assert [row["saved"] for row in rows[1:]] == [[0.0]] * (len(rows) - 1)
    assert group_rows([cost], {"elsewhere": 8}, {"elsewhere": 4})[0]["saved"] == [None]
    assert group_rows([cost], full, full | {name: 0})[0]["saved"] == [None]  # went with its block
    assert group_rows([], full, full)[0]["saved"] == []


def test_a_cost_model_remembers_when_and_how_it_was_made(cost, tmp_path) -> None:
    cost.save(tmp_path / "cost.json")
    again = load_cost(tmp_path / "cost.json")
    assert again.made == cost.made
    assert cost.made["measuring_s"] == 3.0 * 40
    assert cost.made["measured_from"] < cost.made["measured_to"]
    assert {"noise", "noise_floor", "interval_coverage", "macs_only", "fit_s", "fitted"} <= set(cost.made)
    document = json.loads((tmp_path / "cost.json").read_text())
    del document["made"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert load_cost(tmp_path / "old.json").made == {}


def check(**changes: Any) -> BudgetCheck:
    values: dict[str, Any] = {
        "metric": "latency",
        "limit": 2e-3,
        "dense": 4e-3,
        "predicted": 1.9e-3,
        "measured": 1.95e-3,
        "low": 1.93e-3,
        "high": 1.97e-3,
        "met": True,
        "confidence": 0.99,
        "relative": True,
    }
    return BudgetCheck(**values | changes)


def test_it_is_said_where_and_when_values_were_found(cost) -> None:
    counted = BudgetCheck("macs", 2e6, 4e6, 2e6, 2e6, 2e6, 2e6, True, 1.0)
    without = check(metric="energy", measured=None, low=None, high=None, met=None, reason="no counter here")
    analytic = check(metric="energy", unit="e_MAC", source="eyeriss", low=1.95e-3, high=1.95e-3)
    facts = dict(place_facts(manifest(budgets=(check(), counted, without)), [cost]))
    assert facts["Device"] == "a CPU (abc)"
    assert facts["Run by"].startswith("eager, 1 thread")
    assert facts["Input"] == "32 × 3 × 8 × 8 float32"
    assert facts["Profile of latency"].startswith("40 configurations; 2026-01-0")
    assert "noise ± " in facts["Profile of latency"]
    assert facts["Latency"] == "verified 2026-01-02 03:04 UTC, in turn with the dense network, ± 1.0 %"
    assert facts["Macs"] == "counted, exact"
    assert facts["Energy"] == "not measured: no counter here"
    facts = dict(place_facts(manifest(budgets=(analytic,), device="", runtime=""), []))
    assert facts == {"Energy": "computed for eyeriss from the weights; not a measurement of the device"}
    wide = dict(place_facts(manifest(budgets=(check(high=float("inf")),)), []))["Latency"]
    assert "too few runs for an interval" in wide


def test_a_cost_model_is_judged_by_what_was_measured_here(cost) -> None:
    dense = cost.dense
    widths = cost.space.full
    found = check(dense=dense, limit=dense, predicted=dense, measured=1.05 * dense, low=dense, high=1.1 * dense)
    kept = manifest(budgets=(found,), dense=widths, widths=widths)
    (facts,) = model_facts([cost], kept)
    assert "was measured: +5.0 %" in facts.here
    assert ("held-out error, mean", f"{100 * cost.holdout['mape']:.1f} %") in facts.facts
    # The dense network was a tenth slower in that run, and so the prediction is.
    slower = replace(found, dense=1.1 * dense, predicted=dense, measured=1.1 * dense, high=1.2 * dense)
    assert "+0.0 %" in model_facts([cost], replace(kept, budgets=(slower,)))[0].here
    far = replace(found, measured=3 * dense, high=4 * dense)
    assert "outside its 95 % interval" in model_facts([cost], replace(kept, budgets=(far,)))[0].here
    assert model_facts([cost], replace(kept, budgets=()))[0].here == ""


def test_what_was_predicted_is_off_by_what_the_device_does_not_explain() -> None:
    """The device was half as fast as in the profile: 30 % of dense were said, and 33 % found."""
    trials = pd.DataFrame(
        [("verify", "latency", 8e-3, 4e-3, 1.2e-3, 2.64e-3, 2.6e-3, 2.7e-3, 0.67, 1.0)],
        columns=["round", "metric", "dense", "limit", "predicted", "measured", "low", "high", "used", "seconds"],
    )
    assert "+10.0 %" in render(Report(title="t", trials=trials, references={"latency": 4e-3}))
    assert "+120.0 %" in render(Report(title="t", trials=trials))


def test_times_add_up_to_that_of_the_job_and_those_of_what_it_rests_on(cost) -> None:
    phases = ["admm", "admm", "tune", "fold: again"]  # the last one is part of its stage
    history = pd.DataFrame({"phase": phases, "loss": 1.0, "seconds": [1.0, 2.0, 3.5, 0.4]})
    trials = pd.DataFrame(
        {"round": ["scout", "scout", "verify"] * 2, "metric": ["latency"] * 3 + ["energy"] * 3, "seconds": 2.0}
    )
    stage = StageRecord.from_json(
        Fields({"name": "fold", "bytes": 9, "accuracy": None, "seconds": 0.5, "settings": {}, "choices": {}}, "a stage")
    )
    spent = times_of(manifest(stages=(stage,)), history, trials, [cost])
    assert [(each.name, each.seconds) for each in spent if each.name != "fit of latency"] == [
        ("profile of latency", 120.0),
        ("train admm", 3.0),
        ("train tune", 3.5),
        ("measure on the way", 4.0),
        ("verify", 2.0),
        ("stage fold", 0.5),
        ("the rest", 7.0),
    ]
    assert times_of(manifest(seconds=0.0), pd.DataFrame(), None, []) == ()


def test_the_page_says_all_of_it_and_old_artefacts_have_pages_too(graph, cost) -> None:
    full = cost.space.full
    found = manifest(dense=full, widths=full, budgets=(check(),))
    history = pd.DataFrame({"phase": "tune", "epoch": [1, 2], "loss": [1.0, float("nan")], "seconds": 1.0})
    html = render(report_of(found, history, costs=[cost]))
    for words in (
        "2.5 % to spare [+1.5\u00a0%,\u00a0+3.5\u00a0%]",
        "What it cost in time",
        "What was measured, where and when",
    ):
        assert words in html
    assert "Cost model of latency" in html
    assert "All 2 epochs as a table" in html
    assert "layer by layer" not in html
    rows = channel_rows(graph, graph.space.full | {graph.space.names[0]: 2})
    assert "layer by layer" in render(Report(title="t", channels=rows))
    old = report_of(replace(found, device="", runtime="", created=""), pd.DataFrame())
    assert "What it cost in time" in render(replace(old, times=(Spent("the rest", 7200.0),)))
    assert "2.0 h" in render(replace(old, times=(Spent("the rest", 7200.0),)))


def test_times_that_are_none_stay_as_they_are() -> None:
    assert moment("2026-01-02T03:04:05+00:00") == "2026-01-02 03:04 UTC"
    assert moment("2026-01-02T03:04:05") == "2026-01-02 03:04"
    assert moment("today <b>") == "today <b>"


def test_figures_take_the_colours_of_the_page() -> None:
    svg = '<path style="fill: #0072B2; stroke: #e4e7eb"/><text style="fill: #1f2933">#0072b2</text>'
    assert themed(svg) == (
        '<path style="fill: var(--c0); stroke: var(--line)"/><text style="fill: var(--ink)">#0072b2</text>'
    )
