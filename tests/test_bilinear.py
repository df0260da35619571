import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import brute_force_fraction, made_up_cost, residual_net, side, simulated_profile
from scipy import optimize

from ecc.core.errors import InputError
from ecc.core.layers import Layer, Side, SumOfProducts
from ecc.core.widths import WidthSpace
from ecc.energy_models.bilinear import BilinearCost, fit
from ecc.energy_models.fitted import conformal_quantile
from ecc.energy_models.least_squares import relative_nnls, robust_weights, shrunken_nnls
from ecc.energy_models.loading import load_cost as load
from ecc.energy_models.samples import Samples
from ecc.energy_models.terms import terms_of

ALEXNET = (3, 64, 192, 384, 256, 256, 4096, 4096, 1000)
ALEXNET_TX2 = (
    0.00223371,
    0.00753995,
    0.00390926,
    0.00494067,
    0.00339310,
    0.01615652,
    0.00721406,
    0.00195418,
)  # J per image, AlexNet on a Jetson TX2: the model that the authors of ECC released
NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


@pytest.fixture
def alexnet():
    return BilinearCost.chain(ALEXNET, ALEXNET_TX2, constant=0.00248207, names=NAMES)


def test_published_alexnet_coefficients_sum_to_the_dense_energy(alexnet):
    assert float(alexnet({})) == pytest.approx(0.04982352, abs=1e-12)
    assert alexnet.dense == pytest.approx(0.04982352, abs=1e-12)
    assert alexnet.coefficients["constant"] == 0.00248207
    assert alexnet.coefficients["fc6"] == 0.01615652
    assert (alexnet.metric, alexnet.unit, alexnet.provenance) == ("energy", "J", None)


def test_published_alexnet_model_at_half_of_conv5_by_hand(alexnet):
    # conv5 writes and fc6 reads the group: half of 0.00339310 and of 0.01615652 goes
    assert float(alexnet({"conv5": 128})) == pytest.approx(0.04982352 - (0.00339310 + 0.01615652) / 2, abs=1e-12)


def test_published_alexnet_gradient_is_the_neighbours_product(alexnet):
    widths = torch.tensor(alexnet.space.dense, dtype=torch.float64) * 0.7
    widths.requires_grad_(True)
    (gradient,) = torch.autograd.grad(alexnet(widths), widths)
    conv2 = alexnet.space.names.index("conv2")
    by_hand = (0.00753995 * 0.7 + 0.00390926 * 0.7) / 192  # a_{u-1} s_{u-1} + a_u s_{u+1}, relative, per channel
    assert float(gradient[conv2]) == pytest.approx(by_hand, rel=1e-12)


def test_gradient_agrees_with_finite_differences(alexnet):
    # bilinear in each width alone: a central difference is exact up to rounding, so a large step is the best one
    widths = torch.tensor(alexnet.space.dense, dtype=torch.float64) * 0.6
    widths.requires_grad_(True)
    (gradient,) = torch.autograd.grad(alexnet(widths), widths)
    for column in range(len(alexnet.space)):
        step = torch.zeros_like(widths)
        step[column] = 8.0
        difference = (alexnet(widths + step) - alexnet(widths - step)).item() / 16.0
        assert float(gradient[column]) == pytest.approx(difference, rel=1e-9)


def test_published_model_promises_no_interval(alexnet):
    low, high = alexnet.interval({})
    assert (float(low), float(high)) == (0.0, float("inf"))


def test_chain_of_one_fixed_layer_is_a_constant():
    cost = BilinearCost.chain((3, 10), (2.0,), constant=1.0)
    assert float(cost({})) == 3.0
    assert cost(torch.zeros(5, 0)).shape == (5,)


def test_noiseless_truth_is_found_exactly():
    table = simulated_profile(60, noise=0.0)
    cost = fit(table, "latency", noise=0.0)
    rest = simulated_profile(40, noise=0.0, seed=1)
    truth = made_up_cost(rest.widths / 64) * 0.004
    assert cost(torch.from_numpy(rest.widths)).numpy() == pytest.approx(truth, rel=1e-8)


