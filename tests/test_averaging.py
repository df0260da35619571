import copy

import pytest
import torch
from solver_toy import residual
from torch import nn

from ecc.solvers.averaging import Average


def disturbed(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor += torch.randn(tensor.shape, generator=generator).to(tensor)
            else:
                tensor += 1


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_follows_its_recurrence(decay):
    model, _, _ = residual()
    average = Average(model, decay)
    expected = {name: tensor.clone().double() for name, tensor in model.state_dict().items()}
    for update in range(12):
        disturbed(model, update)
        average.update()
        d = min(decay, (1 + update) / (10 + update))
        for name, tensor in model.state_dict().items():
            expected[name] = d * expected[name] + (1 - d) * tensor.double()
    steps = model.stem_norm.num_batches_tracked.item()
    average.install()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)
    assert model.stem_norm.num_batches_tracked == steps


def test_within_the_average_is_in_the_model_and_afterwards_it_is_as_before():
    model, _, _ = residual()
    average = Average(model, 0.9)
    start, now = copy.deepcopy(model), None
    disturbed(model, 0)
    now = copy.deepcopy(model)
    with pytest.raises(OSError), average.installed():  # noqa: PT011, PT012 - the point is that it is undone
        assert torch.equal(model.head.weight, start.head.weight)
        assert torch.equal(model.stem_norm.running_mean, start.stem_norm.running_mean)
        raise OSError
    for one, other in zip(model.state_dict().values(), now.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_restored_average_goes_on_with_the_same_bits():
    model, _, _ = residual()
    one, other = Average(model, 0.9), Average(model, 0.9)
    disturbed(model, 0)
    one.update()
    other.restore(copy.deepcopy(one.state()))
    disturbed(model, 1)
    results = []
    for average in (one, other):
        average.update()
        with average.installed():
            results.append(model.head.weight.clone())
    assert torch.equal(*results)


def test_frozen_weights_and_constant_buffers_keep_their_bits():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False))
    model.register_buffer("mask", torch.tensor([0.1, 1 / 3, float("inf")]))
    before = copy.deepcopy(model)
    average = Average(model, 0.99)
    model[0].weight.data += 1
    average.update()
    average.install()
    assert torch.equal(model[1].weight, before[1].weight)
    assert torch.equal(model.mask, before.mask)


def test_half_precision_weights_are_averaged_in_full_precision():
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    model.weight.data.fill_(1.0)
    average = Average(model, 0.999)
    average.restore({"values": [torch.ones(1, 1)], "updates": 10**6})
    model.weight.data.fill_(2.0)
    for _ in range(1000):
        average.update()
    average.install()
    assert model.weight.item() == pytest.approx(2 - 0.999**1000, rel=0.01)
