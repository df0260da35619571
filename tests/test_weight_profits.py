"""What weights are worth: the running mean of their squared gradients, by its definition."""

import pytest
import torch
from torch import nn

from ecc.solvers.weights.profits import Profits


def watched(kind, gradients):
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 0.0]))
    profits = Profits(kind, [parameter])
    for index, gradient in enumerate(gradients):
        parameter.grad = gradient
        profits.observe(index)
    return profits, parameter


def shrunk(mean, looks):
    """Towards the mean of the tensor, by looks whose weights fall by 0.99 from one to the one before."""
    weights = 0.99 ** torch.arange(looks, dtype=torch.float64)
    certain = float(weights.sum() ** 2 / weights.square().sum())
    return (certain * mean + 30 * mean.mean()) / (certain + 30)


@pytest.mark.parametrize("kind", ["taylor", "fisher"])
def test_profits_are_of_the_mean_square_of_gradients(kind):
    gradients = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-3.0, 0.5, 1.0])]
    profits, parameter = watched(kind, gradients)
    mean = shrunk(0.99 * 0.01 * gradients[0] ** 2 + 0.01 * gradients[1] ** 2, 2)
    wanted = parameter.abs() * mean.sqrt() if kind == "taylor" else parameter**2 * mean
    (found,) = profits.of_weights()
    torch.testing.assert_close(found, wanted.detach())


def test_after_many_looks_a_weight_counts_for_itself():
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1.0, 10.0, 1.0])
    profits, _ = watched("fisher", [scales * torch.randn(3, generator=generator) for _ in range(600)])
    (found,) = profits.of_weights()
    assert found[1] / 4 > 4 * found[0]  # of 100 in truth, of 1 where only the tensor counts


def test_magnitude_needs_no_gradients_and_no_memory():
    profits, _ = watched("magnitude", [torch.ones(3)])
    assert profits.of_weights() is None
    assert profits.state() == {"squares": [], "looks": 0}


def test_without_a_step_profits_are_the_magnitudes():
    assert watched("fisher", [])[0].of_weights() is None


def test_means_begin_anew_where_gradients_overflowed_and_missing_ones_are_zero():
    profits, parameter = watched("fisher", [torch.tensor([float("inf"), float("nan"), 1.0]), None])
    (found,) = profits.of_weights()
    torch.testing.assert_close(
        found, shrunk(torch.tensor([0.0, 0.0, 0.01 * 0.99]), 2).float() * torch.tensor([1.0, 4, 0])
    )
    parameter.grad = torch.tensor([1.0, 1.0, 1.0])
    profits.observe(2)
    mean = shrunk(torch.tensor([0.01, 0.01, 0.01 + 0.01 * 0.99**2]), 3)  # of the third weight 1 was seen before too
    torch.testing.assert_close(profits.of_weights()[0], (mean * torch.tensor([1.0, 4.0, 0.0])).float())


def test_state_goes_on_where_it_was():
    profits, parameter = watched("fisher", [torch.ones(3), torch.ones(3) * 2])
    other = Profits("fisher", [parameter])
    other.restore(profits.state())
    parameter.grad = torch.ones(3)
    profits.observe(2)
    other.observe(2)
    assert torch.equal(profits.of_weights()[0], other.of_weights()[0])


def test_three_steps_between_projections_are_looked_at():
    parameter = nn.Parameter(torch.ones(1))
    profits = Profits("fisher", [parameter], every=10)
    mean = 0.0
    for index in range(10):
        parameter.grad = torch.tensor([index + 1.0])
        profits.observe(index)
        if index + 1 in (3, 6, 9):
            mean = 0.99**3 * mean + (1 - 0.99**3) * (index + 1) ** 2
    assert float(profits.of_weights()[0]) == pytest.approx(mean)  # a tensor of one weight has its mean