def test_fit_of_noisy_rows_is_close_to_the_truth():
    cost = fit(simulated_profile(100, noise=0.03), "latency")
    rest = simulated_profile(100, noise=0.0, seed=1)
    truth = made_up_cost(rest.widths / 64) * 0.004
    error = np.abs(cost(torch.from_numpy(rest.widths)).numpy() / truth - 1)
    assert error.mean() < 0.015


def test_few_rows_are_drawn_to_the_macs_model_instead_of_into_noise():
    rest = simulated_profile(200, noise=0.0, seed=99)
    truth = made_up_cost(rest.widths / 64) * 0.004
    errors = {0.0: [], 0.03: []}
    for seed in range(10):
        table = simulated_profile(10, noise=0.08, seed=seed)
        for noise, found in errors.items():
            predicted = fit(table, "latency", noise=noise)(torch.from_numpy(rest.widths)).numpy()
            found.append(np.abs(predicted / truth - 1).mean())
    assert np.mean(errors[0.03]) < np.mean(errors[0.0])


def test_rows_that_know_they_are_noisy_count_less():
    rest = simulated_profile(200, noise=0.0, seed=99)
    truth = made_up_cost(rest.widths / 64) * 0.004
    errors = {"told": [], "untold": []}
    for seed in range(6):
        table = simulated_profile(60, noise=0.01, seed=seed)
        bad = np.exp(np.random.default_rng(seed).normal(0, 0.4, 15))
        rows = table.rows.copy()
        rows.loc[:14, "latency_ratio"] *= bad
        untold = replace(table, rows=rows)
        told = replace(
            table, rows=rows.assign(latency_ratio_low=rows["latency_ratio"] * np.exp([-0.8] * 15 + [-0.02] * 45))
        )
        for name, spoilt in (("told", told), ("untold", untold)):
            predicted = fit(spoilt, "latency")(torch.from_numpy(rest.widths)).numpy()
            errors[name].append(np.abs(predicted / truth - 1).mean())
    assert np.mean(errors["told"]) < 0.7 * np.mean(errors["untold"])


def test_interior_optimum_equals_weighted_least_squares_of_statsmodels():
    statsmodels = pytest.importorskip("statsmodels.api")
    generator = np.random.default_rng(0)
    features = np.column_stack([np.ones(200), generator.uniform(0.1, 1, (200, 6))])
    target = features @ np.arange(1.0, 8.0) * np.exp(generator.normal(0, 0.05, 200))
    answer = statsmodels.WLS(target, features, weights=1 / target**2).fit()
    assert (answer.params > 0).all()
    assert relative_nnls(features, target) == pytest.approx(answer.params, rel=1e-8)


def smallest(objective, start):
    """The least value of a function of numbers ≥ 0, and where."""
    found = optimize.minimize(
        objective, start, bounds=[(1e-12, None)] * len(start), method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}
    )
    return found.fun, found.x


@pytest.mark.parametrize("ridge", [0.0, 1.0, 20.0], ids="ridge={}".format)
@pytest.mark.parametrize("rows", [4, 30], ids="rows={}".format)
def test_shrunken_fit_is_the_minimum_of_its_objective(rows, ridge):
    generator = np.random.default_rng(rows)
    features = np.column_stack([np.ones(rows), generator.uniform(0.1, 1, (rows, 8))])
    macs = np.array([0.0, 5, 4, 3, 2, 1, 0, 0, 0])
    target = generator.uniform(0.2, 1, rows)
    weights = generator.uniform(0.3, 1, rows)
    found = shrunken_nnls(features, target, weights, macs, noise=0.05, ridge=ridge)

    def error(a, columns):
        return (weights**2 * np.log(columns @ a / target) ** 2).sum()

    two = np.column_stack([np.ones(rows), features @ (macs / 15)])
    _, (base, slope) = smallest(lambda a: error(a, two), np.array([0.1, 0.5]))
    prior = slope * macs / 15 + np.eye(9)[0] * base
    spread = np.maximum(prior, 1 / 9)

    def objective(a):
        return error(a, features) + 9 * (a.sum() - 1) ** 2 + ridge * 0.05**2 * (((a - prior) / spread) ** 2).sum()

    best, _ = smallest(objective, np.full(9, 0.1))
    assert (found >= 0).all()
    assert objective(found) <= best * (1 + 1e-6)


