import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ecc.core.errors import InputError
from ecc.fronts import (
    Front,
    Fronts,
    LeftOut,
    Point,
    Verdict,
    compare,
    holm,
    hypervolume,
    mean_over_seeds,
    non_dominated,
)
from ecc.fronts.curves import Curve, curves_by_seed, mean_curve

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


# -- means over seeds


@pytest.mark.parametrize("values", [(0.9, 0.92), (0.9, 0.95, 0.91), tuple(np.linspace(0.1, 0.2, 10) ** 2)], ids=len)
def test_interval_over_seeds_is_students(values):
    mean = mean_over_seeds(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (mean.low, mean.mean, mean.high) == pytest.approx((low, np.mean(values), high))
    assert mean.p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)
    assert (mean.seeds, mean.reason) == (len(values), "")


def test_interval_of_three_seeds_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(0.5, 0.1, (2000, 3))
    means = [mean_over_seeds(values) for values in draws.tolist()]
    covered = np.mean([mean.low <= 0.5 <= mean.high for mean in means])
    assert covered == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 2000))


@pytest.mark.parametrize(
    ("values", "reason"),
    [((0.9,), "one seed tells nothing"), ((0.9, 0.9, 0.9), "seeds do not differ"), ((0.1 + 0.2, 0.3), "do not differ")],
)
def test_what_tells_nothing_of_its_spread_has_no_interval_and_says_why(values, reason):
    mean = mean_over_seeds(values)
    assert (mean.low, mean.high, mean.p) == (None, None, None)
    assert reason in mean.reason
    assert mean.mean == pytest.approx(values[0])


# -- curves


def test_curve_goes_through_what_is_not_dominated_and_is_averaged_exactly():
    points = [Point("m", 1.0, 0.5), Point("m", 2.0, 0.4), Point("m", 3.0, 0.9), Point("m", 3.0, 0.8)]
    curve = Curve.through(points)
    assert (curve.x.tolist(), curve.accuracy.tolist()) == ([1.0, 3.0], [0.5, 0.9])
    longer = Curve.through([*points, Point("m", 5.0, 0.7)])
    assert (longer.x.tolist(), longer.accuracy.tolist()) == ([1.0, 3.0, 5.0], [0.5, 0.9, 0.9])
    assert curve.at(2.0) == pytest.approx(0.7)
    assert (curve.at(0.0), curve.at(9.0)) == (0.5, 0.9)
    assert curve.mean(1.5, 1.5) == pytest.approx(0.6)
    grid = np.linspace(0.5, 3.5, 100_001)
    assert curve.mean(0.5, 3.5) == pytest.approx(np.mean([curve.at(x) for x in grid[::100]]), abs=1e-3)


def test_mean_curve_is_that_of_the_range_that_all_seeds_have():
    first = Curve(np.array([1.0, 3.0]), np.array([0.5, 0.9]))
    second = Curve(np.array([2.0, 4.0]), np.array([0.6, 1.0]))
    knots, means = mean_curve([first, second])
    assert knots.tolist() == [2.0, 3.0]
    assert [mean.mean for mean in means] == pytest.approx([0.65, 0.85])
    knots, _ = mean_curve([Curve(np.arange(900.0), np.arange(900.0))], most=50)
    assert (len(knots), knots[0], knots[-1]) == (50, 0.0, 899.0)


# -- comparisons


def runs(method, gains, *, budgets=(0.25, 0.5, 1.0), shift=0.0):
    """One curve per seed: accuracy rises by 0.1 per doubling of the budget, with a gain per seed."""
    return [
        Point(method, budget + shift, 0.7 + 0.1 * math.log2(budget) + gain, seed, budget=f"x ≤ {budget}")
        for seed, gain in enumerate(gains)
        for budget in budgets
    ]


def front_of(*groups):
    return Front(tuple(point for group in groups for point in group), "macs", "MAC")


def test_difference_at_equal_budgets_is_the_paired_t_test_of_the_seeds():
    ours, theirs = (0.11, 0.32, 0.19), (0.01, 0.21, 0.1)
    (pair,) = front_of(runs("ours", ours), runs("theirs", theirs)).comparisons
    expected = stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert (pair.start, pair.end) == (0.25, 1.0)
    assert pair.difference.mean == pytest.approx(np.mean(np.subtract(ours, theirs)))
    assert (pair.difference.low, pair.difference.high) == pytest.approx((interval.low, interval.high))
    assert pair.p == pytest.approx(expected.pvalue)
    assert pair.verdict is Verdict.FIRST
    assert pair.to_json()["better"] == "ours"


