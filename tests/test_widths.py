import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.core.widths import WidthGroup, WidthSpace

spaces = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 12)), min_size=1, max_size=5).map(
    lambda pairs: WidthSpace(
        tuple(f"g{i}" for i in range(len(pairs))),
        tuple(step * units for step, units in pairs),
        tuple(step for step, _ in pairs),
    )
)


@given(spaces, st.data())
def test_floor_is_the_largest_admissible_vector_below(space, data):
    vector = np.array([data.draw(st.floats(-3, dense + 5)) for dense in space.dense])
    found = space.floor(vector)
    for wanted, got, dense, step in zip(vector, found, space.dense, space.step, strict=True):
        admissible = range(step, dense + 1, step)
        assert got == max((width for width in admissible if width <= wanted + 1e-9 * step), default=step)


@given(spaces, st.data())
def test_mapping_and_vector_are_inverses(space, data):
    vector = space.floor(np.array([data.draw(st.integers(1, dense)) for dense in space.dense], dtype=float))
    widths = space.widths(vector)
    assert (space.vector(widths) == vector).all()
    assert space.widths(torch.tensor(vector)) == widths


@given(spaces)
def test_space_survives_json(space):
    assert WidthSpace.from_json(space.to_json()) == space


def test_group_that_is_not_named_keeps_its_width():
    space = WidthSpace(("a", "b"), (8, 6), (2, 3))
    assert space.vector({"b": 3}).tolist() == [8, 3]
    assert space.full == {"a": 8, "b": 6}
    assert space.smallest == {"a": 2, "b": 3}
    assert space.vector({}).dtype == np.int64


@pytest.mark.parametrize("width", [0, -2, 3, 10, 2.5, float("nan"), float("inf")])
def test_width_that_is_not_admissible_is_refused(width):
    with pytest.raises(InputError, match=r"width .* of group 'a' is not admissible; choose from 2, 4 … 8"):
        WidthSpace(("a",), (8,), (2,)).vector({"a": width})


def test_unknown_group_is_named_beside_the_known_ones():
    with pytest.raises(InputError, match="unknown group 'z'; the prunable groups are a, b"):
        WidthSpace(("a", "b"), (8, 6), (2, 3)).vector({"z": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("a",), (8, 8), (1,)), "must have equal lengths"),
        ((("a", "a"), (8, 8), (1, 1)), "must be distinct"),
        ((("a",), (8,), (3,)), "group 'a' has width 8, not a multiple of its step 3"),
        ((("a",), (0,), (1,)), "group 'a' has width 0"),
        ((("a",), (8,), (0,)), "group 'a' has width 8"),
    ],
)
def test_impossible_space_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        WidthSpace(*arguments)


def test_space_of_nothing_has_empty_vectors():
    assert WidthSpace((), (), ()).vector({}).shape == (0,)


def test_units_of_a_group():
    assert WidthGroup("a", 12, 4, True, "", (), ()).units == 3