def test_noise_that_is_a_factor_does_not_make_the_fit_low():
    rest = simulated_profile(300, noise=0.0, seed=99)
    truth = made_up_cost(rest.widths / 64) * 0.004
    costs = [fit(simulated_profile(300, noise=0.15, seed=seed), "latency") for seed in range(3)]
    bias = [np.log(cost(torch.from_numpy(rest.widths)).numpy() / truth) for cost in costs]
    assert abs(np.mean(bias)) < 0.01  # weights 1 / measured² make it -1.5 σ² = -0.034


def spoilt_profile(rows=120, share=0.15, seed=0):
    """A profile, a share of whose rows read up to ten times too high or too low."""
    table = simulated_profile(rows, noise=0.02, seed=seed)
    generator = np.random.default_rng(seed)
    bad = generator.choice(rows, int(share * rows), replace=False)
    ratio = table.rows["latency_ratio"].to_numpy().copy()
    ratio[bad] *= np.exp(generator.choice([-2.0, -0.5, 0.5, 1.0, 2.3], len(bad)))
    changes = {
        f"latency_ratio{end}": ratio * np.exp(z * 0.02) for end, z in (("", 0), ("_low", -1.96), ("_high", 1.96))
    }
    return replace(table, rows=table.rows.assign(**changes)), bad


def error_of(cost):
    rest = simulated_profile(200, noise=0.0, seed=99)
    truth = made_up_cost(rest.widths / 64) * 0.004
    return float(np.abs(cost(torch.from_numpy(rest.widths)).numpy() / truth - 1).mean())


@pytest.mark.parametrize("seed", range(3))
def test_outliers_do_not_move_a_robust_fit(seed):
    table, bad = spoilt_profile(seed=seed)
    others = np.setdiff1d(np.arange(len(table)), bad)
    clean = replace(table, rows=table.rows.iloc[others], widths=table.widths[others])
    robust, plain, told = fit(table, "latency", robust=True), fit(table, "latency"), fit(clean, "latency")
    assert error_of(plain) > 0.05
    assert error_of(robust) < error_of(told) + 0.002


def test_robust_fit_of_clean_rows_is_nearly_the_plain_one():
    table = simulated_profile(150, noise=0.03)
    assert error_of(fit(table, "latency", robust=True)) < 1.2 * error_of(fit(table, "latency"))


def test_robust_fit_is_as_good_as_hubers_regression_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    generator = np.random.default_rng(1)
    features = np.column_stack([np.ones(200), generator.uniform(0.1, 1, (200, 5))])
    shares = np.array([0.1, 0.3, 0.2, 0.2, 0.1, 0.1])
    target = features @ shares * np.exp(generator.normal(0, 0.03, 200))
    target[:30] *= 5
    ours = shrunken_nnls(features, target, np.ones(200), np.zeros(6), noise=0.03, robust=True)
    scale = (features @ shares)[:, None]  # what the relative error is relative to, known to the peer only
    peer = linear_model.HuberRegressor(fit_intercept=False, alpha=0.0, max_iter=1000)
    theirs = peer.fit(features / scale, target / scale[:, 0]).coef_
    assert np.abs(features @ ours / scale[:, 0] - 1).mean() < np.abs(features @ theirs / scale[:, 0] - 1).mean()


def test_rows_that_agree_all_count_and_outliers_count_nothing():
    generator = np.random.default_rng(2)
    features = np.column_stack([np.ones(100), generator.uniform(0.1, 1, (100, 3))])
    target = features @ np.array([0.1, 0.4, 0.3, 0.2]) * np.exp(generator.normal(0, 0.02, 100))
    target[[3, 50]] *= [0.3, 4.0]
    trusted = robust_weights(features, target, np.ones(100), np.zeros(4), noise=0.02)
    assert (trusted[[3, 50]] == 0).all()
    assert np.median(trusted) > 0.9


def test_more_ridge_holds_coefficients_nearer_to_the_macs():
    table = simulated_profile(30, noise=0.08)
    samples = Samples.of(table, "latency")
    shares = terms_of(samples.space, samples.layers).macs
    away = []
    for ridge in (0.0, 1.0, 100.0, 1e6):
        cost = fit(table, "latency", ridge=ridge)
        values = np.array([term.value for term in cost.terms])
        away.append(float(np.abs(values / values.sum() - shares / shares.sum()).sum()))
    assert away == sorted(away, reverse=True)
    assert away[-1] < 0.02


