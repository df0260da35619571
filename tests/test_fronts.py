import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.fronts import Front, Point, hypervolume, non_dominated

coordinates = st.one_of(st.integers(0, 6).map(float), st.floats(0, 6, allow_nan=False))
clouds = st.lists(st.tuples(coordinates, coordinates), max_size=25).map(
    lambda pairs: [Point("m", x, accuracy, seed=i) for i, (x, accuracy) in enumerate(pairs)]
)


@given(clouds)
def test_front_is_its_definition(points):
    by_definition = {point for point in points if not any(other.dominates(point) for other in points)}
    front = non_dominated(points)
    assert set(front) == by_definition
    assert len(front) == len(by_definition)
    assert [point.x for point in front] == sorted(point.x for point in front)


@given(clouds)
def test_hypervolume_is_the_area_of_the_union_of_boxes(points):
    # integer corners only: the union is then a count of unit cells, exact
    rounded = [Point("m", round(point.x), round(point.accuracy)) for point in points]
    cells = {(x, y) for p in rounded for x in range(int(p.x), 5) for y in range(1, int(p.accuracy))}
    assert hypervolume(rounded, (5.0, 1.0)) == len(cells)


def test_hypervolume_agrees_with_monte_carlo():
    generator = np.random.default_rng(0)
    points = [Point("m", float(x), float(y)) for x, y in generator.uniform(0, 1, (12, 2))]
    darts = generator.uniform(0, 1, (200_000, 2)) * [1.0, 0.9] + [0.0, 0.1]
    hit = np.zeros(len(darts), dtype=bool)
    for point in points:
        hit |= (darts[:, 0] >= point.x) & (darts[:, 1] <= point.accuracy)
    assert hypervolume(points, (1.0, 0.1)) == pytest.approx(hit.mean() * 0.9, abs=0.004)


@given(clouds, coordinates, coordinates)
def test_one_more_point_never_shrinks_the_hypervolume(points, x, accuracy):
    more = [*points, Point("m", x, accuracy)]
    assert hypervolume(more, (5.0, 0.5)) >= hypervolume(points, (5.0, 0.5)) - 1e-12


def test_front_of_methods():
    front = Front(
        (
            Point("dense", 1.0, 0.95),
            Point("ours", 0.5, 0.9, seed=1, x_low=0.49, x_high=0.52, label="out/a"),
            Point("theirs", 0.5, 0.8, seed=1),
            Point("theirs", 0.75, 0.85, seed=1),
        ),
        "latency",
        "s",
    )
    assert front.dominated == (False, False, True, True)
    # by hand: 0.5·0.9; 0.5·0.8 + 0.25·0.05; the dense network defines the largest x and saves nothing
    assert front.hypervolume == {"dense": 0.0, "ours": pytest.approx(0.45), "theirs": pytest.approx(0.4125)}
    value = json.loads(json.dumps(front.to_json(), allow_nan=False))
    assert value["points"][1] == {
        "method": "ours",
        "x": 0.5,
        "accuracy": 0.9,
        "seed": 1,
        "x_low": 0.49,
        "x_high": 0.52,
        "label": "out/a",
        "dominated": False,
    }
    assert list(front.frame()["dominated"]) == [False, False, True, True]


def test_equal_points_are_all_on_the_front():
    points = (Point("a", 1.0, 0.5), Point("b", 1.0, 0.5), Point("c", 1.0, 0.4))
    assert Front(points, "macs").dominated == (False, False, True)


def test_single_point_saves_nothing():
    assert Front((Point("a", 0.0, 0.5),), "macs").hypervolume == {"a": 0.0}


def test_empty_front_and_broken_points_are_refused():
    with pytest.raises(InputError, match="a front needs at least one point"):
        Front((), "macs")
    with pytest.raises(InputError, match=r"'m' has x = nan and accuracy 0\.5; both must be numbers"):
        Point("m", float("nan"), 0.5)
