"""What cost models say of themselves: their parts sum to the cost at dense widths, whatever the form."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_toy import run
from oracles import simulated_profile

from ecc.core.cost import CostModel
from ecc.energy_models.counting import CountCost
from ecc.energy_models.factored import Factor
from ecc.energy_models.forms import FORMS, Options
from ecc.energy_models.parts import describe, parts_of
from ecc.energy_models.samples import Samples
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.cost import SystolicCost
from ecc.energy_models.wording import words_of
from ecc.network.graph import WidthGraph
from ecc.network.tracing import trace
from ecc.zoo.loading import load_model

SUMS = ("bilinear", "staircase")


@pytest.fixture(scope="module")
def graph() -> WidthGraph:
    return trace(load_model("zoo:resnet20").module, torch.zeros(1, 3, 32, 32), check=False)


@pytest.mark.parametrize("metric", ["macs", "params", "memory"])
def test_what_is_counted_is_the_sum_of_its_parts(graph: WidthGraph, metric: str) -> None:
    cost = CountCost(metric, graph)
    parts = parts_of(cost)
    assert math.fsum(parts.values()) == pytest.approx(cost.dense)
    assert list(parts.values()) == sorted(parts.values(), reverse=True)
    if metric == "memory":
        assert parts["activations at their peak"] == graph.memory_activations()
        assert parts["linear.weight"] == 4 * 640
    else:
        assert parts["linear" if metric == "macs" else "linear.weight"] == 640


@pytest.mark.parametrize("metric", ["energy", "latency"])
def test_a_systolic_cost_is_the_sum_of_its_layers(graph: WidthGraph, metric: str) -> None:
    cost = SystolicCost.of(graph, SystolicArray.preset("tpu-v1"), metric)
    parts = parts_of(cost)
    assert math.fsum(parts.values()) == pytest.approx(cost.dense)
    assert set(parts) == {layer.name for layer in graph.layers if layer.macs}


@pytest.mark.parametrize("form", SUMS)
def test_a_fitted_sum_is_the_sum_of_its_terms(form: str) -> None:
    cost = FORMS[form].fit(Samples.of(simulated_profile(60), "latency"), Options())
    parts = parts_of(cost)
    assert parts == cost.coefficients
    assert math.fsum(parts.values()) == pytest.approx(float(cost({})))


@pytest.mark.parametrize("form", ["factored", "mlp"])
def test_a_corrected_sum_has_the_terms_of_its_base(form: str) -> None:
    cost = FORMS[form].fit(Samples.of(simulated_profile(30, noise=0.001), "latency"), Options())
    parts = parts_of(cost)
    assert math.fsum(parts.values()) == pytest.approx(float(cost({})))
    base = cost.base.coefficients
    assert {name: value / parts["constant"] for name, value in parts.items()} == pytest.approx(
        {name: value / base["constant"] for name, value in base.items()}
    )


def costs(graph: WidthGraph) -> dict[str, CostModel]:
    samples = Samples.of(simulated_profile(20), "latency")
    fitted = {name: form.fit(samples, Options()) for name, form in FORMS.items() if not form.needs_operators}
    counted = {f"count-{metric}": CountCost(metric, graph) for metric in ("macs", "params", "memory")}
    array = SystolicArray.preset("eyeriss")
    return {**fitted, **counted, "systolic": SystolicCost.of(graph, array, "energy")}


def test_every_form_is_described_in_json_and_in_words(graph: WidthGraph, tmp_path: Path) -> None:
    for name, cost in costs(graph).items():
        path = tmp_path / f"{name}.json"
        cost.save(path)
        said = run(f"inspect {path} --json")
        value = json.loads(json.dumps(said.value, allow_nan=False))
        assert (said.code, value["kind"], value["metric"]) == (0, "cost model", cost.metric)
        assert value["dense"] == pytest.approx(cost.dense)
        assert value["exact"] == (name not in FORMS)
        assert list(value["groups"]) == list(cost.space.names)
        text = run(f"inspect {path}").out
        assert text.startswith(f"{value['form']} model of {cost.metric}: dense ")
        assert ("simulated device" in text) == (name in FORMS)
        assert ("computed, not measured" in text) == (name == "systolic")
        assert len(text.splitlines()) < 40


def test_steps_are_shown_and_large_members_are_not() -> None:
    cost = FORMS["staircase"].fit(Samples.of(simulated_profile(60), "latency"), Options())
    value = describe("staircase", cost)
    assert set(value["settings"]) == {"constant", "steps"}
    assert value["settings"]["steps"] == {kind: list(pair) for kind, pair in cost.steps.items()}
    assert all(group["profiled"][1] == group["dense"] for group in value["groups"].values())


def test_what_a_form_holds_beside_its_parts_is_said_in_words_with_units() -> None:
    samples = Samples.of(simulated_profile(60), "latency")
    assert "words" not in describe("bilinear", FORMS["bilinear"].fit(samples, Options()))
    stairs = replace(FORMS["staircase"].fit(samples, Options()), steps={"conv": (16, 1, 8)})
    assert words_of(stairs) == {"tiles of conv": "16 positions read, a surcharge off multiples of 8"}
    factored = replace(
        FORMS["factored"].fit(samples, Options()),
        level=math.log(2),
        factors=(Factor("a", "misaligned", 8, 0.25), Factor("stem", "log-width", 0, -0.5)),
    )
    assert words_of(factored) == {
        "factor at dense widths": "× 2 on the staircase sum; the parts include it",
        "factors of groups": "stem × (share kept)^-0.5; a × exp(0.25 · share kept) off multiples of 8",
    }
