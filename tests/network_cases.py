"""Small networks, one for each structure that a width graph has to get right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A network, its input, and how many groups must be prunable; every other group must carry a reason."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    prunable: Mapping[str, tuple[int, int]]  # name → (width, step)
    tokens: bool = False

    def build(self) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        model = self.make().double().eval()
        return model, torch.randint(0, 10, self.shape) if self.tokens else torch.randn(self.shape, dtype=torch.float64)


class Net(nn.Module):
    """Parts and a forward that is given as a function of (self, inputs)."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


def conv(i: int, o: int, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=k // 2, **options)


def pool(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def residual_projection() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.b2(s.c2(torch.relu(s.b1(s.c1(x))))) + s.p(x)
        return s.head(torch.flatten(F.adaptive_avg_pool2d(torch.relu(y), 1), 1))

    return Net(
        run,
        c1=conv(3, 8),
        b1=nn.BatchNorm2d(8),
        c2=conv(8, 12),
        b2=nn.BatchNorm2d(12),
        p=nn.Conv2d(3, 12, 1),
        head=nn.Linear(12, 5),
    )


def residual_option_a() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c0(x)
        return s.head(pool(s.c2(torch.relu(s.c1(y))) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))))

    return Net(run, c0=conv(3, 8), c1=conv(8, 16, stride=2), c2=conv(16, 16), head=nn.Linear(16, 4))


def depthwise(multiplier: int = 1) -> nn.Module:
    wide = 8 * multiplier
    return nn.Sequential(
        conv(3, 8), nn.ReLU6(), nn.Conv2d(8, wide, 3, groups=8), nn.BatchNorm2d(wide), conv(wide, 12, 1), conv(12, 3)
    )


def dense_concat() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        a = s.c1(x)
        b = torch.cat([a, s.c2(a)], 1)
        return s.head(pool(torch.cat([b, s.c3(torch.relu(s.b(b)))], 1)))

    return Net(run, c1=conv(3, 8), c2=conv(8, 6), b=nn.BatchNorm2d(14), c3=conv(14, 4), head=nn.Linear(18, 3))


def concat_spatial() -> nn.Module:
    return Net(
        lambda s, x: s.head(pool(torch.cat([s.a(x), s.b(x)], 2))), a=conv(3, 8), b=conv(3, 8), head=nn.Linear(8, 3)
    )


def squeeze_excite_linear() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        gate = torch.sigmoid(s.up(torch.relu(s.down(pool(y))))).view(y.shape[0], -1, 1, 1)
        return s.head(pool(y * gate.expand_as(y)))

    return Net(run, c=conv(3, 8), down=nn.Linear(8, 4), up=nn.Linear(4, 8), head=nn.Linear(8, 3))


def squeeze_excite_conv() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        return s.head(pool(y * F.hardsigmoid(s.up(torch.relu(s.down(F.adaptive_avg_pool2d(y, 1)))))))

    return Net(run, c=conv(3, 8), down=nn.Conv2d(8, 4, 1), up=nn.Conv2d(4, 8, 1), head=nn.Linear(8, 3))


def grouped() -> nn.Module:
    return nn.Sequential(conv(3, 8), conv(8, 12, groups=2), nn.BatchNorm2d(12), conv(12, 8, 1), conv(8, 4, groups=4))


def shuffle(x: Tensor, groups: int = 2) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def channel_shuffle() -> nn.Module:
    return Net(lambda s, x: s.d(shuffle(s.a(x))), a=conv(3, 8), d=conv(8, 6, groups=2))


def channel_shuffle_module() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.ChannelShuffle(2), conv(8, 12, groups=2), nn.ChannelShuffle(2), conv(12, 3))


def chunk_concat() -> nn.Module:
    def block(x: Tensor, c: nn.Module) -> Tensor:
        a, b = x.chunk(2, 1)
        return shuffle(torch.cat([a, torch.relu(c(b))], 1))

    return Net(
        lambda s, x: s.head(pool(block(block(s.a(x), s.c1), s.c2))),
        a=conv(3, 16),
        c1=conv(8, 8),
        c2=conv(8, 8),
        head=nn.Linear(16, 3),
    )


def group_norm() -> nn.Module:
    return nn.Sequential(conv(3, 12), nn.GroupNorm(4, 12), nn.ReLU(), conv(12, 8), nn.GroupNorm(1, 8), conv(8, 3))


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 16), nn.LayerNorm(16), nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 3))


