import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import residual_net, simulated_profile

from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.widths import WidthSpace
from ecc.energy_models.bilinear import fit as fit_bilinear
from ecc.energy_models.factored import Factor, FactoredCost, fit
from ecc.energy_models.staircase import fit as fit_staircase

DENSE = 64


def jumpy(relative):
    """A runtime whose layers on the stem take a quarter longer where its channels are no multiple of 8."""
    stem, a, b, c = relative.T
    slow = 1 + 0.25 * (np.round(stem * DENSE) % 8 != 0)
    return 0.1 + 0.9 * slow * stem * (0.4 * a + 0.3 * b + 0.3 * c)


def growing(relative):
    """A network that takes longer with fewer channels of one group, which no sum of non-negative terms can say."""
    stem, a, b, _ = relative.T
    return 0.3 + 0.3 * stem * a + 0.4 * np.sqrt(b / 1.0) + 0.4 * (1 - stem)


def blocked(relative):
    """A runtime that works in blocks of 16 channels, and goes another way where a layer reads fewer than a block."""
    stem, a, b, c = np.ceil(relative.T * DENSE / 16) * 16 / DENSE
    other = 1 + 0.3 * (relative[:, 0] * DENSE < 16)
    return 0.1 + 0.9 * other * stem * (0.4 * a + 0.3 * b + 0.3 * c)


def positions(side):
    return DENSE * len(side.groups)


def error(cost, table):
    return np.abs(cost(torch.tensor(table.widths)).detach().numpy() / 0.004 / table.rows["latency_ratio"] - 1).mean()


@pytest.mark.parametrize("truth", [jumpy, growing])
def test_widths_that_kernels_prefer_are_found(truth):
    table, fresh = simulated_profile(150, cost=truth), simulated_profile(1000, noise=0.0, seed=1, cost=truth)
    assert error(fit(table, "latency"), fresh) < 0.6 * error(fit_bilinear(table, "latency"), fresh)


def test_blocks_of_channels_and_layers_narrower_than_one_are_told_apart():
    space, layers = residual_net()
    net = (
        space,
        [replace(each, channels_in=positions(each.reads), channels_out=positions(each.writes)) for each in layers],
    )
    table = simulated_profile(150, net=net, cost=blocked)
    fresh = simulated_profile(1000, noise=0.0, seed=1, net=net, cost=blocked)
    cost = fit(table, "latency")
    assert error(cost, fresh) < 0.5 * error(fit(table, "latency", steps={}), fresh)
    assert error(cost, fresh) < 0.7 * error(fit_staircase(table, "latency"), fresh)
    again = FactoredCost.from_fields(Fields(json.loads(json.dumps(cost.to_json())), "cost model"))
    widths = torch.tensor(fresh.widths)
    assert again(widths).tolist() == pytest.approx(cost(widths).tolist(), rel=1e-12)


def test_nothing_is_found_where_there_is_nothing():
    table = simulated_profile(100, noise=0.02)
    fresh = simulated_profile(1000, noise=0.0, seed=1)
    assert error(fit(table, "latency"), fresh) < 1.3 * error(fit_bilinear(table, "latency"), fresh) + 0.002


def test_the_value_follows_the_formula():
    table = simulated_profile(120, cost=jumpy)
    cost = fit(table, "latency")
    widths = np.array([13, 64, 8, 50])
    total = cost.level
    for factor in cost.factors:
        number = cost.space.names.index(factor.group)
        width, relative = widths[number], widths[number] / DENSE
        total += (
            factor.value
            * {
                "width": relative - 1,
                "log-width": np.log(relative),
                "misaligned": relative * (width % max(factor.step, 1) != 0),
                "below": float(width < factor.step),
            }[factor.kind]
        )
    assert float(cost(torch.tensor(widths))) == pytest.approx(
        float(cost.base(torch.tensor(widths))) * np.exp(total), rel=1e-12
    )
    assert any(factor.kind == "misaligned" and factor.step == 8 and factor.group == "stem" for factor in cost.factors)


