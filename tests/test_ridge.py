import numpy as np
import pytest
from scipy import optimize

from ecc.energy_models.ridge import RidgeNnls


def with_prior(matrix, aim, prior, tightness):
    """The same problem with the prior as further rows."""
    return np.vstack([matrix, np.diag(tightness)]), np.append(aim, tightness * prior)


@pytest.mark.parametrize("rows", [5, 30, 90])
def test_solution_is_that_of_scipy_with_fewer_rows_than_columns_too(rows):
    generator = np.random.default_rng(rows)
    for width in (1, 3, 40, 80):
        matrix, aim = generator.random((rows, width)), generator.normal(1, 1, rows)
        prior, tightness = generator.random(width) / width, generator.uniform(0.05, 3, width)
        theirs, _ = optimize.nnls(*with_prior(matrix, aim, prior, tightness))
        problem = RidgeNnls(matrix, aim, prior, tightness)
        for start in (None, np.ones(width, dtype=bool), np.zeros(width, dtype=bool), theirs > 0):
            assert problem.solve(start) == pytest.approx(theirs, abs=1e-8)


def test_solution_is_that_of_scipy_where_columns_are_nearly_the_same_and_hardly_drawn():
    generator = np.random.default_rng(5)
    for width in (1, 2, 7, 40):
        for _ in range(5):
            matrix = generator.normal(0.3, 1, (2 * width + 3, width))
            matrix[:, -1] = matrix[:, 0] + 1e-3 * matrix[:, -1]
            aim = generator.normal(0.2, 1, len(matrix))
            theirs, _ = optimize.nnls(matrix, aim)
            ours = RidgeNnls(matrix, aim, np.zeros(width), np.full(width, 1e-7)).solve()
            assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("rows", [5, 90])
def test_leverage_is_how_far_a_prediction_follows_its_own_reading(rows):
    generator = np.random.default_rng(rows)
    width = 40
    matrix, prior = generator.random((rows, width)), generator.random(width) / width
    tightness, free = generator.uniform(0.05, 3, width), generator.random(width) < 0.7

    def predicted(aim):
        found, *_ = np.linalg.lstsq(*with_prior(matrix[:, free], aim, prior[free], tightness[free]), rcond=None)
        return matrix[:, free] @ found

    aim = generator.normal(1, 1, rows)
    before = predicted(aim)
    follows = [predicted(aim + np.eye(rows)[i])[i] - before[i] for i in range(rows)]
    assert RidgeNnls(matrix, aim, prior, tightness).leverage(free) == pytest.approx(np.array(follows), abs=1e-9)
