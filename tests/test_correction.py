import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_toy import digits_task, problem, residual

from ecc.core.errors import InputError
from ecc.core.problem import Status
from ecc.solvers.baselines.magnitude import Magnitude
from ecc.solvers.correction import adjust
from ecc.solvers.sparsity import Sparsity

TASK = digits_task(flat=False)
NETWORK = residual()


def found_at(limit):
    """A solution at a limit, whose kept weights then moved, as training moves them."""
    stated = problem(NETWORK, TASK, limit)
    found = Magnitude().solve(stated)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in found.model.parameters():
            parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
    Sparsity(found.model, stated.groups).zero(found.kept)
    return found


HALF = found_at(0.5)
UNITS = sum(len(units) for units in HALF.kept.values())


def sets(found):
    return {name: set(np.asarray(units).tolist()) for name, units in found.kept.items()}


@given(limit=st.floats(0.05, 1.0))
@settings(max_examples=30, deadline=None)
def test_adjusted_widths_hold_every_limit_and_use_it(limit):
    stated = problem(NETWORK, TASK, limit)
    again = adjust(stated, HALF)
    cost, space = NETWORK[2], stated.space
    assert again.status is Status.MET
    assert float(cost(again.widths)) <= limit * cost.dense
    for name, step in zip(space.names, space.step, strict=True):
        more = dict(again.widths) | {name: again.widths[name] + step}
        assert more[name] > space.full[name] or float(cost(more)) > limit * cost.dense


@given(limit=st.floats(0.05, 1.0))
@settings(max_examples=30, deadline=None)
def test_each_group_only_shrinks_or_only_grows(limit):
    before, after = sets(HALF), sets(adjust(problem(NETWORK, TASK, limit), HALF))
    assert all(after[name] <= before[name] or before[name] <= after[name] for name in before)


def test_tighter_limit_drops_units_and_looser_one_takes_some_back():
    fewer, more = (adjust(problem(NETWORK, TASK, limit), HALF) for limit in (0.35, 0.7))
    assert sum(map(len, fewer.kept.values())) < UNITS < sum(map(len, more.kept.values()))


def test_adjusting_again_to_the_same_limit_changes_nothing():
    once = adjust(problem(NETWORK, TASK, 0.5), HALF)
    again = adjust(problem(NETWORK, TASK, 0.5), once)
    assert sets(again) == sets(once)
    for name, tensor in once.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor, rtol=0, atol=0)


def test_returning_units_have_dense_weights_and_the_others_what_was_trained():
    stated = problem(NETWORK, TASK, 0.8)
    again = adjust(stated, HALF)
    dense, trained, now = (model.state_dict() for model in (stated.model, HALF.model, again.model))
    before, after = sets(HALF), sets(again)
    returned = 0
    for group in stated.groups:
        back, stayed = sorted(after[group.name] - before[group.name]), sorted(before[group.name])
        returned += len(back)
        for slot in group.slots:
            if slot.role != "write" or now[slot.tensor].ndim > 1:
                continue  # axes of one group only, so that its units alone decide
            for units, origin in ((back, dense), (stayed, trained)):
                rows = torch.from_numpy(slot.indices[units].reshape(-1))
                torch.testing.assert_close(now[slot.tensor][rows], origin[slot.tensor][rows], rtol=0, atol=0)
    assert returned > 0


def test_dropped_units_are_zero():
    stated = problem(NETWORK, TASK, 0.3)
    again = adjust(stated, HALF)
    state = again.model.state_dict()
    for group in stated.groups:
        dropped = sorted(set(range(group.units)) - sets(again)[group.name])
        for slot in group.slots:
            rows = torch.from_numpy(slot.indices[dropped].reshape(-1))
            if "running" not in slot.tensor:
                assert not state[slot.tensor].index_select(slot.axis, rows).any()


def test_neither_the_solution_nor_the_dense_network_changes():
    stated = problem(NETWORK, TASK, 0.9)
    models = (stated.model, HALF.model)
    copies = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
    adjust(stated, HALF)
    for model, copy in zip(models, copies, strict=True):
        assert all(torch.equal(tensor, copy[name]) for name, tensor in model.state_dict().items())


def test_limit_that_no_widths_reach_is_refused():
    with pytest.raises(InputError, match="cannot be reached"):
        adjust(problem(NETWORK, TASK, 1e-4), HALF)