@pytest.mark.parametrize("argument", [{"noise": -0.1}, {"ridge": -1.0}, {"ridge": float("nan")}])
def test_strength_that_is_no_strength_is_refused(argument):
    with pytest.raises(InputError, match=r"fit\((noise|ridge)=...\) must be a finite number ≥ 0"):
        fit(simulated_profile(), "latency", **argument)


def test_coefficients_are_named_not_negative_and_in_seconds():
    cost = fit(simulated_profile(), "latency")
    assert all(value >= 0 for value in cost.coefficients.values())
    assert {"constant", "stem", "b", "a × stem", "b × stem", "c × stem"} <= set(cost.coefficients)
    assert sum(cost.coefficients.values()) == pytest.approx(0.004, rel=0.03)


def test_unit_of_the_reference_scales_the_model_and_nothing_else():
    seconds = fit(simulated_profile(reference=(0.004, 0.0039, 0.0041)), "latency")
    joules = fit(simulated_profile(reference=(40.0, 39.0, 41.0), metrics=("energy",)), "energy")
    widths = {"stem": 20, "a": 7}
    assert float(joules(widths)) == pytest.approx(float(seconds(widths)) * 1e4, rel=1e-12)


names = st.sampled_from(["p", "q", "r", "outside"])
sides = st.lists(st.tuples(st.integers(1, 4), st.lists(names, max_size=2, unique=True)), min_size=1, max_size=3).map(
    lambda parts: Side(tuple((weight / sum(w for w, _ in parts), tuple(groups)) for weight, groups in parts))
)
layer_lists = st.lists(st.tuples(sides, sides, st.sampled_from([0, 10, 700])), min_size=1, max_size=6)


@given(layer_lists, st.lists(st.integers(1, 8), min_size=3, max_size=3))
@settings(max_examples=150, deadline=None)
def test_terms_span_the_mac_count_of_any_layers(triples, widths):
    space = WidthSpace(("p", "q", "r"), (8, 8, 8), (1, 1, 1))
    layers = [Layer(f"l{i}", "conv", reads, writes, macs) for i, (reads, writes, macs) in enumerate(triples)]
    products = terms_of(space, layers)
    relative = {name: width / 8 for name, width in zip(space.names, widths, strict=True)}
    counted = sum(
        each.macs * brute_force_fraction(each.reads, relative) * brute_force_fraction(each.writes, relative)
        for each in layers
    )
    values = SumOfProducts(space, products.factors)(torch.tensor(widths, dtype=torch.float64)).numpy()
    assert products.fixed_macs + values @ products.macs == pytest.approx(counted, rel=1e-9, abs=1e-9)
    assert len(set(products.names)) == len(products.names)


def test_groups_that_are_not_prunable_count_as_dense_and_make_no_terms(tmp_path):
    space = WidthSpace(("p", "q"), (8, 8), (1, 1))
    layers = (
        Layer("a", "conv", side("outside"), side("p"), 10),
        Layer("b", "conv", side("p", "outside"), side("q"), 5),
    )
    assert set(terms_of(space, layers).names) == {"p", "q", "p × q"}
    table = simulated_profile(30, net=(space, layers), cost=lambda w: 0.2 + 0.4 * w[:, 0] + 0.4 * w[:, 0] * w[:, 1])
    fit(table, "latency").save(tmp_path / "cost.json")
    assert load(tmp_path / "cost.json").space == space


def test_layers_with_equal_products_share_one_term():
    space, layers = residual_net()
    products = terms_of(space, layers)
    assert products.macs[products.names.index("a × stem")] == 70_000
    assert products.macs[products.names.index("b")] == 3_000
    assert products.names.count("stem") == 1


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_interval_holds_new_rows_as_often_as_it_says(level):
    cost = fit(simulated_profile(150), "latency")
    calibration = simulated_profile(400, seed=1)
    rows = simulated_profile(2000, seed=2)
    predicted = cost(torch.from_numpy(calibration.widths)).numpy()
    errors = np.abs(np.log(calibration.rows["latency_s"].to_numpy() / predicted))
    judged = replace(cost, calibration=tuple(np.sort(errors)), reference=(0.004, 0.004, 0.004))
    low, high = judged.interval(torch.from_numpy(rows.widths), level)
    measured = torch.tensor(rows.rows["latency_s"].to_numpy())
    assert float(((low <= measured) & (measured <= high)).double().mean()) == pytest.approx(level, abs=0.04)


