import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import made_up_cost, residual_net, simulated_profile

from ecc.core.errors import InputError
from ecc.energy_models import bilinear, staircase
from ecc.energy_models.diagnostics import diagnose
from ecc.energy_models.samples import Samples


def branching_net():
    """The network of the oracles without its concatenation, whose side its parts make up."""
    space, layers = residual_net()
    return space, layers[:-1]


def rows_of(rows, **options):
    return Samples.of(simulated_profile(rows, net=branching_net(), **options), "latency")


@pytest.fixture(scope="module")
def fitted():
    samples = rows_of(120, noise=0.04)
    return bilinear.fit_samples(samples), samples


def design_of(cost, samples):
    """The products of the terms with a cost, and rows divided by what is predicted for them."""
    products = cost.active_products(torch.tensor(samples.widths)).numpy()
    features = np.column_stack([np.ones(len(samples)), products]) if cost.constant > 0 else products
    predicted = cost.evaluate(torch.tensor(samples.widths)).numpy() / cost.dense
    weights = 0.03 / np.hypot(0.03, samples.noise)
    return features, weights / predicted


def test_standard_errors_are_those_of_weighted_least_squares_by_hand(fitted):
    cost, samples = fitted
    found = diagnose(cost, samples)
    features, scale = design_of(cost, samples)
    matrix, aim = features * scale[:, None], samples.ratio * scale
    inverse = np.linalg.inv(matrix.T @ matrix)
    estimate = inverse @ matrix.T @ aim
    left = aim - matrix @ estimate
    spread = np.sqrt(left @ left / found.freedom)
    assert found.freedom == len(aim) - matrix.shape[1]
    assert found.spread == pytest.approx(spread, rel=1e-9)
    table = found.coefficients
    assert table["estimate"].to_numpy() == pytest.approx(estimate * cost.dense, rel=1e-6)
    errors = spread * np.sqrt(np.diag(inverse)) * cost.dense
    assert table["standard_error"].to_numpy() == pytest.approx(errors, rel=1e-6)
    assert table["value"].to_dict() == {name: value for name, value in cost.coefficients.items() if value > 0}
    assert set(found.left_out) == {name for name, value in cost.coefficients.items() if value == 0}


def test_cooks_distance_and_residual_are_those_of_leaving_the_row_out(fitted):
    cost, samples = fitted
    found = diagnose(cost, samples)
    features, scale = design_of(cost, samples)
    matrix, aim = features * scale[:, None], samples.ratio * scale
    whole, *_ = np.linalg.lstsq(matrix, aim, rcond=None)
    for row in (0, 17, 63):
        others = np.arange(len(aim)) != row
        without, *_ = np.linalg.lstsq(matrix[others], aim[others], rcond=None)
        moved = matrix @ (whole - without)
        distance = moved @ moved / (matrix.shape[1] * found.spread**2)
        assert found.rows["cooks_distance"].iloc[row] == pytest.approx(distance, rel=1e-6)
        leverage = 1 - (aim[row] - matrix[row] @ whole) / (aim[row] - matrix[row] @ without)
        assert found.rows["leverage"].iloc[row] == pytest.approx(leverage, rel=1e-6)
    assert found.rows["leverage"].sum() == pytest.approx(matrix.shape[1], rel=1e-9)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    inside, of = 0, 0
    truth = {"constant": 0.1, "a × stem": 0.3, "b × stem": 0.25, "b": 0.1, "c × stem": 0.15}
    for seed in range(40):
        samples = rows_of(150, noise=0.03, seed=seed)
        table = diagnose(bilinear.fit_samples(samples), samples).coefficients
        for name, share in truth.items():
            if name in table.index:
                low, high = table.loc[name, ["low", "high"]]
                inside, of = inside + (low <= share * 0.004 <= high), of + 1
    assert of > 150
    assert 0.85 < inside / of <= 1.0  # below 95 %, because the terms that cost something are found in the same rows


