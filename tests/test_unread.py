"""What changes no output of a network with zeros is found, against changing every single element."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ecc.network.input_masks import masked_inputs
from ecc.network.unread import influence

MASKED = {"0": (2, 4, 4), "2": (3, 3, 3), "5": (12,)}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2)
    ).eval()


def sparse(seed, share):
    generator = torch.Generator().manual_seed(seed)
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) > share)
    masks = {name: (torch.rand(shape, generator=generator) > share).float() for name, shape in MASKED.items()}
    return model, masks


def reached(model, masks):
    """Of linear positive weights: an element counts where doubling it changes an output. Shapes as of ``influence``."""
    names = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
    positive = nn.Sequential(*(nn.Identity() if isinstance(part, nn.ReLU | nn.Tanh) else part for part in model))
    x = torch.rand(1, 2, 4, 4) + 0.5
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
        found = {}
        for name in names:
            values = positive.get_parameter(name).view(-1)
            found[name] = [_matters(positive, masks, x, values, i) for i in range(len(values))]
        inputs = {
            name: [_matters(positive, masks, x, mask.view(-1), i) for i in range(mask.numel())]
            for name, mask in masks.items()
        }
    return found, inputs


def _matters(model, masks, x, values, index):
    with masked_inputs(model, masks):
        before, kept = model(x), float(values[index])
        values[index] += 1
        after = model(x)
        values[index] = kept
    return not torch.equal(before, after)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.2, 0.5, 0.8]))
def test_influence_is_what_changes_an_output(seed, share):
    model, masks = sparse(seed, share)
    names = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
    found = influence(model, names, masks, torch.zeros(8, 2, 4, 4))
    weights, inputs = reached(model, masks)
    assert {name: flags.flatten().tolist() for name, flags in found.weights.items()} == weights
    assert {name: flags.flatten().tolist() for name, flags in found.inputs.items()} == inputs


def test_a_masked_channel_takes_what_makes_it_and_what_reads_it():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)).eval()
    mask = torch.ones(2, 4, 4)
    mask[1] = 0
    found = influence(model, ["0.weight", "2.weight"], {"2": mask}, torch.zeros(4, 1, 6, 6))
    assert found.weights["0.weight"].flatten(1).any(1).tolist() == [True, False]
    assert found.weights["2.weight"].transpose(0, 1).flatten(1).any(1).tolist() == [True, False]


@pytest.mark.parametrize("training", [True, False])
def test_the_network_stays_as_it_is(training):
    model, masks = sparse(0, 0.5)
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    influence(model, ["0.weight"], masks, torch.zeros(2, 2, 4, 4))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())