def test_interval_grows_with_the_level_and_with_the_uncertainty_of_the_reference():
    cost = replace(fit(simulated_profile(), "latency"), calibration=(0.01, 0.02, 0.03), samples=3)
    spans = [float(high - low) for low, high in (cost.interval({}, level) for level in (0.5, 0.9, 0.99))]
    assert spans == sorted(spans)
    vague = replace(cost, reference=(0.004, 0.0035, 0.0045))
    low, high = vague.interval({})
    assert float(high - low) > float(cost.interval({})[1] - cost.interval({})[0])
    with pytest.raises(InputError, match=r"interval\(level=...\) must be in \(0, 1\), got 1"):
        cost.interval({}, 1)


def test_too_few_errors_for_a_level_get_a_wider_tail_than_the_worst_of_them():
    assert conformal_quantile((0.01, 0.02, 0.03), 0.75) == 0.03
    assert conformal_quantile((0.01, 0.02, 0.03), 0.99) > 0.1
    assert conformal_quantile(tuple(i / 100 for i in range(1, 100)), 0.95) == 0.95


def test_widths_outside_the_profiled_ones_are_flagged():
    table = simulated_profile(50)
    low = table.widths.min(axis=0)
    cost = fit(table, "latency")
    assert not cost.extrapolates({})
    assert not cost.extrapolates(torch.from_numpy(low))
    narrow = replace(cost, profiled=((16, 64), (1, 64), (1, 64), (1, 64)))
    assert narrow.extrapolates({"stem": 15})
    assert not narrow.extrapolates({"stem": 16})


def test_saved_model_is_the_same_model(tmp_path, alexnet):
    cost = replace(fit(simulated_profile(), "latency"), calibration=(0.01, 0.02), holdout={"mape": 0.01})
    for model in (cost, alexnet):
        model.save(tmp_path / "cost.json")
        again = load(tmp_path / "cost.json")
        assert all(getattr(again, each.name) == getattr(model, each.name) for each in fields(model))
        widths = torch.from_numpy(model.space.floor(np.array(model.space.dense) * 0.4))
        assert float(again(widths)) == float(model(widths))


def test_model_with_a_sum_side_survives_the_file(tmp_path):
    space = WidthSpace(("p", "q"), (6, 9), (2, 3))
    net = (space, (Layer("x", "conv", Side(((1 / 3, ("p",)), (2 / 3, ("p", "q")))), side("q"), 9),))
    table = simulated_profile(30, net=net, cost=lambda w: 0.2 + 0.8 * w[:, 0] * w[:, 1])
    fit(table, "latency").save(tmp_path / "cost.json")
    assert float(load(tmp_path / "cost.json")({"p": 2})) > 0


def broken(document, path, value):
    *way, last = path
    inner = document
    for key in way:
        inner = inner[key]
    inner[last] = value
    return document


