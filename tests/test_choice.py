"""The choice of a form: by nested cross-validation, the simplest unless another makes the rows likelier."""

import json
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch
from oracles import made_up_cost, residual_net, simulated_profile
from scipy import optimize, stats

from ecc.core.errors import InputError
from ecc.energy_models import bilinear, judging
from ecc.energy_models.bilinear import BilinearCost
from ecc.energy_models.choice import choose, explain, surprise
from ecc.energy_models.crossing import Folds, cross
from ecc.energy_models.forms import FORMS, MACS, Form, demand_form
from ecc.energy_models.judging import judge
from ecc.energy_models.samples import Samples


def level(samples):
    """A model that knows nothing but the mean."""
    fitted = bilinear.fit_samples(samples)
    return replace(fitted, constant=float(samples.ratio.mean()) * fitted.dense, terms=())


def refusing(samples):
    raise InputError("these rows cannot carry it")


def with_forms(monkeypatch, **fitters):
    made = {name: Form(BilinearCost, lambda rows, _, fit=fit: fit(rows), name) for name, fit in fitters.items()}
    monkeypatch.setattr(judging, "FORMS", MappingProxyType(made))
    return made


def test_the_simplest_of_equals_is_taken():
    generator = np.random.default_rng(0)
    error = np.abs(generator.normal(0, 0.02, 200))
    assert choose({"simple": 1.003 * generator.permutation(error), "other": error}) == "simple"
    assert choose({"simple": 1.01 * error, "other": error}) == "other"
    assert choose({"simple": error + 0.01, "other": error}) == "other"
    assert choose({"simple": error, "other": error + 0.01}) == "simple"
    assert choose({"alone": error}) == "alone"


def test_a_form_that_explains_what_noise_hides_is_taken():
    # What the simple form misses is less than half the noise, so single rows hardly tell; together they do.
    chosen = {"simple": 0, "other": 0}
    for seed in range(40):
        generator = np.random.default_rng(seed)
        noise, missed = generator.normal(0, 0.05, 200), generator.normal(0, 0.022, 200)
        chosen[choose({"simple": noise + missed, "other": noise})] += 1
    assert chosen["other"] >= 38


def test_surprise_is_least_at_the_likeliest_scale_of_students_t():
    errors = stats.t.rvs(6, scale=0.03, size=300, random_state=1)
    likeliest = optimize.minimize_scalar(
        lambda log: -stats.t.logpdf(errors, 6, scale=np.exp(log)).sum(), bounds=(-8, 0), method="bounded"
    )
    constant = -300 * stats.t.logpdf(0, 6)
    assert surprise(errors) == pytest.approx(likeliest.fun - constant, abs=1e-3)
    assert surprise(np.abs(errors)) == pytest.approx(surprise(errors))


def test_one_outlier_decides_nothing_and_neither_does_what_is_exact():
    error = np.abs(np.random.default_rng(0).normal(0, 0.02, 100))
    spoilt = 0.6 * error
    spoilt[0] = 3.0
    assert choose({"simple": error, "other": spoilt}) == "other"
    assert choose({"simple": np.full(100, 1e-6), "other": np.full(100, 1e-9)}) == "simple"
    assert choose({"simple": np.zeros(100), "other": np.zeros(100)}) == "simple"


def test_the_reason_names_the_choice_and_what_it_was_preferred_to():
    error = np.linspace(0.01, 0.03, 100)
    better = explain({"a": error + 0.02, "b": error})
    told = "b has the best held-out errors, 2.00 ± 0.06 %; the held-out rows speak against what is simpler: "
    assert better == f"{told}more than 1,000 to 1 against a"
    assert explain({"a": error, "b": error + 0.02}).endswith("and is the simplest form")
    close = explain({"a": error * 1.005, "b": error})
    assert close.startswith("a is the simplest form whose held-out errors, 2.01 ± 0.06 %, are about as good as those")
    assert close.endswith("the held-out rows speak for b by only 1.6 to 1")
    assert explain({"a": error}) == "a is the only form that can be fitted to these rows"


def test_auto_chooses_the_form_that_predicts_and_says_why(monkeypatch):
    with_forms(monkeypatch, level=level, bilinear=bilinear.fit_samples)
    fit = judge(simulated_profile(80), "latency")
    assert fit.form == "bilinear"
    assert [candidate.form for candidate in fit.forms] == ["level", "bilinear"]
    assert [candidate.chosen_in for candidate in fit.forms] == [0, 5]
    assert fit.forms[0].mape > 5 * fit.forms[1].mape
    assert fit.forms[1].mape == pytest.approx(fit.holdout["mape"])
    assert fit.chosen_because.startswith("bilinear has the best held-out errors")
    alone = judge(simulated_profile(80), "latency", form="bilinear")
    assert alone.holdout == fit.holdout
    assert alone.chosen_because == "bilinear was asked for"


def test_the_error_stated_is_that_of_choosing_too(monkeypatch):
    # Forms of pure chance: the best of ten looks better than any is, on the rows that it was chosen by.
    table = simulated_profile(30, noise=0.0)
    template = vars(bilinear.fit_samples(Samples.of(table, "latency")))

    def chance(generator):
        class Chance(BilinearCost):
            def evaluate(self, widths):
                errors = np.exp(generator.normal(0, 0.1, len(widths)))
                return torch.tensor(made_up_cost(widths.numpy() / 64) * errors * self.dense)

        return lambda samples: Chance(**template)

    monkeypatch.setattr(judging, "choose", lambda errors: min(errors, key=lambda name: errors[name].mean()))
    apparent, stated = [], []
    for seed in range(12):
        with_forms(monkeypatch, **{name: chance(np.random.default_rng([seed, ord(name)])) for name in "abcdefghij"})
        fit = judge(table, "latency", seed=seed)
        apparent.append(min(candidate.mape for candidate in fit.forms))
        stated.append(fit.holdout["mape"])
    truth = 0.1 * np.sqrt(2 / np.pi)
    assert np.mean(apparent) < 0.85 * truth
    assert np.mean(stated) == pytest.approx(truth, rel=0.08)


