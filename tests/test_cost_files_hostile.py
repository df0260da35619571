"""Cost models from strangers: whatever a file holds, it is a model or one sentence."""

import copy
import json
import math
import os
import re

import numpy as np
import pytest
import torch
from oracles import residual_net, simulated_profile

from ecc.core.errors import InputError
from ecc.energy_models.forms import FORMS, Options
from ecc.energy_models.judging import judge
from ecc.energy_models.loading import load_cost as load
from ecc.energy_models.parts import describe
from ecc.energy_models.published import alexnet_tx2
from ecc.energy_models.samples import Samples
from ecc.report.files import write_file

FITTABLE = [name for name, form in FORMS.items() if form.cost.form == name and not form.needs_operators]
VALUES = (
    None,
    True,
    "",
    "stem",
    "\x1b[2J",
    "x" * 5000,
    -1,
    0,
    1,
    0.5,
    -0.5,
    1e308,
    -1e308,
    10**400,
    1 << 62,
    [],
    {},
    [[]],
    [None],
    [1e308] * 3,
    {"a": 1},
    [[1.0, ["stem"]]] * 2,
)


def jumpy_profile(rows=60):
    """A profile that all forms have something to say of."""
    net = residual_net()
    dense = np.array(net[0].dense)

    def cost(relative):
        widths = np.round(relative * dense)
        return 0.2 + (0.8 + 0.3 * (widths[:, 0] % 4 != 0)) * relative[:, 0] * np.ceil(widths[:, 1] / 16) / 4

    return simulated_profile(rows, noise=0.01, net=net, cost=cost)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A saved model of each form, as a JSON value."""
    folder, table = tmp_path_factory.mktemp("models"), jumpy_profile()
    found = {}
    for name in FITTABLE:
        judge_free = FORMS[name].fit(Samples.of(table, "latency"), Options())
        judge_free.save(folder / f"{name}.json")
        found[name] = json.loads((folder / f"{name}.json").read_text())
    return found


def places(value, way=()):
    """Every way into a JSON value; of long lists the first and the last."""
    yield way
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*way, name))
    if isinstance(value, list):
        for number in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from places(value[number], (*way, number))


def altered(document, way, value):
    document = copy.deepcopy(document)
    inner = document
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    return document


def try_to_read(path, document):
    """Whether it is a model; one that is read also answers."""
    path.write_text(json.dumps(document))
    cost, sentence = None, ""
    try:
        cost = load(path)
    except InputError as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert len(sentence) < 1000
    if cost is None:
        return False
    vector = torch.tensor(cost.space.dense, dtype=torch.float64, requires_grad=True)
    value = cost(vector)
    assert value.shape == ()
    assert not math.isnan(float(value.detach())), "a cost that is read must be a number"
    torch.autograd.grad(value, vector, allow_unused=True)
    describe(document["form"], cost)
    repr(cost)
    low, high = cost.interval({})
    assert float(low) <= float(high)
    return True


@pytest.mark.parametrize("form", FITTABLE)
def test_a_damaged_member_is_refused_or_makes_no_difference_to_safety(tmp_path, documents, form):
    assert try_to_read(tmp_path / "cost.json", documents[form])
    generator = np.random.default_rng(0)
    ways = [way for way in places(documents[form]) if way]
    cases = [(way, value) for way in ways for value in VALUES]
    for number in generator.permutation(len(cases))[:400]:
        way, value = cases[number]
        try_to_read(tmp_path / "cost.json", altered(documents[form], way, value))


@pytest.mark.parametrize("form", FITTABLE)
def test_a_missing_member_is_refused(tmp_path, documents, form):
    optional = {"holdout", "made", "provenance", "profiled", "extrapolate", "correction", "members"}
    for name in set(documents[form]) - optional:
        document = {key: value for key, value in documents[form].items() if key != name}
        assert not try_to_read(tmp_path / "cost.json", document), name


@pytest.mark.parametrize("form", FITTABLE)
@pytest.mark.parametrize("other", FITTABLE)
def test_members_of_another_form_are_refused(tmp_path, documents, form, other):
    same = form == other
    assert try_to_read(tmp_path / "cost.json", {**documents[form], "form": other}) is same or {form, other} <= {
        "mlp",
        "factored",
    }


def test_names_that_stand_twice_are_refused(tmp_path, documents):
    text = json.dumps(documents["bilinear"])
    (tmp_path / "cost.json").write_text('{"metric": "energy", ' + text[1:])
    load(tmp_path / "cost.json")  # JSON allows a member twice; the last one counts, as everywhere
    document = documents["factored"]
    twice = altered(document, ("factors",), [document["factors"][0]] * 2)
    assert not try_to_read(tmp_path / "cost.json", twice)


def test_judged_model_is_the_same_after_the_file(tmp_path):
    fit = judge(jumpy_profile(), "latency", form="factored", extrapolate=True)
    fit.cost.save(tmp_path / "cost.json")
    again = load(tmp_path / "cost.json")
    assert again.extrapolate
    assert again.calibration == fit.cost.calibration
    assert float(again({"stem": 13})) == float(fit.cost({"stem": 13}))


def test_error_of_a_model_must_say_its_mean(tmp_path, documents):
    assert not try_to_read(tmp_path / "cost.json", {**documents["bilinear"], "holdout": {"p95": 0.1}})


@pytest.mark.parametrize("bounds", [{"low": [9] * 4, "high": [8] * 4}, {"low": [0] * 4, "high": [8] * 4}])
def test_profiled_widths_must_be_possible(tmp_path, documents, bounds):
    assert not try_to_read(tmp_path / "cost.json", {**documents["bilinear"], "profiled": bounds})


@pytest.mark.parametrize("form", FITTABLE)
@pytest.mark.parametrize(
    ("way", "value", "words"),
    [
        (("constant",), 1e30, "times what the dense network was measured to take"),
        (("constant",), 1e299, "times what the dense network was measured to take"),
        (("terms", 0, "value"), 1e30, "times what the dense network was measured to take"),
        (("terms", 0, "value"), 1e308, "times what the dense network was measured to take"),
        (("reference",), [1e9, 1e9, 1e9], "times what the dense network was measured to take"),
        (("holdout",), {"mape": -5}, "-5 is no held-out error 'mape'"),
        (("holdout",), {"mape": 1e308}, "is no held-out error 'mape'"),
        (("holdout",), {"mape": 0.1, "within_10pct": 2}, "2 is no held-out error 'within_10pct'"),
        (("extrapolate",), None, "'extrapolate' must be true or false"),
    ],
)
def test_what_no_fit_can_say_is_refused(tmp_path, documents, form, way, value, words):
    document = documents[form]
    if way[0] in ("constant", "terms") and "base" in document:
        if form == "mlp":  # its own coefficients are those of its members
            return
        way = ("base", *way)
    (tmp_path / "cost.json").write_text(json.dumps(altered(document, way, value)))
    with pytest.raises(InputError, match=re.escape(words)):
        load(tmp_path / "cost.json")


def test_the_sentence_names_the_file_and_says_that_it_is_damaged_once(tmp_path, documents):
    path = tmp_path / "cost.json"
    for way, words in ((("constant",), "has no finite number 'constant'"), (("space",), "'space' is not an object")):
        path.write_text(json.dumps(altered(documents["bilinear"], way, "much")))
        with pytest.raises(InputError) as caught:
            load(path)
        assert str(caught.value).startswith(f"cost model {str(path)!r} is damaged or not from this program: {words}")
        assert (str(caught.value).count("damaged"), str(caught.value).count("cost.json")) == (1, 1)


def test_an_interval_that_no_number_can_hold_is_infinite(tmp_path, documents):
    document = altered(documents["bilinear"], ("calibration",), [1e299])
    (tmp_path / "cost.json").write_text(json.dumps(document))
    low, high = load(tmp_path / "cost.json").interval({})
    assert (float(low), float(high)) == (0.0, math.inf)


def test_what_is_no_plain_file_is_not_replaced(tmp_path):
    """A file renamed over a device or a pipe would take its place for everybody else."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="that is no plain file; choose another path"):
        alexnet_tx2().save(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"is no plain file; give the name of a file such as report\.html"):
        write_file(tmp_path / "pipe", b"page")
    assert [each.is_fifo() for each in tmp_path.iterdir()] == [True]


@pytest.mark.parametrize("path", [None, 5, "a\0b"])
def test_what_is_no_path_is_refused(path):
    for ask in (load, alexnet_tx2().save):
        with pytest.raises(InputError, match=r"is no path of a cost model; give the name of a file such as cost\.json"):
            ask(path)
