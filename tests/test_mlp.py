import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import made_up_cost, side, simulated_profile

from ecc.core.errors import InputError
from ecc.core.layers import Layer
from ecc.core.widths import WidthSpace
from ecc.energy_models import bilinear, mlp
from ecc.energy_models.fitted import FittedCost
from ecc.energy_models.loading import load_cost as load
from ecc.energy_models.mlp import MlpCost, fit, fit_samples
from ecc.energy_models.mlp_training import Networks, Targets, train
from ecc.energy_models.samples import Samples


def bent_cost(relative):
    """Not bilinear: a cache that the widest layers fall out of."""
    s, a, b, _ = relative.T
    return made_up_cost(relative) * (1 + 0.5 / (1 + np.exp(-12 * (s * a - 0.4))) - 0.25 * np.sin(5 * b))


def stepped_cost(relative):
    return made_up_cost(np.ceil(relative * 4) / 4)


def small_net():
    """Groups too narrow for any step."""
    space = WidthSpace(("p", "q"), (8, 6), (1, 1))
    layers = (
        Layer("one", "conv", side(), side("p"), 100),
        Layer("two", "conv", side("p"), side("q"), 900),
    )
    return space, layers


def error(cost: FittedCost, truth, seed=99):
    rest = simulated_profile(400, noise=0.0, seed=seed)
    predicted = cost(torch.from_numpy(rest.widths)).numpy() / 0.004
    return float(np.abs(predicted / truth(rest.widths / 64) - 1).mean())


@pytest.fixture(scope="module")
def bent():
    return fit(simulated_profile(300, noise=0.01, cost=bent_cost), "latency")


@pytest.mark.parametrize("truth", [bent_cost, stepped_cost])
def test_what_is_not_bilinear_is_learnt(truth):
    table = simulated_profile(400, noise=0.01, cost=truth)
    assert error(fit(table, "latency"), truth) < 0.6 * error(bilinear.fit(table, "latency"), truth)


@pytest.mark.parametrize("rows", [10, 20, 40, 100])
def test_few_rows_give_the_bilinear_model_or_better(rows):
    excess = []
    for seed in range(6):
        table = simulated_profile(rows, noise=0.05, seed=seed)
        excess.append(error(fit(table, "latency"), made_up_cost) / error(bilinear.fit(table, "latency"), made_up_cost))
    assert np.mean(excess) < 1.03


def test_noise_alone_is_not_learnt():
    for seed in range(4):
        generator = np.random.default_rng(seed)
        table = simulated_profile(60, noise=0.0, cost=lambda w: 0.5 * np.exp(generator.normal(0, 0.1, len(w))))  # noqa: B023
        assert error(fit(table, "latency"), lambda w: np.full(len(w), 0.5)) < 0.08


