import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.core.layers import Layer, Side
from ecc.core.widths import WidthSpace
from ecc.profiler.design import Point, plan, sample, sweeps, weigh_groups

SPACE = WidthSpace(("a", "b", "c"), (16, 32, 24), (1, 4, 8))


@st.composite
def spaces(draw):
    steps = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    units = [draw(st.integers(1, 12)) for _ in steps]
    dense = tuple(step * unit for step, unit in zip(steps, units, strict=True))
    return WidthSpace(tuple(f"g{i}" for i in range(len(steps))), dense, tuple(steps))


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(1, 40), st.integers(0, 5))
def test_points_are_distinct_and_legal_and_as_many_as_there_are(space, n, seed):
    design = sample(space, n, seed=seed)
    legal = int(np.prod(np.array(space.dense) // np.array(space.step)))
    assert len(design) == min(n, legal)
    assert len({tuple(sorted(widths.items())) for widths in design}) == len(design)
    for widths in design:
        space.vector(widths)  # raises on a width that is not admissible


def test_dense_comes_first_then_the_smallest_corner():
    assert sample(SPACE, 2) == [SPACE.full, SPACE.smallest]


def test_one_seed_gives_one_design_and_another_seed_another():
    assert sample(SPACE, 30, seed=3) == sample(SPACE, 30, seed=3)
    assert sample(SPACE, 30, seed=3) != sample(SPACE, 30, seed=4)


def test_a_longer_design_begins_with_the_shorter_one():
    wide = WidthSpace(("a", "b", "c"), (512, 512, 512), (1, 1, 1))
    assert sample(wide, 200)[:70] == sample(wide, 70)


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(1, 60), st.integers(1, 60), st.integers(0, 3), st.sampled_from([1, 4, 16]))
def test_a_longer_design_or_plan_of_any_space_begins_with_the_shorter_one(space, n, more, seed, around):
    assert sample(space, n + more, seed=seed)[:n] == sample(space, n, seed=seed)
    assert plan(space, n + more, seed=seed, around=around)[:n] == plan(space, n, seed=seed, around=around)


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(1, 80), st.integers(0, 3), st.sampled_from([1, 4, 16]), st.sampled_from([None, 0.4, 1.0]))
def test_a_plan_is_distinct_and_legal_and_as_long_as_it_can_be(space, n, seed, around, low):
    points = plan(space, n, seed=seed, around=around, low=low)
    vectors = [tuple(space.vector(point.widths).tolist()) for point in points]
    units = np.array(space.dense) // np.array(space.step)
    least = 1 if low is None else np.maximum(1, np.ceil(low * units - 1e-9).astype(int))
    assert len(set(vectors)) == len(points) == min(n, int(np.prod(units - least + 1)))
    assert (np.array(vectors) >= least * np.array(space.step)).all()


def network(*macs):
    """A chain of layers with that many MACs; group i is between layers i and i + 1."""
    names = [f"g{i}" for i in range(len(macs) - 1)]
    sides = [Side(((1.0, names),)) for names in ((), *((name,) for name in names), ())]
    layers = [Layer(f"l{i}", "conv", sides[i], sides[i + 1], macs[i]) for i in range(len(macs))]
    return WidthSpace(tuple(names), (64,) * len(names), (8,) * len(names)), layers


def test_groups_weigh_what_the_layers_that_they_touch_cost():
    space, layers = network(1, 2, 7)
    assert weigh_groups(space, layers) == {"g0": 0.3, "g1": 0.9}
    assert weigh_groups(space, []) == {"g0": 0.0, "g1": 0.0}