def test_the_gradient_is_that_of_a_group_aligned_as_rarely_as_its_steps_say():
    table = simulated_profile(120, cost=jumpy)
    base = fit_bilinear(table, "latency")
    ground = {"metric": "latency", "space": base.space, "reference": base.reference}
    cost = FactoredCost(**ground, base=base, level=0.0, factors=(Factor("stem", "misaligned", 4, 0.3),))
    widths = torch.tensor([16.0, 40.0, 40.0, 40.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cost(widths).log() - base(widths).log(), widths)
    assert gradient[0] == pytest.approx(0.3 * 0.75 / DENSE)  # three of four widths are not aligned
    assert cost(widths).item() == pytest.approx(base(widths).item())  # at an aligned width the factor is 1
    widths.data[0] = 17.0
    assert (cost(widths) / base(widths)).item() == pytest.approx(np.exp(0.3 * 17 / DENSE))


def test_the_gradient_of_an_edge_is_that_of_a_ramp_as_wide_as_its_place():
    base = fit_bilinear(simulated_profile(30), "latency")
    ground = {"metric": "latency", "space": base.space, "reference": base.reference}
    cost = FactoredCost(**ground, base=base, level=0.0, factors=(Factor("stem", "below", 16, 0.3),))
    for width, slope, value in ((7.0, 0.0, 0.3), (12.0, -0.3 / 16, 0.3), (20.0, -0.3 / 16, 0.0), (25.0, 0.0, 0.0)):
        widths = torch.tensor([width, 40.0, 40.0, 40.0], dtype=torch.float64, requires_grad=True)
        ratio = cost(widths).log() - base(widths).log()
        (gradient,) = torch.autograd.grad(ratio, widths)
        assert gradient[0].item() == pytest.approx(slope, abs=1e-12)
        assert ratio.item() == pytest.approx(value, abs=1e-12)


def test_steps_of_the_grid_that_are_aligned_anyway_are_not_looked_at():
    _, layers = residual_net()
    space = WidthSpace(("stem", "a", "b", "c"), (64,) * 4, (8,) * 4)
    table = simulated_profile(80, net=(space, layers), cost=growing)
    assert all(factor.step not in (2, 4, 8) for factor in fit(table, "latency").factors)


def test_rows_that_disagree_count_less_when_asked():
    table, fresh = simulated_profile(120, cost=jumpy), simulated_profile(500, noise=0.0, seed=1, cost=jumpy)
    ratio = table.rows["latency_ratio"].to_numpy(copy=True)
    ratio[:8] *= 3.0
    table.rows["latency_ratio"] = ratio
    assert error(fit(table, "latency", robust=True), fresh) < 0.8 * error(fit(table, "latency"), fresh)


@pytest.mark.parametrize(
    "factor",
    [
        Factor("nobody", "width", 0, 0.1),
        Factor("stem", "beauty", 0, 0.1),
        Factor("stem", "misaligned", 0, 0.1),
        Factor("stem", "below", 1, 0.1),
        Factor("stem", "width", 8, 0.1),
        Factor("stem", "width", 0, 1e6),
        Factor("stem", "width", 0, float("nan")),
    ],
)
def test_factors_that_make_no_sense_are_refused(factor):
    base = fit_bilinear(simulated_profile(30), "latency")
    ground = {"metric": "latency", "space": base.space, "reference": base.reference}
    with pytest.raises(InputError, match="FactoredCost"):
        FactoredCost(**ground, base=base, level=0.0, factors=(factor,))


def test_older_files_whose_base_is_bilinear_are_read():
    base = fit_bilinear(simulated_profile(30), "latency")
    ground = {"metric": "latency", "space": base.space, "reference": base.reference}
    cost = FactoredCost(**ground, base=base, level=0.0, factors=(Factor("stem", "misaligned", 4, 0.3),))
    again = FactoredCost.from_fields(Fields(json.loads(json.dumps(cost.to_json())), "cost model"))
    assert again.base.form == "bilinear"
    assert again({"stem": 17}).item() == pytest.approx(cost({"stem": 17}).item(), rel=1e-12)
