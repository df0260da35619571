"""Blocks as users bring them: detection, segmentation, speech, language, and the traps that hide in forwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from network_cases import IMAGE, TOKENS, Case, Net, conv, pool
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["BLOCKS"]


def unit(i: int, o: int, k: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, stride, k // 2, bias=False), nn.BatchNorm2d(o), nn.SiLU())


class CrossStage(nn.Module):
    """C2f of YOLO: the split is by an attribute or by chunk, pieces are gathered in a list."""

    def __init__(self, i: int, o: int, split: bool) -> None:
        super().__init__()
        self.c, self.split = o // 2, split
        self.first, self.last = unit(i, 2 * self.c), unit(4 * self.c, o)
        self.blocks = nn.ModuleList(nn.Sequential(unit(self.c, self.c, 3), unit(self.c, self.c, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        parts = list(y.split((self.c, self.c), 1) if self.split else y.chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class PartialConvolution(nn.Module):
    """FasterNet: a quarter of the channels is convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.k, self.rest = channels // 4, channels - channels // 4
        self.conv = conv(self.k, self.k)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, [self.k, self.rest], 1)
        return torch.cat([self.conv(a), b], 1)


def pyramid() -> nn.Module:
    """Feature pyramid with one head for all levels; outputs in a dict."""

    def run(s: Any, x: Tensor) -> Any:
        a = s.a(x)
        b = s.b(a)
        top = s.lb(b)
        low = s.la(a) + F.interpolate(top, size=a.shape[-2:], mode="nearest")
        return {"levels": [s.head(s.oa(low)), s.head(s.ob(top))]}

    lateral = {"la": nn.Conv2d(8, 10, 1), "lb": nn.Conv2d(12, 10, 1), "oa": conv(10, 10), "ob": conv(10, 10)}
    return Net(run, a=conv(3, 8), b=conv(8, 12, stride=2), **lateral, head=conv(10, 4))


def atrous_pyramid() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.stem(x)
        mean = F.interpolate(s.mean(F.adaptive_avg_pool2d(y, 1)), size=y.shape[-2:], mode="bilinear")
        return s.head(s.join(torch.cat([s.a(y), s.b(y), mean], 1)))

    b = nn.Conv2d(8, 5, 3, padding=2, dilation=2)
    return Net(run, stem=conv(3, 8), a=conv(8, 6, 1), b=b, mean=conv(8, 4, 1), join=unit(15, 10), head=conv(10, 3))


def multi_resolution() -> nn.Module:
    """Two streams that exchange what they know, as in HRNet."""

    def run(s: Any, x: Tensor) -> Tensor:
        a = s.a(x)
        b = s.b(a)
        a, b = s.aa(a) + F.interpolate(s.ba(b), scale_factor=2), s.ab(a) + s.bb(b)
        return s.head(torch.cat([a, F.interpolate(b, scale_factor=2)], 1))

    parts = {"aa": unit(8, 8, 3), "bb": unit(12, 12, 3), "ab": unit(8, 12, 3, 2), "ba": unit(12, 8)}
    return Net(run, a=conv(3, 8), b=conv(8, 12, stride=2), **parts, head=conv(20, 2))


def three_branches() -> nn.Module:
    """RepVGG in training form."""

    def run(s: Any, x: Tensor) -> Tensor:
        y = s.stem(x)
        return s.head(F.relu(s.a(y) + s.b(y) + s.same(y)))

    return Net(run, stem=conv(3, 8), a=conv(8, 8), b=conv(8, 8, 1), same=nn.BatchNorm2d(8), head=conv(8, 2))