def test_budgets_are_those_that_both_reach_with_all_seeds():
    (pair,) = front_of(runs("a", (0.1, 0.2)), runs("b", (0.1, 0.3), budgets=(0.5, 2.0))).comparisons
    assert (pair.start, pair.end) == (0.5, 1.0)
    # the mean of a − b from 0.5 to 1, by hand: a is linear from 0.6 to 0.7, b from 0.6 to 0.6 + 0.2/3
    assert pair.difference.mean == pytest.approx(np.mean([0.0, -0.1]) + 0.65 - (0.6 + 0.1 / 3))
    (apart,) = front_of(runs("a", (0.1, 0.2)), runs("b", (0.1, 0.3), budgets=(2.0, 4.0))).comparisons
    assert (apart.difference, apart.verdict) == (None, Verdict.OPEN)
    assert apart.reason == "there is no budget that both reach with all seeds"


def test_runs_with_one_budget_each_that_was_measured_nearly_alike_are_compared():
    one, other = runs("a", (0.2, 0.21), budgets=(0.5,)), runs("b", (0.1, 0.12), budgets=(0.5,), shift=0.004)
    (pair,) = front_of(one, other).comparisons
    assert (pair.start, pair.end) == (0.504, 0.504)
    assert pair.difference.mean == pytest.approx(0.095)


def test_only_common_seeds_are_paired():
    theirs = [Point("b", point.x, point.accuracy, point.seed + 1) for point in runs("b", (0.0, 0.1, 0.3))]
    (pair,) = front_of(runs("a", (0.0, 0.2, 0.2)), theirs).comparisons
    assert pair.difference.seeds == 2
    assert pair.difference.mean == pytest.approx(np.mean([0.2 - 0.0, 0.2 - 0.1]))
    none = [Point("b", point.x, point.accuracy, point.seed + 9) for point in runs("b", (0.0,))]
    (pair,) = front_of(runs("a", (0.0,)), none).comparisons
    assert pair.reason == "they have no seed in common"


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [((0.5,), (0.1,), "one seed"), ((0.5, 0.6), (0.25, 0.35), "do not differ"), ((0.1, 0.5, 0.2), (0.3, 0.2, 0.4), "")],
    ids=["one seed", "no spread", "noise"],
)
def test_nothing_is_claimed_that_the_seeds_do_not_support(ours, theirs, reason):
    (pair,) = front_of(runs("a", ours), runs("b", theirs)).comparisons
    assert pair.verdict is Verdict.OPEN
    assert reason in pair.difference.reason
    assert pair.to_json()["better"] is None


def test_a_difference_below_one_step_of_the_test_set_is_no_claim():
    # steps of 0.01; the second method is worse by 0.001 on average, and always
    high = [Point("a", x, y, seed) for seed in range(4) for x, y in ((1.0, 0.9), (2.0, 0.91))]
    low = [Point("b", x, y, seed) for seed in range(4) for x, y in ((1.0, 0.9), (2.2 + 0.01 * seed, 0.91))]
    (pair,) = front_of(high, low).comparisons
    assert pair.p < 0.05
    assert pair.step == pytest.approx(0.01)
    assert 0 < pair.difference.mean < pair.step
    assert pair.verdict is Verdict.OPEN


@pytest.mark.parametrize("p", [(), (0.2,), (0.04, 0.01, 0.03, 0.01), (0.9, 0.5, 0.0, 1.0, 0.02)], ids=len)
def test_correction_is_holms(p):
    expected = multipletests(p, method="holm")[1] if p else []
    assert holm(p) == pytest.approx(list(expected))


def test_all_pairs_are_corrected_together():
    generator = np.random.default_rng(3)
    methods = {name: generator.normal(i * 0.05, 0.02, 4).tolist() for i, name in enumerate("abcd")}
    front = front_of(*(runs(name, gains) for name, gains in methods.items()))
    raw = [pair.difference.p for pair in front.comparisons]
    assert len(raw) == 6
    assert [pair.p for pair in front.comparisons] == pytest.approx(list(multipletests(raw, method="holm")[1]))
    assert {pair.comparisons for pair in front.comparisons} == {6}


def test_hardly_any_set_of_equal_methods_gives_a_claim():
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        curves = {
            name: curves_by_seed(runs(name, generator.normal(0, 0.05, 3).tolist(), budgets=(0.5, 1.0)))
            for name in "abc"
        }
        wrong += any(pair.verdict is not Verdict.OPEN for pair in compare(curves))
    assert wrong <= 300 * 0.05 + 3 * math.sqrt(300 * 0.05 * 0.95)


def test_too_many_methods_are_not_compared_in_pairs():
    assert front_of(*(runs(f"m{i}", (0.1, 0.2)) for i in range(25))).comparisons == ()


