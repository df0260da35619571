import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import Net
from solver_toy import Loader, digits_task, group, mlp, residual
from torch import nn

from ecc.core.errors import InputError
from ecc.network.tracing import trace
from ecc.solvers.importance import CRITERIA, curves_of, rate
from ecc.solvers.sparsity import Sparsity

FLAT, IMAGES = digits_task(batch_size=32), digits_task(batch_size=32, flat=False)


def fixed(task, examples):
    """The task with one training batch that is always the same."""
    loader = Loader(task.train.inputs[:examples], task.train.targets[:examples], batch_size=examples)
    return replace(task, train=loader)


def wide(network):
    model, groups, _ = network
    return model.double().eval(), groups


def wide_task(task, examples):
    task = fixed(task, examples)
    return replace(task, train=Loader(task.train.inputs.double(), task.train.targets, examples))


def loss_of(model, task):
    with torch.no_grad():
        return sum(float(task.loss(model(x), y)) for x, y in task.train)


@pytest.mark.parametrize(("make", "task"), [(mlp, FLAT), (residual, IMAGES)], ids=["mlp", "residual"])
def test_taylor_is_what_the_loss_changes_when_a_unit_goes_in_the_limit_of_small_weights(make, task):
    model, groups = wide(make())
    with torch.no_grad():  # away from the kinks of the rectifiers, where there is no slope
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.normal_()
    task = wide_task(task, 40)
    for member in groups:
        small = copy.deepcopy(model)
        tensors = dict(small.named_parameters())
        with torch.no_grad():
            for slot in member.slots:
                if slot.role == "read":
                    tensors[slot.tensor] *= 1e-6
        found = rate("taylor", small, [member], task)[0]
        whole = loss_of(small, task)
        for unit in range(member.units):
            without = copy.deepcopy(small)
            Sparsity(without, [member]).zero({member.name: np.delete(np.arange(member.units), unit)})
            assert abs(loss_of(without, task) - whole) == pytest.approx(float(found[unit]), rel=1e-3, abs=1e-12)


def test_taylor_by_what_reads_a_unit_is_that_by_what_writes_it_where_units_are_scaled_freely():
    model, groups = wide(residual())
    task = wide_task(IMAGES, 40)
    ((x, y),) = task.train
    task.loss(model(x), y).backward()
    writers = {
        "stem": ["stem_norm.weight", "stem_norm.bias", "outer_norm.weight", "outer_norm.bias"],
        "inner": ["inner_norm.weight", "inner_norm.bias"],
        "last": ["last.weight", "last.bias"],
    }
    tensors = dict(model.named_parameters())
    for member, found in zip(groups, rate("taylor", model, groups, task), strict=True):
        slopes = [(tensors[name] * tensors[name].grad).flatten(1).sum(1) if tensors[name].ndim > 1
                  else tensors[name] * tensors[name].grad for name in writers[member.name]]  # fmt: skip
        torch.testing.assert_close(found, sum(slopes).abs().detach())


def test_taylor_is_the_root_of_the_mean_square_over_batches():
    model, groups = wide(mlp())
    halves = wide_task(FLAT, 40)
    first, second = (
        replace(halves, train=Loader(halves.train.inputs[rows], halves.train.targets[rows], 20))
        for rows in (slice(0, 20), slice(20, 40))
    )
    both = replace(halves, train=replace(halves.train, batch_size=20))
    one, two, found = (rate("taylor", model, groups, task)[0] for task in (first, second, both))
    torch.testing.assert_close(found, ((one.square() + two.square()) / 2).sqrt())


def test_fisher_is_half_the_mean_square_of_each_examples_gradient_by_a_gate_on_the_unit():
    model, groups = wide(mlp())
    task = wide_task(FLAT, 64)

    def loss(gates, x, y):
        hidden = model[1](model[0](x)) * gates[0]
        hidden = model[4](model[3](hidden)) * gates[1]
        return nn.functional.cross_entropy(model[5](hidden)[None], y[None])

    gates = (torch.ones(24).double(), torch.ones(16).double())
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(gates, task.train.inputs, task.train.targets)
    for found, slopes in zip(rate("fisher", model, groups, task, batches=1), each, strict=True):
        torch.testing.assert_close(found, slopes.square().mean(0).detach() / 2)