def test_same_seed_same_model_whatever_else_was_drawn(bent):
    table = simulated_profile(300, noise=0.01, cost=bent_cost)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    again, other = fit(table, "latency"), fit(table, "latency", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert again.to_json() == bent.to_json()
    assert other.to_json() != bent.to_json()


def test_prediction_is_the_base_times_the_mean_of_the_networks_by_hand(bent):
    widths = {"stem": 20, "a": 33, "b": 5, "c": 64}
    vector = np.array([widths[name] for name in bent.space.names])
    correction = bent.correction
    says = []
    for k in range(len(bent.rivals)):
        total = float(correction.networks.shift[k])
        for h in range(correction.networks.bias.shape[1]):
            inner = float(correction.networks.bias[k, h])
            for i, (group, step) in enumerate(zip(correction.group.tolist(), correction.step.tolist(), strict=True)):
                width = vector[group]
                value = np.log(-(-width // step) * step / width) if step else width / 64
                standard = (value - float(correction.mean[i])) * float(correction.scale[i])
                inner += float(correction.networks.into[i, k, h]) * standard
            total += float(correction.networks.out[k, h]) * np.tanh(inner)
        says.append(total)
    assert float(bent(widths)) == pytest.approx(float(bent.base(widths)) * np.exp(np.mean(says)), rel=1e-10)
    members = []
    for k, (constant, *values) in enumerate(bent.rivals):
        terms = tuple(replace(term, value=value) for term, value in zip(bent.base.terms, values, strict=True))
        members.append(np.log(float(replace(bent.base, constant=constant, terms=terms)(widths))) + says[k])
    assert float(bent.spread(widths)) == pytest.approx(np.sqrt(4) * np.std(members), rel=1e-8)


def test_gradient_agrees_with_finite_differences_where_there_are_no_steps():
    def cost(relative):
        return 0.2 + 0.8 * relative[:, 0] ** 2 * (0.2 + relative[:, 1] ** 3)

    model = fit(simulated_profile(200, net=small_net(), cost=cost, noise=0.01), "latency")
    assert model.correction is not None
    widths = torch.tensor([5.3, 3.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, (widths,))


def test_gradient_is_that_between_steps():
    model = fit(simulated_profile(400, noise=0.01, cost=stepped_cost), "latency")
    near = torch.tensor([[16.0] * 4, [17.0] * 4], dtype=torch.float64, requires_grad=True)
    total = model(near)
    (gradient,) = torch.autograd.grad(total.sum(), near)
    low, high = total.tolist()
    assert high / low > 1.25  # a whole step of four groups
    part = gradient.sum(-1) / torch.tensor([low, high])
    assert float(part.min()) > 0
    assert float(part.max()) < 0.1  # one channel's part of a step


def test_batches_of_widths_are_taken_in_any_shape(bent):
    widths = torch.from_numpy(simulated_profile(12).widths).double()
    flat = bent(widths)
    assert torch.allclose(bent(widths.reshape(3, 4, 4)), flat.reshape(3, 4), rtol=1e-12)
    assert torch.allclose(bent.spread(widths.reshape(3, 4, 4)), bent.spread(widths).reshape(3, 4), rtol=1e-12)
    assert flat.dtype == torch.float64
    assert bent(widths[:0]).shape == (0,)


def test_a_width_of_nothing_still_has_a_cost_and_a_gradient(bent):
    widths = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    value = bent(widths)
    (gradient,) = torch.autograd.grad(value, widths)
    assert 0 < value.item() < bent.dense
    assert torch.isfinite(gradient).all()


def test_spread_tells_how_far_from_the_truth_the_model_is():
    rest = simulated_profile(400, noise=0.0, seed=99)
    widths = torch.from_numpy(rest.widths)
    ratios, spreads = [], []
    for rows in (40, 160, 640):
        cost = fit(simulated_profile(rows, noise=0.05), "latency")
        off = np.log(cost(widths).numpy() / 0.004 / made_up_cost(rest.widths / 64))
        spread = cost.spread(widths).numpy()
        spreads.append(float(spread.mean()))
        ratios.append(float(np.sqrt((off**2).mean() / (spread**2).mean())))
    assert spreads == sorted(spreads, reverse=True)
    assert all(0.3 < ratio < 2.5 for ratio in ratios)


def test_seconds_and_joules_give_the_same_model():
    seconds = fit(simulated_profile(reference=(0.004, 0.0039, 0.0041), cost=bent_cost), "latency")
    joules = fit(simulated_profile(reference=(40.0, 39.0, 41.0), metrics=("energy",), cost=bent_cost), "energy")
    widths = {"stem": 20, "a": 7}
    assert seconds.correction is not None
    assert float(joules(widths)) == pytest.approx(float(seconds(widths)) * 1e4, rel=1e-9)
    assert joules.unit == "J"


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9])
def test_rows_of_any_number_give_a_cost(rows):
    samples = Samples.of(simulated_profile(12), "latency").take(np.arange(rows))
    cost = fit_samples(samples)
    assert torch.isfinite(cost(torch.from_numpy(samples.widths))).all()
    assert torch.isfinite(cost.spread({})).all()


def test_rows_of_one_width_are_never_on_both_sides_of_a_part():
    once = simulated_profile(30, noise=0.0)
    generator = np.random.default_rng(0)
    rows = once.rows.loc[np.repeat(np.arange(30), 6)].reset_index(drop=True)
    rows["latency_ratio"] = np.repeat(generator.uniform(0.3, 1.0, 30), 6)  # learnt by heart, and nothing else
    repeated = replace(once, widths=np.repeat(once.widths, 6, axis=0), rows=rows)
    assert fit(repeated, "latency").correction is None


def test_rows_that_were_not_drawn_at_random_are_seen_by_all_members():
    table = simulated_profile(60, noise=0.02, cost=bent_cost)
    purposes = ["random"] * 50 + ["corner"] * 10
    chosen = replace(table, rows=table.rows.assign(purpose=purposes))
    assert fit(chosen, "latency").rivals != fit(table, "latency").rivals
    few = replace(table, rows=table.rows.assign(purpose=["random"] * 3 + ["corner"] * 57))
    assert fit(few, "latency").rivals == fit(table, "latency").rivals


def test_robust_fit_is_not_led_by_outliers():
    errors = {True: [], False: []}
    for seed in range(3):
        table = simulated_profile(200, noise=0.01, cost=bent_cost, seed=seed)
        rows = table.rows.copy()
        rows.loc[:19, "latency_ratio"] *= np.exp(np.random.default_rng(seed).normal(0.8, 0.3, 20))
        for robust, found in errors.items():
            found.append(error(fit(replace(table, rows=rows), "latency", robust=robust), bent_cost))
    assert np.mean(errors[True]) < 0.7 * np.mean(errors[False])


def test_training_stops_where_rows_not_seen_no_longer_gain():
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(120, 3))
    part = np.arange(120) % 4
    signal = np.repeat(np.tanh(inputs @ [1.0, -2.0, 0.5])[:, None], 4, axis=1)
    for wanted, least, most in ((signal, 0.8, 1.01), (generator.normal(size=(120, 4)), -0.5, 0.5)):
        _, told = train(Targets(inputs, wanted, part, np.ones(120)), hidden=8, seed=0)
        truth = wanted[np.arange(120), part]
        assert least < np.corrcoef(told, truth)[0, 1] < most if told.any() else least < 0
        assert ((truth - told) ** 2).sum() <= (truth**2).sum()


def test_rows_of_no_weight_teach_nothing():
    generator = np.random.default_rng(0)
    inputs, part = generator.normal(size=(100, 2)), np.arange(100) % 5
    wanted = np.repeat(inputs[:, :1], 5, axis=1)
    spoilt, weights = wanted.copy(), np.ones(100)
    spoilt[:30], weights[:30] = 50.0, 0.0
    ours, _ = train(Targets(inputs, wanted, part, weights), hidden=4, seed=0)
    theirs, _ = train(Targets(inputs, spoilt, part, weights), hidden=4, seed=0)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(ours.tensors, theirs.tensors, strict=True))


