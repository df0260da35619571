from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from network_cases import Net, conv, pool, residual_projection
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.network.slimming import slim
from ecc.network.tracing import trace

IMAGE = torch.randn(2, 3, 8, 8)


def small() -> nn.Sequential:
    return nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), nn.Flatten(), nn.Linear(384, 5))


def test_the_model_is_not_touched() -> None:
    model = small().train()
    model[3].weight.requires_grad_(False)
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    objects = {name: id(tensor) for name, tensor in model.named_parameters()}
    trace(model, IMAGE)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert {name: id(tensor) for name, tensor in model.named_parameters()} == objects
    assert all(module.training for module in model.modules())
    assert len(model[0]._forward_hooks) == 1
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False] + [True] * 3


def test_attributes_that_the_forward_sets_do_not_reach_the_model() -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        s.last = s.c(x)
        return s.head(pool(s.last))

    model = Net(run, c=conv(3, 8), head=nn.Linear(8, 2))
    trace(model, IMAGE)
    assert not hasattr(model, "last")


def test_groups_come_in_order_of_execution_with_the_layers_that_share_them() -> None:
    graph = trace(residual_projection(), IMAGE)
    assert [group.name for group in graph.groups] == ["c1", "c2", "head"]
    assert graph.group("c2").layers == ("c2", "b2", "p", "head")
    assert graph.group("head").reason == "it is an output of the network"
    assert {(slot.tensor, slot.axis, slot.role) for slot in graph.group("c2").slots} == {
        ("c2.weight", 0, "write"),
        ("c2.bias", 0, "write"),
        ("b2.weight", 0, "write"),
        ("b2.bias", 0, "write"),
        ("b2.running_mean", 0, "write"),
        ("b2.running_var", 0, "write"),
        ("p.weight", 0, "write"),
        ("p.bias", 0, "write"),
        ("head.weight", 1, "read"),
    }


def test_layers_cost_what_one_example_costs() -> None:
    graph = trace(small(), IMAGE)
    assert [(layer.name, layer.kind, layer.macs) for layer in graph.layers] == [
        ("0", "conv", 8 * 3 * 9 * 64),
        ("1", "norm", 0),
        ("3", "conv", 6 * 8 * 9 * 64),
        ("5", "linear", 384 * 5),
    ]
    assert graph.input_shapes == ((2, 3, 8, 8),)


def test_a_module_used_twice_is_two_layers_and_one_parameter() -> None:
    model = Net(lambda s, x: s.c(s.c(s.a(x))), a=conv(3, 8), c=conv(8, 8))
    graph = trace(model, IMAGE)
    assert [layer.name for layer in graph.layers] == ["a", "c", "c@2"]
    assert graph.params() == sum(parameter.numel() for parameter in model.parameters())


def test_only_included_layers_and_no_excluded_ones_are_pruned() -> None:
    assert [g.name for g in trace(small(), IMAGE, include=["0"]).prunable] == ["0"]
    graph = trace(small(), IMAGE, exclude=["[03]"])
    assert not graph.prunable
    assert graph.group("3").reason == "it is excluded by '[03]'"
    # A group that a normalisation writes too is excluded by its name as well.
    assert [g.name for g in trace(small(), IMAGE, exclude=["1"]).prunable] == ["3"]


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match=r"^pattern 'layer9\*' matches no layer; layers are 0, 1, 3, 5"):
        trace(small(), IMAGE, exclude=["layer9*"])


def test_an_unknown_operator_is_named_and_keeps_its_channels() -> None:
    model = Net(lambda s, x: s.b(torch.fft.fft(s.a(x)).real), a=conv(3, 8), b=conv(8, 3))
    graph = trace(model, IMAGE)
    assert graph.group("a").reason == "the operator fft_fft is not known"
    assert graph.notes == ("the operator fft_fft is not known, so the channels that it touches stay dense",)


