"""Networks drawn at random from what people build: images and sequences, and the judge that prunes them at random.

Not a test module: ``judge_random_network`` is run in the suite on few draws and by experiments on many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from network_cases import Net, shuffle
from oracles import removal_error
from torch import Tensor, nn

from ecc.core.errors import EccError
from ecc.core.widths import Kept
from ecc.network.checking import perturbed
from ecc.network.graph import WidthGraph
from ecc.network.tracing import trace

__all__ = ["Judgement", "RandomNetwork", "judge", "judge_random_network"]


class Shape(NamedTuple):
    """What flows between steps: images of channels × size × size, or size tokens of channels each."""

    kind: str
    channels: int
    size: int


Step = tuple[nn.Module, Shape]
Maker = Callable[[np.random.Generator, list[Shape]], Step | None]


def image_layer(generator: np.random.Generator, shapes: list[Shape]) -> Step | None:
    """A convolution of any sort."""
    _, c, size = shapes[0]
    out, bias = int(generator.choice([4, 6, 8, 12])), bool(generator.integers(2))
    sort = generator.choice(["plain", "strided", "dilated", "circular", "depthwise", "grouped", "transposed", "single"])
    match sort:
        case "strided":
            return nn.Conv2d(c, out, 3, 2, 1, bias=bias), Shape("image", out, -(-size // 2))
        case "dilated":
            return nn.Conv2d(c, out, 3, padding=2, dilation=2, bias=bias), Shape("image", out, size)
        case "circular" if size > 1:
            return nn.Conv2d(c, out, 3, padding=1, padding_mode="circular"), Shape("image", out, size)
        case "depthwise":
            out = c * int(generator.integers(1, 4))
            return nn.Conv2d(c, out, 3, padding=1, groups=c, bias=bias), Shape("image", out, size)
        case "grouped" if c % 2 == 0:
            return nn.Conv2d(c, out, 1, groups=2, bias=bias), Shape("image", out, size)
        case "transposed":
            groups = 2 if c % 2 == 0 and generator.integers(2) else 1
            return nn.ConvTranspose2d(c, out, 1, groups=groups, bias=bias), Shape("image", out, size)
        case "single" if c % 2 == 0:  # one output channel per group
            return nn.Conv2d(c, c // 2, 1, groups=c // 2, bias=bias), Shape("image", c // 2, size)
        case _:
            return nn.Conv2d(c, out, 3, padding=1, bias=bias), Shape("image", out, size)


def image_norm(generator: np.random.Generator, shapes: list[Shape]) -> Step | None:
    """Normalisation of images."""
    shape = shapes[0]
    c, affine = shape.channels, bool(generator.integers(4))
    sorts: list[nn.Module] = [nn.BatchNorm2d(c, affine=affine), nn.Sequential()]
    if shape.size > 1:
        sorts += [nn.InstanceNorm2d(c, affine=affine, track_running_stats=bool(generator.integers(2)))]
    sorts += [nn.GroupNorm(c // k, c) for k in (2, 3) if c % k == 0 and c > k]
    last = Net(lambda s, x: s.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=nn.LayerNorm(c))
    normal = Net(lambda s, x: F.normalize(x, dim=1))
    return [*sorts, last, normal][generator.integers(len(sorts) + 2)], shape


def activation(generator: np.random.Generator, shapes: list[Shape]) -> Step | None:
    """Something that works on each position alone, or nearly."""
    shape = shapes[0]
    dim = 1 if shape.kind == "image" else -1
    view = (-1, 1, 1) if shape.kind == "image" else (-1,)
    parameter = nn.Parameter(torch.randn(shape.channels).view(view))
    sorts = [
        nn.ReLU(),
        nn.GELU(),
        nn.Sigmoid(),
        nn.Softplus(),
        Net(lambda s, x: x * s.scale, scale=parameter),
        Net(lambda s, x: x + s.shift, shift=parameter),
        Net(lambda s, x: x - x.mean(dim, keepdim=True)),
        Net(lambda s, x: torch.where(x > 0, x, s.shift), shift=parameter),
        Net(lambda s, x: x.clone().mul_(2).add_(1)),
        Net(lambda s, x: x.softmax(dim) * 3),
        Net(lambda s, x: x / (1 + x.abs())),
    ]
    if shape.kind == "image":
        sorts.append(nn.PReLU(shape.channels))
    return sorts[generator.integers(len(sorts))], shape


def halves(generator: np.random.Generator, shapes: list[Shape]) -> Step | None:
    """Cuts of the channels, at sizes that are derived from the tensor or kept as attributes."""
    kind, c, size = shapes[0]
    dim = 1 if kind == "image" else -1
    half, quarter = c // 2, c // 4
    if c % 4:
        return None
    sort = generator.choice(["glu", "gate", "chunk", "split", "derived", "shuffle", "crelu", "slice", "stack", "max"])
    same, less = Shape(kind, c, size), Shape(kind, half, size)

    def derived(s: Any, x: Tensor) -> Tensor:
        a, b = x.split([x.shape[dim] // 4, x.shape[dim] - x.shape[dim] // 4], dim)
        return torch.cat([b, a.relu()], dim)

    match sort:
        case "glu":
            return nn.GLU(dim), less
        case "gate":
            return Net(lambda s, x: (lambda a, b: F.silu(a) * b)(*x.chunk(2, dim))), less
        case "chunk":
            return Net(lambda s, x: (lambda a, b: torch.cat([b, a * 2], dim))(*x.chunk(2, dim))), same
        case "split":
            own = Net(lambda s, x: torch.cat([part.tanh() for part in x.split(s.half, dim)[::-1]], dim), half=half)
            return own, same
        case "derived":
            return Net(derived), same
        case "shuffle":
            return (Net(lambda s, x: shuffle(x)) if kind == "image" else nn.Identity()), same
        case "crelu" if c <= 16:
            return Net(lambda s, x: torch.cat([x.relu(), (-x).relu()], dim)), Shape(kind, 2 * c, size)
        case "slice":
            return Net(lambda s, x: x.narrow(dim, 0, s.k), k=quarter), Shape(kind, quarter, size)
        case "stack":
            at = 1 if kind == "image" else 2
            return Net(lambda s, x: torch.stack(x.chunk(2, dim), at + 1).flatten(at, at + 1)), same
        case _:
            return Net(lambda s, x: torch.maximum(*x.chunk(2, dim))), less


def excite(generator: np.random.Generator, shapes: list[Shape]) -> Step | None:
    """Squeeze-and-excite."""
    _, c, _ = shape = shapes[0]
    if generator.integers(2):
        parts = {"down": nn.Linear(c, 4), "up": nn.Linear(4, c)}
        return Net(
            lambda s, x: x * torch.sigmoid(s.up(torch.relu(s.down(x.mean((2, 3))))))[:, :, None, None], **parts
        ), shape
    convs = {"down": nn.Conv2d(c, 4, 1), "up": nn.Conv2d(4, c, 1)}
    return Net(lambda s, x: x * F.hardsigmoid(s.up(F.silu(s.down(F.adaptive_avg_pool2d(x, 1))))), **convs), shape


def resample(generator: np.random.Generator, shapes: list[Shape]) -> Step | None:
    """Other resolutions."""
    kind, c, size = shapes[0]
    sort = generator.choice(["max", "average", "up", "shuffle", "unshuffle", "pad", "option-a"])
    match sort:
        case "average" if size % 2 == 0:
            return nn.AvgPool2d(2), Shape(kind, c, size // 2)
        case "up" if size < 8:
            return nn.Upsample(scale_factor=2, mode="bilinear"), Shape(kind, c, 2 * size)
        case "shuffle" if c % 4 == 0 and size < 8:
            return nn.PixelShuffle(2), Shape(kind, c // 4, 2 * size)
        case "unshuffle" if size % 2 == 0 and c <= 8:
            return nn.PixelUnshuffle(2), Shape(kind, 4 * c, size // 2)
        case "pad":
            return Net(lambda s, x: F.pad(x, (0, 0, 0, 0, 2, 1))), Shape(kind, c + 3, size)
        case "option-a" if size % 2 == 0:
            run = Net(lambda s, x: s.conv(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
            run.conv = nn.Conv2d(c, c + 4, 3, 2, 1)
            return run, Shape(kind, c + 4, size // 2)
        case _:
            return nn.MaxPool2d(3, 1, 1), shapes[0]


def join(generator: np.random.Generator, shapes: list[Shape]) -> Step | None:
    """Two values of one resolution."""
    a, b = shapes
    dim = 1 if a.kind == "image" else -1
    if a.channels == b.channels and generator.integers(3):
        sorts = [
            Net(lambda s, x, y: x + y),
            Net(lambda s, x, y: x * y),
            Net(lambda s, x, y: torch.cat([x[:1], y[1:]])),
            Net(lambda s, x, y: torch.stack([x, y], 1).sum(1)),
            Net(lambda s, x, y: torch.lerp(x, y, 0.3)),
        ]
        return sorts[generator.integers(len(sorts))], a
    total = a.channels + b.channels
    return (Net(lambda s, x, y: torch.cat([x, y], dim)), Shape(a.kind, total, a.size)) if total <= 40 else None


def sequence_layer(generator: np.random.Generator, shapes: list[Shape]) -> Step | None:
    """Layers on tokens."""
    kind, c, size = shapes[0]
    out = int(generator.choice([4, 6, 8, 12]))
    sort = generator.choice(["linear", "mlp", "mixer", "lstm", "gru", "conv", "matmul", "einsum", "class", "position"])
    made, same = Shape(kind, out, size), Shape(kind, c, size)
    match sort:
        case "mlp":
            return Net(lambda s, x: x + s.b(F.gelu(s.a(x))), a=nn.Linear(c, out), b=nn.Linear(out, c)), same
        case "mixer":
            parts = {"a": nn.Linear(size, out), "b": nn.Linear(out, size)}
            return Net(lambda s, x: x + s.b(F.gelu(s.a(x.transpose(1, 2)))).transpose(1, 2), **parts), same
        case "lstm":
            both = bool(generator.integers(2))
            rnn = nn.LSTM(c, out // 2 if both else out, batch_first=True, bidirectional=both)
            return Net(lambda s, x: s.rnn(x)[0], rnn=rnn), made
        case "gru":
            return Net(lambda s, x: s.rnn(x)[0], rnn=nn.GRU(c, out, 2, batch_first=True)), made
        case "conv":
            conv = nn.Conv1d(c, out, 3, padding=1)
            return Net(lambda s, x: s.conv(x.transpose(1, 2)).transpose(1, 2), conv=conv), made
        case "matmul":
            return Net(lambda s, x: x @ s.weight, weight=nn.Parameter(torch.randn(c, out))), made
        case "einsum":
            return Net(lambda s, x: torch.einsum("btc,oc->bto", x, s.w), w=nn.Parameter(torch.randn(out, c))), made
        case "class":
            token = nn.Parameter(torch.randn(1, 1, c))
            run = Net(lambda s, x: torch.cat([s.token.expand(x.size(0), -1, -1), x], 1), token=token)
            return run, Shape(kind, c, size + 1)
        case "position":
            return Net(lambda s, x: x + s.place, place=nn.Parameter(torch.randn(1, size, c))), same
        case _:
            return nn.Linear(c, out, bias=bool(generator.integers(2))), made


def sequence_norm(generator: np.random.Generator, shapes: list[Shape]) -> Step | None:
    """Normalisation and other work along tokens."""
    c = shapes[0].channels
    sorts = [
        nn.LayerNorm(c),
        nn.RMSNorm(c),
        Net(lambda s, x: x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * s.g, g=nn.Parameter(torch.rand(c))),
        Net(lambda s, x: s.norm(x.transpose(1, 2)).transpose(1, 2), norm=nn.BatchNorm1d(c)),
        Net(lambda s, x: x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]),
        Net(lambda s, x: x.roll(1, 1) + x.flip(1)),
        Net(lambda s, x: x - x.mean(1, keepdim=True)),
    ]  # fmt: skip
    return sorts[generator.integers(len(sorts))], shapes[0]


def attention(generator: np.random.Generator, shapes: list[Shape]) -> Step | None:
    """Attention from one sequence to another, or to itself."""
    kind, c, size = shapes[0]
    heads, head, free = int(generator.choice([2, 3])), int(generator.choice([2, 4])), bool(generator.integers(2))
    wide, scale = heads * head, head**-0.5
    sort = generator.choice(["fused", "separate", "torch", "grouped"])
    n_heads, n_head = (-1, head) if free else (heads, -1)

    def cut(x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], n_heads, n_head).transpose(1, 2)

    def fused(s: Any, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = s.qkv(x).view(x.shape[0], x.shape[1], 3, n_heads, n_head).permute(2, 0, 3, 1, 4).unbind(0)
        return x + s.out(((q @ k.transpose(-1, -2) * scale).softmax(-1) @ v).transpose(1, 2).flatten(2))

    def separate(s: Any, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = cut(s.q(x)), cut(s.k(y)), cut(s.v(y))
        if s.product:
            return x + s.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + s.out(((q @ k.transpose(-1, -2) * scale).softmax(-1) @ v).transpose(1, 2).flatten(2))

    def grouped(s: Any, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = (part(z).view(*z.shape[:2], -1, head).transpose(1, 2) for part, z in ((s.q, x), (s.k, y), (s.v, y)))
        mixed = F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
        return x + s.out(mixed.transpose(1, 2).flatten(2))

    same, d = Shape(kind, c, size), shapes[1].channels
    out = nn.Linear(wide, c)
    if sort == "fused":
        return Net(fused, qkv=nn.Linear(c, 3 * wide), out=out), same
    if sort == "torch" and c % heads == 0 and c == d:
        module = nn.MultiheadAttention(c, heads, batch_first=True)
        return Net(lambda s, x, y: x + s.attend(x, y, y, need_weights=False)[0], attend=module), same
    keys = {"k": nn.Linear(d, wide), "v": nn.Linear(d, wide)}
    if sort == "grouped":
        return Net(grouped, q=nn.Linear(c, 2 * wide), **keys, out=nn.Linear(2 * wide, c)), same
    return Net(separate, q=nn.Linear(c, wide), **keys, out=out, product=bool(generator.integers(2))), same


def tokens_of_image(generator: np.random.Generator, shapes: list[Shape]) -> Step | None:
    """Pixels as tokens."""
    _, c, size = shapes[0]
    if size > 4:
        return None
    runs: list[Callable[..., Tensor]] = [
        lambda s, x: x.flatten(2).transpose(1, 2),
        lambda s, x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1]),
    ]
    return Net(runs[generator.integers(2)]), Shape("tokens", c, size * size)


def image_of_tokens(generator: np.random.Generator, shapes: list[Shape]) -> Step | None:
    """Tokens as pixels."""
    _, c, size = shapes[0]
    side = round(size**0.5)
    if side * side != size:
        return None
    return Net(lambda s, x: x.transpose(1, 2).reshape(x.shape[0], -1, side, side)), Shape("image", c, side)


IMAGE: list[Maker] = [
    image_layer, image_layer, image_layer, image_norm, activation, activation, halves, excite, resample, tokens_of_image
]  # fmt: skip
TOKENS: list[Maker] = [
    sequence_layer, sequence_layer, sequence_layer, sequence_norm, activation, halves, image_of_tokens
]  # fmt: skip


class RandomNetwork(nn.Module):
    """A program of ``length`` steps on an image of 3×8×8 and six words; the same for the same seed."""

    def __init__(self, seed: int, length: int) -> None:
        super().__init__()
        generator = np.random.default_rng(seed)
        torch.manual_seed(seed % 2**31)
        self.stem, self.words = nn.Conv2d(3, 8, 3, padding=1), nn.Embedding(10, 8)
        self.steps = nn.ModuleList()
        self.plan: list[tuple[int, list[int]]] = []  # (step, values that it reads)
        self.shapes = [Shape("image", 8, 8), Shape("tokens", 8, 6)]
        for _ in range(length):
            self._extend(generator)
        self.heads = nn.ModuleList()
        self.ends = [max(i for i, s in enumerate(self.shapes) if s.kind == kind) for kind in ("image", "tokens")]
        for end in self.ends:
            self.heads.append(self._head(generator, self.shapes[end]))
        self.tied = bool(generator.integers(2))

    def _extend(self, generator: np.random.Generator) -> None:
        first = int(generator.integers(max(0, len(self.shapes) - 4), len(self.shapes)))
        kind, _, size = self.shapes[first]
        alike = [i for i, shape in enumerate(self.shapes) if (shape.kind, shape.size) == (kind, size)]
        reads, makers = [first], IMAGE if kind == "image" else TOKENS
        which = generator.integers(4)
        if which == 0:
            reads, makers = [first, int(generator.choice(alike))], [join]
        elif which == 1 and kind == "tokens":
            reads, makers = (
                [first, int(generator.choice([i for i, s in enumerate(self.shapes) if s.kind == kind]))],
                [attention],
            )
        elif which == 2 and generator.integers(2):  # the same module once more
            again = [(step, read) for step, read in self.plan if [self.shapes[i] for i in read] == [self.shapes[first]]]
            if again:
                step, read = again[generator.integers(len(again))]
                self.shapes.append(self.shapes[2 + self.plan.index((step, read))])
                self.plan.append((step, reads))
                return
        made = makers[generator.integers(len(makers))](generator, [self.shapes[i] for i in reads])
        if made is not None:
            self.steps.append(made[0])
            self.plan.append((len(self.steps) - 1, reads))
            self.shapes.append(made[1])

    def _head(self, generator: np.random.Generator, shape: Shape) -> nn.Module:
        _, c, size = shape
        if shape.kind == "tokens":
            sorts = [
                Net(lambda s, x: s.out(x.mean(1)), out=nn.Linear(c, 3)),
                Net(lambda s, x: s.out(x[:, 0]), out=nn.Linear(c, 3)),
                Net(lambda s, x: s.out(x.flatten(1)), out=nn.Linear(c * size, 3)),
            ]
        else:
            flat = c * size * size
            sorts = [
                Net(lambda s, x: s.out(x.mean((2, 3))), out=nn.Linear(c, 3)),
                Net(lambda s, x: s.out(x.flatten(1)), out=nn.Linear(flat, 3)),
                Net(lambda s, x: s.out(x.permute(0, 2, 3, 1).reshape(x.size(0), -1)), out=nn.Linear(flat, 3)),
            ]
        return sorts[generator.integers(len(sorts))]

    def forward(self, image: Tensor, words: Tensor) -> list[Tensor]:
        values = [self.stem(image), self.words(words)]
        for step, reads in self.plan:
            values.append(self.steps[step](*(values[i] for i in reads)))
        outputs = [head(values[end]) for head, end in zip(self.heads, self.ends, strict=True)]
        if self.tied:
            outputs.append(F.linear(values[1], self.words.weight))
        return outputs


@dataclass(frozen=True)
class Judgement:
    """What became of one network.

    Attributes:
        status: ``exact``, ``dense`` (nothing may be pruned), ``refused`` (one sentence says why), ``wrong``,
            ``miscounted`` or ``crash``.
        detail: The sentence, the units at which it is wrong, or the exception.
        prunable: Number of prunable groups.
        error: Largest relative difference met.
    """

    status: str
    detail: str = ""
    prunable: int = 0
    error: float = 0.0


def random_units(graph: WidthGraph, generator: np.random.Generator) -> Kept:
    """Random units of every prunable group; now and then one, or all but one, of each."""
    sort = generator.integers(4)

    def count(units: int) -> int:
        return 1 if sort == 0 else max(1, units - 1) if sort == 1 else int(generator.integers(1, units + 1))

    return {g.name: np.sort(generator.choice(g.units, count(g.units), replace=False)) for g in graph.prunable}


def judge(model: nn.Module, inputs: Any, *, draws: int, seed: int = 0) -> Judgement:
    """Trace a float64 network, prune it at ``draws`` random widths and compare with the oracle."""
    try:
        graph = trace(model, inputs)
    except EccError as error:
        return Judgement("refused", str(error))
    except Exception as error:
        return Judgement("crash", f"trace: {error!r}")
    generator, trial = np.random.default_rng(seed), perturbed(model, seed + 1)
    worst = 0.0
    for draw in range(draws if graph.prunable else 0):
        kept = random_units(graph, generator)
        widths = {name: len(units) * graph.group(name).step for name, units in kept.items()}
        try:
            error, small = removal_error(trial, graph, kept, inputs)
            params = sum(parameter.numel() for parameter in small.parameters())
            macs = graph.macs(widths) if draw else trace(small, inputs, check=False).macs()
        except Exception as problem:
            return Judgement("crash", f"{problem!r} at {kept}", len(graph.prunable))
        worst = max(worst, error)
        if not error <= 1e-9:
            return Judgement("wrong", f"{error:.1e} at {kept}", len(graph.prunable), error)
        if (graph.params(widths), graph.macs(widths)) != (params, macs):
            return Judgement("miscounted", f"{graph.params(widths)}, {graph.macs(widths)} for {params}, {macs}")
    return Judgement("exact" if graph.prunable else "dense", "", len(graph.prunable), worst)


def judge_random_network(seed: int, length: int, *, draws: int = 3) -> Judgement:
    """Draw a network and judge it."""
    model = RandomNetwork(seed, length).double().eval()
    generator = torch.Generator().manual_seed(seed % 2**31)
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator)
    return judge(model, (image, torch.randint(0, 10, (2, 6), generator=generator)), draws=draws, seed=seed)
