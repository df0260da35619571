"""How many weights each tensor keeps, against thresholds and sums that are worked out one by one."""

from __future__ import annotations

import itertools

import pytest
import torch

from ecc.core.errors import InputError
from ecc.stages.densities import RULES, by_sensitivity, largest

SIZES = {"a": (30, 20), "b": (10, 30), "c": (5, 10)}


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(shape, generator=generator)
        for (name, shape), scale in zip(SIZES.items(), (0.05, 0.5, 0.1), strict=True)
    }


def kept(scores, total):
    """The counts of the greatest scores of all."""
    every = sorted(((score, name) for name, each in scores.items() for score in each), reverse=True)[:total]
    return {name: sum(other == name for _, other in every) for name in scores}


def slow_scores(rule, each):
    values = each.flatten().double().tolist()
    if rule == "magnitude":
        return [abs(value) for value in values]
    if rule == "deviation":
        return [abs(value) / (sum(v * v for v in values) / len(values)) ** 0.5 for value in values]
    return [value**2 / sum(v * v for v in values if abs(v) >= abs(value)) for value in values]


@pytest.mark.parametrize("rule", ["lamp", "deviation", "magnitude"])
@pytest.mark.parametrize("total", [5, 95, 400, 950])
def test_a_rule_of_scores_keeps_the_greatest_of_all(rule, total):
    found = RULES[rule](weights(), total, dict.fromkeys(SIZES, 0))
    assert found == kept({name: slow_scores(rule, each) for name, each in weights().items()}, total)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_no_tensor_falls_below_its_floor_and_floors_count(rule):
    floors = {"a": 200, "b": 3, "c": 7}
    found = RULES[rule](weights(), 300, floors)
    assert all(found[name] >= floor for name, floor in floors.items())
    if rule != "uniform":
        assert sum(found.values()) == 300


def test_uniform_keeps_the_same_share():
    assert RULES["uniform"](weights(), 95, dict.fromkeys(SIZES, 0)) == {"a": 60, "b": 30, "c": 5}


def test_scaling_a_tensor_changes_only_the_rule_of_plain_magnitudes():
    scaled = {name: 7 * each if name == "a" else each for name, each in weights().items()}
    none = dict.fromkeys(SIZES, 0)
    for rule in ("lamp", "deviation", "uniform"):
        assert RULES[rule](scaled, 200, none) == RULES[rule](weights(), 200, none)
    assert RULES["magnitude"](scaled, 200, none) != RULES["magnitude"](weights(), 200, none)


def test_the_largest_are_marked_and_zeros_never():
    tensor = torch.tensor([[0.0, -3.0, 1.0], [2.0, 0.0, -0.5]])
    assert largest(tensor, 2).tolist() == [[False, True, False], [True, False, False]]
    assert int(largest(tensor, 6).sum()) == 4
    assert not largest(tensor, 0).any()


def test_sensitivities_are_spent_where_they_help_most():
    curves = {"a": [(0, 5.0), (10, 1.0), (20, 0.5)], "b": [(0, 2.0), (10, 1.5), (20, 0.0)]}
    tensors = {"a": torch.ones(20), "b": torch.ones(20)}
    none = {"a": 0, "b": 0}
    for total in (0, 5, 10, 20, 30, 35, 40):
        found = by_sensitivity(curves)(tensors, total, none)
        hull = {"a": [(0, 5.0), (10, 1.0), (20, 0.5)], "b": [(0, 2.0), (20, 0.0)]}

        def loss(counts, hull=hull):
            return sum(interpolated(hull[name], count) for name, count in counts.items())

        best = min(loss({"a": a, "b": b}) for a, b in itertools.product(range(21), range(21)) if a + b <= total)
        assert sum(found.values()) <= total
        assert loss(found) == pytest.approx(best)


def interpolated(points, x):
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]


def test_sensitivities_that_were_not_measured_are_refused():
    with pytest.raises(InputError, match="sensitivity of 'b' was not measured"):
        by_sensitivity({"a": [(1, 0.0)], "b": []})
