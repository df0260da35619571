import json

import numpy as np
import pandas as pd
import pytest
import torch

from ecc.core.errors import InputError
from ecc.core.fields import parse_object
from ecc.core.operators import Operator
from ecc.core.table import OperatorTable, Provenance, describe_operators
from ecc.energy_models.operator_costs import OperatorCosts
from ecc.energy_models.operator_work import sizes_of
from ecc.profiler.operator_design import REFERENCE, choose

RATES = {"conv": 2e-11, "linear": 8e-11}


def seconds(operator):
    """A device with a call's cost, a rate per kind, memory, and tiles of eight output channels."""
    tiles = -(-operator.channels_out // 8) * 8 / operator.channels_out if operator.kind == "conv" else 1.0
    moved = operator.reads + operator.weights + operator.writes
    return 3e-6 + tiles * RATES.get(operator.kind, 4e-11) * operator.macs + 2e-10 * moved


def table_of(operators, noise=0.01, seed=0, metrics=("latency",), **changes):
    """An operator profile of that device."""
    base = seconds(REFERENCE)
    ratio = np.array([seconds(each) for each in operators]) / base
    ratio = ratio * np.exp(np.random.default_rng(seed).normal(0, noise, len(ratio)))
    rows = describe_operators(operators, 4)
    for metric in metrics:
        rows = rows.assign(**{f"{metric}_ratio": ratio})
        rows[f"{metric}_ratio_low"], rows[f"{metric}_ratio_high"] = ratio * (1 - 2 * noise), ratio * (1 + 2 * noise)
    settings = {"environment": {"dtype": "float32"}, "runtime": "eager", "threads": 1, **changes}
    provenance = Provenance("operators", "0p5", (1,), "simulated", "d3v", **settings)
    return OperatorTable(provenance, REFERENCE, pd.DataFrame(rows), dict.fromkeys(metrics, (base, base, base)))


def convolutions(n, seed=0):
    return [each for each in choose(12 * n, seed=seed) if each.kind in ("conv", "linear", "relu", "tanh")][:n]


@pytest.fixture(scope="module")
def learnt():
    return OperatorCosts.of(table_of(convolutions(260)), "latency")


def predicted(costs, operators):
    with torch.no_grad():
        return np.array([float(costs(each.kind, sizes_of([each]))) for each in operators]) * seconds(REFERENCE)


def test_a_known_law_is_found_again(learnt):
    fresh = [each for each in convolutions(120, seed=7) if each.macs]
    truth = np.array([seconds(each) for each in fresh])
    assert np.abs(predicted(learnt, fresh) / truth - 1).mean() < 0.05


def test_spreads_cover_operators_that_were_not_measured(learnt):
    fresh = convolutions(200, seed=7)
    error = np.abs(np.log(predicted(learnt, fresh) / [seconds(each) for each in fresh]))
    with torch.no_grad():
        spread = np.array([float(learnt.spread(each.kind, sizes_of([each]))) for each in fresh])
    assert (error <= 1.96 * spread).mean() > 0.9


def test_far_beyond_all_rows_cost_grows_with_work(learnt):
    wide = [Operator("conv", channels_in=c, channels_out=c, height=64, width=64, out_height=64, out_width=64,
                     kernel_h=3, kernel_w=3) for c in (10_000, 20_000, 40_000)]  # fmt: skip
    costs = predicted(learnt, wide)
    assert (np.diff(np.log2(costs)) > 1.5).all()
    assert (np.abs(np.log(costs / [seconds(each) for each in wide])) < np.log(3)).all()


def test_gradients_are_those_of_the_smooth_part():
    def smooth(operator):
        return 3e-6 + 2e-11 * operator.macs

    operators = [each for each in choose(800, seed=1) if each.kind == "conv"][:120]
    costs = OperatorCosts.learn(operators, [smooth(each) for each in operators])
    sizes = sizes_of([Operator("conv", channels_in=64, channels_out=64, height=28, width=28, out_height=28,
                               out_width=28, kernel_h=3, kernel_w=3)])  # fmt: skip
    step = 1e-3
    middle = sizes["channels_in"]
    values = [
        float(costs("conv", {**sizes, "channels_in": middle * (1 + sign * step)}).log().detach()) for sign in (-1, 1)
    ]
    moved = middle.clone().requires_grad_()
    (slope,) = torch.autograd.grad(costs("conv", {**sizes, "channels_in": moved}).log(), moved)
    # elasticity near 1: nearly all of the cost is in MACs; paddings jump by about the step itself and are left out
    assert float(slope * middle) == pytest.approx(1, abs=0.15)
    assert abs((values[1] - values[0]) / (2 * step)) < 5


def test_a_thousandfold_error_in_some_rows_decides_nothing():
    operators = [each for each in choose(900, seed=2) if each.kind == "conv"][:150]
    cost = np.array([seconds(each) for each in operators])
    cost[np.random.default_rng(0).permutation(150)[:8]] /= 1000
    fresh = [each for each in choose(900, seed=9) if each.kind == "conv"][:60]
    costs = OperatorCosts.learn(operators, cost / seconds(REFERENCE))
    assert np.median(np.abs(predicted(costs, fresh) / [seconds(each) for each in fresh] - 1)) < 0.05


def test_a_file_gives_the_same_costs(learnt):
    text = json.dumps({"m": learnt.to_json()}).encode()
    again = OperatorCosts.from_fields(parse_object(text, "a file"), "m")
    fresh = convolutions(30, seed=4)
    np.testing.assert_allclose(predicted(again, fresh), predicted(learnt, fresh), rtol=1e-9)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("kinds", ["conv", "conv"]),
        ("kinds", ["spell"]),
        ("kinds", []),
        ("lines", {"conv": [0, 0, 0, 0, 0, 0]}),
        ("lines", {"conv": [1, 2]}),
        ("operators", []),
        ("operators", [[0, 0, 1]]),
        ("operators", [[9, 0, *[1] * 14]]),
        ("residual", [1e9]),
        ("residual", "none"),
        ("variance", [-1.0]),
        ("scale", [1.0]),
        ("amplitude", 0.0),
        ("amplitude", 1e300),
        ("nugget", -1.0),
        ("stretch", 1e99),
    ],
)
def test_a_hostile_file_gives_one_sentence(learnt, member, value):
    entry = next(each for each in learnt.to_json() if each["kinds"] == ["conv"])
    text = json.dumps({"m": [{**entry, member: value}]}).encode()
    with pytest.raises(InputError):
        OperatorCosts.from_fields(parse_object(text, "a file"), "m")


def test_wrong_input_is_refused():
    table = table_of(convolutions(30))
    with pytest.raises(InputError, match="energy of operators was not measured on simulated"):
        OperatorCosts.of(table, "energy")
    with pytest.raises(InputError, match="holds 4 rows with a cost, at least 10"):
        OperatorCosts.learn(convolutions(20), [1.0] * 4 + [np.nan] * 16)
    with pytest.raises(InputError, match="holds no 'lstm', which the network runs"):
        OperatorCosts.of(table, "latency").of_kinds(["conv", "lstm"])