def test_networks_never_say_more_than_their_bound():
    networks = Networks.random(3, 2, 5, torch.Generator().manual_seed(0))
    networks.out.normal_(generator=torch.Generator().manual_seed(1))
    networks.shift.fill_(-0.3)
    said = networks(1e6 * torch.randn(500, 3, generator=torch.Generator().manual_seed(2)))
    assert float(said.abs().max()) <= networks.bound * (1 + 1e-6)


def test_saved_model_is_the_same_model(tmp_path, bent):
    plain = fit(simulated_profile(12), "latency")
    assert (bent.correction is None, plain.correction is None) == (False, True)
    for cost in (bent, plain):
        judged = replace(cost, calibration=(0.01, 0.02), holdout={"mape": 0.01})
        judged.save(tmp_path / "cost.json")
        again = load(tmp_path / "cost.json")
        assert isinstance(again, MlpCost)
        assert again.to_json() == judged.to_json()
        widths = {"stem": 30, "a": 17}
        assert float(again(widths)) == float(cost(widths))
        assert float(again.spread(widths)) == float(cost.spread(widths))


def broken(document, path, value):
    *way, last = path
    inner = document
    for key in way:
        inner = inner[key]
    inner[last] = value
    return document


HOSTILE = {
    "no base": (["base"], None),
    "base of negative cost": (["base", "constant"], -1.0),
    "members that are no list": (["members"], {"0": [1.0]}),
    "no members": (["members"], []),
    "member of other terms": (["members", 0], [1.0]),
    "member of negative cost": (["members", 0, 0], -1.0),
    "member of nothing": (["members", 0], [0.0] * 9),
    "member of text": (["members", 0, 0], "1"),
    "correction that is no object": (["correction"], [1, 2]),
    "input of no group": (["correction", "groups", 0], 4),
    "negative group": (["correction", "groups", 0], -1),
    "no inputs": (["correction", "groups"], []),
    "huge step": (["correction", "steps", 0], 1 << 60),
    "no hidden unit": (["correction", "hidden"], 0),
    "hidden units without end": (["correction", "hidden"], 1 << 40),
    "more hidden units than weights": (["correction", "hidden"], 17),
    "weights of text": (["correction", "into", 0], "1"),
    "true for a weight": (["correction", "into", 0], True),
    "huge weight": (["correction", "into", 0], 10**400),
    "too few weights": (["correction", "out"], [0.1]),
    "networks that say too much": (["correction", "shift", 0], 1e6),
    "nested weights": (["correction", "shift"], [[0.0]] * 5),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_file_is_refused_in_one_sentence(tmp_path, bent, case):
    path = tmp_path / "cost.json"
    bent.save(path)
    path.write_text(json.dumps(broken(json.loads(path.read_text()), *HOSTILE[case])))
    with pytest.raises(InputError, match=r"cost\.json' is damaged or not from this program: ") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_many_inputs_get_fewer_hidden_units(monkeypatch):
    monkeypatch.setattr(mlp, "_MOST_WEIGHTS", 400)
    cost = fit(simulated_profile(200, noise=0.01, cost=bent_cost), "latency")
    assert cost.correction is not None
    assert cost.correction.networks.into.numel() <= 400
