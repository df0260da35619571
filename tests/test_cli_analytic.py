"""Budgets on what an analytic model says, through the command line, from the job to its verdict and its page."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from functools import partial

import pytest
from cli_toy import run, workplace

from ecc.api.keeping import load
from ecc.api.recipe import Recipe
from ecc.core.budget import Budget
from ecc.core.errors import InputError
from ecc.core.verdict import BudgetCheck
from ecc.energy_models.systolic.array import PRESETS
from ecc.energy_models.systolic.energy import systolic_energy
from ecc.network.tracing import trace

TRAINED = "net.py:small --weights weights.safetensors --data digits"
TINY = 'base = "eyeriss"\nrows = 4\ncolumns = 4\nfrequency_hz = 1e6\n'
JOULES = TINY + 'unit = "J"\ne_rf = 1e-12\ne_mac = 3e-12\ne_cache = 6e-12\ne_dram = 2e-10\n'


@pytest.mark.parametrize(
    ("budget", "unit"),
    [
        (Budget("energy", 0.5), "e_RF"),
        (Budget("energy", 0.5), "J"),
        (Budget("energy", 12.0, relative=False, unit="e_RF"), "e_RF"),
        (Budget("energy", 12.0, relative=False), "J"),
    ],
    ids=str,
)
def test_a_verdict_on_a_model_is_written_and_read_with_its_unit_and_its_name(budget, unit):
    check = BudgetCheck.of_count(budget, dense=40.0, value=13.0, predicted=12.5, unit=unit, source="systolic array x")
    again = BudgetCheck.from_json(json.loads(json.dumps(check.to_json())))
    assert again == check
    assert (again.shown_in, again.met) == (unit, budget.relative)
    assert again.budget == budget
    assert re.match(rf"energy of systolic array x 13(\.0)? {unit} [≤>] [\d.]+ {unit}: ", str(check))


@pytest.mark.parametrize(
    ("metric", "unit", "source"),
    [("energy", "e_RF", ""), ("energy", "MAC", "x"), ("latency", "e_RF", "x"), ("energy", "\x1b[2J", "x")],
)
def test_units_that_no_device_or_model_has_are_refused(metric, unit, source):
    made = BudgetCheck.of_count(Budget(metric, 0.5), dense=4.0, value=1.0).to_json()
    with pytest.raises(InputError, match=r"cannot be in|no plain text"):
        BudgetCheck.from_json(made | {"unit": unit, "source": source})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = workplace(tmp_path_factory.mktemp("analytic"))
    (folder / "tiny.toml").write_text(TINY)
    (folder / "joules.toml").write_text(JOULES)
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.delenv("ECC_DATA", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture(scope="module")
def half(made):
    """JSON of a compression to half of the energy on Eyeriss."""
    with contextlib.chdir(made):
        return run(
            f"compress {TRAINED} --budget energy=0.5 --cost systolic:eyeriss --epochs 2 --out half --json --quiet"
        ).value


def test_an_energy_budget_on_an_array_is_met_exactly_and_nothing_is_measured_on_a_device(half, made):
    (budget,) = half["budgets"]
    assert budget["met"] is True
    assert budget["measured"] == budget["predicted"] <= budget["limit"] == 0.5 * budget["dense"]
    assert (budget["unit"], budget["source"], budget["reason"]) == ("e_RF", "systolic array eyeriss", "")
    loaded = load("half")
    again = systolic_energy(loaded.model, trace(loaded.model, loaded.inputs), PRESETS["eyeriss"])
    assert again.total == budget["measured"]
    assert loaded.manifest.device == ""
    assert json.loads((made / "half" / "manifest.json").read_text())["budgets"][0]["source"] == budget["source"]


def test_the_page_names_the_model_and_its_unit(half, made):
    page = (made / "half" / "report.html").read_text()
    assert "systolic array eyeriss" in page
    assert "e_RF" in page
    assert " J<" not in page


def test_verify_computes_it_anew(half):
    said = run("verify half --json --quiet")
    assert said.code == 0
    assert said.value["budgets"] == half["budgets"]
    assert "energy of systolic array eyeriss" in run("verify half --quiet").out


def test_a_changed_artefact_is_not_believed(half, made, tmp_path):
    """The file of the cost says only which array it was; another one is another budget."""
    shutil.copytree(made / "half", tmp_path / "other")
    path = tmp_path / "other" / "cost-energy.json"
    path.write_text(path.read_text().replace('"eyeriss"', '"another"'))
    said = run(f"verify {tmp_path / 'other'} --json --quiet")
    assert said.code == 2


def test_counts_latency_and_energy_of_an_array_hold_together():
    said = run(
        f"compress {TRAINED} --budget energy=0.6 --budget latency=70% --budget macs=0.6 --cost systolic:tiny.toml "
        "--method uniform --epochs 2 --out mixed --json --quiet"
    )
    assert said.code == 0
    units = {budget["metric"]: (budget["unit"], budget["source"]) for budget in said.value["budgets"]}
    source = "systolic array tiny"
    assert units == {"energy": ("e_RF", source), "latency": ("s", source), "macs": ("MAC", "")}
    assert all(budget["met"] for budget in said.value["budgets"])


def test_a_latency_that_is_measured_goes_with_an_energy_that_is_not(monkeypatch):
    monkeypatch.setattr("ecc.api.weight_recipe.Recipe", partial(Recipe, measure_s=2.0, rounds=2))
    run("profile net.py:small --input 8x1x8x8 --samples 14 --step 2 --store net.db --quiet")
    run("fit net.db --metric latency --form bilinear -o cost.json --quiet")
    said = run(
        f"compress {TRAINED} --budget energy=0.6 --budget latency=95% --budget macs=0.6 --cost cost.json "
        "--method uniform --cost systolic:eyeriss --epochs 2 --out three --json --quiet"
    )
    energy, seconds, macs = said.value["budgets"]
    assert (energy["source"], energy["low"], energy["met"]) == ("systolic array eyeriss", energy["high"], True)
    assert seconds["source"] == ""
    assert seconds["low"] < seconds["measured"] < (seconds["high"] or math.inf)
    assert macs["met"] is True
    assert all(width % 2 == 0 for width in said.value["widths"].values())  # the steps of the profile


def test_absolute_limits_are_in_the_unit_of_the_array(half):
    limit = 0.5 * half["budgets"][0]["dense"]
    line = f"compress {TRAINED} --method uniform --epochs 2 --json --quiet"
    said = run(f"{line} --budget energy={limit}e_RF --cost systolic:eyeriss --out absolute")
    assert said.value["budgets"][0]["limit"] == limit
    assert run("verify absolute --json --quiet").value["budgets"] == said.value["budgets"]
    joules = run(f"{line} --budget energy=0.5 --cost systolic:joules.toml --out joules").value["budgets"][0]
    assert (joules["unit"], joules["source"]) == ("J", "systolic array joules")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--budget energy=12mJ --cost systolic:eyeriss", "in J, and its cost model in e_RF; give a fraction of dense"),
        ("--budget energy=5Me_RF --cost systolic:joules.toml", "in e_RF, and its cost model in J"),
        ("--budget energy=0.5 --cost systolic:eyeris", "did you mean eyeriss?"),
        ("--budget energy=0.5 --cost systolic:none.toml", "cannot be read: No such file"),
        ("--budget latency=0.5 --cost systolic:eyeriss", "the frequency of the systolic array eyeriss is not known"),
        ("--budget macs=0.5 --cost systolic:eyeriss", "the systolic array eyeriss has no budget of its own"),
        ("--budget energy=0.5 --cost systolic:eyeriss --cost systolic:tpu-v1", "tpu-v1 has no budget of its own"),
        ("--budget energy=0.00001 --cost systolic:eyeriss", "cannot be reached"),
        ("--budget energy=0.5", "or give an analytic one such as --cost systolic:eyeriss"),
        ("--budget latency=5e_RF --cost systolic:tpu-v1", "does not measure latency"),
    ],
)
def test_wrong_budgets_and_arrays_are_refused_in_one_sentence(line, words):
    said = run(f"compress {TRAINED} {line} --epochs 2 --out wrong --quiet")
    assert said.code == 2
    assert words in said.err
    assert said.err.count("\n") == 1


def test_fronts_of_a_model_and_of_a_device_are_not_mixed(half):
    line = f"compress {TRAINED} --budget energy=0.6 --method uniform --epochs 2 --json --quiet"
    run(f"{line} --cost systolic:eyeriss --out sixty")
    run(f"{line} --cost systolic:joules.toml --out sixty-joules")
    same = run("front half sixty --x energy --out front.html --json --quiet")
    assert same.code == 0
    assert all(point["x"] > 1e4 for point in same.value["points"])
    apart = run("front half sixty-joules --x energy --out apart.html --json --quiet").value
    assert [(panel["source"], panel["unit"]) for panel in apart["panels"]] == [
        ("systolic array eyeriss", "e_RF"),
        ("systolic array joules", "J"),
    ]
    assert (apart["source"], apart["unit"]) == (None, None)
