import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_toy import CountingCost, digits_task, group, side
from torch import nn

from ecc.core.problem import Constraint, Problem
from ecc.core.widths import WidthSpace
from ecc.solvers.baselines.proposals import Excess, propose
from ecc.solvers.limits import Limits

TASK = digits_task()


@dataclass(frozen=True)
class Peak:
    """The widest group: no group alone can lower it where two are alike."""

    space: WidthSpace
    metric: str = "memory"
    dense: float = 1.0
    provenance: None = None

    def __call__(self, widths):
        return (widths / torch.tensor(self.space.dense)).amax(-1).double()


def limits_of(units, *made):
    """Limits of an abstract network; ``made`` are (space → cost, relative limit)."""
    names = tuple(f"g{i}" for i in range(len(units)))
    space = WidthSpace(names, tuple(units), (1,) * len(units))
    groups = tuple(group(name, n, []) for name, n in zip(names, units, strict=True))
    costs = [(make(space), limit) for make, limit in made]
    constraints = tuple(Constraint(cost, limit * cost.dense) for cost, limit in costs)
    return Limits(Problem(nn.Linear(1, 1), groups, space, TASK, constraints))


def chain(space):
    pairs = [(1.0 + i, (side(space.names[i]), side(space.names[i + 1]))) for i in range(len(space) - 1)]
    return CountingCost(space, ((1.0, (side(space.names[0]),)), *pairs))


def last(space):
    return CountingCost(space, ((1.0, (side(space.names[-1]),)),), metric="params")


def vector(*units):
    return torch.tensor(units, dtype=torch.float64)


@settings(max_examples=60)
@given(
    units=st.lists(st.integers(2, 6), min_size=2, max_size=3),
    limit=st.floats(0.4, 0.9),
    share=st.floats(0, 1),
    data=st.data(),
)
def test_each_group_is_proposed_at_the_largest_width_that_reaches_the_target(units, limit, share, data):
    limits = limits_of(units, (chain, limit), (last, 0.8))
    excess = Excess(limits, limits.dense)
    now = vector(*[data.draw(st.integers(1, n)) for n in units])
    target = share * float(excess(now))
    expected = []
    for number, count in enumerate(now.tolist()):
        reaching = [
            width
            for width in range(1, int(count))
            if float(excess(torch.cat([now[:number], vector(width), now[number + 1 :]]))) <= target
        ]
        expected += [(number, max(reaching))] if reaching else []
    if expected:
        assert propose(excess, now, target) == expected


def test_the_excess_of_one_budget_falls_from_1_to_0_with_the_cost():
    limits = limits_of([10], (lambda space: CountingCost(space, ((1.0, (side("g0"),)),)), 0.5))
    excess = Excess(limits, limits.dense)
    found = excess(torch.tensor([[10.0], [9.0], [6.0], [5.0], [2.0]], dtype=torch.float64))
    assert found.tolist() == pytest.approx([1, 0.8, 0.2, 0, 0])


def test_a_budget_that_holds_at_the_start_must_go_on_holding():
    def rising(space):  # fewer units cost more
        return CountingCost(space, ((-1.0, (side("g0"),)), (2.0, (side(),))), metric="latency")

    limits = limits_of([10], (lambda space: CountingCost(space, ((1.0, (side("g0"),)),)), 0.9))
    both = limits_of([10], (lambda space: CountingCost(space, ((1.0, (side("g0"),)),)), 1.0), (rising, 2.0))
    assert float(Excess(limits, limits.dense)(vector(9))) == 0
    assert float(Excess(both, both.dense)(vector(1))) == 0
    tight = limits_of([10], (rising, 1.95))
    assert float(Excess(tight, tight.dense)(vector(2))) == 0
    with torch.no_grad():
        tight.limits, tight._absolute = vector(1.5), vector(1.5)
    assert float(Excess(tight, tight.dense)(vector(2))) == pytest.approx(0.3 / 1.5)


def test_a_cost_that_no_group_can_lower_alone_is_cut_in_all_of_them():
    limits = limits_of([20, 20, 4], (Peak, 0.5))
    assert propose(Excess(limits, limits.dense), vector(20, 20, 1), 0.5) == [(0, 18), (1, 18)]


def test_where_no_group_reaches_the_target_each_saves_what_it_can():
    limits = limits_of([10, 10], (chain, 0.25))
    excess = Excess(limits, limits.dense)
    limits.lowest[:] = 8
    assert propose(excess, vector(10, 10), 0.0) == [(0, 8), (1, 8)]


def test_nothing_is_proposed_at_the_lowest_widths():
    limits = limits_of([3, 3], (chain, 0.5))
    assert propose(Excess(limits, limits.dense), limits.lowest, 0.0) == []


def test_a_cost_that_is_nan_is_never_proposed():
    @dataclass(frozen=True)
    class Holed(Peak):
        def __call__(self, widths):
            found = super().__call__(widths)
            return torch.where(widths[..., 0] == 4, float("nan"), found)

    limits = limits_of([8], (Holed, 0.5))
    assert propose(Excess(limits, limits.dense), vector(8), 0.0) == [(0, 3)]


def test_proposing_again_and_again_ends_within_the_limits():
    limits = limits_of([9, 7, 8], (chain, 0.3), (Peak, 0.6))
    excess, units = Excess(limits, limits.dense), limits.dense.clone()
    for step in itertools.count():
        if float(excess(units)) == 0:
            break
        proposals = propose(excess, units, max(0.0, float(excess(units)) - 0.2))
        number, count = proposals[step % len(proposals)]
        units[number] = count
    assert bool(limits.met(units))