def test_keyword_inputs_and_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 8), nn.Embedding(10, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, ids: Tensor) -> Tensor:
            return self.head(self.a(x) + self.b(ids))

    x, ids = torch.randn(3, 4), torch.randint(0, 10, (3,))
    for inputs in ((x, ids), {"ids": ids, "x": x}):
        graph = trace(Two(), inputs)
        assert [group.name for group in graph.prunable] == ["a"] or [g.name for g in graph.prunable] == ["b"]
        assert graph.prunable[0].layers == ("a", "b", "head")


def test_a_model_on_the_meta_device_is_traced_without_values() -> None:
    with torch.device("meta"):
        model = small()
    graph = trace(model, torch.empty(2, 3, 8, 8, device="meta"))
    assert [group.name for group in graph.prunable] == ["0", "3"]


def test_half_precision_and_channels_last() -> None:
    model = small().to(torch.bfloat16).to(memory_format=torch.channels_last)
    graph = trace(model, IMAGE.to(torch.bfloat16))
    assert [group.name for group in graph.prunable] == ["0", "3"]


def test_the_same_model_gives_the_same_graph() -> None:
    model = residual_projection()
    first, second = trace(model, IMAGE), trace(model, IMAGE)
    assert first.fingerprint == second.fingerprint
    assert first.to_json() == second.to_json()


def test_a_larger_batch_gives_the_same_groups_and_costs() -> None:
    one, four = trace(small(), IMAGE[:1]), trace(small(), torch.randn(4, 3, 8, 8))
    memory = ("memory", "memory_activations")
    single, several = one.to_json(), four.to_json()
    assert all(several.pop(name) > single.pop(name) for name in memory)
    assert single == several


def data_dependent() -> nn.Module:
    return Net(lambda s, x: s.c(x) if x.sum() > 0 else -s.c(x), c=conv(3, 8))