def test_nested_predictions_have_seen_neither_fold():
    samples = Samples.of(simulated_profile(40), "latency")
    folds = Folds.of(samples, 5, np.random.default_rng(0))
    seen = []

    def spy(rows):
        seen.append(set(rows.numbers.tolist()))
        return level(rows)

    crossed = cross(folds, spy, lambda: None)
    parts = [set(part.tolist()) for part in folds.parts]
    everything = set(range(40))
    assert set().union(*parts) == everything
    assert sum(map(len, parts)) == 40
    wanted = [everything - part for part in parts]
    wanted += [everything - parts[i] - parts[j] for i in range(5) for j in range(i + 1, 5)]
    assert sorted(map(sorted, seen)) == sorted(map(sorted, wanted))
    for hidden, part in enumerate(folds.parts):
        for other, rows in enumerate(folds.parts):
            if other == hidden:
                assert np.isnan(crossed.inner[hidden, rows]).all()
            else:
                mean = samples.ratio[sorted(everything - parts[hidden] - parts[other])].mean()
                assert crossed.inner[hidden, rows] == pytest.approx(mean)
        assert crossed.outer[part] == pytest.approx(samples.ratio[sorted(everything - parts[hidden])].mean())


def test_rows_of_equal_widths_are_held_out_together():
    table = simulated_profile(40)
    table = replace(table, widths=np.repeat(table.widths[:10], 4, axis=0))
    folds = Folds.of(Samples.of(table, "latency"), 5, np.random.default_rng(0))
    assert [sorted(set(part // 4)) for part in folds.parts] == [sorted(part[::4] // 4) for part in folds.parts]
    assert all(len(part) == 8 for part in folds.parts)


def test_repeated_rows_tell_the_noise():
    table = simulated_profile(200, noise=0.04)
    widths = np.repeat(table.widths[:50], 4, axis=0)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.04, 200))
    rows = table.rows.assign(latency_ratio=made_up_cost(widths / 64) * noise)
    rows = rows.drop(columns=["latency_ratio_low", "latency_ratio_high"])
    fit = judge(replace(table, widths=widths, rows=rows), "latency", form="bilinear")
    assert fit.noise_floor == pytest.approx(0.04 * np.sqrt(2 / np.pi), rel=0.15)


def test_a_form_that_the_rows_cannot_carry_is_left_out_with_its_reason(monkeypatch):
    with_forms(monkeypatch, bilinear=bilinear.fit_samples, proud=refusing)
    fit = judge(simulated_profile(30), "latency")
    assert fit.form == "bilinear"
    assert fit.to_json()["forms"][1] == {
        "form": "proud",
        "mape": None,
        "standard_error": None,
        "chosen_in": 0,
        "left_out": "these rows cannot carry it",
    }
    with_forms(monkeypatch, proud=refusing)
    with pytest.raises(InputError, match=r"^these rows cannot carry it$"):
        judge(simulated_profile(30), "latency")


def test_progress_counts_every_fit(monkeypatch):
    with_forms(monkeypatch, level=level, bilinear=bilinear.fit_samples)
    told = []
    judge(simulated_profile(30), "latency", progress=lambda *what: told.append(what))
    assert told == [("fit", i + 1, 30, "level" if i < 15 else "bilinear") for i in range(30)]


@pytest.mark.parametrize("form", [name for name, each in FORMS.items() if not each.needs_operators])
def test_every_form_is_judged_alike(form):
    space, layers = residual_net()
    fit = judge(simulated_profile(30, net=(space, layers)), "latency", form=form, robust=True)
    value = json.loads(json.dumps(fit.to_json(), allow_nan=False))
    assert (value["form"], fit.cost.form, len(fit.cost.calibration)) == (form, FORMS[form].cost.form, 30)
    assert fit.holdout["mape"] < (0.15 if form == MACS else 0.06)
    assert 0.8 <= fit.interval_coverage <= 1
    assert fit.learning_curve[-1][1] == fit.holdout["mape"]
    assert not fit.cost.extrapolate


def test_forms_that_want_an_operator_profile_say_so():
    with pytest.raises(InputError, match=r"^form additive is composed of what operators cost on the device: profile"):
        demand_form("additive", given=False)
    with pytest.raises(InputError, match=r"^form bilinear makes no use of an operator profile"):
        demand_form("bilinear", given=True)
    demand_form("auto", given=True)
    demand_form("auto", given=False)
    fit = judge(simulated_profile(20), "latency", form="bilinear")
    assert [candidate.form for candidate in fit.forms] == ["bilinear"]


def test_rows_without_the_metric_are_left_alone():
    table = simulated_profile(60, metrics=("latency", "energy"))
    rows = table.rows.assign(energy_n=[12] * 40 + [0] * 20)
    rows.loc[40:, ["energy_ratio", "energy_ratio_low", "energy_ratio_high"]] = np.nan
    fit = judge(replace(table, rows=rows), "energy", form="bilinear")
    assert fit.samples == 40
    assert judge(replace(table, rows=rows), "latency", form="bilinear").samples == 60
