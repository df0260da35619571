"""Edits of a network's structure: what records do, and what they may not."""

import pytest
import torch
from torch import nn

from ecc.core.errors import InputError
from ecc.stages.edits import apply_edits, bias_edit, identity_edit


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3, bias=False))


def test_a_module_becomes_one_that_passes_its_input_on():
    model = network().eval()
    made = apply_edits(model, [identity_edit("1")])
    assert isinstance(made[1], nn.Identity)
    assert not made[1].training
    assert isinstance(model[1], nn.BatchNorm2d)


@pytest.mark.parametrize(("path", "size"), [("0", 2), ("3", 3)])
def test_a_layer_gets_a_bias_of_zeros(path, size):
    model = network()
    made = apply_edits(model, [bias_edit(path)])
    assert torch.equal(made.get_submodule(path).bias, torch.zeros(size))
    assert torch.equal(made.get_submodule(path).weight, model.get_submodule(path).weight)
    assert made.get_submodule(path).weight is not model.get_submodule(path).weight
    assert model.get_submodule(path).bias is None


def test_edits_that_were_made_already_change_nothing():
    edits = [bias_edit("0"), identity_edit("1")]
    once = apply_edits(network(), edits)
    twice = apply_edits(once, edits)
    assert {name: tuple(t.shape) for name, t in once.state_dict().items()} == {
        name: tuple(t.shape) for name, t in twice.state_dict().items()
    }


def test_nested_modules_are_reached():
    model = nn.ModuleDict({"inner": network()})
    assert isinstance(apply_edits(model, [identity_edit("inner.1")])["inner"][1], nn.Identity)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"edit": "identity", "path": "7"}, "names the module '7', which the network does not have"),
        ({"edit": "identity", "path": ""}, "names the module ''"),
        ({"edit": "identity", "path": 1}, "names the module 1"),
        ({"edit": "identity", "path": "0.weight"}, "names the module '0.weight'"),
        ({"edit": "identity", "path": "forward.__globals__"}, "which the network does not have"),
        ({"edit": "exec", "path": "1"}, "'exec' is no edit of a network's structure; there are identity, bias"),
        ({"edit": 3, "path": "1"}, "3 is no edit"),
        ({"edit": "identity"}, "has the entries edit and path, and no others"),
        ({"edit": "identity", "path": "1", "more": "x"}, "has the entries edit and path, and no others"),
        ("identity", "has the entries edit and path, and no others"),
        ({"edit": "bias", "path": "1"}, "of linear and convolutional layers, and '1' is BatchNorm2d"),
    ],
    ids=str,
)
def test_what_is_no_edit_is_refused_before_anything_is_done(record, message):
    with pytest.raises(InputError, match=message):
        apply_edits(network(), [identity_edit("2"), record])


def test_endless_lists_are_refused():
    with pytest.raises(InputError, match="at most 100000"):
        apply_edits(network(), [identity_edit("1")] * 100_001)