def test_a_plan_mixes_corners_and_sweeps_of_the_heaviest_groups_into_random_points():
    space, layers = network(1, 10, 5, 80, 10)
    points = plan(space, 222, layers=layers)
    purposes = [point.purpose for point in points]
    assert purposes[:22] == ["corner"] * 2 + ["random"] * 9 + ["corner"] + ["random"] * 9 + ["sweep"]
    heavy = ["g3", "g2", "g1", "g0"]
    corners = [point.widths for point in points if point.purpose == "corner"]
    assert corners == [space.full, space.smallest, *({**space.full, name: 8} for name in heavy)]
    swept = [point.widths for point in points if point.purpose == "sweep"]
    assert swept == [{**space.full, name: width} for name in heavy[:2] for width in (56, 48, 40, 32, 24)]
    random = [point.widths for point in points if point.purpose == "random"]
    assert random == [widths for widths in sample(space, 300)[2:] if widths not in corners + swept][: len(random)]
    assert 0.9 <= len(random) / len(points) < 0.95


def test_a_fine_sweep_looks_at_both_sides_of_each_presumed_step():
    space = WidthSpace(("a", "b"), (64, 24), (1, 1))
    assert [widths["a"] for widths in sweeps(space, ["a"], 20, around=16)] == [49, 48, 33, 32, 17, 16, 1]
    assert [widths["b"] for widths in sweeps(space, ["b"], 3, around=16)] == [17, 16, 1]
    assert {widths["b"] for widths in sweeps(space, ["a"], 20, around=16)} == {24}


def test_a_sweep_of_a_coarse_grid_takes_neighbours_and_admissible_widths_only():
    assert [widths["c"] for widths in sweeps(SPACE, ["c"], 9, around=16)] == [16, 8]
    assert [widths["b"] for widths in sweeps(SPACE, ["b"], 4, around=4)] == [28, 24, 20, 16]
    for widths in sweeps(SPACE, ["a", "b", "c"], 99, around=8):
        SPACE.vector(widths)


def test_a_fine_sweep_tells_a_staircase_from_a_slope():
    space = WidthSpace(("a",), (64,), (1,))
    widths = np.array([64] + [each["a"] for each in sweeps(space, ["a"], 7, around=16)])
    stairs, slope = np.ceil(widths / 16) * 16, widths.astype(float)
    above, at = widths % 16 == 1, widths % 16 == 0
    assert (stairs[above] == stairs[:-1][at[:-1]]).all()  # as long as the multiple above
    assert (slope[above] < slope[:-1][at[:-1]] - 14).all()


def test_unknown_groups_and_purposes_are_refused():
    with pytest.raises(InputError, match=r"^sweeps name the unknown group 'x'$"):
        sweeps(SPACE, ["x"], 3)
    with pytest.raises(InputError, match=r"^sweeps\(points=..., around=...\) must be at least 1, got 0$"):
        sweeps(SPACE, ["a"], 0)
    with pytest.raises(InputError, match="must be one of random, corner, sweep, adaptive, got 'why'"):
        Point({}, "why")


def test_points_lie_above_the_lower_end():
    wide = WidthSpace(("a", "b"), (100, 64), (1, 8))
    design = sample(wide, 40, low=0.25)
    assert min(widths["a"] for widths in design) == 25
    assert min(widths["b"] for widths in design) == 16


def test_every_group_is_spread_evenly():
    wide = WidthSpace(tuple("abcdef"), (256,) * 6, (1,) * 6)
    vectors = np.array([wide.vector(widths) for widths in sample(wide, 258)])[2:]
    for column in vectors.T:  # 256 Sobol points put 64 into each quarter of every axis
        assert np.abs(np.histogram(column, bins=4, range=(1, 257))[0] - 64).max() <= 1


def test_a_space_without_groups_has_the_dense_point_only():
    assert sample(WidthSpace((), (), ()), 5) == [{}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "samples must be at least 1, got 0"),
        ({"n": 5, "low": 0.0}, r"the lower end of the widths must be a fraction of dense in \(0, 1\], got 0.0"),
        ({"n": 5, "low": 1.5}, r"the lower end of the widths must be a fraction of dense in \(0, 1\], got 1.5"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        sample(SPACE, **arguments)
