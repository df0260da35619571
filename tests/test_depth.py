"""Residual blocks are found where zeros prove them, removed exactly, and refused by name with a reason elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_cases import Net, conv, pool
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.network.checking import perturbed
from ecc.network.depth import Skip
from ecc.network.equality import zero_then_remove
from ecc.network.graph import Block, WidthGraph
from ecc.network.slimming import slim
from ecc.network.tracing import trace
from ecc.zoo.networks import NETWORKS

IMAGE = torch.randn(2, 3, 8, 8, dtype=torch.float64)
TOKENS = torch.randn(2, 5, 8, dtype=torch.float64)


def after_stem(*blocks: nn.Module, stem: nn.Module | None = None) -> nn.Module:
    """Blocks of 8 channels between a convolution and a head."""
    return Net(
        lambda s, x: s.head(pool(s.blocks(s.stem(x)))),
        stem=stem or nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU()),
        blocks=nn.Sequential(*blocks),
        head=nn.Linear(8, 4),
    )


def on_tokens(*blocks: nn.Module) -> nn.Module:
    return Net(
        lambda s, x: s.head(s.norm(s.blocks(s.stem(x)))).mean(1),
        stem=nn.Linear(8, 8),
        blocks=nn.Sequential(*blocks),
        norm=nn.LayerNorm(8),
        head=nn.Linear(8, 4),
    )


def basic(activation: Callable[[Tensor], Tensor] = torch.relu, **changes: nn.Module) -> nn.Module:
    parts = {"c1": conv(8, 6, bias=False), "b1": nn.BatchNorm2d(6), "c2": conv(6, 8), "b2": nn.BatchNorm2d(8)}
    return Net(lambda s, x: activation(s.b2(s.c2(torch.relu(s.b1(s.c1(x))))) + x), **parts | changes)


def in_place() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c2(F.relu(s.c1(x), inplace=True))
        y += x
        return F.relu(y, inplace=True)

    return Net(run, c1=conv(8, 6), c2=conv(6, 8))


def into_the_input() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        x += s.c2(torch.relu(s.c1(x)))
        return x

    return Net(run, c1=conv(8, 6), c2=conv(6, 8))


def preactivation() -> nn.Module:
    return Net(
        lambda s, x: x + s.c2(F.relu(s.b2(s.c1(F.relu(s.b1(x)))))),
        b1=nn.BatchNorm2d(8),
        c1=conv(8, 6),
        b2=nn.BatchNorm2d(6),
        c2=conv(6, 8),
    )


def bottleneck() -> nn.Module:
    branch = nn.Sequential(conv(8, 12, 1), nn.BatchNorm2d(12), nn.ReLU6(), conv(12, 12, groups=12), conv(12, 8, 1))
    return Net(lambda s, x: x + s.branch(x), branch=branch)


def squeeze_excite() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = F.silu(s.c1(x))
        return x + s.c2(y * torch.sigmoid(s.up(F.relu(s.down(y.mean((2, 3), keepdim=True))))))

    return Net(run, c1=conv(8, 6), down=conv(6, 2, 1), up=conv(2, 6, 1), c2=conv(6, 8))


def convnext() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.norm(s.depthwise(x).permute(0, 2, 3, 1))
        return x + s.drop((s.scale * s.down(F.gelu(s.up(y)))).permute(0, 3, 1, 2))

    return Net(
        run,
        depthwise=conv(8, 8, groups=8),
        norm=nn.LayerNorm(8),
        up=nn.Linear(8, 16),
        down=nn.Linear(16, 8),
        scale=nn.Parameter(torch.ones(8)),
        drop=nn.Dropout(0.5),
    )


def encoder(pre_norm: bool = True) -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        if not pre_norm:
            return s.n2(x + s.mlp(s.n1(x + s.attention(x, x, x)[0])))
        y = s.n1(x)
        x = x + s.attention(y, y, y)[0]
        return x + s.mlp(s.n2(x))

    return Net(
        run,
        n1=nn.LayerNorm(8),
        attention=nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True),
        n2=nn.LayerNorm(8),
        mlp=nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)),
    )


def gated() -> nn.Module:
    return Net(lambda s, x: x + s.out(s.lstm(x)[0]), lstm=nn.LSTM(8, 6, batch_first=True), out=nn.Linear(6, 8))


def recurrent(kind: type[nn.RNNBase]) -> nn.Module:
    return Net(lambda s, x: x + s.rnn(x)[0], rnn=kind(8, 4, bidirectional=True, batch_first=True))


def normed() -> nn.Module:
    return Net(
        lambda s, x: x + s.c2(F.relu(s.c1(x))), c1=nn.utils.parametrizations.weight_norm(conv(8, 6)), c2=conv(6, 8)
    )


class Wide(nn.Module):
    """A block that is called with more than its input, some of it by keyword, and goes through another layout."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, hidden: Tensor, weight: Tensor, *, scale: float = 1.0) -> Tensor:
        return hidden + scale * self.fc(hidden) * weight


