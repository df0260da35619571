import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import brute_force_fraction, side

from ecc.core.layers import Layer, Side, SumOfProducts
from ecc.core.widths import WidthSpace

GROUPS = ("p", "q", "r")
SPACE = WidthSpace(GROUPS, (4, 10, 7), (1, 1, 1))

sides = st.lists(
    st.tuples(st.integers(1, 5), st.lists(st.sampled_from([*GROUPS, "outside"]), max_size=3)), min_size=1, max_size=4
).map(lambda parts: Side(tuple((weight / sum(w for w, _ in parts), tuple(names)) for weight, names in parts)))
terms = st.lists(st.lists(sides, max_size=4), max_size=5)
vectors = st.tuples(st.integers(1, 4), st.integers(1, 10), st.integers(1, 7))


@given(sides, vectors)
def test_fraction_is_its_definition(value, vector):
    relative = {name: width / dense for name, width, dense in zip(GROUPS, vector, SPACE.dense, strict=True)}
    assert value.fraction(relative) == pytest.approx(brute_force_fraction(value, relative), rel=1e-12)
    assert value.fraction({}) == pytest.approx(1.0)


@given(terms, st.lists(vectors, min_size=1, max_size=3))
@settings(deadline=None)
def test_products_of_a_batch_are_the_products_of_fractions(products, batch):
    found = SumOfProducts(SPACE, products)(torch.tensor(batch))
    assert found.shape == (len(batch), len(products))
    for row, vector in zip(found.tolist(), batch, strict=True):
        relative = {name: width / dense for name, width, dense in zip(GROUPS, vector, SPACE.dense, strict=True)}
        expected = [np.prod([brute_force_fraction(each, relative) for each in term]) for term in products]
        assert row == pytest.approx(expected, rel=1e-12)


@given(terms.filter(len), vectors)
@settings(deadline=None)
def test_gradient_is_that_of_the_polynomial(products, vector):
    evaluate = SumOfProducts(SPACE, products)
    # the step's truncation error is h² f''' / 6 with |f'''| ≤ 12³ per relative width; rounding is 1e-16 / h
    assert torch.autograd.gradcheck(
        evaluate, torch.tensor(vector, dtype=torch.float64, requires_grad=True), eps=1e-5, atol=1e-6
    )


def test_gradient_is_right_at_width_zero():
    widths = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    value = SumOfProducts(SPACE, [[side("p")], [side("q"), side("q")]])(widths)
    (gradient,) = torch.autograd.grad(value.sum(), widths)
    assert gradient.tolist() == [0.25, 0.0, 0.0]


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 4, 3), (0, 3)], ids=str)
def test_leading_axes_are_kept(shape):
    assert SumOfProducts(SPACE, [[side("p")], []])(torch.ones(shape)).shape == (*shape[:-1], 2)


def test_network_without_prunable_groups_costs_its_dense_value():
    evaluate = SumOfProducts(WidthSpace((), (), ()), [[side("outside")], []])
    assert evaluate(torch.zeros(5, 0)).tolist() == [[1.0, 1.0]] * 5


@given(sides, sides, st.integers(0, 1 << 40))
def test_layer_survives_json(reads, writes, macs):
    layer = Layer("name", "conv", reads, writes, macs)
    assert Layer.from_json(layer.to_json()) == layer


def test_groups_of_a_side():
    assert Side(((0.5, ("p", "q")), (0.25, ()), (0.25, ("q",)))).groups == {"p", "q"}
    assert side().groups == frozenset()