def nan_output() -> nn.Module:
    model = small()
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    return model


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (
            small(),
            torch.randn(2, 4, 8, 8),
            r"Sequential does not run on an input of 2×4×8×8 \(float32\): layer 0 \(Conv2d\) expects N×3×H×W "
            r"\(float32\), got 2×4×8×8 \(float32\)",
        ),
        (
            small(),
            torch.randn(2, 3, 8, 8).long(),
            r"Sequential does not run on an input of 2×3×8×8 \(int64\): layer 0 \(Conv2d\) expects N×3×H×W "
            r"\(float32\), got 2×3×8×8 \(int64\)",
        ),
        (
            small(),
            torch.randn(2, 3, 9, 9),
            r"Sequential does not run on an input of 2×3×9×9 \(float32\): layer 5 \(Linear\) expects …×384 "
            r"\(float32\), got 2×486 \(float32\)",
        ),
        (
            nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2)),
            torch.tensor([[3, 10]]),
            r"Sequential does not run on an input of 1×2 \(int64\): layer 0 \(Embedding\) expects whole numbers from 0 "
            r"to 9, got 1×2 \(int64\) with values from 3 to 10",
        ),
        (small(), IMAGE[:0], r"the example input of 0×3×8×8 \(float32\) is an empty batch; give at least one example"),
        (nn.ReLU(), IMAGE, "ReLU has no parameters; give a network with layers that have weights"),
        (nn.LazyLinear(3), IMAGE, "LazyLinear has lazy layers whose sizes are not known yet; run it once on an input"),
        (
            data_dependent(),
            IMAGE,
            r"Net cannot be followed: its forward depends on the values of tensors \(line \d+ of test_tracing.py\); "
            r"put what cannot be into a module of its own, or declare the groups with trace\(groups=...\)",
        ),
        (nan_output(), IMAGE, "Sequential gives NaN on the example inputs; mend its weights or the inputs .*"),
        (Net(lambda s, x: None, c=conv(3, 8)), IMAGE, "Net returns no tensor; its forward must return its outputs"),
        (small(), object(), r"example inputs must be a tensor, a tuple .* or a dict of tensors \(.*\), got object"),
        (small(), (), r"example inputs must be .*, got tuple without a tensor"),
        (small(), {"x": [np.zeros(3)]}, r"example inputs must be .*, got dict with ndarray"),
    ],
    ids=[
        "shape",
        "dtype",
        "size",
        "token",
        "empty",
        "no-parameters",
        "lazy",
        "data-dependent",
        "nan",
        "no-output",
        "no-tensor",
        "no-input",
        "array",
    ],
)
def test_wrong_input_is_one_sentence(model: nn.Module, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        trace(model, inputs)


def test_a_forward_that_raises_is_quoted() -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        raise KeyError("mask")

    with pytest.raises(InputError, match=r"Net does not run on an input of 2×3×8×8 \(float32\): 'mask'"):
        trace(Net(run, c=conv(3, 8)), IMAGE)


def two_stages() -> nn.Module:
    stage = [nn.Sequential(conv(i, 8), nn.BatchNorm2d(8), nn.ReLU()) for i in (3, 8)]
    return nn.Sequential(OrderedDict(layer1=stage[0], layer10=stage[1], head=conv(8, 2)))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("layer1", ["layer1.0"]),
        ("layer1*", ["layer1.0", "layer10.0"]),
        ("*.0", ["layer1.0", "layer10.0"]),
        ("layer10.1", ["layer10.0"]),
        ("type:Conv2d", ["layer1.0", "layer10.0"]),
        ("type:*Norm*", ["layer1.0", "layer10.0"]),
        (nn.BatchNorm2d, ["layer1.0", "layer10.0"]),
        (nn.Sequential, ["layer1.0", "layer10.0"]),
    ],
    ids=str,
)
def test_a_pattern_covers_layers_and_all_that_lies_in_modules(pattern: Any, names: list[str]) -> None:
    graph = trace(two_stages(), IMAGE, include=[pattern])
    assert [group.name for group in graph.prunable] == names
    excluded = trace(two_stages(), IMAGE, exclude=[pattern])
    assert not {group.name for group in excluded.prunable}.intersection(names)
    shown = repr(pattern) if isinstance(pattern, str) else f"type {pattern.__name__}"
    assert {excluded.group(name).reason for name in names} == {f"it is excluded by {shown}"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("layer2", r"pattern 'layer2' matches no layer; did you mean layer1 or layer10\?"),
        ("type:Conv3d", r"pattern 'type:Conv3d' matches no layer; did you mean type:Conv2d\?"),
        (nn.LSTM, "type LSTM matches no layer; layers are type:Conv2d, type:BatchNorm2d"),
    ],
    ids=str,
)
def test_a_pattern_without_a_match_names_what_is_near(pattern: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        trace(two_stages(), IMAGE, exclude=[pattern])


def test_a_step_gives_groups_in_blocks() -> None:
    model = nn.Sequential(nn.Linear(5, 64), nn.Linear(64, 24), nn.Linear(24, 3))
    graph = trace(model, torch.randn(2, 5), step=8)
    assert [(group.name, group.width, group.step) for group in graph.prunable] == [("0", 64, 8), ("1", 24, 4)]
    assert slim(model, graph, {"0": 16, "1": 8})[1].weight.shape == (8, 16)
    with torch.device("meta"):
        meta = nn.Sequential(nn.Linear(5, 64), nn.Linear(64, 24), nn.Linear(24, 3))
    assert trace(meta, torch.randn(2, 5), step=8).space == graph.space
    with pytest.raises(InputError, match="the step must be a whole number of at least 1 channel, got 0"):
        trace(model, torch.randn(2, 5), step=0)


class Decoder(nn.Module):
    """Takes its inputs as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(50, 16), nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, input_ids: Tensor, mask: Tensor | None = None, use_cache: bool = True, past: Any = None) -> Any:
        h = self.embed(input_ids)
        if past is not None:
            h = h + past[0][0] + past[0][1]["key"]
        if mask is not None:
            h = h * mask[..., None]
        return {"logits": self.b(torch.relu(self.a(h))), "cache": h if use_cache else None}


def test_nested_inputs_with_values_that_are_no_tensors() -> None:
    past = [(torch.randn(2, 6, 16), {"key": torch.randn(2, 6, 16)})]
    inputs = {"input_ids": torch.randint(0, 50, (2, 6)), "mask": None, "use_cache": False, "past": past}
    model = Decoder()
    graph = trace(model, inputs)
    assert [group.name for group in graph.prunable] == ["a"]
    assert graph.input_shapes == ((2, 6), (2, 6, 16), (2, 6, 16))
    slim(model, graph, {"a": 5})  # compares with the masked network on inputs drawn like these
    drawn = graph.example(seed=1)
    assert isinstance(drawn, dict)
    assert drawn["use_cache"] is False
    assert model(**drawn)["logits"].shape == (2, 6, 4)
    positional = (inputs["input_ids"], None, False, past)
    assert trace(model, positional).to_json() == graph.to_json()


def test_a_model_without_values_takes_inputs_with_values() -> None:
    with torch.device("meta"):
        model = small()
    assert trace(model, IMAGE).space == trace(small(), IMAGE).space


def test_random_numbers_in_eval_mode_are_noted() -> None:
    model = Net(lambda s, x: s.b(torch.dropout(s.a(x), 0.5, True)), a=conv(3, 8), b=conv(8, 3))
    (note,) = trace(model, IMAGE).notes
    assert note.startswith("the forward draws random numbers in eval mode too (dropout)")
    assert not trace(nn.Sequential(conv(3, 8), nn.Dropout(), conv(8, 3)), IMAGE).notes


def test_a_width_for_a_group_that_stays_dense_is_refused_with_its_reason() -> None:
    graph = trace(small(), IMAGE, exclude=["0"])
    with pytest.raises(InputError, match=r"^group '0' stays dense: it is excluded by '0'$"):
        graph.macs({"0": 4})
    with pytest.raises(InputError, match=r"^group '5' stays dense: it is an output of the network$"):
        slim(small(), graph, {"5": 3})


class Auxiliary(nn.Module):
    """A network with a second head that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.body, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6, 4)
        self.aux = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 10, 1), nn.BatchNorm2d(10), nn.Flatten(), nn.Linear(10, 4)
        )

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        out = self.head(self.body(y).mean((2, 3)))
        return (out, self.aux(y)) if self.training else out


