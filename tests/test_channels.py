"""The label algebra against its meaning: which positions are removed when some channels are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecc.network.channels import Channels, Labels

SEEDS = st.integers(0, 2**32 - 1)


def removed(channels: Channels, labels: Labels, gone: np.ndarray) -> np.ndarray:
    """Per position, whether one of its channels is gone."""
    return gone[channels.resolve(labels)].any(axis=1)


def some_gone(channels: Channels, generator: np.random.Generator) -> np.ndarray:
    """A random set of removed channels, never a fixed one."""
    ids = np.arange(channels.size)
    roots = channels.resolve(ids[:, None])
    free = np.zeros(channels.size, dtype=bool)
    free[roots[channels.fixed(roots) == 0]] = True
    return free & (generator.random(channels.size) < 0.4)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_whatever_is_tied_and_split_goes_together(seed: int) -> None:
    """Random ties, fixes, splits and merges of axes of 12 positions; the oracle is the definition of each."""
    generator = np.random.default_rng(seed)
    channels = Channels()
    axes = [channels.fresh(12) for _ in range(4)]
    ties: list[tuple[Labels, Labels]] = []
    splits: list[tuple[Labels, Labels | None, Labels | None, int, int]] = []
    for _ in range(6):
        first, second = (axes[i] for i in generator.integers(len(axes), size=2))
        action = generator.integers(5)
        if action == 0:
            channels.tie(first, second, "tied")
            ties.append((first, second))
        elif action == 1:
            order = generator.permutation(12)
            channels.tie(first, second[order], "tied")
            ties.append((first, second[order]))
        elif action == 2:
            channels.fix(first[:3], "fixed")
        elif action == 3:
            rows = int(generator.choice([2, 3, 4, 6]))
            a, b = channels.split(first, rows, 12 // rows, "split")
            splits.append((first, a, b, rows, 12 // rows))
            merged = channels.merge([(12 // rows, b), (rows, a)])
            if merged is not None:
                axes.append(merged)
        else:
            channels.tie_blocks(first, int(generator.choice([2, 3])), "blocks")
    for _ in range(5):
        gone = some_gone(channels, generator)
        for a, b in ties:
            assert (removed(channels, a, gone) == removed(channels, b, gone)).all()
        for whole, a, b, rows, columns in splits:
            row = np.zeros(rows, bool) if a is None else removed(channels, a, gone)
            column = np.zeros(columns, bool) if b is None else removed(channels, b, gone)
            assert (removed(channels, whole, gone).reshape(rows, columns) == row[:, None] | column).all()


def test_rows_and_columns_of_a_split_axis_are_free_of_one_another() -> None:
    channels = Channels()
    axis = channels.fresh(6)
    rows, columns = channels.split(axis, 2, 3, "")
    assert rows is not None
    assert columns is not None
    gone = np.zeros(channels.size, dtype=bool)
    gone[channels.resolve(rows)[1]] = True
    assert removed(channels, axis, gone).tolist() == [False] * 3 + [True] * 3
    gone[:] = False
    gone[channels.resolve(columns)[0]] = True
    assert removed(channels, axis, gone).tolist() == [True, False, False] * 2


def test_a_fixed_channel_fixes_what_is_tied_to_it_and_keeps_its_first_reason() -> None:
    channels = Channels()
    a, b, c = channels.fresh(2), channels.fresh(2), channels.fresh(2)
    channels.fix(a[:1], "first")
    channels.fix(a[:1], "second")
    channels.tie(a, b, "tie")
    channels.tie(c, b, "tie")
    resolved = channels.resolve(c)[:, 0]
    assert [channels.reason(int(number)) for number in channels.fixed(resolved)] == ["first", ""]


def test_a_tie_to_positions_that_never_go_gives_its_own_reason() -> None:
    channels = Channels()
    a = channels.fresh(3)
    channels.tie(a, np.zeros((3, 1), dtype=np.int64), "an axis of fixed size")
    assert not channels.movable(a)
    assert channels.reason(int(channels.fixed(channels.resolve(a)[0])[0])) == "an axis of fixed size"


def test_concatenation_keeps_the_parts_apart() -> None:
    channels = Channels()
    a, b = channels.fresh(2), channels.fresh(3)
    joined = channels.concatenate([(2, a), (1, None), (3, b)])
    assert joined is not None
    assert joined[:, 0].tolist() == [*a[:, 0], 0, *b[:, 0]]
    assert channels.concatenate([(2, None), (3, None)]) is None


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_a_split_axis_merged_again_is_what_it_was(rows: int) -> None:
    channels = Channels()
    axis = channels.fresh(12)
    a, b = channels.split(axis, rows, 12 // rows, "")
    merged = channels.merge([(rows, a), (12 // rows, b)])
    assert merged is not None
    assert (np.sort(channels.resolve(merged), 1) == np.sort(channels.resolve(axis), 1)).all()