def ghost(channels: int) -> nn.Module:
    """A cheap depthwise half; the size is an attribute."""

    def run(s: Any, x: Tensor) -> Tensor:
        y = s.first(x)
        return s.head(torch.cat([y, s.cheap(y)], 1)[:, : s.channels])

    half = -(-channels // 2)
    cheap = conv(half, half, groups=half)
    return Net(run, first=conv(3, half, 1), cheap=cheap, channels=channels, head=conv(channels, 2))


def channel_attention(*, over_channels: bool) -> nn.Module:
    """Squeeze-excite by a convolution over the channels (ECA), or of mean and maximum (CBAM)."""

    def eca(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        return s.head(s.d(y * s.k(pool(y)[:, None])[:, 0, :, None, None].sigmoid()))

    def cbam(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        y = y * (s.up(s.down(F.adaptive_avg_pool2d(y, 1))) + s.up(s.down(F.adaptive_max_pool2d(y, 1)))).sigmoid()
        where = s.k(torch.cat([y.mean(1, keepdim=True), y.max(1, keepdim=True)[0]], 1))
        return s.head(s.d(y * where.sigmoid()))

    parts: dict[str, nn.Module] = {"c": conv(3, 8), "d": conv(8, 6), "head": conv(6, 2)}
    if over_channels:
        return Net(eca, **parts, k=nn.Conv1d(1, 1, 3, padding=1))
    return Net(cbam, **parts, down=conv(8, 4, 1), up=conv(4, 8, 1), k=conv(2, 1, 7))


def coordinate_attention() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        rows, columns = y.mean(3, keepdim=True), y.mean(2, keepdim=True).transpose(2, 3)
        rows, columns = s.mix(torch.cat([rows, columns], 2)).split([y.shape[2], y.shape[3]], 2)
        return s.head(y * s.rows(rows).sigmoid() * s.columns(columns.transpose(2, 3)).sigmoid())

    return Net(run, c=conv(3, 8), mix=unit(8, 4), rows=conv(4, 8, 1), columns=conv(4, 8, 1), head=conv(8, 2))


def gated_convolutions() -> nn.Module:
    """WaveNet: causal padding, tanh times sigmoid, a sum of skips."""

    def run(s: Any, x: Tensor) -> Tensor:
        y, skips = s.first(x.transpose(1, 2)), 0
        for i, (wide, back, skip) in enumerate(zip(s.wide, s.back, s.skip, strict=True)):
            a, b = wide(F.pad(y, (2**i, 0))).chunk(2, 1)
            z = torch.tanh(a) * torch.sigmoid(b)
            y, skips = y + back(z), skips + skip(z)
        return s.last(F.relu(skips))

    wide = nn.ModuleList(nn.Conv1d(8, 12, 2, dilation=2**i) for i in range(2))
    back, skip = (nn.ModuleList(nn.Conv1d(6, n, 1) for _ in range(2)) for n in (8, 7))
    return Net(run, first=nn.Conv1d(10, 8, 1), wide=wide, back=back, skip=skip, last=nn.Conv1d(7, 2, 1))


def state_space() -> nn.Module:
    """A selective scan, as in Mamba."""

    def run(s: Any, x: Tensor) -> Tensor:
        y = s.embed(x)
        u, gate = s.wide(y).chunk(2, -1)
        u = F.silu(s.conv(u.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2))
        step, b, c = s.pick(u).split([3, 4, 4], -1)
        step, h, outputs = F.softplus(s.step(step)), 0, []
        for t in range(u.shape[1]):
            h = torch.exp(step[:, t, :, None] * -torch.exp(s.a)) * h + (step * u)[:, t, :, None] * b[:, t, None]
            outputs.append((h * c[:, t, None]).sum(-1))
        return s.head(y + s.out((torch.stack(outputs, 1) + u * s.d) * F.silu(gate)))

    return Net(
        run,
        embed=nn.Linear(10, 12),
        wide=nn.Linear(12, 32),
        conv=nn.Conv1d(16, 16, 4, padding=3, groups=16),
        pick=nn.Linear(16, 11),
        step=nn.Linear(3, 16),
        a=nn.Parameter(torch.rand(16, 4)),
        d=nn.Parameter(torch.rand(16)),
        out=nn.Linear(16, 12),
        head=nn.Linear(12, 3),
    )


def experts(*, stacked: bool) -> nn.Module:
    """A dense mixture of experts."""

    def run(s: Any, x: Tensor) -> Tensor:
        y = s.embed(x)
        if stacked:
            z = F.gelu(torch.einsum("btd,edf->betf", y, s.a) + s.bias[None, :, None])
            return s.head(torch.einsum("betd,bte->btd", torch.einsum("betf,efd->betd", z, s.b), s.gate(y).softmax(-1)))
        return s.head((torch.stack([m(y) for m in s.experts], -2) * s.gate(y).softmax(-1)[..., None]).sum(-2))

    parts: dict[str, Any] = {"embed": nn.Linear(10, 12), "gate": nn.Linear(12, 3), "head": nn.Linear(12, 3)}
    if stacked:
        shapes = {"a": (3, 12, 8), "bias": (3, 8), "b": (3, 8, 12)}
        return Net(run, **parts, **{name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()})
    mlps = [nn.Sequential(nn.Linear(12, 7 + i), nn.ReLU(), nn.Linear(7 + i, 12)) for i in range(3)]
    return Net(run, **parts, experts=nn.ModuleList(mlps))


def skip_concatenation() -> nn.Module:
    """The network of NeRF: encoded inputs come in again half way."""

    def run(s: Any, x: Tensor) -> Tensor:
        encoded = torch.cat([x, *(f(x * 2**k) for k in range(2) for f in (torch.sin, torch.cos))], -1)
        y = F.relu(s.b(F.relu(s.a(encoded))))
        y = F.relu(s.c(torch.cat([encoded, y], -1)))
        return torch.cat([s.colour(y).sigmoid(), F.softplus(s.density(y))], -1)

    layers = {"a": nn.Linear(50, 12), "b": nn.Linear(12, 10), "c": nn.Linear(60, 8)}
    return Net(run, **layers, colour=nn.Linear(8, 3), density=nn.Linear(8, 1))


def dynamic_weights() -> nn.Module:
    """A convolution per example, its weights a mixture that the input chooses."""

    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        n, c, h, w = y.shape
        weights = (s.gate(pool(y)).softmax(-1) @ s.bank.flatten(1)).view(n * s.bank.shape[1], c, 3, 3)
        return s.head(F.conv2d(y.reshape(1, n * c, h, w), weights, padding=1, groups=n).view(n, -1, h, w))

    bank = nn.Parameter(torch.randn(4, 10, 8, 3, 3))
    return Net(run, c=conv(3, 8), gate=nn.Linear(8, 4), bank=bank, head=conv(10, 2))


def modulated() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        gain, shift = s.film(s.c(x)).chunk(2, -1)
        return s.head(F.relu(s.a(x) * (1 + gain) + shift))

    parts = {"a": nn.Linear(10, 8), "c": nn.Linear(10, 4), "film": nn.Linear(4, 16)}
    return Net(run, **parts, head=nn.Linear(8, 2))


def before_activation() -> nn.Module:
    """Norms before convolutions, and a layer scale too small for numbers alone to see what it scales."""

    def run(s: Any, x: Tensor) -> Tensor:
        y = s.stem(x)
        return s.head(y + 1e-9 * s.scale * s.b(F.relu(s.nb(s.a(F.relu(s.na(y)))))))

    norms, scale = {"na": nn.BatchNorm2d(8), "nb": nn.BatchNorm2d(6)}, nn.Parameter(torch.ones(8, 1, 1))
    return Net(run, stem=conv(3, 8), **norms, a=conv(8, 6), b=conv(6, 8), scale=scale, head=conv(8, 2))


def linear_attention() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        q, k, v = (part(x).view(*x.shape[:2], -1, 6).transpose(1, 2) for part in (s.q, s.k, s.v))
        return s.out((F.relu(q) @ (F.relu(k).transpose(2, 3) @ v)).transpose(1, 2).flatten(2))

    return Net(run, q=nn.Linear(10, 12), k=nn.Linear(10, 12), v=nn.Linear(10, 12), out=nn.Linear(12, 3))


def cached_attention() -> nn.Module:
    """Two calls of one attention; the second sees the keys of the first."""

    def attend(s: Any, x: Tensor, cache: list[Tensor]) -> Tensor:
        q, k, v = (part(x).view(*x.shape[:2], -1, 4).transpose(1, 2) for part in (s.q, s.k, s.v))
        k, v = (torch.cat([cache.pop(0), new], 2) if cache else new for new in (k, v))
        cache += [k, v]
        return s.out((((q @ k.transpose(2, 3)) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))

    def run(s: Any, x: Tensor) -> Tensor:
        cache: list[Tensor] = []
        return s.head(torch.cat([attend(s, x[:, :3], cache), attend(s, x[:, 3:], cache)], 1))

    parts = {"q": nn.Linear(10, 12), "k": nn.Linear(10, 12), "v": nn.Linear(10, 12)}
    return Net(run, **parts, out=nn.Linear(12, 8), head=nn.Linear(8, 3))


def windows() -> nn.Module:
    """Partition in windows and back, as in Swin; then four neighbours become one token."""

    def run(s: Any, x: Tensor) -> Tensor:
        y = s.a(x).permute(0, 2, 3, 1)
        n, h, w, c = y.shape
        z = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        z = z + s.mix(z.transpose(1, 2)).transpose(1, 2)
        y = z.view(n, h // 4, w // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, -1)
        y = torch.cat([y[:, 0::2, 0::2], y[:, 1::2, 0::2], y[:, 0::2, 1::2], y[:, 1::2, 1::2]], -1)
        return s.head(F.gelu(s.merge(y)))

    return Net(run, a=conv(3, 6), mix=nn.Linear(16, 16), merge=nn.Linear(24, 8), head=nn.Linear(8, 2))


def temporal_shift() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        n, c, h, w = y.shape
        z, shifted = y.view(n // 2, 2, c, h, w), torch.zeros_like(y).view(n // 2, 2, c, h, w)
        shifted[:, :-1, : c // 4] = z[:, 1:, : c // 4]
        shifted[:, :, c // 4 :] = z[:, :, c // 4 :]
        return s.head(shifted.view(n, c, h, w))

    return Net(run, c=conv(3, 8), head=conv(8, 2))


def tied_autoencoder() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        y = F.relu(s.a(x))
        return F.linear(F.relu(s.b(y) @ s.b.weight + s.shift), s.a.weight.t())

    return Net(run, a=nn.Linear(10, 8), b=nn.Linear(8, 5), shift=nn.Parameter(torch.randn(8)))


def maxout() -> nn.Module:
    return Net(lambda s, x: s.head(s.c(x).unflatten(1, (-1, 2)).amax(2)), c=conv(3, 12), head=conv(6, 2))


def checkpointed() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        return s.head(checkpoint(s.block, s.a(x), use_reentrant=False))

    return Net(run, a=conv(3, 8), block=nn.Sequential(conv(8, 6), nn.ReLU()), head=conv(6, 2))


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient


def after(run: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """A convolution, something that is done to its output, and a head that reads it."""
    parts = {"c": conv(3, 8), "gain": nn.Parameter(torch.rand(8, 1, 1)), "head": conv(8, 2)}
    model = Net(lambda s, x: s.head(run(s, s.c(x))), **parts)
    model.register_buffer("order", torch.randperm(8))
    model.register_buffer("scale", torch.rand(8, 1, 1))
    return model


def swapped(s: Any, y: Tensor) -> Tensor:
    """Halves of a size that only the forward knows."""
    first = y[:, :4].clone()
    y[:, :4] = y[:, 4:]
    y[:, 4:] = first
    return y


def viewed(s: Any, y: Tensor) -> Tensor:
    """What is added to a view is added to its base, whose sum over channels is then not that of the kept ones."""
    y.view(y.shape[0], -1).add_(1)
    return y * y.sum(1, keepdim=True)


IMAGE_TRAPS: dict[str, tuple[Callable[[Any, Tensor], Tensor], bool]] = {
    "flipped": (lambda s, y: y + y.flip(1), False),
    "rolled": (lambda s, y: y + y.roll(2, 1), False),
    "permuted-by-buffer": (lambda s, y: y[:, s.order], False),
    "gathered": (lambda s, y: y.gather(1, s.order.view(1, -1, 1, 1).expand_as(y)), False),
    "scaled-by-buffer": (lambda s, y: y * s.scale + s.gain, True),
    "centred": (lambda s, y: y - y.mean(1, keepdim=True), False),
    "centred-by-number": (lambda s, y: y - y.sum(1, keepdim=True) / 8, True),
    "centred-by-shape": (lambda s, y: y - y.sum(1, keepdim=True) / y.shape[1], False),
    "unit-length": (lambda s, y: F.normalize(y, dim=1), True),
    "unit-length-p4": (lambda s, y: F.normalize(y, dim=1, p=4.0), True),
    "softmax": (lambda s, y: y.softmax(1), False),
    "accumulated": (lambda s, y: y.cumsum(1), False),
    "local-response": (lambda s, y: F.local_response_norm(y, 3), False),
    "square-transposed": (lambda s, y: y.transpose(1, 2), False),
    "ranged": (lambda s, y: y * torch.arange(1, y.shape[1] + 1, dtype=y.dtype)[:, None, None], False),
    "ranged-along-rows": (lambda s, y: y * torch.arange(1, 9, dtype=y.dtype), True),
    "spaced-by-width": (lambda s, y: y * torch.linspace(0, y.shape[1], 8, dtype=y.dtype), False),
    "scaled-by-size": (lambda s, y: y * math.log(y.numel()), False),
    "scaled-by-weights": (lambda s, y: y * s.c.weight.norm(), True),
    "scaled-by-largest-weight": (lambda s, y: y * s.c.weight.abs().max(), False),
    "custom-function": (lambda s, y: Swish.apply(y), True),
    "cut-from-the-end": (lambda s, y: torch.cat([y[:, :-2], y[:, -2:].relu()], 1), False),
    "noise": (lambda s, y: F.dropout(y, 0.5, training=True), False),
    "swapped-in-place": (swapped, False),
    "changed-through-a-view": (viewed, False),
}
"""What is done to eight channels, and whether they stay prunable."""

BLOCKS: dict[str, Case] = {
    "cross-stage-chunk": Case(
        lambda: nn.Sequential(conv(3, 8), CrossStage(8, 12, split=False), conv(12, 2)),
        IMAGE,
        {"0": (8, 1), "1.first.0": (12, 2), "1.blocks.0.0.0": (6, 1), "1.blocks.1.0.0": (6, 1), "1.last.0": (12, 1)},
    ),
    "cross-stage-split": Case(
        lambda: nn.Sequential(conv(3, 8), CrossStage(8, 12, split=True), conv(12, 2)),
        IMAGE,
        {"0": (8, 1), "1.first.0": (12, 2), "1.blocks.0.0.0": (6, 1), "1.blocks.1.0.0": (6, 1), "1.last.0": (12, 1)},
    ),
    "partial-convolution": Case(
        lambda: nn.Sequential(conv(3, 8), PartialConvolution(8), conv(8, 2)), IMAGE, {"0": (8, 4), "1.conv": (2, 1)}
    ),
    "pyramid": Case(pyramid, IMAGE, {"a": (8, 1), "b": (12, 1), "lb": (10, 1), "oa": (10, 1)}),
    "atrous-pyramid": Case(
        atrous_pyramid, IMAGE, {"stem": (8, 1), "a": (6, 1), "b": (5, 1), "mean": (4, 1), "join.0": (10, 1)}
    ),
    "multi-resolution": Case(multi_resolution, IMAGE, {"a": (8, 1), "b": (12, 1), "aa.0": (8, 1), "ab.0": (12, 1)}),
    "three-branches": Case(three_branches, IMAGE, {"stem": (8, 1)}),
    "ghost": Case(partial(ghost, 8), IMAGE, {"first": (4, 1)}),
    "ghost-uneven": Case(partial(ghost, 7), IMAGE, {}),
    "attention-over-channels": Case(partial(channel_attention, over_channels=True), IMAGE, {"d": (6, 1)}),
    "attention-block": Case(partial(channel_attention, over_channels=False), IMAGE, {"down": (4, 1), "d": (6, 1)}),
    "coordinate-attention": Case(coordinate_attention, IMAGE, {"c": (8, 1), "mix.0": (4, 1)}),
    "gated-convolutions": Case(
        gated_convolutions, TOKENS, {"first": (8, 1), "wide.0": (12, 2), "wide.1": (12, 2), "skip.0": (7, 1)}
    ),
    "state-space": Case(state_space, TOKENS, {"embed": (12, 1), "wide": (32, 2)}),
    "experts": Case(
        partial(experts, stacked=False),
        TOKENS,
        {
            "embed": (12, 1),
            "experts.0.0": (7, 1),
            "experts.1.0": (8, 1),
            "experts.2.0": (9, 1),
            "experts.0.2": (12, 1),
        },
    ),
    "experts-stacked": Case(partial(experts, stacked=True), TOKENS, {"embed": (12, 1), "a": (8, 1), "b": (12, 1)}),
    "skip-concatenation": Case(skip_concatenation, (2, 10), {"a": (12, 1), "b": (10, 1), "c": (8, 1)}),
    "dynamic-weights": Case(dynamic_weights, IMAGE, {"bank": (10, 1)}),
    "modulated": Case(modulated, (2, 10), {"c": (4, 1), "film": (16, 2)}),
    "before-activation": Case(before_activation, IMAGE, {"stem": (8, 1), "a": (6, 1)}),
    "linear-attention": Case(linear_attention, TOKENS, {"q": (12, 6)}),
    "cached-attention": Case(cached_attention, TOKENS, {"q": (12, 4), "out": (8, 1)}),
    "windows": Case(windows, IMAGE, {"a": (6, 1), "merge": (8, 1)}),
    "temporal-shift": Case(temporal_shift, IMAGE, {"c": (8, 4)}),
    "tied-autoencoder": Case(tied_autoencoder, (2, 10), {"a": (8, 1), "b": (5, 1)}),
    "maxout": Case(maxout, IMAGE, {"c": (12, 2)}),
    "checkpointed": Case(checkpointed, IMAGE, {"a": (8, 1), "block.0": (6, 1)}),
    **{
        f"trap-{name}": Case(partial(after, run), IMAGE, {"c": (8, 1)} if prunable else {})
        for name, (run, prunable) in IMAGE_TRAPS.items()
    },
}
