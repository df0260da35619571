import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_toy import digits_task, mlp, problem, residual

from ecc.core.errors import InputError
from ecc.core.problem import Status
from ecc.solvers.baselines.magnitude import Magnitude

TASK, IMAGES = digits_task(), digits_task(flat=False)


def slow(network, limit):
    """Drop the unit of smallest relative norm, one at a time, until the cost fits."""
    model, _, cost = network
    norms = {"0": model[3].weight.detach().norm(dim=0), "3": model[5].weight.detach().norm(dim=0)}
    norms = {name: (norm / norm.mean()).tolist() for name, norm in norms.items()}
    kept = {name: set(range(len(norm))) for name, norm in norms.items()}
    while cost({name: len(units) for name, units in kept.items()}) > limit * cost.dense * (1 + 1e-12):
        _, name, unit = min((norms[n][u], n, u) for n, units in kept.items() if len(units) > 1 for u in units)
        kept[name].remove(unit)
    return kept


@settings(max_examples=25, deadline=None)
@given(limit=st.floats(0.1, 1), first=st.integers(2, 30), second=st.integers(2, 30))
def test_it_drops_the_smallest_units_of_all_until_the_budget_holds(limit, first, second):
    network = mlp(first, second)
    smallest = network[2]({"0": 1, "3": 1}).item() / network[2].dense
    limit = max(limit, smallest * (1 + 1e-9))
    found = Magnitude(min_fraction=0).solve(problem(network, TASK, limit))
    assert {name: set(kept.tolist()) for name, kept in found.kept.items()} == slow(network, limit)
    assert found.status is Status.MET
    assert found.predicted["macs"] <= limit * network[2].dense * (1 + 1e-12)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_plain_norms_compare_layers_as_they_are(norm):
    network = mlp()
    with torch.no_grad():
        network[0][5].weight *= 1e-3
    found = Magnitude(norm=norm, relative=False).solve(problem(network, TASK, 0.8))
    assert found.widths["3"] < 16
    assert found.widths["0"] == 24
    norms = network[0][5].weight.detach().norm(p=int(norm[1]), dim=0)
    assert set(found.kept["3"].tolist()) == set(norms.topk(found.widths["3"]).indices.tolist())


def test_the_floor_is_kept_where_the_budget_allows():
    network = mlp()
    with torch.no_grad():
        network[0][5].weight *= 1e-3
    for floor in (0.5, 0.25):
        assert (
            Magnitude(relative=False, min_fraction=floor).solve(problem(network, TASK, 0.6)).widths["3"] == 16 * floor
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"norm": "l0"}, r"Magnitude\(norm=...\) must be l1 or l2, got 'l0'"),
        ({"min_fraction": 2}, r"Magnitude\(min_fraction=...\) must be in \[0, 1\], got 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        Magnitude(**given)


def test_every_group_keeps_one_unit():
    network = residual()
    with torch.no_grad():
        network[0].head.weight *= 1e-6
    smallest = network[2](dict.fromkeys(("stem", "inner", "last"), 1)).item() / network[2].dense
    found = Magnitude().solve(problem(network, IMAGES, smallest * 1.01))
    assert found.widths == {"stem": 1, "inner": 1, "last": 1}


def test_scaling_the_weights_of_a_layer_changes_nothing():
    plain, scaled = mlp(), mlp()
    with torch.no_grad():
        scaled[0][3].weight *= 1e-3
    kept = [Magnitude().solve(problem(network, TASK, 0.5)).kept for network in (plain, scaled)]
    assert all(np.array_equal(kept[0][name], kept[1][name]) for name in ("0", "3"))


def test_weights_that_are_all_zero_are_no_error():
    network = mlp()
    with torch.no_grad():
        network[0][5].weight.zero_()
    found = Magnitude().solve(problem(network, TASK, 0.5))
    assert found.status is Status.MET


def test_dropped_units_are_zero_and_the_problem_s_network_stays_as_it_is():
    network = residual()
    before = copy.deepcopy(network[0].state_dict())
    found = Magnitude().solve(problem(network, IMAGES, 0.5))
    assert all(torch.equal(before[name], tensor) for name, tensor in network[0].state_dict().items())
    dropped = [u for u in range(8) if u not in found.kept["inner"]]
    assert dropped
    assert not found.model.inner_norm.bias[dropped].any()
    assert not found.model.outer.weight[:, dropped].any()


def test_what_cannot_be_reached_is_refused():
    with pytest.raises(InputError, match="cannot be reached"):
        Magnitude().solve(problem(mlp(), TASK, 0.001))
