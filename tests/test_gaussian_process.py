import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from ecc.energy_models.gaussian_process import Process, learn


def points(n=60, d=3, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-2, 2, (n, d)))


def curve(x):
    return torch.sin(1.5 * x[:, 0]) + 0.3 * x[:, 1]


def test_the_posterior_is_that_of_scikit_learn():
    rows, other = points(), points(7, seed=1)
    scale, noise = torch.tensor([0.7, 1.3, 0.4], dtype=torch.float64), 0.01
    mine = Process(rows, curve(rows), torch.full((60,), noise), 0.9, 0.0, scale)
    kernel = ConstantKernel(0.81) * Matern((1 / scale).tolist(), nu=2.5)
    peer = GaussianProcessRegressor(kernel, alpha=noise + 1e-8, optimizer=None).fit(rows, curve(rows))
    mean, covariance = peer.predict(other.numpy(), return_cov=True)
    np.testing.assert_allclose(mine.mean(other), mean, atol=1e-6)
    np.testing.assert_allclose(mine.covariance(other), covariance, atol=1e-6)
    np.testing.assert_allclose(mine.spread(other), np.sqrt(np.diag(covariance)), atol=1e-5)


def test_a_smooth_function_is_learnt_and_what_does_not_matter_is_found_out():
    rows, other = points(120), points(200, seed=1)
    found = learn(rows, curve(rows), torch.full((120,), 0.01, dtype=torch.float64))
    assert float((found.mean(other) - curve(other)).abs().mean()) < 0.03
    assert float(found.scale[2]) < 0.3 * float(found.scale[0])


@pytest.mark.parametrize("wrong", [6, 18])
def test_rows_that_are_simply_wrong_hardly_matter(wrong):
    rows, other = points(120), points(200, seed=1)
    target = curve(rows)
    target[np.random.default_rng(2).permutation(120)[:wrong]] -= 5.0
    found = learn(rows, target, torch.zeros(120, dtype=torch.float64))
    assert float((found.mean(other) - curve(other)).abs().median()) < 0.05


def test_spreads_say_how_far_predictions_are_off():
    rows, other = points(80), points(2000, seed=1)
    noisy = curve(rows) + 0.1 * torch.from_numpy(np.random.default_rng(5).normal(size=80))
    found = learn(rows, noisy, torch.zeros(80, dtype=torch.float64))
    seen = curve(other) + 0.1 * torch.from_numpy(np.random.default_rng(6).normal(size=2000))
    inside = ((found.mean(other) - seen).abs() <= 1.96 * found.spread(other)).double().mean()
    assert 0.9 <= float(inside) <= 1.0


def test_far_from_all_rows_it_knows_nothing():
    rows = points(60)
    found = learn(rows, curve(rows), torch.zeros(60, dtype=torch.float64))
    far = torch.full((1, 3), 1e4, dtype=torch.float64)
    assert abs(float(found.mean(far))) < 1e-6
    assert float(found.spread(far)) >= found.amplitude


def test_rows_that_contradict_the_parameters_are_found_before_anything_is_asked():
    rows, scale = torch.zeros((30, 2), dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    target, noise = torch.arange(30, dtype=torch.float64), torch.full((30,), 0.1, dtype=torch.float64)
    assert Process(rows, target, noise, 1.0, 0.0, scale).sound
    assert not Process(rows, target, -noise, 1.0, 0.0, scale).sound
