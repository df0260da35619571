"""The least of sums of tables: elimination finds it, messages stay below it."""

from __future__ import annotations

import numpy as np
import pytest

from ecc.solvers.allocation.elimination import Elimination
from ecc.solvers.allocation.messages import Messages


def random_sum(seed, widest):
    """Sizes, tables of single variables and of sets of them, and the sum over all combinations."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 7))
    sizes = rng.integers(1, 5, n).tolist()
    scopes = {
        tuple(sorted(rng.choice(n, k, replace=False).tolist()))
        for k in rng.integers(2, widest + 1, 2 * n).tolist()
        if k <= n
    }
    singles = [rng.normal(size=size) for size in sizes]
    joint = {scope: rng.normal(size=[sizes[each] for each in scope]) for scope in sorted(scopes)}
    return sizes, singles, joint, total_of(sizes, singles, joint)


def total_of(sizes, singles, joint):
    total = np.zeros(sizes)
    for scope, table in [*(((i,), single) for i, single in enumerate(singles)), *joint.items()]:
        total = total + table.reshape([size if each in scope else 1 for each, size in enumerate(sizes)])
    return total


def least_with(total):
    """The least for each value of each variable, by looking."""
    axes = range(total.ndim)
    return [total.min(axis=tuple(other for other in axes if other != own)) for own in axes]


@pytest.mark.parametrize("seed", range(60))
def test_elimination_finds_the_least_and_where_it_is(seed):
    sizes, singles, joint, total = random_sum(seed, 4)
    exact = Elimination(sizes, list(joint))
    value, chosen = exact.minimise(singles, joint)
    assert value == pytest.approx(total.min())
    assert total[tuple(chosen)] == pytest.approx(total.min())
    for found, least in zip(exact.marginals(singles, joint), least_with(total), strict=True):
        assert np.allclose(found, least)


@pytest.mark.parametrize("seed", range(60))
def test_messages_stay_below_the_least_with_any_value(seed):
    sizes, singles, joint, total = random_sum(1000 + seed, 2)
    messages = Messages(sizes, list(joint))
    bound, chosen = messages.minimise(singles, joint)
    assert bound <= total.min() + 1e-9 <= total[tuple(chosen)] + 2e-9
    for found, least in zip(messages.marginals(singles, joint), least_with(total), strict=True):
        assert (found <= least + 1e-9).all()


@pytest.mark.parametrize("seed", range(20))
def test_messages_reach_the_least_where_products_join_what_reads_and_what_writes(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 6, 6).tolist()
    singles = [rng.normal(size=size) for size in sizes]
    joint = {
        (i, j): rng.random() * np.outer(np.arange(sizes[i]), np.arange(sizes[j]))
        for i in range(6)
        for j in range(i + 1, 6)
        if (i + j) % 2
    }
    bound, _ = Messages(sizes, list(joint)).minimise(singles, joint)
    assert bound == pytest.approx(total_of(sizes, singles, joint).min())
