"""Attention: the narrow forward is PyTorch's own, and heads, their sizes and widths under norms go exactly."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from network_cases import Net, grouped_query, multihead, transformer
from torch import Tensor, nn

from ecc.core.widths import Kept
from ecc.network.attention import narrow
from ecc.network.checking import perturbed
from ecc.network.equality import zero_then_remove
from ecc.network.graph import WidthGraph
from ecc.network.slimming import slim
from ecc.network.tracing import trace

torch.set_num_threads(1)

Shapes = dict[str, tuple[int, int]]


def tensor(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def traced(model: nn.Module, inputs: Any, **options: Any) -> tuple[WidthGraph, Shapes]:
    """The graph after a proof that random removals equal the masked network, and its prunable groups."""
    graph = trace(model.double().eval(), inputs, **options)
    trial, generator = perturbed(model, 1), np.random.default_rng(0)
    for _ in range(3 if graph.prunable else 0):
        kept = units(graph, generator)
        assert zero_then_remove(trial, graph, kept, inputs) < 1e-10
        widths = {name: len(chosen) * graph.group(name).step for name, chosen in kept.items()}
        small = slim(model, graph, kept, check=False)
        assert sum(parameter.numel() for parameter in small.parameters()) == graph.params(widths)
    return graph, {group.name: (group.width, group.step) for group in graph.prunable}


def units(graph: WidthGraph, generator: np.random.Generator) -> Kept:
    return {
        group.name: np.sort(generator.choice(group.units, generator.integers(1, group.units + 1), replace=False))
        for group in graph.prunable
    }


@st.composite
def calls(draw: st.DrawFn) -> tuple[nn.MultiheadAttention, list[Tensor], dict[str, Any]]:
    """A module of any options and a call of it with any masks."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    flag = partial(draw, st.booleans())
    heads, length, n = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    width, first, batched = 4 * heads, flag(), flag()
    source = draw(st.sampled_from(["self", "memory", "apart"]))
    separate = source == "apart" and flag()
    module = nn.MultiheadAttention(
        width, heads, bias=flag(), add_bias_kv=flag(), add_zero_attn=flag(), batch_first=first,
        kdim=5 if separate else None, vdim=6 if separate else None,
    ).double()  # fmt: skip
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    module.train(flag())

    def sequence(steps: int, size: int) -> Tensor:
        return tensor(*((n, steps) if first else (steps, n)), size) if batched else tensor(steps, size)

    steps = length if source == "self" else draw(st.integers(1, 4))
    query = sequence(length, width)
    key = query if source == "self" else sequence(steps, 5 if separate else width)
    value = sequence(steps, 6 if separate else width) if source == "apart" else key
    options: dict[str, Any] = {"need_weights": flag(), "average_attn_weights": flag()}
    floating = flag()
    per_head = (n if batched else 1) * heads
    shape = draw(st.sampled_from([None, (length, steps), (per_head, length, steps)]))
    if shape is not None:
        options["attn_mask"] = tensor(*shape) if floating else torch.rand(shape) < 0.3
        options["is_causal"] = flag() and options["need_weights"]
    if flag():
        shape = (n, steps) if batched else (steps,)
        options["key_padding_mask"] = tensor(*shape) if floating else torch.rand(shape) < 0.3
    return module, [query, key, value], options


@given(calls())
def test_narrow_forward_is_that_of_pytorch(call: tuple[nn.MultiheadAttention, list[Tensor], dict[str, Any]]) -> None:
    module, inputs, options = call
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it forgets bias_k of a module that has only one
    try:
        expected = module(*inputs, **options)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    narrow(module)
    for mine, theirs in zip(module(*inputs, **options), expected, strict=True):
        if theirs is None:
            assert mine is None
        else:
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10, equal_nan=True)