def called_with_several() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.stem(x)
        gate = torch.sigmoid(s.gate(y))
        y = s.one(y, gate, scale=0.5)
        return s.head(s.two(hidden=y, weight=gate))

    return Net(run, stem=nn.Linear(8, 8), gate=nn.Linear(8, 8), one=Wide(), two=Wide(), head=nn.Linear(8, 3))


REMOVABLE: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "basic": (lambda: after_stem(basic(), basic()), IMAGE),
    "relu6": (
        lambda: after_stem(basic(F.relu6), basic(F.relu6), stem=nn.Sequential(conv(3, 8), nn.ReLU6())),
        IMAGE,
    ),
    "behind-max-pool": (lambda: after_stem(basic(), stem=nn.Sequential(conv(3, 8), nn.ReLU(), nn.MaxPool2d(2))), IMAGE),
    "in-place": (lambda: after_stem(in_place(), in_place()), IMAGE),
    "into-the-input": (lambda: after_stem(into_the_input(), into_the_input()), IMAGE),
    "preactivation": (lambda: after_stem(preactivation(), preactivation(), stem=conv(3, 8)), IMAGE),
    "bottleneck": (lambda: after_stem(bottleneck(), bottleneck()), IMAGE),
    "squeeze-excite": (lambda: after_stem(squeeze_excite()), IMAGE),
    "convnext": (lambda: after_stem(convnext(), convnext()), IMAGE),
    "encoder": (lambda: on_tokens(encoder(), encoder()), TOKENS),
    "torch-encoder": (
        lambda: on_tokens(nn.TransformerEncoderLayer(8, 2, 12, norm_first=True, batch_first=True), encoder()),
        TOKENS,
    ),
    "lstm": (lambda: on_tokens(gated(), recurrent(nn.LSTM)), TOKENS),
    "gru": (lambda: on_tokens(recurrent(nn.GRU), recurrent(nn.RNN)), TOKENS),
    "weight-norm": (lambda: after_stem(normed()), IMAGE),
    "several-arguments": (called_with_several, TOKENS),
}


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().double().eval()


def removable(graph: WidthGraph) -> list[str]:
    return [block.name for block in graph.blocks if block.removable]


def reason(graph: WidthGraph, name: str) -> str:
    return next(block.reason for block in graph.blocks if block.name == name)


