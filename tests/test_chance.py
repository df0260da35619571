import math
from dataclasses import replace

import pytest
import torch
from device_toy import LineCost
from oracles import simulated_profile
from scipy import stats
from torch import nn

from ecc.api.chance import StretchedCost, UpperCost, deviations, upper
from ecc.core.cost import Decomposable
from ecc.core.errors import InputError
from ecc.energy_models.bilinear import fit
from ecc.energy_models.counting import CountCost
from ecc.energy_models.fitted import conformal_quantile
from ecc.network.tracing import trace

NET = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2))
COUNT = CountCost("macs", trace(NET, torch.randn(1, 8)))


def judged():
    errors = tuple(i / 1000 for i in range(1, 100))
    return replace(fit(simulated_profile(), "latency"), calibration=errors)


@pytest.mark.parametrize("chance", [0.6, 0.9, 0.95, 0.99])
def test_upper_end_of_a_normal_interval_is_its_one_sided_quantile(chance):
    cost = LineCost(COUNT, spread=0.05)
    ratio = float(UpperCost(cost, chance)({}) / cost({}))
    assert math.log(ratio) == pytest.approx(0.05 * stats.norm.ppf(chance), rel=1e-6)
    assert deviations(chance) == pytest.approx(stats.norm.ppf(chance))


def test_upper_end_of_a_fitted_cost_is_that_of_its_interval_at_twice_the_tail():
    cost = judged()
    stretch = stats.norm.ppf(0.95) / stats.norm.ppf(0.975)
    _, value, high = (cost.reference[i] for i in (1, 0, 2))
    above = math.hypot(conformal_quantile(cost.calibration, 0.9), stretch * math.log(high / value))
    vector = torch.tensor([[30.0, 20.0, 10.0, 64.0], [64.0, 64.0, 64.0, 64.0]])
    torch.testing.assert_close(UpperCost(cost, 0.95)(vector), cost(vector) * math.exp(above))


def test_gradient_is_that_of_the_value():
    cost = UpperCost(judged(), 0.95)
    point = torch.tensor([30.0, 20.0, 10.0, 64.0], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(cost, (point,))


def test_what_belongs_to_the_cost_stays():
    cost = judged()
    found = upper(cost, 0.95)
    assert (found.metric, found.unit, found.dense, found.space) == (cost.metric, cost.unit, cost.dense, cost.space)
    assert found.provenance == cost.provenance
    assert not found.exact
    assert isinstance(found, Decomposable)
    assert found.interactions == cost.interactions


def test_an_interval_that_widens_with_the_widths_makes_no_sum_of_parts():
    class Widening(LineCost):
        def interval(self, widths, level=0.95):
            value = self(widths)
            return value, value + value**2

    found = upper(Widening(COUNT), 0.95)
    assert type(found) is UpperCost
    assert not isinstance(found, Decomposable)
    assert isinstance(upper(LineCost(COUNT), 0.95), StretchedCost)


def test_exact_costs_and_costs_without_a_chance_are_what_they_were():
    assert upper(COUNT, 0.95) is COUNT
    cost = LineCost(COUNT)
    assert upper(cost, None) is cost
    assert float(upper(cost, 0.5)({})) == float(cost({}))


@pytest.mark.parametrize("chance", [0, 0.4, 1, 1.5, float("nan")])
def test_chance_that_is_none_is_refused(chance):
    with pytest.raises(InputError, match=r"probability from 0\.5"):
        UpperCost(LineCost(COUNT), chance)


def test_cost_that_promises_nothing_is_refused():
    with pytest.raises(InputError, match="promises no interval"):
        upper(replace(judged(), calibration=()), 0.95)
