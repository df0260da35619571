import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import made_up_cost, residual_net, simulated_profile

from ecc.core.errors import InputError
from ecc.energy_models import judging
from ecc.energy_models.bilinear import fit
from ecc.energy_models.forms import FORMS

judge = partial(judging.judge, form="bilinear")  # what is claimed here is claimed of any form; this one is quick


@pytest.fixture(scope="module")
def verdict():
    return judge(simulated_profile(200, noise=0.02), "latency")


def test_good_model_comes_close_to_the_noise_floor(verdict):
    assert verdict.noise_floor == pytest.approx(0.02 * np.sqrt(2 / np.pi), rel=0.01)
    assert verdict.noise_floor * 0.9 < verdict.holdout["mape"] < verdict.noise_floor * 1.3


def test_held_out_error_is_that_of_fresh_rows(verdict):
    fresh = simulated_profile(2000, seed=7)
    predicted = verdict.cost(torch.tensor(fresh.widths)).numpy() / 0.004
    error = np.abs(predicted / fresh.rows["latency_ratio"].to_numpy() - 1)
    assert verdict.holdout["mape"] == pytest.approx(error.mean(), rel=0.15)
    assert verdict.holdout["p95"] == pytest.approx(np.quantile(error, 0.95), rel=0.25)


def test_figures_follow_from_the_residuals(verdict):
    frame = verdict.residuals
    error = np.abs(frame["predicted"] / frame["measured"] - 1)
    assert verdict.holdout == {
        "mape": pytest.approx(error.mean()),
        "p95": pytest.approx(error.quantile(0.95)),
        "worst": pytest.approx(error.max()),
        "within_10pct": pytest.approx((error <= 0.1).mean()),
    }
    assert len(frame) == verdict.samples == 200


def test_rows_are_predicted_by_a_fit_that_has_not_seen_them():
    # memorising noise is impossible: with nothing but noise, held-out error cannot be below it
    generator = np.random.default_rng(0)
    table = simulated_profile(30, cost=lambda w: 0.5 * np.exp(generator.normal(0, 0.3, len(w))))
    fitted = fit(table, "latency", noise=0.0)(torch.tensor(table.widths)).numpy() / 0.004
    apparent = np.abs(fitted / table.rows["latency_ratio"].to_numpy() - 1).mean()
    assert judge(table, "latency").holdout["mape"] > apparent


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_intervals_cover_what_they_claim(seed):
    verdict = judge(simulated_profile(300, seed=seed), "latency", seed=seed)
    assert 0.91 <= verdict.interval_coverage <= 0.99
    fresh = simulated_profile(2000, seed=seed + 100)
    low, high = verdict.cost.interval(torch.tensor(fresh.widths))
    measured = torch.tensor(fresh.rows["latency_s"].to_numpy())
    assert 0.92 <= float(((low <= measured) & (measured <= high)).double().mean()) <= 0.99


def test_macs_only_is_the_worse_model_of_this_device(verdict):
    assert verdict.macs_only > 2 * verdict.holdout["mape"]


def test_learning_curve_ends_in_the_held_out_error(verdict):
    sizes = [samples for samples, _ in verdict.learning_curve]
    assert sizes == sorted(set(sizes))
    assert verdict.learning_curve[-1] == (160, verdict.holdout["mape"])
    assert verdict.learning_curve[0][1] > verdict.learning_curve[-1][1]


def test_final_model_is_fitted_to_all_rows(verdict):
    table = simulated_profile(200, noise=0.02)
    assert verdict.coefficients == fit(table, "latency").coefficients
    assert len(verdict.cost.calibration) == verdict.cost.samples == 200
    assert verdict.cost.holdout == verdict.holdout


def test_same_seed_same_verdict():
    first, again, other = (judge(simulated_profile(50), "latency", seed=seed).to_json() for seed in (0, 0, 1))
    assert first == again
    assert first["holdout"] != other["holdout"]


def test_json_has_the_fields_of_the_interface(verdict):
    value = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert {"form", "samples", "holdout", "noise_floor", "interval_coverage", "coefficients", "learning_curve"} <= set(
        value
    )
    assert set(value["holdout"]) == {"mape", "p95", "worst", "within_10pct"}
    assert value["learning_curve"][-1] == {"samples": 160, "mape": value["holdout"]["mape"]}