def test_an_extreme_row_is_found_to_decide():
    table = simulated_profile(80, noise=0.02, seed=3, net=branching_net())
    widths = table.widths.copy()
    widths[11] = [1, 64, 1, 64]  # a corner where few rows are
    ratio = table.rows["latency_ratio"].to_numpy().copy()
    ratio[11] = 0.8
    samples = Samples.of(replace(table, widths=widths, rows=table.rows.assign(latency_ratio=ratio)), "latency")
    found = diagnose(bilinear.fit_samples(samples), samples)
    assert found.rows["cooks_distance"].idxmax() == 11
    assert found.rows.loc[11, "decides"]
    assert found.to_json()["deciding_rows"][0]["row"] == 11


def test_uneven_errors_are_told_from_even_ones():
    even = rows_of(300, noise=0.03, seed=1)
    generator = np.random.default_rng(0)
    noisy = np.exp(generator.normal(0, 1, 300) * 0.1 * (1 - even.ratio / even.ratio.max()))
    uneven = replace(even, ratio=even.ratio * noisy)
    assert diagnose(bilinear.fit_samples(even), even).uneven > 0.05
    assert diagnose(bilinear.fit_samples(uneven), uneven).uneven < 0.01


def test_staircase_is_diagnosed_too_and_the_answer_is_json():
    samples = rows_of(120)
    found = diagnose(staircase.fit_samples(samples, steps={}), samples, level=0.5)
    wide = diagnose(staircase.fit_samples(samples, steps={}), samples, level=0.99)
    assert (wide.coefficients["high"] > found.coefficients["high"]).all()
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (document["unit"], document["level"]) == ("s", 0.5)
    assert {entry["term"] for entry in document["coefficients"]} == set(found.coefficients.index)


def test_rows_that_say_nothing_of_the_coefficients_are_refused(fitted):
    cost, samples = fitted
    with pytest.raises(InputError, match=r"5 profile rows cannot tell how well \d+ terms are known"):
        diagnose(cost, samples.take(range(5)))
    with pytest.raises(InputError, match="give the profile that it was fitted to"):
        diagnose(cost, replace(samples, metric="energy"))
    with pytest.raises(InputError, match=r"diagnose\(level=...\) must be in \(0, 1\), got 2"):
        diagnose(cost, samples, level=2)


def test_terms_that_make_one_another_up_are_known_by_their_sum_only():
    samples = Samples.of(simulated_profile(120, noise=0.02), "latency")  # the head reads a concatenation
    cost = bilinear.fit_samples(samples)
    parts = {"stem", "c", "(c + stem)"}
    assert parts <= {term.name for term in cost.active_terms}
    found = diagnose(cost, samples)
    unknown = set(found.coefficients.index[found.coefficients["standard_error"].isna()])
    assert unknown == parts
    features, scale = design_of(cost, samples)
    assert found.freedom == 120 - np.linalg.matrix_rank(features * scale[:, None])
    left = [name for name in cost.coefficients if cost.coefficients[name] > 0].index("(c + stem)")
    matrix, aim = np.delete(features, left, axis=1) * scale[:, None], samples.ratio * scale
    estimate, *_ = np.linalg.lstsq(matrix, aim, rcond=None)
    names = [name for name in found.coefficients.index if name != "(c + stem)"]
    known = found.coefficients["estimate"].drop(index=list(parts))
    assert known.to_numpy() == pytest.approx([estimate[names.index(n)] * cost.dense for n in known.index], rel=1e-6)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))


def test_groups_that_were_never_varied_apart_leave_no_error_of_zero():
    space, layers = branching_net()
    table = simulated_profile(100, net=(space, layers), cost=lambda w: made_up_cost(np.repeat(w[:, :1], 4, axis=1)))
    together = replace(table, widths=np.repeat(table.widths[:, :1], 4, axis=1))
    samples = Samples.of(together, "latency")
    found = diagnose(bilinear.fit_samples(samples), samples)
    errors = found.coefficients["standard_error"]
    assert errors.isna().sum() >= 2
    assert (errors.dropna() > 0).all()
