import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from solver_toy import CountingCost, digits_task, mlp, problem, residual, side

from ecc.solvers.lagrangian import CodeForm, PaperForm, ascend, descend, prices, proximal_step, width_gradient
from ecc.solvers.limits import Limits

TASK = digits_task()


def objective(kept, energies, n, s, y, rho):
    """What the proximal step of one group minimises (core of ECC's W step)."""
    dropped = sum(e for i, e in enumerate(energies) if i not in kept)
    return dropped + rho / 2 * max(0.0, (len(kept) - s) / n) ** 2 + y * len(kept) / n


@st.composite
def groups(draw):
    n = draw(st.integers(1, 7))
    energies = draw(st.lists(st.floats(0, 3), min_size=n, max_size=n))
    return sorted(energies, reverse=True), draw(st.floats(1, n)), draw(st.floats(0, 20)), draw(st.floats(0.01, 100))


@settings(max_examples=200, deadline=None)
@given(group=groups())
def test_the_proximal_step_is_the_best_of_all_subsets(group):
    energies, s, y, rho = group
    n = len(energies)
    as_tensor = torch.tensor([energies], dtype=torch.float64)
    phi, capped = proximal_step(
        as_tensor, torch.tensor([n]).double(), torch.tensor([s]).double(), torch.tensor([y], dtype=torch.float64), rho
    )
    dual = capped.item()
    found = objective(set(range(int(phi))), energies, n, s, dual, rho)
    subsets = itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(n + 1))
    best = min(objective(set(kept), energies, n, s, dual, rho) for kept in subsets)
    assert found == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert phi >= int(s)
    assert 0 <= dual <= y


@settings(max_examples=100, deadline=None)
@given(group=groups(), more=st.floats(0, 10))
def test_a_larger_dual_never_keeps_more_units(group, more):
    energies, s, y, rho = group
    energy, n = torch.tensor([energies], dtype=torch.float64), torch.tensor([len(energies)]).double()
    bound = torch.tensor([s], dtype=torch.float64)
    phi, _ = proximal_step(energy, n, bound, torch.tensor([y], dtype=torch.float64), rho)
    fewer, _ = proximal_step(energy, n, bound, torch.tensor([y + more], dtype=torch.float64), rho)
    assert fewer <= phi


def test_groups_of_different_sizes_do_not_mix():
    wide, narrow = [5.0, 4, 3, 2, 1, 0.5], [0.9, 0.1]
    together = torch.nn.utils.rnn.pad_sequence([torch.tensor(wide), torch.tensor(narrow)], batch_first=True).double()
    s, y = torch.tensor([2.5, 1.0]).double(), torch.tensor([3.0, 0.5]).double()
    phi, capped = proximal_step(together, torch.tensor([6.0, 2.0]).double(), s, y, 10.0)
    for g, (energies, n) in enumerate([(wide, 6.0), (narrow, 2.0)]):
        alone = proximal_step(
            torch.tensor([energies]).double(), torch.tensor([n]).double(), s[g : g + 1], y[g : g + 1], 10.0
        )
        assert (phi[g], capped[g]) == (alone[0][0], alone[1][0])


def lagrangian(form, sigma, dense, phi, y, z, limits, current, rho):
    """L as a function of relative widths, written down in full."""
    hinges = (phi / dense - sigma).clamp(min=0)
    quadratic = hinges.square().sum() if form == "paper" else hinges.sum().square()
    over = limits.costs(sigma * dense) - current
    return (
        rho / 2 * quadratic
        + (y * (phi / dense - sigma)).sum()
        + rho / 2 * over.clamp(min=0).square().sum()
        + (z * over).sum()
    )


@pytest.mark.parametrize(("form", "made"), [("paper", PaperForm()), ("code", CodeForm())])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_width_step_goes_down_the_gradient_of_the_lagrangian(form, made, data):
    network = residual()
    limits = Limits(problem(network, TASK, 0.5, 0.6, costs=(network[2], network[2])))
    numbers = st.floats(0.05, 1)
    dense = limits.dense
    s = torch.tensor(data.draw(st.lists(numbers, min_size=3, max_size=3)), dtype=torch.float64) * (dense - 1) + 1
    assume(bool((s > 1).all()))
    phi = (s + torch.tensor(data.draw(st.lists(st.floats(0, 3), min_size=3, max_size=3)))).round().clamp(max=8)
    assume(bool(((phi - s).abs() > 1e-6).all()))  # off the kink of the hinge
    y = torch.tensor(data.draw(st.lists(numbers, min_size=3, max_size=3)), dtype=torch.float64)
    z = torch.tensor([50.0, 40.0], dtype=torch.float64)  # large: the floor of z does not act
    current = limits.costs(s) - torch.tensor([data.draw(st.floats(1e-7, 0.5)), -0.1])  # one is violated, one is not
    over = (limits.costs(s) - current).clamp(min=0)
    sigma = (s / dense).requires_grad_()
    (gradient,) = torch.autograd.grad(lagrangian(form, sigma, dense, phi, y, z, limits, current, 10.0), sigma)
    slopes = limits.slopes(s)[1]
    found = width_gradient(made.pull(phi, s, dense), y, z, slopes, over, 10.0)
    torch.testing.assert_close(found, gradient)
    moved, _ = descend(s, y, z, phi, limits, current, 10.0, made)
    wanted = s - gradient / (10.0 * (1 + slopes.square().sum())) * dense
    if form == "paper":
        torch.testing.assert_close(moved, wanted.clamp(min=1).minimum(dense))
    else:
        assert (moved <= s).all()
        assert ((s - moved) / dense).max() <= 0.05 + 1e-12