def test_narrow_forward_takes_the_causal_hint() -> None:
    module, x = nn.MultiheadAttention(8, 2, batch_first=True).double(), tensor(2, 5, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(5).double()
    expected = module(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0]
    narrow(module)
    torch.testing.assert_close(module(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0], expected)
    with pytest.raises(RuntimeError, match="needs attn_mask"):
        module(x, x, x, is_causal=True)


@pytest.mark.parametrize("option", [{"attn_mask": (4, 5)}, {"key_padding_mask": (2, 4)}], ids=["attention", "padding"])
def test_narrow_forward_refuses_masks_that_do_not_fit(option: dict[str, tuple[int, int]]) -> None:
    module, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 5, 8)
    narrow(module)
    with pytest.raises(RuntimeError, match=r"has shape .* but must have"):
        module(x, x, x, **{name: torch.zeros(shape) for name, shape in option.items()})


def attention(size: int = 16, *, weights: bool = True, **options: Any) -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y, memory = s.embed(x), s.memory(x)
        return s.head(s.attn(y, memory, memory, need_weights=weights)[0].mean(1))

    return Net(
        run,
        embed=nn.Linear(10, 16),
        memory=nn.Linear(10, size),
        attn=nn.MultiheadAttention(16, 4, kdim=size, vdim=size, **options),
        head=nn.Linear(16, 3),
    )


HEADS = {"attn": (48, 12), "attn@2": (32, 8), "attn@3": (16, 4)}


@pytest.mark.parametrize("weights", [True, False], ids=["weights", "fused"])
@pytest.mark.parametrize(
    "options",
    [{"batch_first": True}, {"bias": False}, {"add_bias_kv": True, "add_zero_attn": True}, {"size": 7}],
    ids=["batch-first", "no-bias", "extra-keys", "other-width"],
)
def test_heads_and_their_sizes_go_exactly(options: dict[str, Any], weights: bool) -> None:
    _, prunable = traced(attention(weights=weights, **options), tensor(2, 6, 10))
    memory = {"memory": (7, 1)} if "size" in options else {}
    assert prunable == {"embed": (16, 1), **memory, **HEADS, "attn.out_proj": (16, 1)}


TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {
    "encoder-layer": (lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), (tensor(2, 6, 16),), 4),
    "decoder-layer": (lambda: nn.TransformerDecoderLayer(16, 4, 32), (tensor(6, 2, 16), tensor(5, 2, 16)), 7),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2),
        {"src": tensor(2, 6, 16), "src_key_padding_mask": torch.tensor([[False] * 4 + [True] * 2, [False] * 6])},
        8,
    ),
    "transformer": (
        lambda: nn.Transformer(16, 4, 1, 1, 32, batch_first=True),
        (tensor(2, 6, 16), tensor(2, 5, 16)),
        11,
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_of_pytorch_lose_heads(name: str) -> None:
    make, inputs, groups = TRANSFORMERS[name]
    graph, prunable = traced(make(), inputs)
    assert len(prunable) == groups
    small = slim(make().double().eval(), graph, {group.name: group.step for group in graph.prunable}, check=False)
    found = [part for part in small.modules() if isinstance(part, nn.MultiheadAttention)]
    assert {type(part) for part in found} == {nn.MultiheadAttention}
    assert all(part.num_heads == 1 for part in found)


def narrow_attention() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = multihead().eval(), torch.randn(2, 6, 10)
    graph = trace(model, x)
    return slim(model, graph, {"embed": 12, "attn": 24, "attn@2": 16, "attn@3": 12}), x


def test_narrow_modules_are_copied_and_saved_with_their_forward() -> None:
    small, x = narrow_attention()
    expected = small(x)
    buffer = io.BytesIO()
    small.run = None  # the test's own closure cannot be saved
    torch.save(small, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    small.run = loaded.run = multihead().run
    duplicate = copy.deepcopy(small)
    with torch.no_grad():
        small.attn.in_proj_weight.zero_()
    for other in (loaded, duplicate):
        torch.testing.assert_close(other(x), expected)
    assert not torch.equal(small(x), expected)


def test_narrow_modules_are_exported_trained_and_loaded() -> None:
    small, x = narrow_attention()
    exported = torch.export.export(small, (x,)).module()
    torch.testing.assert_close(exported(x), small(x))
    small.train()
    small(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    other, _ = narrow_attention()
    other.load_state_dict(small.state_dict())


def test_fused_layers_leave_narrow_modules_alone() -> None:
    make, inputs, _ = TRANSFORMERS["encoder"]
    model = make().double().eval()
    graph = trace(model, inputs)
    small = slim(model, graph, {group.name: group.step for group in graph.prunable})
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        once = small(**inputs)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            torch.testing.assert_close(small(**inputs), once)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


def rotate(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


def rotary() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        angle = torch.arange(t, dtype=x.dtype)[:, None] * s.speed
        cos, sin = (torch.cat([part, part], -1) for part in (angle.cos(), angle.sin()))
        q, k, v = (part(x).view(n, t, 4, -1).transpose(1, 2) for part in (s.q, s.k, s.v))
        q, k = (part * cos + rotate(part) * sin for part in (q, k))
        return s.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    parts = {name: nn.Linear(10, 32, bias=False) for name in "qkv"}
    net = Net(run, **parts, out=nn.Linear(32, 5))
    net.register_buffer("speed", torch.tensor([1.0, 0.3, 0.1, 0.03]))
    return net


def scaled(scale: Callable[[Tensor], float]) -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (4, -1)).transpose(1, 2) for part in (s.q, s.k, s.v))
        return s.out(((q @ k.mT * scale(q)).softmax(-1) @ v).transpose(1, 2).flatten(2))

    return Net(run, **{name: nn.Linear(10, 24) for name in "qkv"}, out=nn.Linear(24, 3))


def transposed_weight(*, shared: bool) -> nn.Module:
    """One weight (in, out) for queries, keys and values, as GPT-2 has it; or queries that are read twice."""

    def run(s: Any, x: Tensor) -> Tensor:
        q, k, v = (x @ s.weight).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return s.out(y + q + k) if shared else s.out(y)

    net = Net(run, out=nn.Linear(8, 3))
    net.weight = nn.Parameter(tensor(10, 24) / 3)
    return net


FOLDS: dict[str, tuple[Callable[[], nn.Module], int, Shapes]] = {
    "separate": (partial(transformer, "sdpa"), 2, {"attn.q": (20, 5), "attn.q@2": (20, 4), "attn.v": (20, 4)}),
    "rotary": (rotary, 1, {"q": (32, 8), "v": (32, 4)}),
    "one-weight": (partial(transposed_weight, shared=False), 1, {"weight": (24, 3)}),
    "read-elsewhere": (partial(transposed_weight, shared=True), 0, {}),
    "frozen": (partial(scaled, lambda q: 0.3), 0, {"q@2": (24, 4), "v": (24, 4)}),
    "root": (partial(scaled, lambda q: q.size(-1) ** -0.5), 2, {"q@2": (24, 4), "v": (24, 4)}),
    "inverse": (partial(scaled, lambda q: 2 / q.size(-1)), 2, {"q@2": (24, 4), "v": (24, 4)}),
    "odd": (partial(scaled, lambda q: 1 / (1 + q.size(-1))), 0, {"v": (24, 4)}),
}


@pytest.mark.parametrize("name", FOLDS)
def test_scales_of_heads_are_made_up_for_in_the_weights(name: str) -> None:
    make, factors, expected = FOLDS[name]
    graph, prunable = traced(make(), tensor(2, 6, 10))
    assert len(graph.rescales) == factors
    assert {key: shape for key, shape in prunable.items() if "mlp" not in key} == expected


def test_the_factor_goes_to_rows_of_queries_alone() -> None:
    model, x = rotary().double().eval(), tensor(2, 6, 10)
    graph = trace(model, x)
    small = slim(model, graph, {"q": np.array([0, 2])})
    assert torch.equal(small.k.weight, model.k.weight.view(4, 2, 4, 10)[:, :, [0, 2]].flatten(0, 2))
    rows = model.q.weight.view(4, 2, 4, 10)[:, :, [0, 2]].flatten(0, 2)
    torch.testing.assert_close(small.q.weight, rows * 0.5**0.5)


def test_half_precision_networks_fold_too() -> None:
    model, x = transformer("sdpa").bfloat16().eval(), torch.randn(2, 6, 10).bfloat16()
    graph = trace(model, x)
    assert graph.rescales
    slim(model, graph, {"attn.q@2": 8})


def vision(norm: Callable[[int], nn.Module] = nn.LayerNorm) -> nn.Module:
    """Patches, a class token, positions, blocks of nn.MultiheadAttention."""

    def run(s: Any, x: Tensor) -> Tensor:
        y = s.patch(x).flatten(2).transpose(1, 2)
        y = torch.cat([s.token.expand(len(y), -1, -1), y], 1) + s.place
        return s.head(s.norm(s.blocks(y))[:, 0])

    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
    blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    net = Net(run, patch=nn.Conv2d(3, 16, 4, 4), blocks=blocks, norm=norm(16), head=nn.Linear(16, 5))
    net.token, net.place = nn.Parameter(tensor(1, 1, 16)), nn.Parameter(tensor(1, 5, 16))
    return net


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm], ids=["layer", "rms"])
def test_vision_transformers_narrow_their_embedding_on_request(norm: Callable[[int], nn.Module]) -> None:
    images = tensor(2, 3, 8, 8)
    dense, without = traced(vision(norm), images)
    assert "trace with renormalise=True" in dense.group("patch").reason
    assert not dense.renormalised
    graph, prunable = traced(vision(norm), images, renormalise=True)
    assert prunable == {"patch": (16, 1), **without}
    assert len(graph.renormalised) == 5
    small = slim(vision(norm).double().eval(), graph, {"patch": 10})
    assert small.norm.normalized_shape == (10,)
    assert small.blocks.layers[0].self_attn.embed_dim == 10


