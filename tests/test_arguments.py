"""What is given in the wrong place or kind is refused in one sentence; all whole numbers are widths."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ecc
from ecc.core.errors import InputError
from ecc.network.manifest import SlimManifest

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
MODEL = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
GRAPH = ecc.trace(MODEL, X)


@pytest.mark.parametrize(
    ("model", "message"),
    [(lambda x: x, "must be a torch.nn.Module, got function"), (nn.Linear, "got the class Linear; make one with it")],
)
def test_only_modules_are_traced(model, message):
    with pytest.raises(InputError, match=message):
        ecc.trace(model, X)


@pytest.mark.parametrize("step", ["8", 2.5, True, 0, None], ids=repr)
def test_steps_are_whole_numbers(step):
    with pytest.raises(InputError, match="the step must be a whole number of at least 1 channel, got"):
        ecc.trace(MODEL, X, step=step)


@pytest.mark.parametrize("make", [ecc.slim, ecc.outline], ids=["slim", "outline"])
@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (None, 'must be a dict such as {"conv1": 8}, got NoneType'),
        ([("0", 3)], "must be a dict such as .*, got list"),
        ({"0": None}, "width None of group '0' is no number of channels"),
        ({"0": True}, "width True of group '0' is no number of channels"),
        ({"0": "4"}, "width '4' of group '0' is no number of channels"),
        ({"0": {1, 2}}, "width {1, 2} of group '0' is no number of channels"),
        ({"0": 0.5}, "widths count channels, so write 4 for 50% of 8"),
        ({"0": float("nan")}, "width nan of group '0' is not admissible"),
        ({"4": 2}, "group '4' stays dense: it is an output"),
    ],
    ids=repr,
)
def test_widths_are_whole_numbers_by_group(make, widths, message):
    with pytest.raises(InputError, match=message):
        make(MODEL, GRAPH, widths)


@pytest.mark.parametrize("units", [[[1], [1, 2]], [0, float("nan")], [True, False], []], ids=repr)
def test_units_are_distinct_indices(units):
    with pytest.raises(InputError, match="kept units of group '0' must be one or more distinct indices below 8"):
        ecc.slim(MODEL, GRAPH, {"0": units})


@pytest.mark.parametrize("width", [3, 3.0, np.int32(3), np.float32(3), np.array(3), torch.tensor(3)], ids=repr)
def test_any_kind_of_whole_number_is_a_width(width: Any):
    assert ecc.slim(MODEL, GRAPH, {"0": width})[0].out_features == 3
    assert ecc.outline(MODEL, GRAPH, {"0": width})[0].out_features == 3


def test_network_and_graph_in_the_wrong_order_are_refused():
    with pytest.raises(InputError, match="are swapped; give the network first"):
        ecc.slim(GRAPH, MODEL, {})
    with pytest.raises(InputError, match=r"must be what ecc.trace returned, got dict"):
        ecc.slim(MODEL, {}, {})


def test_groups_that_are_not_there_are_refused_with_those_like_them():
    with pytest.raises(InputError, match="there is no group 'zz'; the groups are 0, 2, 4"):
        GRAPH.group("zz")


def test_one_pattern_need_not_be_in_a_list():
    assert [group.name for group in ecc.trace(MODEL, X, include="0").prunable] == ["0"]
    assert ecc.trace(MODEL, X, exclude=nn.Linear).prunable == ()
    for wrong in (3, [3]):
        with pytest.raises(InputError, match=r"trace\(include=...\) takes names of layers and classes"):
            ecc.trace(MODEL, X, include=wrong)


def test_manifests_are_read_from_bytes():
    with pytest.raises(InputError, match="the slim manifest must be bytes, as "):
        SlimManifest.parse(None)


def test_networks_without_values_are_slimmed():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    graph = ecc.trace(model, X)
    small, kept = ecc.slim(model, graph, {"0": 3}), SlimManifest.of(model, graph, {"0": 3}).units()
    assert small[0].weight.is_meta
    assert small[0].weight.shape == (3, 4)
    assert kept["0"].tolist() == [0, 1, 2]  # without values no unit is better than another


def test_what_is_made_under_inference_mode_can_be_trained():
    with torch.inference_mode():
        graph = ecc.trace(MODEL, X)
        made = [ecc.slim(MODEL, graph, {"0": 3}), ecc.outline(MODEL, graph, {"0": 3}), ecc.slim(MODEL, graph, {})]
    for small in made:
        small(X).sum().backward()
        torch.optim.SGD(small.parameters(), lr=0.1).step()
        assert small[0].weight.grad is not None
