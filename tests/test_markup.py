"""HTML of values in notebooks: small, well formed, and names from other people's files stay text."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import simulated_profile
from test_table import PLACE, REFERENCE_VALUES, profile_table
from torch import nn

import ecc
from ecc.api.checkup import Check, Checkup
from ecc.api.keeping import Loaded
from ecc.api.recipe import Recipe
from ecc.api.result import Compression
from ecc.api.staged import Staged
from ecc.artefact import Manifest, StageRecord
from ecc.artefact.manifest import FileRecord
from ecc.artefact.reading import Artefact
from ecc.core.markup import card
from ecc.core.table import OperatorTable
from ecc.core.verdict import BudgetCheck
from ecc.energy_models.judging import judge
from ecc.fronts import Front, Fronts, Point
from ecc.profiler.operator_design import REFERENCE

EVIL = "<script>alert('x')</script>\x1b[31m&\"'\n"
TAGS = {"div", "strong", "em", "table", "thead", "tbody", "tr", "th", "td"}


class Reader(HTMLParser):
    """Tags must be known and nested, and carry no attribute but their alignment."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts = [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag in TAGS
        assert {name for name, _ in attrs} <= {"style"}
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        assert data.isprintable()
        self.texts.append(data)


def check(reason=EVIL):
    return BudgetCheck("latency", 0.5, 1.0, None, None, None, None, None, None, reason=reason)


def named_net():
    net = nn.Sequential()
    net.add_module("<b>first</b>", nn.Linear(4, 8))
    net.add_module("second", nn.Linear(8, 2))
    return net


def graph():
    return ecc.trace(named_net(), torch.zeros(1, 4))


def evil_table():
    return replace(profile_table(3), provenance=replace(PLACE, network=EVIL, device=EVIL))


def manifest():
    return Manifest(
        method=EVIL, model="", options={}, weights="", data="", network=EVIL, fingerprint="", dense={}, widths={},
        kept={}, input_shapes=(), input_dtypes=(),
        budgets=(check(),), device=EVIL, stages=(StageRecord(EVIL, {}, 10, None, 1.0),),
    )  # fmt: skip


def artefact():
    return Artefact(Path(EVIL), manifest(), {"weights.safetensors": FileRecord("", 1234567)}, {})


def fitted():
    table = simulated_profile(60, noise=0.02)
    evil = replace(table.provenance, network=EVIL, device=EVIL)
    return judge(replace(table, provenance=evil), "latency", form="bilinear")


def compression():
    recipe = Recipe(method="magnitude")
    net = nn.Linear(2, 2)
    return Compression(
        EVIL, net, net, graph(), {}, {}, recipe, (check(),), (), 0.9, 0.8, 0.5, 1, 2.0, pd.DataFrame(), None, label=EVIL
    )


def staged():
    stages = [StageRecord(EVIL, {}, 10, None, 1.0)]
    start = SimpleNamespace(nbytes=100, dense_bytes=200)
    code = SimpleNamespace(nbytes=10)
    return Staged(nn.Linear(1, 1), code, tuple(stages), None, None, EVIL, (check(),), 1.0, pd.DataFrame(), None, start)


VALUES = {
    "WidthGraph": graph,
    "ProfileTable": evil_table,
    "OperatorTable": lambda: OperatorTable(
        replace(PLACE, device=EVIL), REFERENCE, profile_table(2).rows, {"latency": REFERENCE_VALUES["latency"]}
    ),
    "Verification": lambda: ecc.Verification((check(), check("none")), 0.75),
    "Front": lambda: Front((Point(EVIL, 1.0, 0.9, budget=EVIL), Point("dense", 2.0, 0.95)), "macs", place={"of": EVIL}),
    "Fronts": lambda: Fronts((Front((Point(EVIL, 1.0, 0.9),), "latency", "s"),)),
    "Checkup": lambda: Checkup((Check("software", EVIL, "problem", EVIL, EVIL),)),
    "Artefact": artefact,
    "Loaded": lambda: Loaded(artefact(), None, None, None, None),
    "Compression": compression,
    "Staged": staged,
    "CostModel": lambda: fitted().cost,
    "Fit": lambda: replace(fitted(), chosen_because=EVIL),
    "SystolicEnergy": lambda: ecc.systolic_energy(named_net(), graph(), "eyeriss"),
    "SystolicCost": lambda: ecc.SystolicCost.of(graph(), "eyeriss"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_small_html_without_markup_of_names(name):
    html = VALUES[name]()._repr_html_()
    text = "".join(Reader(html).texts)
    assert len(html) < 20_000
    assert "<script" not in html
    assert "<b>" not in html
    if name in ("WidthGraph", "SystolicEnergy"):
        assert "<b>first</b>" in text
    elif name != "SystolicCost":  # which has no names of others
        assert "<script>alert('x')</script>�[31m&\"'�" in text


def test_verdicts_have_a_mark():
    checks = [replace(check("none"), met=met) for met in (True, False, None)]
    texts = Reader(ecc.Verification(tuple(checks))._repr_html_()).texts
    assert [text for text in texts if text in "✓✗?"] == ["✓", "✗", "?"]


def test_of_many_rows_the_first_are_shown_and_the_others_counted():
    html = card("title", [("none", None), ("empty", "")], ["i"], [[i] for i in range(1000)])
    texts = Reader(html).texts
    assert texts[0] == "title"
    assert texts[-1] == "and 976 more rows"
    assert "none" not in texts
    assert len(html) < 2000


@settings(max_examples=25)
@given(st.text(), st.text(), st.lists(st.tuples(st.text(), st.integers()), max_size=5))
def test_any_text_is_shown_as_it_is_but_for_what_cannot_be(title, fact, rows):
    texts = Reader(card(title, [("a", fact)], [fact, title], rows)).texts
    if title and len(title) <= 160 and title.isprintable():
        assert texts[0] == title


def test_loaded_says_which_folder_and_not_all_modules():
    assert repr(Loaded(artefact(), nn.Linear(1, 1), nn.Linear(1, 1), None, None)).startswith("Loaded(Artefact(")
