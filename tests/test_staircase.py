import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import brute_force_fraction, made_up_cost, residual_net, side, simulated_profile

from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.layers import Layer, Side
from ecc.core.widths import WidthSpace
from ecc.energy_models import bilinear
from ecc.energy_models.samples import Samples
from ecc.energy_models.staircase import StaircaseCost, fit, fit_samples
from ecc.energy_models.step_choice import choose_steps
from ecc.energy_models.stepped import SteppedProducts, SteppedSide, stepped_terms
from ecc.energy_models.terms import terms_of

CHANNELS = (64, 128, 96, 192, 256, 130)
PIXELS = (1024, 256, 256, 64, 64, 16)
NAMES = tuple(f"conv{i}" for i in range(len(CHANNELS)))


def chain(step=1):
    """A chain of 3 × 3 convolutions with norms, and a head."""
    space = WidthSpace(NAMES, CHANNELS, (step,) * len(CHANNELS))
    layers, reads, before = [], Side(), 3
    for name, channels, pixels in zip(NAMES, CHANNELS, PIXELS, strict=True):
        inside = before if reads.groups else 0
        layers.append(Layer(name, "conv", reads, side(name), 9 * before * channels * pixels, inside, channels))
        layers.append(Layer(f"{name}.norm", "norm", Side(), side(name), 0, 0, channels))
        reads, before = side(name), channels
    layers.append(Layer("head", "linear", reads, Side(), 10 * before, before, 0))
    return space, tuple(layers)


def array_cycles(relative, tile=32):
    """Cycles of ``chain`` on an output-stationary array, from SCALE-Sim's closed form, relative to dense."""

    def cycles(widths):
        before = np.column_stack([np.full(len(widths), 3.0), widths[:, :-1]])
        folds = np.ceil(np.array(PIXELS) / tile) * np.ceil(widths / tile - 1e-9)
        return (folds * (9 * before + 2 * tile - 2)).sum(1) + widths[:, -1] + 2 * tile - 2

    return cycles(relative * np.array(CHANNELS)) / cycles(np.array([CHANNELS], dtype=float))


def profile_of_array(rows=120, noise=0.05, seed=0, step=1, cost=array_cycles):
    return simulated_profile(rows, noise=noise, seed=seed, net=chain(step), cost=cost)


def error_of(cost, truth=array_cycles):
    rest = profile_of_array(500, noise=0.0, seed=99, cost=truth)
    predicted = cost.evaluate(torch.tensor(rest.widths, dtype=torch.float64)).numpy() / cost.dense
    return float(np.abs(predicted / truth(rest.widths / np.array(CHANNELS)) - 1).mean())


@pytest.mark.parametrize("seed", range(2))
def test_the_tiles_of_an_array_are_found_and_more_than_halve_the_error(seed):
    table = profile_of_array(200, seed=seed)
    cost = fit(table, "latency")
    assert cost.steps["conv"][:2] == (1, 32)
    assert error_of(cost) < 0.018 < 0.5 * error_of(bilinear.fit(table, "latency"))


def test_right_tiles_are_exact_where_nothing_is_noisy():
    table = profile_of_array(200, noise=0.0)
    assert error_of(fit(table, "latency", noise=0.0, steps={"conv": (1, 32, 1)})) < 1e-6


def smooth_cost(relative):
    """A device without tiles: products and sides of ``chain``."""
    before = np.column_stack([np.ones(len(relative)), relative[:, :-1]])
    return 0.1 + (before * relative).sum(1) * 0.1 + relative.sum(1) * 0.05


@pytest.mark.parametrize("seed", range(2))
def test_device_without_tiles_keeps_the_bilinear_model(seed):
    table = profile_of_array(120, seed=seed, cost=smooth_cost)
    cost = fit(table, "latency")
    assert cost.steps == {}
    plain = bilinear.fit(table, "latency")
    assert cost.coefficients == pytest.approx(plain.coefficients, rel=1e-6, abs=1e-9)
    widths = torch.tensor(table.widths, dtype=torch.float64)
    assert cost.evaluate(widths).numpy() == pytest.approx(plain.evaluate(widths).numpy(), rel=1e-7)