def by_running(model: nn.Module, inputs: Tensor) -> set[str]:
    """The oracle: innermost modules with parameters that, called once, give back their input once these are zero."""
    trial, found = perturbed(model, 3), dict[str, list[bool]]()
    zeroed = [n for n, _ in trial.named_parameters() if not n.endswith(("original1", "weight_v"))]

    def hook(path: str) -> Callable[..., None]:
        def compare(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = next(iter((*args, *kwargs.values())), None)
            same = (
                isinstance(given, Tensor)
                and isinstance(output, Tensor)
                and output.shape == given.shape
                and torch.equal(output, before[0])
            )
            found.setdefault(path, []).append(same)

        return compare

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before[0] = next(iter((*args, *kwargs.values())), torch.zeros(())).clone()

    before = [torch.zeros(())]
    for path, module in trial.named_modules():
        names = [name for name in zeroed if name.startswith(f"{path}.")]
        if path and names:
            state = {name: tensor.detach().clone() for name, tensor in trial.named_parameters() if name in names}
            with torch.no_grad():
                for name in names:
                    trial.get_parameter(name).zero_()
                handles = [
                    module.register_forward_pre_hook(keep, with_kwargs=True),
                    module.register_forward_hook(hook(path), with_kwargs=True),
                ]
                trial(inputs)
                for handle in handles:
                    handle.remove()
                for name, tensor in state.items():
                    trial.get_parameter(name).copy_(tensor)
    names = {path for path, same in found.items() if same == [True]}
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


@pytest.mark.parametrize("name", REMOVABLE)
def test_blocks_are_found_where_running_with_zeros_shows_them(name: str) -> None:
    make, inputs = REMOVABLE[name]
    model = built(make)
    names = removable(trace(model, inputs))
    assert set(names) == by_running(model, inputs)
    assert names


@pytest.mark.parametrize("name", REMOVABLE)
def test_removal_equals_zeros_together_with_pruned_widths(name: str) -> None:
    make, inputs = REMOVABLE[name]
    model = built(make)
    graph = trace(model, inputs)
    names = removable(graph)
    generator = np.random.default_rng(0)
    for removed in (names, names[:1], names[1:]):
        left = graph.without(removed)
        widths = {g.name: g.step * int(generator.integers(1, g.units + 1)) for g in left.prunable}
        kept = {g.name: np.sort(generator.permutation(g.units)[: widths[g.name] // g.step]) for g in left.prunable}
        assert zero_then_remove(perturbed(model, 1), graph, kept, inputs, remove=removed) < 1e-10
        small = slim(model, graph, widths, remove=removed)
        again = trace(small, inputs, check=False)
        assert graph.macs(widths, removed=removed) == again.macs()
        assert graph.params(widths, removed=removed) == again.params() == sum(p.numel() for p in small.parameters())


@pytest.mark.parametrize("name", ["resnet20", "mobilenet-v2", "resnet18"])
def test_any_blocks_of_zoo_networks_go_exactly(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name].factory().eval()
    inputs = torch.randn(1, 3, 32, 32)
    graph, trial = trace(model, inputs, check=False), perturbed(model, 1)
    names = removable(graph)
    assert len(names) > 2
    generator = np.random.default_rng(0)
    for _ in range(2):
        removed = [name for name in names if generator.integers(2)]
        assert zero_then_remove(trial, graph, {}, inputs, remove=removed) < 1e-5
        small = slim(model, graph, {}, remove=removed, check=False)
        assert graph.params(removed=removed) == sum(parameter.numel() for parameter in small.parameters())
    assert removable(trace(small, inputs, check=False)) == [name for name in names if name not in removed]


@pytest.mark.parametrize(("name", "blocks"), [("resnet50", 12), ("swin_t", 12), ("efficientnet_b0", 9)])
def test_blocks_of_torchvision_networks(name: str, blocks: int) -> None:
    try:
        models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    except RuntimeError as error:
        pytest.skip(f"torchvision does not suit this PyTorch: {error}")
    torch.manual_seed(0)
    model, inputs = getattr(models, name)(weights=None).eval(), torch.randn(1, 3, 64, 64)
    graph = trace(model, inputs, check=False)
    assert len(removable(graph)) == len(graph.blocks) == blocks
    assert zero_then_remove(perturbed(model, 1), graph, {}, inputs, remove=removable(graph)[::2]) < 1e-5


def test_modules_that_are_no_identity_are_not_listed() -> None:
    strided = Net(lambda s, x: F.relu(s.c(x) + s.p(x)), c=conv(8, 8), p=nn.Conv2d(8, 8, 1))
    doubled = Net(lambda s, x: torch.add(s.c(x), x, alpha=2), c=conv(8, 8))
    post = encoder(pre_norm=False)
    signed = after_stem(basic(), stem=conv(3, 8))  # the first relu of the block changes a signed input
    assert trace(built(lambda: after_stem(strided)), IMAGE).blocks == ()
    assert trace(built(lambda: after_stem(doubled)), IMAGE).blocks == ()
    assert trace(built(lambda: on_tokens(post)), TOKENS).blocks == ()
    assert trace(built(lambda: signed), IMAGE).blocks == ()


def names_of(block: nn.Module) -> str:
    return reason(trace(built(lambda: after_stem(block)), IMAGE), "blocks.0")


def test_of_nested_blocks_the_one_on_the_path_of_the_input_stands() -> None:
    def normalise(s: Any, x: Tensor) -> Tensor:
        return torch.addcmul(s.shift, s.scale, x * x.mean((2, 3), keepdim=True)) + x

    scale, shift = nn.Parameter(torch.ones(12, 1, 1)), nn.Parameter(torch.zeros(12, 1, 1))
    branch = nn.Sequential(conv(8, 12), Net(normalise, scale=scale, shift=shift), conv(12, 8))
    inside = after_stem(Net(lambda s, x: x + s.branch(x), branch=branch), nn.Sequential(bottleneck(), bottleneck()))
    graph = trace(built(lambda: inside), IMAGE)
    assert removable(graph) == ["blocks.0", "blocks.1.0", "blocks.1.1"]


def test_branches_that_stay_loud_are_refused() -> None:
    doubled = Net(lambda s, x: x + torch.sigmoid(s.c(x)), c=conv(8, 8))
    gate = Net(lambda s, x: x + x * torch.sigmoid(s.c(x)), c=conv(8, 8))
    end = "is not zero when all parameters of the block are"
    assert names_of(doubled) == f"the branch that ends with sigmoid {end}"
    assert names_of(gate) == f"the branch that ends with mul {end}"
    assert names_of(basic(b2=nn.BatchNorm2d(8, affine=False))) == f"the branch that ends with batch_norm {end}"
    assert names_of(Net(lambda s, x: x + x + 0 * s.c(x), c=conv(8, 8))).endswith(end)


def test_a_branch_written_into_a_buffer_is_not_taken_for_zeros() -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[:, :4] = s.c(x)[:, :4] + x[:, 4:]
        return x + y

    assert "is not zero" in names_of(Net(run, c=conv(8, 8)))


def test_shared_parameters_keep_a_block() -> None:
    first, second = bottleneck(), bottleneck()
    second.branch[0] = first.branch[0]
    graph = trace(built(lambda: after_stem(first, second)), IMAGE)
    assert reason(graph, "blocks.0").startswith("its parameter 'blocks.0.branch.0.weight' is also 'blocks.1.branch.0")
    assert removable(graph) == []


def test_parameters_that_cross_the_border_keep_a_block() -> None:
    inner = Net(lambda s, x, w: x + s.c(x) * w, c=conv(8, 8))
    lent = Net(lambda s, x: pool(s.b(s.c(x), s.w)), c=conv(3, 8), b=inner, w=nn.Parameter(torch.ones(8, 1, 1)))
    assert reason(trace(built(lambda: lent), IMAGE), "b") == "it computes with 'w', a parameter from outside"
    used = Net(
        lambda s, x: pool(F.conv2d(s.b(s.c(x)), s.b.c.weight)),
        c=conv(3, 8),
        b=Net(lambda s, x: x + s.c(x), c=conv(8, 8)),
    )
    assert reason(trace(built(lambda: used), IMAGE), "b") == "its parameter 'b.c.weight' is used outside of it"


def test_blocks_that_are_called_twice_are_not_listed() -> None:
    twice = Net(lambda s, x: pool(s.b(s.b(s.c(x)))), c=conv(3, 8), b=bottleneck())
    assert trace(built(lambda: twice), IMAGE).blocks == ()


def test_an_output_changed_in_place_keeps_the_block_while_its_input_is_of_use() -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        z = s.b2(s.b1(y))
        view = z.flatten(1)
        view.mul_(2)
        return pool(z) + pool(y)

    graph = trace(built(lambda: Net(run, c=conv(3, 8), b1=bottleneck(), b2=bottleneck())), IMAGE)
    why = "its output is changed in place by mul while its input is still of use"
    assert {block.name: block.reason for block in graph.blocks} == {"b1": why, "b2": why}
    harmless = Net(lambda s, x: pool(s.b1(s.c(x)).mul_(2)), c=conv(3, 8), b1=bottleneck())
    assert removable(trace(built(lambda: harmless), IMAGE)) == ["b1"]
    callers = Net(lambda s, x: pool(s.b1(x).mul_(2)), b1=Net(lambda s, x: x + s.c(x), c=conv(3, 3)))
    assert removable(trace(built(lambda: callers), IMAGE)) == []


def test_values_taken_from_inside_keep_a_block() -> None:
    def inner(s: Any, x: Tensor) -> Tensor:
        s.hidden[0] = s.c1(x)
        return x + s.c2(torch.relu(s.hidden[0]))

    block = Net(inner, c1=conv(8, 6), c2=conv(6, 8), hidden=[None])
    model = Net(lambda s, x: pool(s.b(s.c(x))) + s.b.hidden[0].mean(), c=conv(3, 8), b=block)
    graph = trace(built(lambda: model), IMAGE)
    assert reason(graph, "b").startswith("the forward outside looks into it: ")
    with pytest.raises(InputError, match=r"^block 'b' cannot be removed: the forward outside looks into it"):
        graph.macs(removed=["b"])


def test_only_the_block_that_others_look_into_stays() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, norm_first=True, batch_first=True)
    model = built(lambda: nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
    graph = trace(model, TOKENS)
    assert removable(graph) == ["layers.1", "layers.2"]
    assert reason(graph, "layers.0").startswith("the forward outside looks into it: 'Skip' object has no attribute")
    small = slim(model, graph, {}, remove=["layers.2"])
    assert isinstance(small.get_submodule("layers.2"), Skip)


def test_removal_is_by_identity_and_leaves_the_model_alone() -> None:
    model = built(REMOVABLE["basic"][0]).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = trace(model, IMAGE)
    small = slim(model, graph, {}, remove=["blocks.1"])
    assert isinstance(small.get_submodule("blocks.1"), nn.Identity)
    assert small.get_submodule("blocks.1").training
    assert list(small.state_dict()) == [name for name in before if not name.startswith("blocks.1.")]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    shared = {id(p) for p in model.parameters()} & {id(p) for p in small.parameters()}
    assert not shared


def test_slim_networks_train() -> None:
    model = built(REMOVABLE["basic"][0])
    graph = trace(model, IMAGE)
    small = slim(model, graph, {"stem.0": 5}, remove=["blocks.0"]).train()
    optimiser, target = torch.optim.SGD(small.parameters(), lr=0.1), torch.tensor([0, 1])
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = F.cross_entropy(small(IMAGE), target)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_wrong_names_are_one_sentence() -> None:
    model = built(REMOVABLE["basic"][0])
    graph = trace(model, IMAGE)
    with pytest.raises(
        InputError, match=r"^there is no residual block 'x'; the removable blocks are blocks.0, blocks.1$"
    ):
        slim(model, graph, {}, remove=["x"])
    with pytest.raises(InputError, match=r"^group 'blocks.0.c1' goes with the removed blocks; give it no width$"):
        slim(model, graph, {"blocks.0.c1": 3}, remove=["blocks.0"])
    with pytest.raises(InputError, match=r"^group 'blocks.0.c1' goes with the removed blocks; give it no width$"):
        graph.params({"blocks.0.c1": 3}, removed=["blocks.0"])
    with pytest.raises(InputError, match=r"^the blocks to remove must be a list of names, got the text 'blocks.0'$"):
        slim(model, graph, {}, remove="blocks.0")
    with pytest.raises(InputError, match=r"^the width graph belongs to another network"):
        slim(nn.Linear(3, 3), graph, {}, remove=["blocks.0"])
    with pytest.raises(InputError, match=r"^there is no residual block 'x'; the network has no removable ones$"):
        trace(nn.Linear(3, 3), torch.randn(1, 3)).macs(removed=["x"])


def test_blocks_say_what_goes_with_them() -> None:
    graph = trace(built(lambda: after_stem(basic())), IMAGE)
    params = 8 * 6 * 9 + 2 * 6 + 6 * 8 * 9 + 8 + 2 * 8
    layers = ("blocks.0.c1", "blocks.0.b1", "blocks.0.c2", "blocks.0.b2")
    macs = graph.macs() - graph.macs(removed=["blocks.0"])
    through = (3, 10)  # before it the input and the three tensors of the stem; it makes seven and gives the last
    assert graph.blocks == (Block("blocks.0", True, "", layers, ("blocks.0.c1",), macs, params, through=through),)
    assert macs >= 2 * 8 * 6 * 9 * 64
    assert graph.to_json()["blocks"] == [
        {"name": "blocks.0", "removable": True, "reason": "", "layers": [*layers], "macs": macs, "params": params}
    ]
    assert replace(graph, blocks=()).fingerprint == graph.fingerprint


def test_blocks_are_found_without_a_check_and_without_values() -> None:
    make, inputs = REMOVABLE["squeeze-excite"]
    model = built(make)
    unchecked, empty = trace(model, inputs, check=False), trace(built(make).to("meta"), inputs.to("meta"))
    assert removable(unchecked) == removable(empty) == ["blocks.0"]
    assert slim(model, unchecked, {}, remove=["blocks.0"])(inputs).shape == (2, 4)
