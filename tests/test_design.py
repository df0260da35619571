import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.core.widths import WidthSpace
from ecc.profiler.design import sample

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
