import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracles import ecc_iteration
from solver_toy import CountingCost, digits_task, group, mlp, problem, residual, side
from torch import nn

from ecc.core.widths import WidthSpace
from ecc.solvers.admm import Admm
from ecc.solvers.alternation import Alternation
from ecc.solvers.limits import Limits
from ecc.solvers.training import Step

TASK = digits_task()
FORMS = pytest.mark.parametrize("form", ["paper", "code"])


def energies_of(model, groups, rate):
    """Σ w²/(2α) over the weights that read each unit, weight by weight."""
    state, found = model.state_dict(), []
    for member in groups:
        total = [0.0] * member.units
        for slot in member.slots:
            if slot.role == "read":
                weight = np.moveaxis(state[slot.tensor].double().numpy(), slot.axis, 0)
                for unit, positions in enumerate(slot.indices):
                    total[unit] += sum(float((weight[p] ** 2).sum()) for p in positions) / (2 * rate)
        found.append(total)
    return found


def alternation(network, *limits, costs=None, **settings_):
    posed = problem(network, TASK, *limits, costs=costs)
    bounds = Limits(posed)
    return Alternation(Admm(**settings_), posed, bounds, network[0]), bounds


@FORMS
@settings(max_examples=15, deadline=None, phases=(Phase.generate,))
@given(data=st.data())
def test_an_iteration_is_the_published_one(form, data):
    """Two coupled budgets on a residual network, from any bounds and duals, against a literal transcription."""
    torch.manual_seed(data.draw(st.integers(0, 5)))
    model, groups, cost = residual()
    other = CountingCost(cost.space, ((1.0, (side("last"),)), (2.0, (side("inner"),))), metric="params")
    rho = data.draw(st.sampled_from([1.0, 10.0, 100.0]))
    hook, limits = alternation(
        (model, groups, cost), 0.5, 0.4, costs=(cost, other), form=form, step="gradient", rho=rho, continuation=0.0
    )
    rate, dense = 1e-3, limits.dense
    hook.current = limits.limits
    three = st.lists(st.floats(0, 1), min_size=3, max_size=3)
    hook.s = 1 + (dense - 1) * torch.tensor(data.draw(three), dtype=torch.float64)
    hook.y = torch.tensor(data.draw(three), dtype=torch.float64)
    hook.z = torch.tensor(data.draw(three)[:2], dtype=torch.float64) * rho
    energies = energies_of(model, groups, rate)
    scale = sum(map(sum, energies)) / len(energies)
    kept, s, y, z = ecc_iteration(
        [[value / scale for value in unit] for unit in energies],
        hook.s.tolist(),
        hook.y.tolist(),
        hook.z.tolist(),
        limits.lowest.tolist(),
        [lambda sigma, c=c: c(sigma * dense) / c.dense for c in (cost, other)],
        [0.5, 0.4],
        rho,
        form,
    )
    stopped = hook.after_step(Step(torch.optim.SGD(model.parameters(), rate), rate, 0, 99))
    if not stopped:
        alive = [model.inner.weight.any((2, 3)).any(0), model.outer.weight.any((2, 3)).any(0)]
        assert [set(mask.nonzero().flatten().tolist()) for mask in alive] == kept[:2]
    assert stopped == bool(limits.met(torch.tensor([len(each) for each in kept]).double()))
    np.testing.assert_allclose(hook.s, s, rtol=1e-6)
    np.testing.assert_allclose(hook.y, y, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(hook.z, z, rtol=1e-6, atol=1e-9)


@FORMS
def test_the_unit_of_a_cost_changes_nothing(form):
    """Trap T4 of the public code: joules and millijoules behave alike, in every step."""
    seen = []
    for factor in (1.0, 1e-9):
        model, groups, cost = mlp()
        cost = CountingCost(cost.space, tuple((c * factor, sides) for c, sides in cost.terms), metric="energy")
        hook, _ = alternation((model, groups, cost), 0.5, form=form, step="gradient", continuation=0.0)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        for index in range(20):
            hook.after_step(Step(optimizer, 1e-3, index, 99))
        seen.append(torch.cat([hook.s, hook.y, hook.z]))
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-6, atol=1e-9)


def alive_while_pulled(strength):
    """Whether the least unit of four is there after each step of a run to half; the loss pulls at it alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        model[0].weight.abs_()
        model[1].weight.copy_(torch.tensor([1.0, 0.9, 0.8, 0.1]).expand(3, 4))
    member = group("0", 4, [("0.weight", 0, 1, "write"), ("1.weight", 1, 1, "read")])
    cost = CountingCost(WidthSpace(("0",), (4,), (1,)), ((1.0, (side("0"),)),))
    hook, _ = alternation((model, (member,), cost), 0.5, continuation=1.0, curves="importance")
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    x, alive = torch.eye(6)[:1], []
    for index in range(100):
        optimizer.zero_grad()
        out = model[1](model[0](x) * torch.tensor([0.0, 0.0, 0.0, strength]))
        (out - 4).square().sum().backward()
        optimizer.step()
        if hook.after_step(Step(optimizer, 0.02, index, 100)):
            break
        alive.append(bool(model[1].weight[:, 3].any()))
    return alive


def test_a_dropped_unit_comes_back_if_its_gradient_pulls_and_stays_away_if_not():
    alive = alive_while_pulled(5.0)
    dropped = alive.index(False)
    assert True in alive[dropped:]
    assert alive[-1]
    idle = alive_while_pulled(0.0)
    assert True not in idle[idle.index(False) :]
