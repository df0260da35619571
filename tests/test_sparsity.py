import numpy as np
import pytest
import torch
from network_cases import Net
from solver_toy import ResidualNet, group, mlp, residual, span
from torch import nn

from ecc.core.errors import InputError
from ecc.core.widths import Slot, WidthGroup
from ecc.network.slimming import slim
from ecc.network.tracing import trace
from ecc.solvers.sparsity import Sparsity


def slow_energies(model, group, scale=1.0):
    """The definition, weight by weight."""
    state = model.state_dict()
    total = np.zeros(group.units)
    for slot in group.slots:
        if slot.role == "read" and state[slot.tensor].ndim >= 2:
            weight = np.moveaxis(state[slot.tensor].numpy(), slot.axis, 0)
            for unit, positions in enumerate(slot.indices):
                total[unit] += sum(scale * float((weight[p].astype(np.float64) ** 2).sum()) for p in positions)
    return total


@pytest.mark.parametrize("make", [mlp, residual])
def test_energies_are_the_sum_of_squares_of_the_weights_that_read_a_unit(make):
    model, groups, _ = make()
    for group_, energies in zip(groups, Sparsity(model, groups).energies(), strict=True):
        np.testing.assert_allclose(energies.numpy(), slow_energies(model, group_), rtol=1e-5)


def test_energies_are_weighted_by_the_scale_of_each_parameter():
    model, groups, _ = mlp()
    plain = Sparsity(model, groups).energies()
    scaled = Sparsity(model, groups).energies({model[3].weight: torch.full_like(model[3].weight, 3.0)})
    torch.testing.assert_close(scaled[0], 3 * plain[0])
    torch.testing.assert_close(scaled[1], plain[1])


def test_a_group_that_no_weight_reads_is_judged_by_the_weights_that_write_it():
    model = nn.Sequential(nn.Linear(3, 4))
    written = group("0", 4, [("0.weight", 0, 1, "write"), ("0.bias", 0, 1, "write")])
    torch.testing.assert_close(Sparsity(model, [written]).energies()[0], model[0].weight.detach().square().sum(1))


def test_units_of_several_positions_and_of_several_groups_share_one_tensor():
    model = nn.Sequential(nn.Linear(10, 2, bias=False))
    left = WidthGroup("l", 4, 2, True, "", (Slot("0.weight", 1, np.array([[0, 2], [1, 3]]), "read"),), ())
    right = WidthGroup("r", 3, 1, True, "", (Slot("0.weight", 1, np.array([[4], [5], [6]]), "read"),), ())
    sparsity = Sparsity(model, [left, right])
    weight = model[0].weight
    torch.testing.assert_close(sparsity.energies()[0][1], weight.detach()[:, [1, 3]].square().sum())
    sparsity.zero({"l": np.array([0]), "r": np.array([1, 2])})
    assert (weight == 0).any(0).tolist() == [False, True, False, True, True, False, False, False, False, False]


def test_a_parameter_of_two_names_is_counted_once():
    model = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    model["b"].weight = model["a"].weight
    tied = group("a", 4, [("a.weight", 1, 1, "read"), ("b.weight", 1, 1, "read")])
    energies = Sparsity(model, [tied]).energies()[0]
    torch.testing.assert_close(energies, model["a"].weight.detach().square().sum(0))


def test_zeroed_units_leave_no_trace_in_the_output():
    model, groups, _ = residual()
    x = torch.randn(4, 1, 8, 8)
    for _ in range(3):
        model(x + torch.randn_like(x))  # running statistics that are not the initial ones
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.normal_()
    kept = {"stem": np.array([0, 3, 5]), "inner": np.array([1, 2]), "last": np.array([4, 7, 9])}
    Sparsity(model, groups).zero(kept)
    small = ResidualNet(3, 2, 3).eval()
    state = model.state_dict()
    for group_ in groups:
        for slot in group_.slots:
            index = torch.from_numpy(slot.indices[kept[group_.name]].ravel())
            state[slot.tensor] = state[slot.tensor].index_select(slot.axis, index)
    small.load_state_dict(state)
    torch.testing.assert_close(small(x), model.eval()(x), rtol=1e-5, atol=1e-6)
    for group_ in groups:
        dropped = np.setdiff1d(span(group_.units).ravel(), kept[group_.name])
        for slot in group_.slots:
            if not slot.tensor.endswith("running_var"):
                index = torch.from_numpy(slot.indices[dropped].ravel())
                assert not model.state_dict()[slot.tensor].index_select(slot.axis, index).any()


def test_silenced_units_can_grow_back_because_what_writes_them_stays():
    model, groups, _ = mlp()
    before = model[0].weight.detach().clone()
    keep = [torch.ones(24, dtype=torch.bool), torch.ones(16, dtype=torch.bool)]
    keep[0][5] = False
    Sparsity(model, groups).silence(keep)
    assert not model[3].weight[:, 5].any()
    assert model[3].weight[:, 4].all()
    torch.testing.assert_close(model[0].weight.detach(), before)


@pytest.mark.parametrize(
    ("slot", "message"),
    [
        (("9.weight", 0, 1, "write"), "which the model does not have"),
        (("0.weight", 2, 1, "write"), "does not fit tensor '0.weight' of shape"),
        (("0.weight", 1, 17, "write"), "does not fit tensor '0.weight' of shape"),
    ],
)
def test_slots_of_another_network_are_refused(slot, message):
    with pytest.raises(InputError, match=message):
        Sparsity(nn.Sequential(nn.Linear(64, 4)), [group("g", 4, [slot])])


@pytest.mark.parametrize("act", ["zero", "silence"])
def test_units_read_by_weight_normed_layers_are_silenced_where_they_are_written(act):
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 5))
    model = Net(
        lambda s, x: s.normed(y := s.first(x).relu()) + s.plain(y),
        first=nn.Linear(6, 8),
        normed=normed,
        plain=nn.Linear(8, 5),
    ).eval()
    x, stays = torch.randn(4, 6), np.array([0, 2, 3])
    graph = trace(model, x)
    expected = slim(model, graph, {"first": stays})(x)
    sparsity = Sparsity(model, [graph.group("first")])
    if act == "zero":
        sparsity.zero({"first": stays})
    else:
        sparsity.silence([torch.isin(torch.arange(8), torch.from_numpy(stays))])
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)
