import numpy as np
import pytest

from ecc.energy_models.pooling import pooled


def drawn(n, p, seed=0, noise=0.02):
    """Inputs of two kinds, the coefficients of the first one 0.1 in size and the others zero."""
    generator = np.random.default_rng(seed)
    inputs, kinds = generator.normal(size=(n, p)), np.arange(p) % 2
    truth = np.where(kinds == 0, 0.1 * generator.normal(size=p), 0.0)
    return inputs, kinds, 0.3 + inputs @ truth + generator.normal(0, noise, n), truth


@pytest.mark.parametrize(("n", "p"), [(150, 20), (40, 60)])
def test_kinds_that_matter_are_told_from_those_that_do_not(n, p):
    inputs, kinds, target, truth = drawn(n, p)
    level, found = pooled(inputs, kinds, target, np.full(n, 0.02), np.ones(n))
    assert np.abs(found[kinds == 1]).max() < 0.02
    assert np.sum((found - truth) ** 2) < (0.02 if n > p else 0.5) * np.sum(truth**2)
    assert level == pytest.approx(0.3, abs=0.02 if n > p else 0.3)


def test_more_unknowns_than_rows_or_fewer_are_the_same_problem():
    inputs, kinds, target, _ = drawn(50, 20)
    noise, trust = np.full(50, 0.02), np.ones(50)
    wide, of_wide = np.hstack([inputs, np.zeros((50, 60))]), np.concatenate([kinds, np.arange(60) % 2])
    level, plain = pooled(inputs, kinds, target, noise, trust)
    of_padded, padded = pooled(wide, of_wide, target, noise, trust)
    assert of_padded == pytest.approx(level, rel=1e-6)
    assert padded[:20] == pytest.approx(plain, abs=1e-6)
    assert not padded[20:].any()


def test_rows_that_count_little_move_little():
    inputs, kinds, target, truth = drawn(100, 10)
    target[:10] += 1.0
    trust = np.ones(100)
    trust[:10] = 1e-6
    _, found = pooled(inputs, kinds, target, np.full(100, np.nan), trust)
    assert found == pytest.approx(truth, abs=0.02)


def test_inputs_that_are_all_zero_get_nothing():
    _, found = pooled(np.zeros((20, 3)), np.array([0, 0, 1]), np.full(20, 0.2), np.full(20, 0.01), np.ones(20))
    assert not found.any()


def test_without_inputs_there_is_a_level():
    nothing = np.zeros((20, 0)), np.zeros(0, dtype=np.int64)
    level, found = pooled(*nothing, np.full(20, 0.2), np.full(20, 0.01), np.ones(20))
    assert level == pytest.approx(0.2, rel=1e-3)
    assert found.shape == (0,)