# -- fronts


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
        "budget": "",
        "dominated": False,
    }
    assert list(front.frame()["dominated"]) == [False, False, True, True]
    assert [standing.method for standing in front.standings] == ["ours", "theirs"]
    assert repr(front) == "Front(4 points over latency, 2 methods)"


def test_equal_points_are_all_on_the_front():
    points = (Point("a", 1.0, 0.5), Point("b", 1.0, 0.5), Point("c", 1.0, 0.4))
    assert Front(points, "macs").dominated == (False, False, True)


def test_single_point_saves_nothing():
    assert Front((Point("a", 0.0, 0.5),), "macs").hypervolume == {"a": 0.0}


def test_hypervolume_is_the_mean_over_seeds_of_each_seeds_own_points():
    front = front_of(runs("a", (0.0, 0.1, 0.15)), [Point("dense", 1.0, 0.9)])
    areas = [hypervolume(runs("a", (gain,)), (1.0, 0.0)) for gain in (0.0, 0.1, 0.15)]
    (standing,) = front.standings
    expected = mean_over_seeds(areas)
    assert (standing.hypervolume.mean, standing.hypervolume.low) == pytest.approx((expected.mean, expected.low))
    assert front.hypervolume == {"a": pytest.approx(expected.mean), "dense": 0.0}


def test_a_seed_that_lacks_a_budget_does_not_pull_its_method_down():
    whole = runs("a", (0.1, 0.1))
    (standing,) = front_of([*whole, Point("a", 0.9, 0.1, seed=7)]).standings
    assert (standing.left_out, standing.seeds, standing.points) == ((7,), 3, 7)
    assert standing.hypervolume.mean == pytest.approx(front_of(whole).standings[0].hypervolume.mean)


def test_levels_are_means_over_the_seeds_of_a_budget():
    front = front_of(runs("a", (0.1, 0.2, 0.3)), runs("b", (0.0,)), [Point("dense", 1.0, 0.95, budget="no limit")])
    levels = {(level.method, level.budget): level for level in front.levels}
    assert len(levels) == 7
    level = levels["a", "x ≤ 0.5"]
    assert (level.x.mean, level.accuracy.mean) == (0.5, pytest.approx(0.8))
    ends = stats.t.interval(0.95, 2, 0.8, 0.1 / math.sqrt(3))
    assert (level.accuracy.low, level.accuracy.high) == pytest.approx(ends)
    assert [found.method for found in front.levels] == [*"aaabbb", "dense"]
    assert all(levels["b", budget].dominated for budget in ("x ≤ 0.25", "x ≤ 0.5", "x ≤ 1.0"))
    lucky = Front(
        (
            *(Point("a", 0.5, accuracy, seed, budget="x") for seed, accuracy in enumerate((0.80, 0.82, 0.90))),
            *(Point("b", 0.5, accuracy, seed, budget="x") for seed, accuracy in enumerate((0.85, 0.86, 0.87))),
        ),
        "macs",
    )
    assert lucky.dominated == (True, True, True, False, False, False)  # one run of a is the best of all
    twice = Front((Point("a", 1.0, 0.5, 0, budget="x"), Point("a", 1.0, 0.7, 0, budget="x")), "macs")
    assert twice.levels[0].accuracy.seeds == 1  # runs of one seed say nothing of the spread over seeds
    assert len(Front((Point("a", 1.0, 0.5), Point("a", 1.0, 0.7)), "macs").levels) == 2


def test_fronts_side_by_side():
    one = Front((Point("a", 1.0, 0.5), Point("a", 2.0, 0.6)), "latency", "s", place={"device": "one"})
    two = Front((Point("a", 4.0, 0.5), Point("b", 1.0, 0.5), Point("dense", 4.0, 0.5)), "latency", "s")
    fronts = Fronts((one, two), (LeftOut("x", "broken"),))
    assert fronts.methods == ("a", "b")
    assert fronts.hypervolume == {"a": pytest.approx(0.125), "b": pytest.approx(0.375), "dense": 0.0}
    assert list(fronts.frame()["panel"]) == [0, 0, 1, 1, 1]
    value = json.loads(json.dumps(fronts.to_json(), allow_nan=False))
    assert [len(panel["standings"]) for panel in value["panels"]] == [1, 2]
    assert value["points"][0]["device"] == "one"
    assert value["points"][4]["device"] == ""
    assert value["left_out"] == [{"artefact": "x", "reason": "broken"}]
    assert (value["x"], value["unit"]) == ("latency", "s")


def test_empty_front_and_broken_points_are_refused():
    with pytest.raises(InputError, match="a front needs at least one point"):
        Front((), "macs")
    with pytest.raises(InputError, match="a front needs at least one point"):
        Fronts(())
    with pytest.raises(InputError, match=r"'m' has x = nan and accuracy 0\.5; both must be numbers"):
        Point("m", float("nan"), 0.5)
