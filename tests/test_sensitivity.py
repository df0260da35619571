import copy

import numpy as np
import pytest
import torch
from solver_toy import digits_task, group, mlp, residual
from torch import nn

from ecc.core.errors import InputError
from ecc.solvers.limits import Ranking
from ecc.solvers.sensitivity import measure_curves
from ecc.solvers.sparsity import Sparsity


@pytest.fixture(scope="module")
def images():
    return digits_task(flat=False)


def ranked(model, groups):
    return Ranking(Sparsity(model, groups).energies())


def lowest(groups, units=1):
    return torch.full((len(groups),), float(units), dtype=torch.float64)


def test_a_linear_network_moves_by_what_its_dropped_units_carried():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    member = group("0", 5, [("0.weight", 0, 1, "write"), ("0.bias", 0, 1, "write"), ("1.weight", 1, 1, "read")])
    x = torch.randn(40, 6)
    ranking = ranked(model, (member,))
    (curve,) = measure_curves(model, (member,), [(x, torch.zeros(40))], ranking, lowest([member]), points=20)
    most = 0.0  # a narrower group that moves the outputs less is worth no more than a wider one
    with torch.no_grad():
        for kept in range(5, 0, -1):
            dropped = np.setdiff1d(np.arange(5), ranking.kept(torch.tensor([float(kept)]))[0].numpy())
            carried = model[0](x)[:, dropped] @ model[1].weight[:, dropped].T
            most = max(most, carried.square().mean().item())
            assert curve[kept].item() == pytest.approx(most, rel=1e-4, abs=1e-6)


def test_curves_fall_to_zero_and_the_model_stays_as_it_is(images):
    model, groups, _ = residual(12, 12, 16)
    model.train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    curves = measure_curves(model, groups, images.train, ranked(model, groups), lowest(groups))
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for curve, member in zip(curves, groups, strict=True):
        assert curve.shape == (member.units + 1,)
        assert curve[-1] == 0
        assert (curve.diff() < 0).all() or curve.max() == 0


def test_a_seed_gives_the_same_curves_again_whatever_was_drawn_before(images):
    model, groups, _ = residual()
    ranking = ranked(model, groups)
    first = measure_curves(model, groups, images.train, ranking, lowest(groups), seed=3)
    torch.rand(5)
    again = measure_curves(model, groups, images.train, ranking, lowest(groups), seed=3)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


def test_widths_below_the_floor_are_not_tried(images):
    model, groups, _ = residual(12, 12, 16)
    seen = []
    handle = model.register_forward_hook(lambda *_: seen.append(1))
    measure_curves(model, groups, images.train, ranked(model, groups), lowest(groups, 12), points=9)
    handle.remove()
    # the dense outputs, and of the one group that is wider than the floor those between 12 and 16; 512 examples each
    assert len(seen) == 4 * (1 + 4)


def test_batches_of_one_example_are_judged_by_the_statistics_that_are_there(images):
    model, groups, _ = residual()
    single = [(images.train.inputs[:1], images.train.targets[:1])]
    curves = measure_curves(model, groups, single, ranked(model, groups), lowest(groups))
    assert all(curve.isfinite().all() for curve in curves)


def test_a_loader_without_batches_and_outputs_that_are_not_finite_are_refused():
    model, groups, _ = mlp()
    ranking = ranked(model, groups)
    with pytest.raises(InputError, match="yields none"):
        measure_curves(model, groups, [], ranking, lowest(groups))
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    with pytest.raises(InputError, match="not finite"):
        measure_curves(model, groups, digits_task().train, ranking, lowest(groups))