@pytest.mark.parametrize("batch", [1, 2])
def test_layers_that_only_training_uses_follow_the_widths(batch: int) -> None:
    model, inputs = Auxiliary(), torch.randn(batch, 3, 8, 8)
    graph = trace(model, inputs)
    assert {group.name: group.width for group in graph.prunable} == {"stem.0": 8, "body": 6, "aux.1": 10}
    assert not any(layer.name.startswith("aux") for layer in graph.layers)
    small = slim(model, graph, {"stem.0": 3, "body": 2, "aux.1": 4})
    assert [tensor.shape for tensor in small.train()(torch.randn(2, 3, 8, 8))] == [(2, 4), (2, 4)]
    assert small.aux[1].weight.shape == (4, 3, 1, 1)


def test_a_train_mode_that_cannot_be_followed_is_noted() -> None:
    class Undecided(Auxiliary):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x * 2 if self.training and bool(x.sum() > 0) else x)

    graph = trace(Undecided(), torch.randn(2, 3, 8, 8))
    assert any(note.startswith("aux.1.weight has no use in eval mode") for note in graph.notes)
    assert {group.name for group in graph.prunable} == {"stem.0", "body"}


class Rolled(nn.Module):
    """Attention whose counts are kept under names that say nothing, beside a number that counts no channels."""

    def __init__(self, heads: int, size: int, shift: int) -> None:
        super().__init__()
        self.h, self.hd, self.shift, self.scale = heads, size, shift, size**-0.5
        self.qkv, self.out = nn.Linear(16, 3 * heads * size), nn.Linear(heads * size, 16)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        qkv = self.qkv(torch.roll(x, self.shift, 1)).reshape(n, t, 3, self.h, self.hd)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, self.h * self.hd))


@pytest.mark.parametrize(("heads", "size", "shift"), [(4, 4, 3), (2, 5, 2), (2, 5, 1)])
def test_attributes_of_equal_values_are_told_apart_by_trying(heads: int, size: int, shift: int) -> None:
    graph = trace(Rolled(heads, size, shift).double(), torch.randn(2, 6, 16, dtype=torch.float64))
    assert [group.step for group in graph.prunable] == [3 * size, 3 * heads]
