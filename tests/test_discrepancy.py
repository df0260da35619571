import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ecc.api.discrepancy import Discrepancy, Reading, distance
from ecc.core.errors import InputError

SPREAD = 0.02


def exact(predicted, measured, apart=0.0):
    """A reading with as narrow an interval as is believed."""
    return Reading(predicted, measured, measured, measured, apart)


def noisy(predicted, measured, noise, apart=0.0):
    reach = math.exp(1.959963984540054 * noise)
    return Reading(predicted, measured, measured / reach, measured * reach, apart)


@given(st.floats(0.05, 0.95), st.floats(-0.2, 0.2), st.floats(0, 0.2))
def test_what_was_measured_at_the_widths_is_what_is_expected_there(limit, error, away):
    predicted = limit * math.exp(away)
    known = Discrepancy.of(limit, SPREAD, [exact(predicted, predicted * math.exp(error))])
    value, spread = known.measured(predicted)
    assert math.log(value / predicted) == pytest.approx(error, abs=0.012)
    assert spread < 0.01


@given(st.floats(0.05, 0.95), st.floats(-0.2, 0.2))
def test_the_limit_brings_what_is_expected_to_the_bound(limit, error):
    known = Discrepancy.of(limit, SPREAD, [exact(limit, limit * math.exp(error))])
    assert known.measured(known.limit(limit))[0] == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize(("offset", "scale"), [(0.1, 0.0), (-0.05, 0.2), (0.0, -0.3)])
def test_offset_and_scale_are_found_from_readings_of_a_line(offset, scale):
    centre = 0.5
    xs = np.log(centre) + np.linspace(-0.5, 0.5, 15)
    readings = [exact(math.exp(x), math.exp(x + offset + scale * (x - math.log(centre)))) for x in xs]
    known = Discrepancy.of(centre, SPREAD, readings)
    assert known.mean == pytest.approx([offset, scale], abs=0.01)


def test_posterior_is_that_of_weighted_least_squares_with_priors():
    readings = [noisy(0.6, 0.63, 0.02), noisy(0.5, 0.51, 0.01), noisy(0.45, 0.47, 0.015)]
    known = Discrepancy.of(0.5, SPREAD, readings)
    rows = [(1.0, math.log(each.predicted / 0.5), math.log(each.measured / each.predicted), s)
            for each, s in zip(readings, (0.02, 0.01, 0.015), strict=True)]  # fmt: skip
    prior = [(1.0, 0.0, 0.0, math.hypot(SPREAD, 0.05)), (0.0, 1.0, 0.0, 0.3)]
    design = np.array([[a / s, b / s] for a, b, _, s in rows + prior])
    target = np.array([y / s for _, _, y, s in rows + prior])
    expected, *_ = np.linalg.lstsq(design, target, rcond=None)
    assert known.mean == pytest.approx(expected, rel=1e-9)
    assert known.covariance == pytest.approx(np.linalg.inv(design.T @ design), rel=1e-9)


def test_without_readings_the_model_is_believed_as_far_as_it_promises():
    known = Discrepancy.of(0.5, SPREAD, [])
    value, spread = known.measured(0.5)
    assert value == pytest.approx(0.5)
    assert spread == pytest.approx(math.sqrt(2 * SPREAD**2 + 0.05**2))
    assert Discrepancy.of(0.5, math.inf, []).measured(0.5)[1] > 0.3


def test_a_chance_keeps_the_limit_clear_by_its_quantile():
    readings = [noisy(0.5, 0.52, 0.02)]
    known = Discrepancy.of(0.5, SPREAD, readings)
    lower = known.limit(0.5, float(stats.norm.ppf(0.95)))
    value, spread = known.measured(lower)
    assert stats.norm.cdf(math.log(0.5 / value) / spread) == pytest.approx(0.95, abs=1e-6)
    assert lower < known.limit(0.5)


def test_far_widths_and_wide_intervals_say_less():
    def offset(reading):
        return Discrepancy.of(0.5, SPREAD, [reading]).mean[0]

    near = offset(exact(0.5, 0.55))
    assert offset(exact(0.5, 0.55, apart=0.3)) < near
    assert offset(noisy(0.5, 0.55, 0.05)) < near
    assert offset(Reading(0.5, 0.55, 0.0, math.inf)) < offset(noisy(0.5, 0.55, 0.05, apart=1.0))


@given(st.lists(st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)), max_size=6), st.floats(0.1, 0.9))
def test_what_is_measured_rises_with_what_is_predicted_whatever_was_read(pairs, limit):
    known = Discrepancy.of(limit, SPREAD, [exact(*pair) for pair in pairs])
    values = [known.measured(x)[0] for x in np.geomspace(0.05, 1.5, 20)]
    assert all(after > before for before, after in pairwise(values))


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf])
def test_limit_that_is_none_is_refused(limit):
    with pytest.raises(InputError, match="must be positive"):
        Discrepancy.of(limit, SPREAD, [])


def test_distance_is_in_relative_widths():
    assert distance(np.array([1.0, 0.5]), np.array([1.0, 0.5])) == 0
    assert distance(np.array([1.0, 1.0]), np.array([0.5, 0.5])) == 0.5