def test_tiles_that_the_grid_of_widths_hides_are_not_tried():
    wide = (64, 128, 96, 192, 256, 128)
    space = WidthSpace(NAMES, wide, (32,) * 6)
    layers = tuple(
        replace(
            layer,
            channels_in=128 if layer.channels_in == 130 else layer.channels_in,
            channels_out=128 if layer.channels_out == 130 else layer.channels_out,
        )
        for layer in chain()[1]
    )
    table = simulated_profile(100, net=(space, layers), cost=smooth_cost)
    kinds = fit(table, "latency").steps
    assert all(step == 1 or step > 32 for pair in kinds.values() for step in pair)


def test_outliers_hide_no_tiles_from_a_robust_fit():
    table = profile_of_array(200, seed=4)
    ratio = table.rows["latency_ratio"].to_numpy().copy()
    ratio[::8] *= np.where(np.arange(len(ratio[::8])) % 2, 6.0, 0.2)
    spoilt = replace(table, rows=table.rows.assign(latency_ratio=ratio))
    robust, plain = fit(spoilt, "latency", robust=True), fit(spoilt, "latency")
    assert robust.steps["conv"][:2] == (1, 32)
    assert error_of(robust) < 0.02
    assert error_of(plain) > 0.05


def blocked_cost(relative):
    """A device that computes in blocks of 16 channels, and copies what a layer writes unless that is whole blocks."""
    widths = np.round(relative * np.array(CHANNELS))
    return smooth_cost(relative) + 0.1 * (relative * (widths % 16 != 0)).sum(1)