HOSTILE = {
    "schema": (["schema"], 99),
    "kind": (["kind"], "a letter"),
    "form": (["form"], "oracle"),
    "metric": (["metric"], "beauty"),
    "unit": (["unit"], "h"),
    "negative coefficient": (["terms", 0, "value"], -1.0),
    "huge coefficient": (["terms", 0, "value"], 10**400),
    "text for a number": (["constant"], "1"),
    "true for a number": (["terms", 0, "value"], True),
    "unknown group": (["terms", 0, "sides"], [[[1.0, ["nobody"]]]]),
    "no sides": (["terms", 0, "sides"], []),
    "shares that do not sum to one": (["terms", 0, "sides"], [[[0.5, ["stem"]]]]),
    "share above one": (["terms", 0, "sides"], [[[2.0, ["stem"]], [-1.0, []]]]),
    "sides that are no list": (["terms", 0, "sides"], {"a": 1}),
    "terms of equal names": (["terms", 1, "name"], "stem"),
    "term called constant": (["terms", 1, "name"], "constant"),
    "terms that are no list": (["terms"], None),
    "reference without interval": (["reference"], [1.0]),
    "reference outside its interval": (["reference"], [1.0, 2.0, 3.0]),
    "reference of zero": (["reference"], [0.0, 0.0, 0.0]),
    "calibration out of order": (["calibration"], [0.2, 0.1]),
    "step that does not divide": (["space", "step"], [3, 1, 1, 1]),
    "group of huge width": (["space", "dense"], [1 << 40, 64, 64, 64]),
    "equal group names": (["space", "names"], ["a", "a", "b", "c"]),
    "profile of other groups": (["profiled"], {"low": [1], "high": [2]}),
    "provenance without device": (["provenance"], {"network": "x"}),
    "holdout of text": (["holdout"], {"mape": "small"}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_file_is_refused_in_one_sentence(tmp_path, case):
    path = tmp_path / "cost.json"
    fit(simulated_profile(), "latency").save(path)
    path.write_text(json.dumps(broken(json.loads(path.read_text()), *HOSTILE[case])))
    with pytest.raises(InputError, match="cost model") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"schema": NaN}', b'{"schema": ' + b"9" * 6000 + b"}"],
    ids=["empty", "list", "no members", "not text", "deep", "NaN", "long number"],
)
def test_file_that_is_no_cost_model_is_refused(tmp_path, content):
    (tmp_path / "cost.json").write_bytes(content)
    with pytest.raises(InputError, match="cost model"):
        load(tmp_path / "cost.json")


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_bytes_raise_anything_but_input_errors(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "cost.json"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load(path)


def test_missing_file_and_missing_folder_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file or directory"):
        load(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        fit(simulated_profile(), "latency").save(tmp_path / "none" / "cost.json")


def spoiled(table, **changes):
    return replace(table, rows=table.rows.assign(**changes))


def test_rows_that_cannot_carry_a_fit_are_refused():
    table = simulated_profile(40)
    ratio = table.rows["latency_ratio"].to_numpy().copy()
    cases = {
        "energy of made up was not measured on simulated device": (table, "energy"),
        "the profile holds 9 rows of latency, a fit needs at least 10": (
            replace(table, rows=table.rows[:9], widths=table.widths[:9]),
            "latency",
        ),
        r"1 of 40 profile rows have no positive latency ratio \(first: row 5\)": (
            spoiled(table, latency_ratio=np.where(np.arange(40) == 5, np.nan, ratio)),
            "latency",
        ),
        "2 of 40 profile rows have no positive": (
            spoiled(table, latency_ratio=np.where(np.arange(40) < 2, -1.0, ratio)),
            "latency",
        ),
        "group 'stem' was only measured at width 32": (
            replace(table, widths=np.column_stack([np.full(40, 32), table.widths[:, 1:]])),
            "latency",
        ),
        "all profile rows have the same latency": (spoiled(table, latency_ratio=np.ones(40)), "latency"),
        r"mixes rows of several origins \(runtime: eager, compile\)": (
            spoiled(table, runtime=["eager"] * 20 + ["compile"] * 20),
            "latency",
        ),
        "the profile's dense latency is nan s": (replace(table, reference={"latency": (np.nan, 1, 2)}), "latency"),
        "profile row 0 has widths outside the network": (replace(table, widths=table.widths + 64), "latency"),
        "widths of shape": (replace(table, widths=table.widths[:, :2]), "latency"),
    }
    for message, (spoilt, metric) in cases.items():
        with pytest.raises(InputError, match=message):
            fit(spoilt, metric)


def test_noise_of_rows_comes_from_intervals_and_from_repeated_blocks():
    table = simulated_profile(200, noise=0.02)
    assert Samples.of(table, "latency").noise == pytest.approx(0.02, rel=1e-3)
    generator = np.random.default_rng(0)
    blocks = [list(np.exp(generator.normal(0, 0.06, 4))) if i % 2 else None for i in range(200)]
    noise = Samples.of(spoiled(table, block_ratios=blocks), "latency").noise
    assert noise[1::2] == pytest.approx(0.03, rel=0.1)  # 0.06 over the root of four blocks
    assert noise[0::2] == pytest.approx(0.06, rel=0.1)