def unaffine_norms() -> nn.Module:
    return nn.Sequential(
        conv(3, 8),
        nn.InstanceNorm2d(8),
        nn.Sigmoid(),
        conv(8, 6),
        nn.BatchNorm2d(6, affine=False),
        nn.PReLU(6),
        conv(6, 3),
    )


class Attention(nn.Module):
    """Self-attention in the ways that people write it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.heads, self.head_dim = kind, 4, 5
        self.scale = self.head_dim**-0.5
        if kind in ("fused", "fused-free", "chunk"):
            self.qkv = nn.Linear(16, 60)
        else:
            self.q, self.k, self.v = nn.Linear(16, 20), nn.Linear(16, 20), nn.Linear(16, 20)
        self.out = nn.Linear(20, 16)

    def split(self, x: Tensor) -> list[Tensor]:
        n, t, _ = x.shape
        if self.kind == "fused":
            return list(self.qkv(x).reshape(n, t, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0))
        if self.kind == "fused-free":
            return list(self.qkv(x).reshape(n, t, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0))
        parts = self.qkv(x).chunk(3, -1) if self.kind == "chunk" else [self.q(x), self.k(x), self.v(x)]
        return [part.view(n, t, self.heads, -1).transpose(1, 2) for part in parts]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        if self.kind == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


def transformer(kind: str) -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.embed(x)
        y = y + s.attn(s.norm(y))
        y = y + s.mlp(y)
        return s.head(y[:, 0])

    return Net(
        run,
        embed=nn.Linear(10, 16),
        norm=nn.LayerNorm(16),
        attn=Attention(kind),
        mlp=nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)),
        head=nn.Linear(16, 3),
    )


def torch_encoder() -> nn.Module:
    return nn.Sequential(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), nn.Linear(16, 3))


def multihead() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.embed(x)
        return s.head(s.attn(y, y, y, need_weights=False)[0].mean(1))

    return Net(run, embed=nn.Linear(10, 16), attn=nn.MultiheadAttention(16, 4, batch_first=True), head=nn.Linear(16, 3))


def grouped_query(flag: bool) -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (part(x).view(n, t, -1, 4).transpose(1, 2) for part in (s.q, s.k, s.v))
        if flag:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            k = k[:, :, None].expand(-1, -1, 2, -1, -1).reshape(n, -1, t, 4)
            y = F.scaled_dot_product_attention(q, k, v.repeat_interleave(2, 1))
        return s.out(y.transpose(1, 2).reshape(n, t, -1)).mean(1)

    return Net(run, q=nn.Linear(10, 32), k=nn.Linear(10, 16), v=nn.Linear(10, 16), out=nn.Linear(32, 5))


def recurrent(kind: type[nn.RNNBase], **options: Any) -> nn.Module:
    wide = options.get("proj_size", 8) * (2 if options.get("bidirectional") else 1)
    return Net(
        lambda s, x: s.head(s.rnn(s.embed(x))[0].mean(1)),
        embed=nn.Linear(10, 12),
        rnn=kind(12, 8, batch_first=True, **options),
        head=nn.Linear(wide, 3),
    )


def lstm_states() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        hidden, cell = s.rnn(x)[1]
        return s.head(torch.cat([hidden[-1], cell[0]], -1))

    return Net(run, rnn=nn.LSTM(10, 8, 2, batch_first=True), head=nn.Linear(16, 3))


def recurrent_cell() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            state = s.cell(x[:, t], state)
        return s.head(state[0])

    return Net(run, cell=nn.LSTMCell(10, 8), head=nn.Linear(8, 3))


def flatten(*, last: bool) -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = torch.relu(s.c(x))
        return s.head(torch.tanh(s.fc((y.permute(0, 2, 3, 1) if last else y).flatten(1))))

    return Net(run, c=conv(3, 8), fc=nn.Linear(512, 12), head=nn.Linear(12, 3))


def hard_coded(size: tuple[int, ...]) -> nn.Module:
    return Net(lambda s, x: s.head(s.c(x).view(size).flatten(1)), c=conv(3, 8), head=nn.Linear(512, 3))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8))
        self.gain, self.p = nn.Parameter(torch.randn(1, 8, 1, 1)), nn.Parameter(torch.randn(8, 5))
        self.register_buffer("shift", torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.w, self.b) * self.gain.sigmoid() + self.shift
        return pool(y.relu()) @ self.p


class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(10, 16), nn.Linear(16, 16)
        self.out = nn.Linear(16, 10, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        return self.out(torch.relu(self.mix(y)) + y)


def used_twice() -> nn.Module:
    return Net(
        lambda s, x: s.head(pool(torch.relu(s.c(torch.relu(s.c(s.a(x))))))),
        a=conv(8, 8),
        c=conv(8, 8),
        head=nn.Linear(8, 3),
    )


def pixel_shuffle() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.PixelShuffle(2), conv(4, 8), nn.PixelUnshuffle(2), conv(32, 4))


def glu() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.GLU(1), conv(8, 3))


def transposed() -> nn.Module:
    return nn.Sequential(
        conv(3, 8),
        nn.ConvTranspose2d(8, 12, 2, 2),
        nn.BatchNorm2d(12),
        nn.ConvTranspose2d(12, 6, 2, 2, groups=2),
        nn.ConvTranspose2d(6, 6, 2, groups=6),
        nn.ConvTranspose2d(6, 2, 2),
    )


def many_outputs() -> nn.Module:
    def run(s: Any, x: Tensor) -> Any:
        y = s.c(x)
        return {"a": s.f(y), "b": (s.g(y), None)}

    return Net(run, c=conv(3, 8), f=conv(8, 4), g=conv(8, 5))


def weight_norm() -> nn.Module:
    normed = nn.utils.parametrizations.weight_norm
    return nn.Sequential(normed(conv(3, 8)), nn.ReLU(), normed(conv(8, 8)), conv(8, 6), conv(6, 4))


def scaled_by_width() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        return s.head(pool(y)) * y.shape[1] ** -0.5

    return Net(run, c=conv(3, 8), head=nn.Linear(8, 3))


def channel_statistics() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        return s.head(torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True), s.d(x)], 1))

    return Net(run, c=conv(3, 8), d=conv(3, 6), head=conv(8, 3))


def unknown_operator() -> nn.Module:
    return Net(lambda s, x: s.head(torch.fft.fft(s.c(x)).real), c=conv(3, 8), head=conv(8, 3))


def inner_product(squash: Callable[[Tensor], Tensor]) -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        return s.head(torch.cat([(squash(s.a(x)) * squash(s.b(x))).sum(1, keepdim=True), s.d(x)], 1))

    return Net(run, a=conv(3, 8), b=conv(3, 8), d=conv(3, 4), head=conv(5, 3))


def outer_product() -> nn.Module:
    return Net(
        lambda s, x: s.head(torch.einsum("bchw,bdhw->bcd", s.a(x), s.b(x)).flatten(1)),
        a=conv(3, 8),
        b=conv(3, 6),
        head=nn.Linear(48, 3),
    )


def gram() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.a(x).flatten(2)
        return s.head((y @ y.transpose(1, 2)).flatten(1))

    return Net(run, a=conv(3, 8), head=nn.Linear(64, 3))


def sliced(cut: Callable[[int], int]) -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        k = cut(y.shape[1])
        return s.head(torch.cat([y[:, :k] * 2, torch.relu(y[:, k:])], 1))

    return Net(run, c=conv(3, 8), head=conv(8, 3))


def in_place() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        y += 1
        z = s.d(y)
        z[:, :, 1:] = z[:, :, :-1].clone()
        z.mul_(2)
        return s.head(z.relu_())

    return Net(run, c=conv(3, 8), d=conv(8, 8), head=conv(8, 3))


def in_place_slice() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        y[:, :4] = y[:, :4] * 2 + 1
        return s.head(y)

    return Net(run, c=conv(3, 8), head=conv(8, 3))


def decoder(channels: int) -> nn.Module:
    return Net(
        lambda s, x: s.up(s.fc(x).view(x.shape[0], channels, 4, 4)),
        fc=nn.Linear(10, 128),
        up=nn.ConvTranspose2d(8, 4, 2, 2),
    )


def token_mixer() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.embed(x)
        y = y + s.t2(F.gelu(s.t1(y.transpose(1, 2)))).transpose(1, 2)
        return s.head(y.mean(1))

    return Net(run, embed=nn.Linear(10, 12), t1=nn.Linear(6, 20), t2=nn.Linear(20, 6), head=nn.Linear(12, 3))


def selective_kernel() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = torch.stack([s.a(x), s.b(x)], 1)
        weights = s.gate(pool(y.sum(1))).view(y.shape[0], 2, -1).softmax(1)
        return s.head((y * weights[..., None, None]).sum(1))

    return Net(run, a=conv(3, 8), b=conv(3, 8), gate=nn.Linear(8, 16), head=conv(8, 3))


def without_gradient() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = s.c(x)
        return s.head(y)

    return Net(run, c=conv(3, 8), head=conv(8, 3))


def u_net() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        a = s.a(x)
        up = F.interpolate(s.b(F.max_pool2d(a, 2)), scale_factor=2, mode="bilinear")
        return s.head(torch.cat([a, up], 1))

    return Net(run, a=conv(3, 8), b=conv(8, 12), head=conv(20, 3))


IMAGE, TOKENS = (2, 3, 8, 8), (2, 6, 10)

CASES: dict[str, Case] = {
    "residual-projection": Case(residual_projection, IMAGE, {"c1": (8, 1), "c2": (12, 1)}),
    "residual-option-a": Case(residual_option_a, IMAGE, {"c0": (8, 1), "c1": (16, 1)}),
    "depthwise": Case(depthwise, IMAGE, {"0": (8, 1), "4": (12, 1)}),
    "depthwise-multiplier": Case(partial(depthwise, 2), IMAGE, {"0": (8, 1), "4": (12, 1)}),
    "dense-concat": Case(dense_concat, IMAGE, {"c1": (8, 1), "c2": (6, 1), "c3": (4, 1)}),
    "concat-spatial": Case(concat_spatial, IMAGE, {"a": (8, 1)}),
    "squeeze-excite-linear": Case(squeeze_excite_linear, IMAGE, {"c": (8, 1), "down": (4, 1)}),
    "squeeze-excite-conv": Case(squeeze_excite_conv, IMAGE, {"c": (8, 1), "down": (4, 1)}),
    "grouped": Case(grouped, IMAGE, {"0": (8, 2), "1": (12, 2)}),
    "channel-shuffle": Case(channel_shuffle, IMAGE, {"a@2": (8, 4)}),
    "channel-shuffle-module": Case(channel_shuffle_module, IMAGE, {"0": (8, 4), "2": (12, 2)}),
    "chunk-concat": Case(chunk_concat, IMAGE, {"a": (16, 4)}),
    "group-norm": Case(group_norm, IMAGE, {"0": (12, 3)}),
    "layer-norm": Case(layer_norm, TOKENS, {"2": (8, 1)}),
    "unaffine-norms": Case(unaffine_norms, IMAGE, {"0": (8, 1), "3": (6, 1)}),
    "attention-fused": Case(
        partial(transformer, "fused"), TOKENS, {"attn.qkv": (60, 15), "attn.qkv@2": (60, 12), "mlp.0": (24, 1)}
    ),
    "attention-fused-free": Case(
        partial(transformer, "fused-free"), TOKENS, {"attn.qkv": (60, 15), "attn.qkv@2": (60, 12), "mlp.0": (24, 1)}
    ),
    "attention-chunk": Case(
        partial(transformer, "chunk"), TOKENS, {"attn.qkv": (60, 15), "attn.qkv@2": (60, 12), "mlp.0": (24, 1)}
    ),
    "attention-separate": Case(
        partial(transformer, "separate"),
        TOKENS,
        {"attn.q": (20, 5), "attn.q@2": (20, 4), "attn.v": (20, 4), "mlp.0": (24, 1)},
    ),
    "attention-sdpa": Case(
        partial(transformer, "sdpa"),
        TOKENS,
        {"attn.q": (20, 5), "attn.q@2": (20, 4), "attn.v": (20, 4), "mlp.0": (24, 1)},
    ),
    "torch-encoder": Case(
        torch_encoder,
        (2, 6, 16),
        {"0.self_attn": (48, 12), "0.self_attn@2": (32, 8), "0.self_attn@3": (16, 4), "0.linear1": (32, 1)},
    ),
    "multihead-module": Case(
        multihead,
        TOKENS,
        {"embed": (16, 1), "attn": (48, 12), "attn@2": (32, 8), "attn@3": (16, 4), "attn.out_proj": (16, 1)},
    ),
    "grouped-query-expand": Case(partial(grouped_query, False), TOKENS, {"q@2": (32, 8)}),
    "grouped-query-flag": Case(partial(grouped_query, True), TOKENS, {"q": (32, 8)}),
    "lstm": Case(partial(recurrent, nn.LSTM), TOKENS, {"embed": (12, 1), "rnn": (8, 1)}),
    "lstm-two-ways": Case(
        partial(recurrent, nn.LSTM, num_layers=2, bidirectional=True), TOKENS, {"embed": (12, 1), "rnn": (8, 1)}
    ),
    "lstm-projected": Case(partial(recurrent, nn.LSTM, proj_size=4), TOKENS, {"embed": (12, 1), "rnn": (4, 1)}),
    "lstm-states": Case(lstm_states, TOKENS, {"rnn": (8, 1)}),
    "gru": Case(partial(recurrent, nn.GRU, bidirectional=True), TOKENS, {"embed": (12, 1), "rnn": (8, 1)}),
    "rnn": Case(partial(recurrent, nn.RNN), TOKENS, {"embed": (12, 1), "rnn": (8, 1)}),
    "recurrent-cell": Case(recurrent_cell, TOKENS, {"cell": (8, 1)}),
    "flatten": Case(partial(flatten, last=False), IMAGE, {"c": (8, 1), "fc": (12, 1)}),
    "flatten-nhwc": Case(partial(flatten, last=True), IMAGE, {"c": (8, 1), "fc": (12, 1)}),
    "hard-coded-view": Case(partial(hard_coded, (2, 512)), IMAGE, {}),
    "hard-coded-view-free-batch": Case(partial(hard_coded, (-1, 8, 64)), IMAGE, {}),
    "functional": Case(Functional, IMAGE, {"w": (8, 1)}),
    "tied-embedding": Case(TiedEmbedding, (2, 6), {"embed": (16, 1)}, tokens=True),
    "used-twice": Case(used_twice, (2, 8, 8, 8), {"a": (8, 1)}),
    "pixel-shuffle": Case(pixel_shuffle, IMAGE, {"0": (16, 4), "2": (8, 1)}),
    "glu": Case(glu, IMAGE, {"0": (16, 2)}),
    "transposed": Case(transposed, IMAGE, {"0": (8, 1), "1": (12, 2), "3": (3, 1)}),
    "many-outputs": Case(many_outputs, IMAGE, {"c": (8, 1)}),
    "weight-norm": Case(weight_norm, IMAGE, {"0": (8, 1), "2": (8, 1), "3": (6, 1)}),
    "scaled-by-width": Case(scaled_by_width, IMAGE, {}),
    "channel-statistics": Case(channel_statistics, IMAGE, {"d": (6, 1)}),
    "unknown-operator": Case(unknown_operator, IMAGE, {}),
    "inner-product": Case(partial(inner_product, torch.tanh), IMAGE, {"a": (8, 1), "d": (4, 1)}),
    "inner-product-not-zero": Case(partial(inner_product, torch.sigmoid), IMAGE, {"d": (4, 1)}),
    "outer-product": Case(outer_product, IMAGE, {"a": (8, 1), "b": (6, 1)}),
    "gram": Case(gram, IMAGE, {}),
    "sliced-in-half": Case(partial(sliced, lambda width: width // 2), IMAGE, {"c": (8, 2)}),
    "sliced-at-four": Case(partial(sliced, lambda width: 4), IMAGE, {}),
    "in-place": Case(in_place, IMAGE, {"c": (8, 1), "d": (8, 1)}),
    "in-place-slice": Case(in_place_slice, IMAGE, {}),
    "decoder": Case(partial(decoder, -1), (2, 10), {"fc": (128, 16)}),
    "decoder-hard-coded": Case(partial(decoder, 8), (2, 10), {}),
    "token-mixer": Case(token_mixer, TOKENS, {"embed": (12, 1), "t1": (20, 1)}),
    "selective-kernel": Case(selective_kernel, IMAGE, {"a": (8, 1)}),
    "without-gradient": Case(without_gradient, IMAGE, {"c": (8, 1)}),
    "u-net": Case(u_net, IMAGE, {"a": (8, 1), "b": (12, 1)}),
}
