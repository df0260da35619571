import numpy as np
import pytest
import torch
from cli_toy import NETWORK
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ecc.core.errors import InputError
from ecc.network.blocks import aligned_steps, base_units, in_blocks
from ecc.network.ranking import rank_units, select
from ecc.network.slimming import slim
from ecc.network.tracing import trace

INPUTS = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def residual(width=12):
    torch.manual_seed(0)
    names = {}
    exec(NETWORK, names)  # the user's file of the command line tests
    model = names["Small"](width).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.2, 1.0)
    return model, trace(model, INPUTS)


def grouped():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4), nn.ReLU(), nn.Conv2d(16, 4, 3)
    )
    return model.eval(), trace(model, INPUTS)


NETWORKS = {"residual": residual(), "grouped": grouped()}


def divisors(group):
    return [group.step * size for size in range(1, group.units + 1) if group.units % size == 0]


@st.composite
def blocked(draw):
    """A network, its graph, the graph in blocks of any legal size, and some blocks kept of each group."""
    model, graph = NETWORKS[draw(st.sampled_from(sorted(NETWORKS)))]
    steps = {group.name: draw(st.sampled_from(divisors(group))) for group in graph.prunable}
    blocks = in_blocks(graph, model, steps)
    kept = {
        group.name: np.array(sorted(draw(st.sets(st.integers(0, group.units - 1), min_size=1))), dtype=np.int64)
        for group in blocks.prunable
    }
    return model, graph, blocks, steps, kept


@given(blocked())
@settings(max_examples=25, deadline=None)
def test_blocks_slim_to_the_network_of_their_base_units(case):
    model, graph, blocks, _, kept = case
    ours = slim(model, blocks, kept, check=False)
    base = base_units(blocks, graph, kept)
    theirs = slim(model, graph, base, check=False)
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}
    torch.testing.assert_close(ours(INPUTS), theirs(INPUTS), rtol=1e-4, atol=1e-5)


@given(blocked())
@settings(max_examples=50, deadline=None)
def test_base_units_are_distinct_sorted_and_as_many_channels(case):
    _, graph, blocks, _, kept = case
    for name, units in base_units(blocks, graph, kept).items():
        assert units.tolist() == sorted(set(units.tolist()))
        assert len(units) * graph.group(name).step == len(kept[name]) * blocks.group(name).step
        assert set(units.tolist()) <= set(range(graph.group(name).units))


@given(blocked())
@settings(max_examples=25, deadline=None)
def test_blocks_keep_the_network_and_change_only_the_steps(case):
    _, graph, blocks, steps, _ = case
    assert blocks.fingerprint == graph.fingerprint
    assert blocks.space.full == graph.space.full
    assert dict(zip(blocks.space.names, blocks.space.step, strict=True)) == steps
    assert (blocks.macs(), blocks.params()) == (graph.macs(), graph.params())


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_all_blocks_are_all_units(name):
    model, graph = NETWORKS[name]
    blocks = in_blocks(graph, model, {group.name: divisors(group)[-2] for group in graph.prunable})
    every = {group.name: np.arange(group.units) for group in blocks.prunable}
    for group, units in base_units(blocks, graph, every).items():
        assert units.tolist() == list(range(graph.group(group).units))


def test_the_first_block_holds_the_most_important_units():
    model, graph = NETWORKS["residual"]
    blocks = in_blocks(graph, model, {"inner": 3})
    first = base_units(blocks, graph, {"inner": np.array([0])})["inner"]
    assert set(first.tolist()) == set(rank_units(model, graph, ["inner"])["inner"][:3].tolist())
    assert first.tolist() == select(model, graph, {"inner": 3})["inner"].tolist()


@given(multiple=st.integers(1, 64), width=st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_aligned_steps_divide_the_width_and_the_multiple_and_leave_four_choices(multiple, width):
    model = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
    graph = trace(model, torch.ones(1, 3))
    steps = aligned_steps(graph, multiple)
    for group in graph.prunable:
        step = steps[group.name]
        assert group.width % step == 0
        assert multiple % step == 0
        assert step == group.step or group.width // step >= 4
    in_blocks(graph, model, steps)


@pytest.mark.parametrize("multiple", [0, -1])
def test_step_that_is_not_positive_is_refused(multiple):
    with pytest.raises(InputError, match="at least 1 channel"):
        aligned_steps(NETWORKS["residual"][1], multiple)


@pytest.mark.parametrize(("name", "step"), [("residual", 5), ("residual", 0), ("residual", 24), ("grouped", 6)])
def test_step_that_does_not_divide_the_width_is_refused(name, step):
    model, graph = NETWORKS[name]
    group = graph.prunable[-1].name
    with pytest.raises(InputError, match=f"cannot have a step of {step}"):
        in_blocks(graph, model, {group: step})


def test_units_of_many_channels_are_merged_to_multiples_of_the_step() -> None:
    model = nn.Sequential(nn.Conv2d(3, 96, 1), nn.Conv2d(96, 96, 1, groups=12), nn.Conv2d(96, 2, 1))
    graph = trace(model, torch.randn(1, 3, 4, 4))
    assert {group.name: group.step for group in graph.prunable} == {"0": 12, "1": 12}
    assert aligned_steps(graph, 8) == {"0": 24, "1": 24}
    assert aligned_steps(graph, 5) == {"0": 12, "1": 12}
