import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import side, simulated_profile

from ecc.core.layers import Layer, Side
from ecc.core.widths import WidthSpace
from ecc.energy_models.choice import surprise
from ecc.energy_models.samples import Samples
from ecc.energy_models.step_choice import STEPS, _Search
from ecc.energy_models.step_columns import StepColumns
from ecc.energy_models.stepped import SteppedProducts, stepped_terms

SPACE = WidthSpace(("p", "q", "r"), (40, 64, 24), (1, 1, 1))
JOINED = Side(((0.5, ("p",)), (0.3, ("q", "r")), (0.2, ())))
LAYERS = (
    Layer("a", "conv", Side(), side("p"), 1000, 0, 40),
    Layer("b", "conv", side("p"), side("q"), 7000, 40, 64),
    Layer("b.norm", "norm", Side(), side("q"), 0, 0, 64),
    Layer("c", "conv", JOINED, side("r"), 5000, 80, 24),
    Layer("d", "linear", Side(((1.0, ("q", "r")),)), Side(), 300, 64 * 24, 0),
    Layer("e", "linear", side("q"), side("r"), 900, 0, 0),
)

triples = st.tuples(*[st.sampled_from(STEPS)] * 3)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(("conv", "linear", "norm")), triples))
def test_columns_are_the_products_of_the_fitted_form(steps):
    widths = np.random.default_rng(0).integers(1, np.array(SPACE.dense) + 1, (50, 3)).astype(float)
    columns = StepColumns(SPACE, LAYERS, widths, STEPS)
    ours = columns.products(steps)
    terms = stepped_terms(SPACE, LAYERS, steps)
    products = SteppedProducts(SPACE, terms.factors)
    values = np.vstack([products.exact(torch.tensor(widths)).numpy(), products.dense.numpy()])
    theirs = {}  # by value, because products that rows cannot tell apart are one column
    for column, macs in zip(values.T, terms.macs, strict=True):
        theirs[np.round(column, 8).tobytes()] = theirs.get(np.round(column, 8).tobytes(), 0.0) + macs
    found = {}
    for column, macs in zip(columns.values(list(ours)), ours.values(), strict=True):
        found[np.round(column, 8).tobytes()] = found.get(np.round(column, 8).tobytes(), 0.0) + macs
    constant = np.ones(51).tobytes()
    theirs[constant] = theirs.get(constant, 0.0) + terms.fixed_macs
    assert found == pytest.approx(theirs)


def tiled(relative):
    """A device with tiles of 16 positions."""
    return 0.1 + 0.9 * np.ceil(relative * np.array(SPACE.dense) / 16 - 1e-9).mean(1) / 3


def search(rows, **options):
    samples = Samples.of(simulated_profile(rows, noise=0.05, net=(SPACE, LAYERS), cost=tiled), "latency")
    return _Search(samples, **{"noise": 0.03, "ridge": 1.0, "robust": False, **options})


@pytest.mark.parametrize("rows", [12, 90])
@pytest.mark.parametrize("ridge", [1.0, 0.0])
def test_a_bound_changes_only_what_exceeds_it(rows, ridge):
    found = search(rows, ridge=ridge)
    exact = [found.surprise_of(products) for _, products in found.changes({})]
    bound = float(np.median(exact))
    for value, (_, products) in zip(exact, found.changes({}), strict=True):
        bounded = found.surprise_of(products, bound)
        assert bounded == pytest.approx(value, abs=1e-4) if value < bound - 1e-4 else bounded > bound - 1e-3


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-4, 0.5), min_size=5, max_size=40), st.floats(1.0, 30.0), st.integers(0, 39))
def test_larger_errors_are_more_surprising(errors, times, place):
    before = np.array(errors)
    after = before.copy()
    after[place % len(after)] *= times
    assert surprise(after) > surprise(before) - 0.5
    assert math.isfinite(surprise(after))