def test_unknown_noise_is_null_not_zero():
    table = simulated_profile(30)
    rows = table.rows.drop(columns=["latency_ratio_low", "latency_ratio_high"])
    value = judge(
        type(table)(table.provenance, table.space, table.layers, table.widths, rows, table.reference), "latency"
    )
    assert value.to_json()["noise_floor"] is None
    assert "noise floor unknown" in repr(value)


@pytest.mark.parametrize("rows", [10, 11, 13])
def test_fewest_rows_still_give_finite_figures(rows):
    value = judge(simulated_profile(rows), "latency").to_json()
    json.dumps(value, allow_nan=False)


def test_energy_is_judged_like_latency():
    table = simulated_profile(60, metrics=("latency", "energy"))
    value = judge(table, "energy")
    assert (value.cost.metric, value.cost.unit) == ("energy", "J")


def test_table_in_any_memory_layout_and_index_is_accepted():
    table = simulated_profile(40)
    rows = table.rows.set_index(pd.Index(range(100, 140)))
    widths = np.asfortranarray(table.widths)
    widths.setflags(write=False)
    odd = type(table)(table.provenance, table.space, table.layers, widths, rows, table.reference)
    assert judge(odd, "latency").to_json() == judge(table, "latency").to_json()


def test_network_without_macs_can_still_be_fitted():
    space, layers = residual_net()
    quiet = tuple(type(each)(each.name, each.kind, each.reads, each.writes, 0) for each in layers)
    table = simulated_profile(60, net=(space, quiet), cost=lambda w: 0.2 + 0.2 * w.sum(1))
    assert judge(table, "latency").holdout["mape"] < 0.03
    assert made_up_cost(np.ones((1, 4)))[0] == pytest.approx(1.0)


def chosen_too(rows, **purposes):
    """A simulated profile in which each named range of rows was not drawn at random."""
    table = simulated_profile(rows)
    column = np.array(["random"] * rows, dtype=object)
    for purpose, (start, stop) in purposes.items():
        column[start:stop] = purpose
    return replace(table, rows=table.rows.assign(purpose=column))


def test_only_rows_drawn_at_random_are_held_out():
    table = chosen_too(80, corner=(0, 10), sweep=(10, 15), adaptive=(50, 80))
    verdict = judge(table, "latency")
    assert verdict.residuals.index.tolist() == list(range(15, 50))
    assert verdict.residuals["measured"].tolist() == table.rows["latency_ratio"][15:50].tolist()
    assert (verdict.samples, verdict.cost.samples, len(verdict.cost.calibration)) == (80, 80, 35)
    assert verdict.learning_curve[-1] == (73, verdict.holdout["mape"])  # 28 of 35, and all that are not random


def test_rows_that_a_fit_chose_do_not_bias_its_error():
    # Rows that are easy to predict, much alike and without noise: an error over them too would look far better.
    table = chosen_too(400, adaptive=(200, 400))
    widths, ratio = table.widths.copy(), table.rows["latency_ratio"].to_numpy(copy=True)
    nearby = np.random.default_rng(0).integers(-2, 3, (200, 4))
    widths[200:] = np.clip(widths[200] + nearby, 1, 64)
    ratio[200:] = made_up_cost(widths[200:] / 64)
    honest = judge(replace(table, widths=widths, rows=table.rows.assign(latency_ratio=ratio)), "latency")
    drawn = table.rows.assign(latency_ratio=ratio, purpose="random")
    naive = judge(replace(table, widths=widths, rows=drawn), "latency")
    fresh = simulated_profile(2000, seed=7)
    error = np.abs(honest.cost(torch.tensor(fresh.widths)).numpy() / 0.004 / fresh.rows["latency_ratio"] - 1)
    assert honest.holdout["mape"] == pytest.approx(error.mean(), rel=0.25)
    assert naive.holdout["mape"] < 0.7 * error.mean()


def test_a_profile_with_hardly_any_random_row_is_not_judged():
    table = chosen_too(40, adaptive=(4, 40))
    with pytest.raises(InputError, match=r"^4 of the 40 profile rows were drawn at random and can be held out"):
        judge(table, "latency")
    assert fit(table, "latency").samples == 40


def test_wrong_requests_are_refused():
    table = simulated_profile(20)
    with pytest.raises(InputError, match=f"form 'oracle' is unknown; choose from auto, {', '.join(FORMS)}"):
        judge(table, "latency", form="oracle")
    with pytest.raises(InputError, match=r"holdout=...\) must be in \[0.1, 1/3\], got 0.7"):
        judge(table, "latency", holdout=0.7)
    with pytest.raises(InputError, match="energy of made up was not measured"):
        judge(table, "energy")
