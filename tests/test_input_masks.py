"""Layers that multiply their input by a mask, for a while or for good."""

import copy

import pytest
import torch
from torch import nn

from ecc.core.errors import InputError
from ecc.energy_models.systolic.energy import systolic_energy
from ecc.network.input_masks import apply_masks, held_masks, maskable, masked_inputs, stored_masks
from ecc.network.tracing import trace


class Net(nn.Module):
    """Two convolutions, one of a signal, and two linear layers, one of which runs twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.signal = nn.Conv1d(3, 4, 3)
        self.linear = nn.Linear(8, 5)
        self.twice = nn.Linear(5, 5)

    def forward(self, x):
        maps = self.conv(x).relu()
        steps = self.signal(input=maps.flatten(2)[..., :10]).relu()
        hidden = self.linear(steps.flatten(1)[:, :8])
        return self.twice(self.twice(hidden))


SHAPES = {"conv": (2, 4, 5), "signal": (3, 1, 10), "linear": (8,)}


def network(seed=0):
    torch.manual_seed(seed)
    return Net().eval()


def random_masks(seed=0, names=tuple(SHAPES)):
    generator = torch.Generator().manual_seed(seed)
    return {name: (torch.rand(SHAPES[name], generator=generator) > 0.4).float() for name in names}


def by_hand(model, masks, x):
    maps = model.conv(x * masks["conv"]).relu()
    steps = model.signal(maps.flatten(2)[..., :10] * masks["signal"].squeeze(1)).relu()
    return model.twice(model.twice(model.linear(steps.flatten(1)[:, :8] * masks["linear"])))


def test_a_masked_network_multiplies_its_inputs_by_hand():
    model, masks, x = network(), random_masks(), torch.randn(6, 2, 4, 5)
    expected = by_hand(model, masks, x)
    assert torch.equal(apply_masks(model, masks, inputs=x)(x), expected)
    with masked_inputs(model, masks):
        assert torch.equal(model(x), expected)
    assert not torch.equal(model(x), expected)  # the masks are gone behind the context


def test_gradients_reach_masks_and_are_those_of_the_product():
    model, x = network(), torch.randn(6, 2, 4, 5)
    masks = {name: mask.requires_grad_() for name, mask in random_masks().items()}
    with masked_inputs(model, masks):
        model(x).square().sum().backward()
    found = {name: mask.grad.clone() for name, mask in masks.items()}
    for mask in masks.values():
        mask.grad = None
    by_hand(model, masks, x).square().sum().backward()
    for name, mask in masks.items():
        torch.testing.assert_close(found[name], mask.grad)


def test_the_network_itself_stays_as_it_is():
    model, x = network(), torch.randn(2, 2, 4, 5)
    before, names = model(x), list(model.state_dict())
    apply_masks(model, random_masks())
    assert torch.equal(model(x), before)
    assert list(model.state_dict()) == names


def test_masks_are_saved_loaded_and_copied_with_the_network(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    x = torch.randn(3, 2, 4, 5)
    masked = apply_masks(network(), random_masks())
    safetensors.save_file(masked.state_dict(), tmp_path / "masked.safetensors")
    state = safetensors.load_file(tmp_path / "masked.safetensors")
    loaded = apply_masks(network(1), stored_masks(state))
    loaded.load_state_dict(state)
    assert torch.equal(loaded(x), masked(x))
    assert torch.equal(copy.deepcopy(masked)(x), masked(x))
    assert {name: mask.tolist() for name, mask in stored_masks(masked).items()} == {
        name: mask.tolist() for name, mask in random_masks().items()
    }


def test_a_copy_has_masks_of_its_own():
    masked, x = apply_masks(network(), random_masks()), torch.randn(3, 2, 4, 5)
    before, other = masked(x), copy.deepcopy(masked)
    other.get_buffer("conv.input_mask").zero_()
    assert torch.equal(masked(x), before)
    assert not torch.equal(other(x), before)


def test_masks_can_be_applied_anew():
    x, second = torch.randn(3, 2, 4, 5), random_masks(1)
    again = apply_masks(apply_masks(network(), random_masks(0)), second)
    assert torch.equal(again(x), by_hand(network(), second, x))


def test_masks_follow_the_type_of_the_network():
    masked = apply_masks(network(), random_masks()).double()
    assert masked(torch.randn(2, 2, 4, 5, dtype=torch.float64)).dtype == torch.float64


def test_a_masked_network_is_exported_with_its_masks(tmp_path):
    masked, x = apply_masks(network(), random_masks()), torch.randn(2, 2, 4, 5)
    program = torch.export.export(masked, (x,)).module()
    torch.testing.assert_close(program(x), masked(x))


def test_a_masked_network_is_traced_like_the_dense_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(12, 5)).eval()
    x = torch.randn(1, 1, 6, 6)
    mask = torch.ones(1, 6, 6)
    mask[0, 0] = 0
    graph, masked = trace(model, x), trace(apply_masks(model, {"0": mask}), x)
    assert [group.name for group in masked.groups] == [group.name for group in graph.groups]
    kept = {"0": mask}
    assert (
        systolic_energy(apply_masks(model, kept), masked, masks=kept).total
        == systolic_energy(model, graph, masks=kept).total
    )


def test_layers_that_cannot_be_masked_say_why():
    shapes = {**SHAPES, "conv": (2, 9, 9), "twice": (5,), "none": (1,)}
    said = maskable(network(), torch.randn(2, 2, 4, 5), shapes)
    assert said["signal"] == said["linear"] == ""
    assert said["conv"] == "its input has shape (2, 2, 4, 5), which a mask of shape (2, 9, 9) does not fit"
    assert said["twice"] == "it runs 2 times in one forward, and its inputs would need a mask each time"
    assert said["none"] == "there is no module of this name whose input could be multiplied"


def test_layers_whose_forward_never_runs_are_told():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    said = maskable(Attending().eval(), torch.randn(2, 3, 4), {"attention.out_proj": (4,)})
    assert said == {"attention.out_proj": "the network does not call it as a module"}


def test_looking_leaves_modes_and_hooks_as_they_were():
    model = network().train()
    model.linear.eval()
    maskable(model, torch.randn(2, 2, 4, 5), SHAPES)
    assert [part.training for part in model.modules()] == [True, True, True, False, True]
    assert not any(part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({"nothing": torch.ones(3)}, "masks: the network has no layer 'nothing'"),
        ({"": torch.ones(3)}, "masks: the network has no layer ''"),
        ({"twice": torch.ones(5)}, "twice cannot be masked: it runs 2 times in one forward, .*"),
        ({"linear": torch.ones(9)}, "the inputs of Linear have shape .* and its mask .*"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, said):
    with pytest.raises(InputError, match=said):
        apply_masks(network(), masks, inputs=torch.randn(2, 2, 4, 5))


def test_inputs_of_another_size_are_refused_and_not_spread():
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    masked = apply_masks(model, {"0": torch.ones(1, 1, 1)})
    with pytest.raises(InputError, match=r"the inputs of Conv2d have shape \(1, 1, 5, 5\) and its mask \(1, 1, 1\)"):
        masked(torch.randn(1, 1, 5, 5))


def test_a_layer_with_such_an_attribute_of_its_own_is_refused():
    class Own(nn.Linear):
        input_mask = 3

    with pytest.raises(InputError, match="0 cannot be masked: it has an attribute input_mask of its own"):
        apply_masks(nn.Sequential(Own(3, 3)), {"0": torch.ones(3)})


def test_masks_are_held_where_they_multiply_and_the_energy_counts_with_them():
    model, masks, x = network(), random_masks(), torch.randn(1, 2, 4, 5)
    masked = copy.deepcopy(apply_masks(model, masks))
    masked.twice.register_buffer("input_mask", torch.zeros(7))  # something else of that name
    held = held_masks(masked)
    assert set(held) == set(masks)
    assert all(torch.equal(held[name], mask) for name, mask in masks.items())
    graph = trace(masked, x)
    assert systolic_energy(masked, graph).total == systolic_energy(model, graph, masks=masks).total
    assert systolic_energy(masked, graph, masks={}).total == systolic_energy(model, graph).total