@pytest.mark.parametrize("seed", range(2))
def test_what_ragged_sides_cost_is_found(seed):
    table = profile_of_array(200, noise=0.03, seed=seed, cost=blocked_cost)
    table = replace(table, widths=np.where(np.arange(200)[:, None] % 2, table.widths, -(-table.widths // 16) * 16))
    table = replace(table, widths=np.minimum(table.widths, CHANNELS))
    ratio = blocked_cost(table.widths / np.array(CHANNELS)) / blocked_cost(np.ones((1, len(CHANNELS))))
    ratio *= np.exp(np.random.default_rng(seed).normal(0, 0.03, 200))
    table = replace(table, rows=table.rows.assign(latency_ratio=ratio))
    cost = fit(table, "latency")
    assert 16 in {whole for _, _, whole in cost.steps.values()}

    def truth(relative):
        return blocked_cost(relative) / blocked_cost(np.ones((1, len(CHANNELS))))

    assert error_of(cost, truth) < 0.7 * error_of(bilinear.fit(table, "latency"), truth)
    assert math.fsum(cost.coefficients.values()) == pytest.approx(float(cost({})), rel=1e-9)
    again = StaircaseCost.from_fields(Fields(json.loads(json.dumps(cost.to_json())), "cost model"))
    assert again.terms == cost.terms


@pytest.mark.parametrize(("dense", "at_dense"), [(96, 0.0), (100, 1.0)])
def test_ragged_side_costs_in_proportion_where_it_is_not_whole_tiles(dense, at_dense):
    space = WidthSpace(("p",), (dense,), (1,))
    products = SteppedProducts(space, [(SteppedSide(side("p"), dense, 32, ragged=True),)])
    widths = torch.tensor([[1.0], [31], [32], [33], [64], [95], [dense]], dtype=torch.float64)
    expected = [1 / dense, 31 / dense, 0, 33 / dense, 0, 95 / dense, at_dense]
    assert products.exact(widths)[:, 0].tolist() == pytest.approx(expected)
    assert products.dense.tolist() == [at_dense]
    edges = torch.tensor([[32.0], [64], [96], [dense]], dtype=torch.float64)
    assert products.smooth(edges)[:, 0].tolist() == products.exact(edges)[:, 0].tolist() == [0, 0, 0, at_dense]


def brute_force_stepped(stepped, relative):
    """A stepped side by its definition."""
    fraction = brute_force_fraction(stepped.side, relative)
    if stepped.step == 1:
        return fraction
    kept = round(fraction * stepped.positions, 6)
    if stepped.ragged:
        return fraction if kept % stepped.step else 0.0
    return math.ceil(kept / stepped.step) / math.ceil(stepped.positions / stepped.step)


@given(
    st.lists(st.integers(1, 48), min_size=3, max_size=3),
    st.sampled_from([1, 2, 4, 8, 16, 32]),
    st.sampled_from([1, 4, 16, 64]),
)
@settings(max_examples=50, deadline=None)
def test_products_of_concatenated_and_flattened_sides_are_rounded_in_positions(widths, reads, writes):
    space = WidthSpace(("p", "q", "r"), (48, 48, 48), (1, 1, 1))
    concatenated = Side(((0.5, ("p",)), (0.5, ("q",))))
    layers = (
        Layer("a", "conv", concatenated, side("r"), 100, 96, 48),
        Layer("b", "linear", side("r"), Side(), 50, 48 * 9, 0),
        Layer("c", "matmul", side("p", "q"), side("r"), 20, 48 * 48, 48),
    )
    steps = {"conv": (reads, writes, writes), "linear": (reads, 1, 4), "matmul": (writes, reads, reads)}
    terms = stepped_terms(space, layers, steps)
    relative = {name: width / 48 for name, width in zip(space.names, widths, strict=True)}
    expected = [math.prod(brute_force_stepped(each, relative) for each in factors) for factors in terms.factors]
    found = SteppedProducts(space, terms.factors).exact(torch.tensor(widths, dtype=torch.float64))
    assert found.numpy() == pytest.approx(expected, rel=1e-9)
    assert len(set(terms.names)) == len(terms.names)


def test_without_steps_the_terms_are_those_of_the_bilinear_model():
    space, layers = residual_net()
    plain, stepped = terms_of(space, layers), stepped_terms(space, layers, {})
    assert dict(zip(stepped.names, stepped.macs, strict=True)) == dict(zip(plain.names, plain.macs, strict=True))


@pytest.fixture(scope="module")
def stepped_cost():
    return fit(profile_of_array(), "latency", steps={"conv": (16, 32, 8), "norm": (1, 8, 1), "linear": (32, 1, 1)})


def test_stand_in_agrees_with_the_value_on_whole_tiles_and_at_dense_widths(stepped_cost):
    generator = np.random.default_rng(0)
    whole = 32 * generator.integers(1, np.array(CHANNELS) // 32 + 1, size=(50, len(CHANNELS)))
    widths = torch.tensor(np.vstack([whole, CHANNELS]), dtype=torch.float64)
    # norms have half tiles of 8 and the head tiles of 32: all divide 32; double tiles of 64 do not
    single = replace(stepped_cost, terms=tuple(t for t in stepped_cost.terms if "/64" not in t.name))
    assert single.smooth(widths).numpy() == pytest.approx(single.evaluate(widths).numpy(), rel=1e-12)


@pytest.mark.parametrize(("dense", "step"), [(96, 32), (130, 32), (65, 64), (7, 2)])
def test_stand_in_rises_along_chords_from_tile_edge_to_tile_edge(dense, step):
    space = WidthSpace(("p",), (dense,), (1,))
    products = SteppedProducts(space, [(SteppedSide(side("p"), dense, step),)])
    edges = sorted({*range(step, dense + 1, step), dense})
    between = torch.arange(1, dense, 0.25, dtype=torch.float64)
    expected = np.interp(between, edges, [math.ceil(edge / step) / math.ceil(dense / step) for edge in edges])
    assert products.smooth(between[:, None])[:, 0].numpy() == pytest.approx(expected, abs=1e-12)
    assert (products.smooth(between[:, None]) <= products.exact(between[:, None]) + 1e-12).all()


def test_value_is_the_staircase_and_gradient_that_of_the_stand_in(stepped_cost):
    widths = torch.tensor([37.0, 50.0, 70.0, 100.0, 201.0, 99.0], dtype=torch.float64, requires_grad=True)
    value = stepped_cost.evaluate(widths)
    assert float(value.detach()) == float(stepped_cost.evaluate(widths.detach()))
    (gradient,) = torch.autograd.grad(value, widths)
    for column in range(len(CHANNELS)):
        step = torch.zeros_like(widths)
        step[column] = 0.5  # within one tile of every size, where the stand-in is linear in each width
        difference = float((stepped_cost.smooth(widths + step) - stepped_cost.smooth(widths - step)).detach())
        assert float(gradient[column]) == pytest.approx(difference, rel=1e-9, abs=1e-12)
    assert (gradient > 0).any()


def test_steps_are_constant_between_edges(stepped_cost):
    first = stepped_cost({"conv0": 33, "conv3": 65})
    assert first.shape == ()
    only_products = replace(stepped_cost, terms=tuple(t for t in stepped_cost.terms if "⌈conv3/32⌉" in t.name))
    widths = torch.tensor([CHANNELS], dtype=torch.float64).repeat(2, 1)
    widths[:, 3] = torch.tensor([65.0, 96.0])
    values = only_products.evaluate(widths)
    assert float(values[0]) == float(values[1])


def test_saved_staircase_is_the_same_staircase(stepped_cost):
    again = StaircaseCost.from_fields(Fields(json.loads(json.dumps(stepped_cost.to_json())), "cost model"))
    assert again.terms == stepped_cost.terms
    assert dict(again.steps) == dict(stepped_cost.steps)
    widths = torch.tensor([[30, 31, 32, 33, 64, 65]], dtype=torch.float64)
    assert float(again.evaluate(widths)) == float(stepped_cost.evaluate(widths))


HOSTILE = {
    "negative coefficient": (["terms", 0, "value"], -1.0),
    "step of zero": (["terms", 0, "sides", 0, "step"], 0),
    "huge step": (["terms", 0, "sides", 0, "step"], 1 << 40),
    "steps without positions": (["terms", 0, "sides", 0], {"parts": [[1.0, ["conv0"]]], "positions": 0, "step": 8}),
    "huge axis": (["terms", 0, "sides", 0, "positions"], 1 << 50),
    "side that is no object": (["terms", 0, "sides", 0], [1]),
    "unknown group": (["terms", 0, "sides", 0, "parts"], [[1.0, ["nobody"]]]),
    "no sides": (["terms", 0, "sides"], []),
    "terms of equal names": (["terms", 1, "name"], "constant"),
    "steps of one number": (["steps", "conv"], [1]),
    "steps below one": (["steps", "conv"], [0, 1]),
    "steps that are text": (["steps"], "none"),
    "many kinds": (["steps"], {f"kind{i}": [1, 2] for i in range(100)}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_staircase_is_refused_in_one_sentence(stepped_cost, case):
    (*way, last), value = HOSTILE[case]
    document = json.loads(json.dumps(stepped_cost.to_json()))
    inner = document
    for key in way:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(InputError) as caught:
        StaircaseCost.from_fields(Fields(document, "cost model"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"recurrent": (1, 8, 1)}, "the network has no layer of kind 'recurrent', only conv, linear, norm"),
        ({"conv": (0, 8, 1)}, r"kind 'conv' needs three whole numbers ≥ 1 \(reads, writes, ragged\), got \(0, 8, 1\)"),
        ({"conv": (8,)}, "kind 'conv' needs three whole numbers"),
    ],
)
def test_steps_that_are_no_steps_are_refused(steps, message):
    with pytest.raises(InputError, match=message):
        fit(profile_of_array(20), "latency", steps=steps)


def test_steps_are_chosen_from_rows_drawn_at_random_even_if_others_are_fitted_to():
    table = profile_of_array(150, seed=7)
    purposes = np.where(np.arange(150) < 30, "corner", "random")
    samples = Samples.of(replace(table, rows=table.rows.assign(purpose=purposes)), "latency")
    assert choose_steps(samples)["conv"][1] == 32
    assert fit_samples(samples).steps["conv"][1] == 32


def test_few_rows_of_another_network_fit_without_steps():
    cost = fit(simulated_profile(12, noise=0.1), "latency")
    rest = simulated_profile(100, noise=0.0, seed=99)
    truth = made_up_cost(rest.widths / 64) * 0.004
    assert np.abs(cost(torch.from_numpy(rest.widths)).numpy() / truth - 1).mean() < 0.15


@pytest.mark.parametrize("tile", [24, 48])
def test_tiles_of_three_registers_are_found(tile):
    table = profile_of_array(200, cost=lambda relative: array_cycles(relative, tile))
    assert fit(table, "latency").steps["conv"][1] == tile