def test_fisher_takes_the_same_number_of_examples_of_each_batch_and_256_at_most():
    seen = []
    model, groups, _ = mlp()
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    task = replace(FLAT, train=replace(FLAT.train, batch_size=100))
    copied = copy.deepcopy(model)  # the hook counts calls on copies too
    rate("fisher", copied, groups, task, batches=8)
    assert seen == [1] * 256
    seen.clear()
    rate("taylor", copied, groups, task, batches=3)
    assert seen == [100] * 3


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_order_of_tensors_and_of_groups_does_not_matter(criterion):
    model, groups, _ = residual()
    plain = rate(criterion, model, groups, IMAGES, batches=2)
    turned = [replace(member, slots=member.slots[::-1]) for member in groups[::-1]]
    for one, two in zip(plain, rate(criterion, model, turned, IMAGES, batches=2)[::-1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_weights_that_move_from_one_layer_to_the_next_change_nothing(criterion):
    model, groups, _ = mlp()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved[0].weight *= 16
        moved[0].bias *= 16
        moved[3].weight /= 16
    plain, other = (rate(criterion, each, groups, FLAT, batches=2) for each in (model, moved))
    for one, two in zip(plain, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-9)


def test_norms_are_those_of_the_weights_that_read_a_unit():
    model, groups, _ = mlp()
    read = model[3].weight.detach().double()
    torch.testing.assert_close(rate("l1", model, groups, FLAT)[0], read.abs().sum(0), rtol=1e-5, atol=0)
    torch.testing.assert_close(rate("l2", model, groups, FLAT)[0], read.norm(dim=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_model_and_torch_s_generator_stay_as_they_are(criterion):
    model, groups, _ = residual()
    model.train()
    model.inner_norm.eval()
    model.last.weight.requires_grad_(False)
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    rate(criterion, model, groups, IMAGES, batches=2)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["last.weight"]
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["stem.weight"]
    assert bool((model.stem.weight.grad == 1).all())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_it_does_not_matter_where_it_is_called_and_what_was_drawn_before(criterion):
    model, groups, _ = mlp(dropout=0.5)
    model.train()
    shuffled = replace(FLAT, train=replace(FLAT.train, shuffle=True))
    plain = rate(criterion, model, groups, shuffled, batches=2, seed=3)
    torch.rand(7)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        within = rate(criterion, model, groups, shuffled, batches=2, seed=3)
    with torch.inference_mode():
        inferring = rate(criterion, model, groups, shuffled, batches=2, seed=3)
    for one, two, three in zip(plain, within, inferring, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    other = rate(criterion, model, groups, shuffled, batches=2, seed=4)
    assert not torch.equal(plain[0], other[0])


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_frozen_parameters_count_like_others(criterion):
    model, groups, _ = mlp()
    frozen = copy.deepcopy(model).requires_grad_(False)
    plain, other = (rate(criterion, each, groups, FLAT, batches=1) for each in (model, frozen))
    assert all(torch.equal(one, two) for one, two in zip(plain, other, strict=True))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_half_precision_is_summed_in_full(criterion):
    model, groups, _ = mlp()
    half = copy.deepcopy(model).bfloat16()
    train = replace(FLAT.train, inputs=FLAT.train.inputs.bfloat16())
    found = rate(criterion, half, groups, replace(FLAT, train=train), batches=1)
    for one, two in zip(found, rate(criterion, model, groups, FLAT, batches=1), strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, two, rtol=0.3, atol=0.05 * float(two.max()))


def recurrent():
    return Net(lambda s, x: s.head(s.rnn(x.flatten(1).view(-1, 8, 8))[0][:, -1]),
               rnn=nn.LSTM(8, 6, num_layers=2, dropout=0.3, batch_first=True), head=nn.Linear(6, 10))  # fmt: skip


def normed():
    return Net(
        lambda s, x: s.last(s.normed(s.first(x.flatten(1)).tanh()).tanh()),
        first=nn.Linear(64, 8),
        normed=nn.utils.parametrizations.weight_norm(nn.Linear(8, 6)),
        last=nn.Linear(6, 10),
    )


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
@pytest.mark.parametrize("make", [recurrent, normed])
def test_units_of_recurrent_and_weight_normed_layers_are_rated(criterion, make):
    model = make().eval()
    groups = trace(model, torch.zeros(1, 1, 8, 8)).prunable
    assert groups
    for values in rate(criterion, model, groups, IMAGES, batches=1):
        assert bool((values > 0).all())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", [recurrent, normed])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_gpu_finds_what_the_cpu_finds(criterion, make):
    model = make().eval()
    groups = trace(model, torch.zeros(1, 1, 8, 8)).prunable
    here, there = (rate(criterion, model, groups, IMAGES, batches=1, device=device) for device in ("cpu", "cuda"))
    for one, two in zip(here, there, strict=True):
        torch.testing.assert_close(one, two, rtol=2e-2, atol=1e-3 * float(one.max()))
    assert next(model.parameters()).device.type == "cpu"


def test_a_group_that_the_loss_has_no_gradient_by_is_named():
    model = Net(
        lambda s, x: s.last(s.first(x).relu().detach()) + s.other(s.free(x)),
        first=nn.Linear(64, 4),
        last=nn.Linear(4, 10),
        free=nn.Linear(64, 4),
        other=nn.Linear(4, 10),
    )
    cut = group("first", 4, [("first.weight", 0, 1, "write"), ("first.bias", 0, 1, "write")])
    read = group("free", 4, [("other.weight", 1, 1, "read")])
    with pytest.raises(InputError, match="the loss has no gradient by the weights of group 'first', since the forward"):
        rate("taylor", model, [read, cut], FLAT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criterion": "l3"}, "importance 'l3' is unknown; choose from l1, l2, taylor, fisher"),
        ({"batches": 0}, "importance needs at least one batch, got batches=0"),
        ({"task": replace(FLAT, train=[])}, "importance needs training batches, and the loader yields none"),
        (
            {"task": replace(FLAT, loss=lambda outputs, targets: outputs.sum() * float("nan"))},
            "the loss or its gradient is not finite on training batches; check the data and the weights",
        ),
        (
            {"criterion": "fisher", "task": replace(FLAT, train=[((torch.zeros(64),), torch.zeros(1).long())])},
            r"fisher takes examples one by one along the first axis, and a batch has inputs of shape \(64,\) for 1 "
            "targets; put the examples first, or rate units by taylor",
        ),
    ],
)
def test_what_cannot_be_rated_is_refused(change, message):
    model, groups, _ = mlp()
    given = {"criterion": "taylor", "task": FLAT} | change
    with pytest.raises(InputError, match=f"^{message}$"):
        rate(given.pop("criterion"), model, groups, given.pop("task"), **given)


@settings(max_examples=50)
@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=9))
def test_curves_are_the_least_importance_that_is_lost(values):
    (curve,) = curves_of([torch.tensor(values)])
    stored = torch.tensor(values).double().tolist()
    for kept in range(len(values) + 1):
        assert float(curve[kept]) == pytest.approx(sum(sorted(stored)[: len(values) - kept]))
    assert curve.dtype == torch.float64
    assert bool((curve.diff() <= 0).all())
    assert float(curve[-1]) == 0
