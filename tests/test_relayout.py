"""Products laid anew: the rule of ranks, sizes for a budget, variance of random factors, least squares."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecc.stages.low_rank import decompose
from ecc.stages.relayout import Relayout, drawn_factors, fitted_factors, fitting_relayout


def poured(layout: Relayout, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return (
        (left.double() @ right.double())
        .flatten()[: layout.outputs * layout.inputs]
        .reshape(layout.outputs, layout.inputs)
    )


SIDES = st.integers(1, 24)


@given(SIDES, SIDES, st.integers(1, 30), st.integers(1, 3), st.integers(0, 9))
@settings(deadline=None)
def test_the_rank_is_at_most_that_of_the_rule(outputs, inputs, columns, rank, seed):
    columns = min(columns, outputs * inputs)
    layout = Relayout(outputs, inputs, columns, min(rank, columns))
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(shape, generator=generator).double() for shape in ((layout.rows, rank), (rank, columns))]
    found = int(torch.linalg.matrix_rank(poured(Relayout(outputs, inputs, columns, rank), *factors)))
    assert found <= Relayout(outputs, inputs, columns, rank).largest_rank


def test_the_rule_is_met_with_equality_nearly_always():
    random = np.random.default_rng(0)
    met = 0
    for _ in range(60):
        outputs, inputs, rank = (int(each) for each in random.integers([8, 8, 1], [60, 60, 4]))
        layout = Relayout(outputs, inputs, int(random.integers(rank, outputs * inputs // 2)), rank)
        generator = torch.Generator().manual_seed(0)
        factors = [torch.randn(shape, generator=generator).double() for shape in
                   ((layout.rows, rank), (rank, layout.columns))]  # fmt: skip
        met += int(torch.linalg.matrix_rank(poured(layout, *factors))) == min(layout.largest_rank, _rows(layout))
    assert met >= 54


def _rows(layout: Relayout) -> int:
    return layout.rank * (layout.rows + layout.columns)  # no more than there are floats


@pytest.mark.parametrize(("columns", "rank"), [(512, 1), (256, 2), (384, 6), (500, 252), (513, 512)])
def test_the_published_sizes_have_the_ranks_of_the_reference(columns, rank):
    layout = Relayout(512, 512, columns, 1)
    weight = poured(layout, *drawn_factors(layout, 1.0, torch.Generator().manual_seed(0)))
    values = torch.linalg.svdvals(weight)
    assert int((values > 1e-9 * values[0]).sum()) == rank
    assert layout.largest_rank == rank


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 40_000))
@settings(deadline=None)
def test_sizes_keep_to_the_budget_and_are_coprime(outputs, inputs, floats):
    layout = fitting_relayout(outputs, inputs, floats)
    smallest = fitting_relayout(outputs, inputs, 0)
    assert math.gcd(layout.columns, inputs) == 1
    assert layout.floats <= max(floats, smallest.floats)
    assert 1 <= layout.rank <= min(layout.rows, layout.columns)
    assert layout.rows * layout.columns >= outputs * inputs > (layout.rows - 1) * layout.columns
    root = 2 * math.sqrt(outputs * inputs)
    assert smallest.rank == 1
    assert smallest.floats <= root + 16
    if smallest.floats + 16 < floats < outputs * inputs / 2:
        assert layout.floats > floats - max(root, 0.1 * floats) - 16


def test_random_factors_have_the_variance_that_is_asked_for():
    for rank in (1, 4, 16):
        layout = Relayout(300, 200, 243, rank)
        weight = poured(layout, *drawn_factors(layout, 0.01, torch.Generator().manual_seed(1)))
        assert float(weight.var()) == pytest.approx(0.01, rel=0.25)
        assert abs(float(weight.mean())) < 0.01


def test_the_fit_of_a_filled_product_is_a_truncated_decomposition():
    layout = Relayout(12, 20, 16, 3)  # 240 = 15 × 16
    values = torch.randn(12, 20)
    left, right = fitted_factors(values, layout)
    error = float((poured(layout, left, right) - values).double().norm())
    assert error == pytest.approx(float(torch.linalg.svdvals(values.reshape(15, 16).double())[3:].norm()), rel=1e-9)
    assert torch.allclose(left.T @ left, right @ right.T, atol=1e-9)


def test_a_weight_that_is_such_a_product_is_found_again():
    layout = Relayout(9, 14, 11, 2)  # 126 = 11 · 11 + 5: the last row is not filled
    weight = poured(layout, *drawn_factors(layout, 1.0, torch.Generator().manual_seed(3)))
    found = poured(layout, *fitted_factors(weight, layout))
    start = decompose(torch.cat([weight.flatten(), torch.zeros(6)]).reshape(12, 11))
    assert float((found - weight).norm()) < 0.05 * float(weight.norm())
    assert float((found - weight).norm()) <= start.dropped(2) + 1e-9


@given(st.integers(2, 12), st.integers(2, 12), st.integers(2, 12), st.integers(0, 5))
@settings(deadline=None)
def test_unfilled_elements_only_help(outputs, inputs, columns, seed):
    layout = Relayout(outputs, inputs, min(columns, outputs * inputs), 1)
    values = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)).double()
    flat = torch.cat([values.flatten(), values.new_zeros(layout.rows * layout.columns - values.numel())])
    plain = decompose(flat.reshape(layout.rows, layout.columns)).factors(1)
    error = (poured(layout, *fitted_factors(values, layout)) - values).norm()
    assert float(error) <= float((poured(layout, *plain) - values).norm()) + 1e-9
