"""One-dimensional k-means against its optimum by dynamic programming and against plain Lloyd steps."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.stages.kmeans import INITS, lloyd, nearest


def cost(values, centroids, weights=None):
    weights = np.ones(len(values)) if weights is None else weights
    return float((weights * np.min((values[:, None] - centroids[None]) ** 2, axis=1)).sum())


def optimal_cost(values, k, weights=None):
    """The least cost of k clusters: they are intervals of the sorted values (Wang and Song, 2011)."""
    order = np.argsort(values)
    x, w = values[order].astype(float), (np.ones(len(values)) if weights is None else weights[order])

    def interval(a, b):
        mean = np.average(x[a:b], weights=w[a:b]) if w[a:b].any() else 0.0
        return float((w[a:b] * (x[a:b] - mean) ** 2).sum())

    n = len(x)
    best = [0.0] + [np.inf] * n
    for _ in range(k):
        best = [0.0] + [min(best[a] + interval(a, b) for a in range(b)) for b in range(1, n + 1)]
    return best[n]


def plain_lloyd(values, centroids, steps):
    for _ in range(steps):
        codes = np.argmin(np.abs(values[:, None].astype(float) - centroids[None]), axis=1)
        centroids = np.array(
            [values[codes == j].astype(float).mean() if (codes == j).any() else c for j, c in enumerate(centroids)]
        )
    return centroids


VALUES = st.lists(st.integers(-50, 50), min_size=1, max_size=14).map(lambda found: np.array(found, np.float32) / 8)


@settings(max_examples=60, deadline=None)
@given(VALUES, st.integers(1, 5), st.sampled_from(sorted(INITS)), st.integers(0, 5))
def test_never_below_the_optimum_and_each_centroid_is_the_mean_of_its_values(values, k, init, seed):
    centroids = lloyd(values, k, init=init, seed=seed)
    assert np.isfinite(centroids).all()
    assert 1 <= len(centroids) <= min(k, len(np.unique(values)))
    assert (np.diff(centroids) > 0).all()
    assert cost(values, centroids) >= optimal_cost(values, k) - 1e-9
    codes = nearest(values, centroids)
    for number, centroid in enumerate(centroids):
        assert centroid == pytest.approx(values[codes == number].mean(), abs=1e-6)


@pytest.mark.parametrize("init", sorted(INITS))
def test_near_the_optimum_on_a_gaussian(init):
    values = np.random.default_rng(0).standard_normal(70)
    found = min(cost(values, lloyd(values, 6, init=init, seed=seed)) for seed in range(3))
    assert found < 1.5 * optimal_cost(values, 6)


def test_enough_centroids_lose_nothing():
    values = np.random.default_rng(1).choice(np.array([-3.0, -1.0, 0.5, 7.0], np.float32), 200)
    assert lloyd(values, 64).tolist() == [-3.0, -1.0, 0.5, 7.0]


def test_steps_are_those_of_plain_lloyd():
    values = np.random.default_rng(2).laplace(size=500).astype(np.float32)
    first = np.linspace(float(values.min()), float(values.max()), 16)
    for steps in (1, 5, 200):
        expected = plain_lloyd(values, first, steps)
        assert cost(values, lloyd(values, 16, steps=steps)) <= cost(values, expected) * (1 + 1e-6)
    first = np.quantile(values, (np.arange(9) + 0.5) / 9)  # none of these is ever without values
    assert cost(values, lloyd(values, 9, init="quantile", steps=4)) == pytest.approx(
        cost(values, plain_lloyd(values, first, 4)), rel=0.02
    )


def test_centroids_without_values_are_used_elsewhere():
    values = np.concatenate([np.linspace(-2, -1, 50), np.linspace(1, 2, 50)])  # as pruning leaves them
    assert len(lloyd(values, 16)) == 16


def test_weights_count_as_repetitions():
    random = np.random.default_rng(3)
    values, weights = random.standard_normal(40), random.integers(0, 5, 40)
    repeated = np.repeat(values, weights)
    for init in ("linear", "quantile", "cube-root"):
        one, other = lloyd(values, 5, weights=weights.astype(float), init=init), lloyd(repeated, 5, init=init)
        assert cost(repeated, one) <= 1.2 * cost(repeated, other)
        assert cost(repeated, one) >= optimal_cost(values, 5, weights) - 1e-9


def test_outliers_do_not_take_the_centroids_of_the_cube_root():
    values = np.random.default_rng(4).standard_t(4, 200_000)
    linear, fair = (lloyd(values, 256, init=init, steps=10) for init in ("linear", "cube-root"))
    decibels = [
        10 * np.log10(values.var() / np.mean((values - found[nearest(values, found)]) ** 2)) for found in (linear, fair)
    ]
    assert decibels[1] > decibels[0] + 2
    assert decibels[1] > 40


def test_nothing_warns_where_all_values_are_equal():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for init in INITS:
            assert lloyd(np.full(9, 0.3, np.float32), 8, init=init).tolist() == [pytest.approx(0.3)]


def test_nearest_agrees_with_comparing_all():
    values = np.random.default_rng(5).standard_normal(1000).astype(np.float32)
    centroids = lloyd(values, 30)
    distances = np.abs(values[:, None].astype(float) - centroids[None])
    assert np.array_equal(distances[np.arange(1000), nearest(values, centroids)], distances.min(1))


@pytest.mark.parametrize(
    ("values", "changes", "said"),
    [
        ([], {}, "finite values, at least one"),
        ([1.0, np.nan], {}, "finite values"),
        ([1.0], {"k": 0}, "at least one centroid, got k=0"),
        ([1.0], {"init": "guess"}, "not with 'guess'"),
        ([1.0], {"weights": np.zeros(1)}, "not all zero"),
        ([1.0, 2.0], {"weights": np.array([1.0, -1.0])}, "none negative"),
        ([1.0, 2.0], {"weights": np.ones(3)}, "a weight per value"),
    ],
)
def test_nonsense_is_refused(values, changes, said):
    with pytest.raises(InputError, match=said):
        lloyd(np.array(values), **{"k": 2, **changes})
