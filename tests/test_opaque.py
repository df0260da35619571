"""Parts of a network that cannot be followed: they stay dense, unless the user declares what goes together in them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from network_cases import Net
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.network.equality import zero_then_remove
from ecc.network.graph import WidthGraph
from ecc.network.slimming import slim
from ecc.network.tracing import trace

X = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Around(nn.Module):
    """Layers that can be pruned before and after a part that cannot be followed."""

    def __init__(self, inner: nn.Module, after: Callable[[Any, Tensor, Any], Any] | None = None) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 16), nn.Linear(16, 8)
        self.inner = inner
        self.f, self.head = nn.Linear(8, 20), nn.Linear(20, 3)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(torch.relu(self.up(x)))
        y = self.inner(x)
        return self.head(torch.relu(self.f(y if self.after is None else self.after(self, x, y))))


def around(run: Callable[..., Any], after: Callable[[Any, Tensor, Any], Any] | None = None, **parts: Any) -> nn.Module:
    torch.manual_seed(1)
    return Around(Net(run, a=nn.Linear(8, 12), b=nn.Linear(12, 8), **parts), after).double().eval()


def branch(s: Any, x: Tensor) -> Tensor:
    y = s.b(torch.relu(s.a(x)))
    return y if y.sum() > 0 else -y


class Experts(nn.Module):
    """Each token goes through the two experts that its gate prefers."""

    def __init__(self, dim: int = 8, hidden: int = 12, count: int = 4) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, count)
        parts = (nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)) for _ in range(count))
        self.experts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, column = torch.where(chosen == number)
            if len(row):
                out.index_add_(0, row, expert(x[row]) * weights[row, column, None])
        return out


def demand_exact(model: nn.Module, graph: WidthGraph, inputs: Any = X, draws: int = 3) -> None:
    """The oracle: masked and slim outputs agree for random units of every group."""
    generator = np.random.default_rng(0)
    for _ in range(draws):
        kept = {
            group.name: np.sort(generator.choice(group.units, generator.integers(1, group.units), replace=False))
            for group in graph.prunable
        }
        assert zero_then_remove(model, graph, kept, inputs) < 1e-12


def returned_dict(s: Any, x: Tensor) -> Any:
    y = branch(s, x)
    return {"y": y, "none": None, "pair": (x, [y])}


def from_numpy(s: Any, x: Tensor) -> Tensor:
    return s.b(s.a(torch.from_numpy(np.tanh(x.detach().numpy()))))


def in_place(s: Any, x: Tensor) -> Tensor:
    return x.add_(branch(s, x))


@pytest.mark.parametrize(
    ("run", "after"),
    [
        (branch, None),
        (lambda s, x: branch(s, x) * x.max().item(), None),
        (lambda s, x: branch(s, x) + sum(x[0].tolist()), None),
        (lambda s, x: (y := s.b(s.a(x)))[y.sum(1) > -1e9], None),
        (from_numpy, None),
        (returned_dict, lambda s, x, y: y["y"] + y["pair"][0]),
        (in_place, lambda s, x, y: x + y),
        (branch, lambda s, x, y: s.inner(y)),
    ],
    ids=["branch", "item", "tolist", "mask", "numpy", "nested outputs", "in place", "called twice"],
)
def test_the_rest_of_the_network_is_pruned_exactly(run: Any, after: Any) -> None:
    model = around(run, after)
    graph = trace(model, X)
    assert {"up", "f"} <= {group.name for group in graph.prunable}
    assert not any("inner" in layer for group in graph.prunable for layer in group.layers)
    demand_exact(model, graph)


def test_what_it_touches_is_fixed_and_the_reason_names_the_module_its_class_and_the_line() -> None:
    graph = trace(around(branch), X)
    line = branch.__code__.co_firstlineno + 2
    reason = (
        "inner (Net) is not followed inside: its forward depends on the values of tensors "
        f"(line {line} of test_opaque.py)"
    )
    assert {group.name: group.reason for group in graph.groups} == {
        "up": "",
        "down": reason,
        "inner.a": reason,
        "inner.b": reason,
        "f": "",
        "head": "it is an output of the network",
    }
    assert graph.notes == (f"{reason}; what it touches stays dense",)


def test_the_innermost_module_is_opaque_and_its_neighbours_are_not() -> None:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8))
    second = Net(branch, a=nn.Linear(8, 12), b=nn.Linear(12, 8))
    inner = Net(lambda s, x: s.second(s.first(x)), first=first, second=second)
    model = Around(inner).double().eval()
    graph = trace(model, X)
    assert [group.name for group in graph.prunable] == ["up", "down", "inner.first.0", "f"]
    assert graph.group("inner.second.a").reason.startswith("inner.second (Net) is not followed inside")
    demand_exact(model, graph)


def test_costs_inside_are_those_of_the_run() -> None:
    once, twice = trace(around(branch), X), trace(around(branch, lambda s, x, y: s.inner(y)), X)
    plain = 5 * 16 + 16 * 8 + 8 * 20 + 20 * 3
    assert once.macs() == plain + 2 * 8 * 12
    assert twice.macs() == plain + 4 * 8 * 12
    assert [layer.name for layer in twice.layers if "inner" in layer.name] == [
        "inner.a", "inner.b", "inner.a@2", "inner.b@2"
    ]  # fmt: skip
    assert once.macs({"up": 8}) == once.macs() - 8 * (5 + 8)


def test_recurrent_layers_and_attention_inside_are_counted() -> None:
    lstm = trace(around(lambda s, x: s.r(x)[0] * x.max().item(), r=nn.LSTM(8, 8)), X)
    followed = trace(around(lambda s, x: s.r(x)[0], r=nn.LSTM(8, 8)), X)
    assert lstm.macs() == followed.macs()


def test_parameters_that_it_uses_from_elsewhere_stay_dense_too() -> None:
    shared = nn.Linear(8, 8)
    box = [shared]  # hidden from PyTorch
    inner = Net(lambda s, x: branch(s, box[0](x)), a=nn.Linear(8, 12), b=nn.Linear(12, 8))
    model = Around(inner, lambda s, x, y: y + s.shared(s.more(x)))
    model.shared, model.more = shared, nn.Linear(8, 8)
    graph = trace(model.double(), X)
    box[0] = model.shared
    assert not any("shared" in layer for group in graph.prunable for layer in group.layers)


def aside(s: Any, x: Tensor) -> Tensor:
    s.loss = (y := branch(s, x)).square().mean()
    return y


@pytest.mark.parametrize(
    ("run", "after", "why"),
    [
        (lambda s, x: (branch(s, x), int(x.argmax())), lambda s, x, y: y[0] * y[1], "returns more than tensors"),
        (aside, lambda s, x, y: y + s.inner.loss, "keeps tensors that are used elsewhere"),
    ],
    ids=["number", "tensor kept aside"],
)
def test_a_module_that_hands_on_more_than_its_outputs_makes_its_parent_opaque(run: Any, after: Any, why: str) -> None:
    inner = around(run, after)
    with pytest.raises(InputError, match=rf"^Around cannot be followed: inner \(Net\) in it {why}, and its forward .*"):
        trace(inner, X)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 5), inner, nn.Linear(3, 2)).double()
    graph = trace(model, X)
    assert [group.name for group in graph.prunable] == ["0"]
    assert graph.group("2.f").reason.startswith(f"2 (Around) is not followed inside: 2.inner (Net) in it {why}")
    demand_exact(model, graph)


def test_a_module_that_uses_tensors_it_is_not_given_makes_its_parent_opaque() -> None:
    seen: list[Tensor] = []

    def spy(s: Any, x: Tensor) -> Tensor:
        seen[:] = [s.first(x)]
        return s.second(x)

    second = Net(lambda s, x: branch(s, x + seen[0]), a=nn.Linear(8, 12), b=nn.Linear(12, 8))
    model = Around(Net(spy, first=nn.Linear(8, 8), second=second)).double()
    graph = trace(model, X)
    assert graph.group("inner.first").reason.startswith(
        "inner (Net) is not followed inside: inner.second (Net) in it uses tensors that it is not given"
    )


def test_a_module_in_a_list_makes_the_owner_of_the_list_opaque() -> None:
    parts = nn.ModuleList([Net(lambda s, x: (branch(s, x), 1), a=nn.Linear(8, 12), b=nn.Linear(12, 8))])
    model = Around(Net(lambda s, x: s.parts[0](x)[0], parts=parts)).double()
    graph = trace(model, X)
    assert graph.group("inner.parts.0.a").reason.startswith(
        "inner (Net) is not followed inside: inner.parts.0 (Net) in it returns more than tensors"
    )
    demand_exact(model, graph)


def test_hooks_of_the_user_run_once() -> None:
    model = around(branch)
    model.inner.register_forward_hook(lambda _, args, y: torch.cat([y, y], -1))
    model.f = nn.Linear(16, 20).double()
    graph = trace(model, X)
    assert [group.name for group in graph.prunable] == ["up", "f"]
    demand_exact(model, graph)


def test_a_number_that_follows_a_width_and_goes_into_it_keeps_the_group_dense() -> None:
    class Told(Around):
        def forward(self, x: Tensor) -> Tensor:
            wide = torch.relu(self.up(x))
            return self.head(torch.relu(self.f(self.inner(self.down(wide), wide.shape[-1]))))

    inner = Net(lambda s, x, size: branch(s, x) * size, a=nn.Linear(8, 12), b=nn.Linear(12, 8))
    graph = trace(Told(inner).double(), X)
    assert [group.name for group in graph.prunable] == ["f"]
    assert graph.group("up").reason


def test_the_model_is_not_touched() -> None:
    model = around(branch).train()
    before = copy.deepcopy(model.state_dict())
    trace(model, X)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert "forward" not in vars(model.inner)
    assert not model.inner._forward_hooks
    assert all(module.training for module in model.modules())


def test_a_network_whose_own_forward_cannot_be_followed_is_one_sentence() -> None:
    model = Net(branch, a=nn.Linear(5, 12), b=nn.Linear(12, 3)).double()
    line = branch.__code__.co_firstlineno + 2
    with pytest.raises(
        InputError,
        match=rf"^Net cannot be followed: its forward depends on the values of tensors \(line {line} of "
        r"test_opaque.py\); put what cannot be into a module of its own, or declare the groups with "
        r"trace\(groups=...\)$",
    ):
        trace(model, X)
    with torch.device("meta"):
        meta = around(branch)
    with pytest.raises(
        InputError, match=r"^inner \(Net\) cannot be followed: .*; trace it with values instead of on the meta .*$"
    ):
        trace(meta, X.to("meta"))


HIDDEN = {"writes": ["inner.a.weight:0", "inner.a.bias:0"], "reads": ["inner.b.weight:1"]}


def test_a_declared_group_is_pruned_inside_a_module_that_is_not_followed() -> None:
    model = around(branch)
    graph = trace(model, X, groups={"hidden": HIDDEN})
    assert [group.name for group in graph.prunable] == ["up", "hidden", "f"]
    assert [(s.tensor, s.axis, s.role) for s in graph.group("hidden").slots] == [
        ("inner.a.weight", 0, "write"),
        ("inner.a.bias", 0, "write"),
        ("inner.b.weight", 1, "read"),
    ]
    assert graph.macs() - graph.macs({"hidden": 4}) == 2 * 8 * 8
    assert graph.params() - graph.params({"hidden": 4}) == 8 * (8 + 1 + 8)
    assert slim(model, graph, {"hidden": 4}).inner.a.out_features == 4
    demand_exact(model, graph)


def test_a_whole_network_can_be_declared() -> None:
    model = Net(branch, a=nn.Linear(5, 12), b=nn.Linear(12, 3)).double()
    graph = trace(model, X, groups={"hidden": {"writes": ["a.weight:0", "a.bias:-1"], "reads": ["b.weight:1"]}})
    assert [group.name for group in graph.prunable] == ["hidden"]
    assert graph.macs({"hidden": 6}) == 6 * (5 + 3)
    demand_exact(model, graph)


def test_every_expert_can_be_declared() -> None:
    torch.manual_seed(0)
    model = Around(Experts()).double()
    groups = {
        f"expert {i}": {
            "writes": [f"inner.experts.{i}.0.weight:0", f"inner.experts.{i}.0.bias:0"],
            "reads": [f"inner.experts.{i}.2.weight:1"],
        }
        for i in range(4)
    }
    graph = trace(model, X, groups=groups)
    assert [group.name for group in graph.prunable] == ["up", *groups, "f"]
    demand_exact(model, graph, torch.randn(32, 5, dtype=torch.float64))


def test_a_declared_group_that_no_trial_uses_stays_dense() -> None:
    model = Around(Experts()).double()
    with torch.no_grad():
        model.inner.gate.bias[3] = -50
    expert = {
        "writes": ["inner.experts.3.0.weight:0", "inner.experts.3.0.bias:0"],
        "reads": ["inner.experts.3.2.weight:1"],
    }
    graph = trace(model, X, groups={"never": expert})
    assert graph.group("never").reason == (
        "the declared group 'never' was not checked, as no trial used inner.experts.3.0.bias; give more examples"
    )


def mixed(s: Any, x: Tensor) -> Tensor:
    hidden = s.a(x).roll(1, -1) if x.sum() > 1e9 else torch.relu(s.a(x))
    return s.b(hidden.view(-1, 2, 6).transpose(1, 2).reshape(-1, 12))


@pytest.mark.parametrize(
    ("run", "group", "why"),
    [
        (branch, {"writes": ["inner.a.weight:0"], "reads": ["inner.b.weight:1"]}, "the forward insists on its size"),
        (branch, {"writes": ["inner.a.weight:0", "inner.a.bias:0"]}, "the forward insists on its size"),
        (branch, {"writes": ["inner.b.weight:0", "inner.b.bias:0"]}, "the forward insists on its size"),
        (mixed, HIDDEN, "the forward insists on its size|removing its channels changes the output"),
        (
            lambda s, x: branch(s, x) if x.sum() > 1e9 else s.b(torch.softmax(s.a(x), -1)),
            HIDDEN,
            "removing its channels changes the output of the network",
        ),
        (
            lambda s, x: branch(s, x) if x.sum() > 1e9 else s.b(s.a(x).flip(-1)),
            HIDDEN,
            "removing its channels changes the output of the network",
        ),
    ],
    ids=["bias forgotten", "reader forgotten", "output", "shuffled", "softmax", "reversed"],
)
def test_a_wrong_declaration_is_an_error(run: Any, group: Any, why: str) -> None:
    model = around(run)
    with torch.no_grad():  # a layer of zeros would hide everything before it
        model.inner.b.weight.zero_()
    with pytest.raises(InputError, match=rf"^the declared group 'h' is wrong \(({why}).*\); name every .*$"):
        trace(model, X, groups={"h": group})


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {"h": {"writes": ["inner.a.weigh:0"]}},
            "group 'h' names 'inner.a.weigh:0', which is not parameter:axis of the network; did you mean "
            "inner.a.weight:0 .*",
        ),
        ({"h": {"writes": ["up:0"]}}, "group 'h' names 'up:0', which is not parameter:axis of the network.*"),
        (
            {"h": {"writes": ["up.weight"]}},
            "group 'h' names 'up.weight', which is not parameter:axis of the network; did you mean up.weight:0.*",
        ),
        ({"h": {"writes": ["up.bias:1"]}}, "group 'h' names axis '1' of up.bias, which has the axes 0 to 0"),
        (
            {"h": {"writes": ["up.weight:0", "down.bias:0"]}},
            "all axes of group 'h' must have one size, but up.weight:0 has 16, down.bias:0 has 8",
        ),
        (
            {"h": {"writes": ["up.weight:0"]}, "g": {"writes": ["f.bias:0"], "reads": ["up.weight:-2"]}},
            "group 'g' names up.weight:-2, which group 'h' holds already",
        ),
        ({"h": {"reads": ["up.weight:0"]}}, "group 'h' must be declared as .* at least one parameter axis .*"),
        ({"h": {"writes": ["up.weight:0"], "read": []}}, "group 'h' must be declared as .*"),
        ({"h": ["up.weight:0"]}, "group 'h' must be declared as .*"),
    ],
    ids=["name", "module", "no axis", "axis", "sizes", "twice", "no write", "key", "list"],
)
def test_a_declaration_that_makes_no_sense_is_one_sentence(groups: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        trace(around(branch), X, groups=groups)


def test_declared_ties_are_added_to_what_is_found() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)).double()
    assert [group.name for group in trace(model, X).prunable] == ["0", "1"]
    graph = trace(model, X, groups={"both": {"writes": ["0.weight:0", "1.weight:0"]}})
    assert [group.name for group in graph.prunable] == ["both"]
    assert {slot.tensor for slot in graph.group("both").slots} == {
        "0.weight", "0.bias", "1.weight", "1.bias", "2.weight"
    }  # fmt: skip
    demand_exact(model, graph)