def test_duals_rise_while_their_constraint_is_violated_and_fall_to_zero_after():
    slack = torch.tensor([0.2, -0.1, 0.0], dtype=torch.float64)
    dual = ascend(torch.tensor([1.0, 3.0, 2.0]).double(), slack, 10.0)
    assert dual.tolist() == pytest.approx([3.0, 2.0, 2.0])
    assert ascend(dual, torch.full((3,), -1.0), 10.0).tolist() == [0, 0, 0]


def test_the_forms_differ_exactly_where_the_public_code_differs_from_the_paper():
    phi, s, dense = (torch.tensor(v).double() for v in ([5.0, 4.0, 3.0], [3.5, 2.25, 3.0], [10.0, 5.0, 4.0]))
    paper, code = PaperForm(), CodeForm()
    torch.testing.assert_close(paper.pull(phi, s, dense), torch.tensor([0.15, 0.35, 0.0]).double())
    torch.testing.assert_close(code.pull(phi, s, dense), torch.tensor([0.5, 0.5, 0.0]).double())
    torch.testing.assert_close(paper.slack(phi, s, dense), torch.tensor([0.15, 0.35, 0.0]).double())
    torch.testing.assert_close(code.slack(phi, s, dense), torch.tensor([0.2, 0.4, 0.0]).double())


FORMS = pytest.mark.parametrize("form", [PaperForm(), CodeForm()], ids=["paper", "code"])


def settle(limits, form, y=None, steps=300, obey=True):
    """s, z when the limits are met, or after steps of s and z; the weights obey at once, or not at all."""
    s, z = limits.dense, torch.zeros(len(limits)).double()
    y = torch.zeros_like(s) if y is None else y
    for _ in range(steps):
        phi = s.ceil() if obey else limits.dense
        if bool(limits.met(s)):
            break
        s, z = descend(s, y, z, phi, limits, limits.limits, 10.0, form)
        z = ascend(z, limits.costs(s) - limits.limits, 10.0)
    return s, z


@FORMS
def test_without_resistance_narrow_groups_are_not_emptied_first(form):
    """Trap T5 of the public code, whose widths count channels."""
    s, _ = settle(Limits(problem(mlp(4, 64), TASK, 0.3)), form)
    assert s[0] / 4 > 0.3


@FORMS
def test_widths_settle_at_the_limit_and_no_lower_than_the_floor(form):
    network = mlp()
    limits = Limits(problem(network, TASK, 0.4), min_fraction=0.25)
    s, _ = settle(limits, form)
    assert 0.25 < limits.costs(s)[0] <= 0.4
    assert (s >= limits.lowest).all()
    low, _ = settle(limits.at(torch.zeros(1).double()), form)
    assert torch.equal(low, limits.lowest)


@FORMS
def test_s_moves_however_strongly_the_weights_resist(form):
    """Trap T3: the dual rises until one group gives way; the public code's floor does it at once."""
    limits = Limits(problem(mlp(), TASK, 0.4))
    y = torch.tensor([10.0, 1e4], dtype=torch.float64)
    s, z = settle(limits, form, y, steps=1 if form.stabilised else 300, obey=False)
    assert s[0] < limits.dense[0]
    assert s[1] == limits.dense[1]
    assert z[0] > 10


@FORMS
def test_a_cost_that_is_flat_within_its_steps_lowers_the_widths_too(form):
    class Stepped(CountingCost):
        def __call__(self, widths):
            vector = widths if isinstance(widths, torch.Tensor) else torch.from_numpy(self.space.vector(widths))
            return super().__call__((vector / 4).ceil() * 4)

    model, groups, cost = mlp()
    limits = Limits(problem((model, groups, Stepped(cost.space, cost.terms)), TASK, 0.4))
    s, _ = settle(limits, form)
    assert limits.met(s.floor())


def test_prices_of_an_allocation_balance_energies_and_slopes():
    """Two constraints; the energies are made from known prices."""
    network = residual()
    head = CountingCost(network[2].space, ((1.0, (side("last"),)), (2.0, (side("inner"),))), metric="params")
    limits = Limits(problem(network, TASK, 0.5, 0.6, costs=(network[2], head)))
    s, z = torch.tensor([5.0, 4.0, 7.0]).double(), torch.tensor([3.0, 0.5]).double()
    limits = limits.at(limits.costs(s))
    last = (z @ limits.slopes(s)[1]) / limits.dense
    energy = last[:, None].expand(3, 12)
    torch.testing.assert_close(prices(energy, s, limits), z)
    torch.testing.assert_close(prices(energy, limits.dense, limits), torch.zeros(2).double())
    roomy = limits.at(torch.stack([limits.limits[0], torch.tensor(1.0).double()]))
    assert prices(energy, s, roomy)[0] > 0
    assert prices(energy, s, roomy)[1] == 0