def test_renormalised_networks_are_not_the_masked_ones() -> None:
    model, x = nn.Sequential(nn.Linear(10, 16), nn.LayerNorm(16), nn.Linear(16, 3)).double().eval(), tensor(4, 10)
    graph = trace(model, x, renormalise=True)
    small, kept = slim(model, graph, {"0": np.arange(8)}), slice(0, 8)
    expected = F.layer_norm(model[0](x)[:, kept], (8,), model[1].weight[kept], model[1].bias[kept])
    torch.testing.assert_close(small(x), F.linear(expected, model[2].weight[:, kept], model[2].bias))


NORMS: dict[str, tuple[nn.Module, Shapes]] = {
    "one-group": (nn.GroupNorm(1, 12), {"0": (12, 1)}),
    "groups": (nn.GroupNorm(4, 12), {"0": (12, 3)}),
    "no-weight": (nn.GroupNorm(1, 12, affine=False), {}),
    "over-images": (nn.LayerNorm((12, 8, 8)), {}),
}


@pytest.mark.parametrize("name", NORMS)
def test_other_norms_run_over_kept_channels_or_stay(name: str) -> None:
    norm, expected = NORMS[name]
    model = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), norm, nn.Conv2d(12, 3, 1))
    graph, prunable = traced(model, tensor(2, 3, 8, 8), renormalise=True)
    assert prunable == expected
    assert expected or "only norms over one axis that have a weight" in graph.group("0").reason


class HandWritten(nn.Module):
    """Attention as libraries write it, with sizes in attributes."""

    def __init__(self, heads: int = 4, size: int = 6) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = heads, size, heads * size
        self.query, self.key, self.value = (nn.Linear(10, heads * size) for _ in range(3))
        self.out = nn.Linear(heads * size, 3)

    def cut(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_attention_heads, self.attention_head_size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.cut(self.query(x)), self.cut(self.key(x)), self.cut(self.value(x))
        scores = q @ k.transpose(-1, -2) / self.attention_head_size**0.5
        y = (scores.softmax(-1) @ v).permute(0, 2, 1, 3).contiguous()
        return self.out(y.view(*y.shape[:-2], self.all_head_size))


def test_sizes_in_attributes_follow_the_heads() -> None:
    model = HandWritten()
    graph, prunable = traced(model, tensor(2, 6, 10))
    assert prunable == {"query": (24, 6), "query@2": (24, 4)}
    small = slim(model, graph, {"query": 12, "query@2": 16})
    assert (small.num_attention_heads, small.attention_head_size, small.all_head_size) == (2, 4, 8)


@pytest.mark.parametrize("flag", [True, False], ids=["flag", "expand"])
def test_query_heads_go_with_the_head_of_keys_that_they_share(flag: bool) -> None:
    _, prunable = traced(grouped_query(flag), tensor(2, 6, 10))
    assert list(prunable.values()) == [(32, 8)]
