"""Networks drawn at random, pruned at random: never wrong in silence, and counted exactly."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ecc.network.checking import perturbed
from ecc.network.equality import zero_then_remove
from ecc.network.slimming import slim
from ecc.network.tracing import trace

STEPS = ("conv", "strided", "depthwise", "grouped", "norm", "group-norm", "relu", "sigmoid", "add", "cat", "excite",
         "shuffle", "chunk", "transposed", "shared", "pool", "gate")  # fmt: skip


@dataclass
class Plan:
    """A program: each step has a kind, the values that it reads, and its parts; values are (channels, resolution)."""

    steps: list[tuple[str, tuple[int, ...], list[str]]] = field(default_factory=list)
    values: list[tuple[int, int]] = field(default_factory=lambda: [(3, 8)])


class Drawn(nn.Module):
    """A random network of convolutions and what usually stands between them."""

    def __init__(self, seed: int, length: int) -> None:
        super().__init__()
        self.generator_seed = seed
        self.parts = nn.ModuleDict()
        self.plan = Plan()
        generator = np.random.default_rng(seed)
        self._add("conv", generator, 0)
        for _ in range(length):
            self._add(str(generator.choice(STEPS)), generator, int(generator.integers(1, len(self.plan.values))))
        channels, _ = self.plan.values[-1]
        self.head = nn.Linear(channels, 3)

    def _part(self, module: nn.Module) -> str:
        name = f"p{len(self.parts)}"
        self.parts[name] = module
        return name

    def _add(self, kind: str, generator: np.random.Generator, source: int) -> None:
        channels, size = self.plan.values[source]
        out, reads, parts = channels, (source,), list[str]()
        if kind in ("conv", "strided"):
            out = int(generator.choice([4, 6, 8, 12]))
            stride = 2 if kind == "strided" and size > 2 else 1
            size = -(-size // stride)
            parts = [self._part(nn.Conv2d(channels, out, 3, stride, 1, bias=bool(generator.integers(2))))]
        elif kind == "depthwise":
            out = channels * int(generator.integers(1, 3))
            parts = [self._part(nn.Conv2d(channels, out, 3, padding=1, groups=channels))]
        elif kind == "grouped" and channels % 2 == 0:
            out = int(generator.choice([4, 8]))
            parts = [self._part(nn.Conv2d(channels, out, 1, groups=2))]
        elif kind == "transposed":
            out = int(generator.choice([4, 6]))
            parts = [self._part(nn.ConvTranspose2d(channels, out, 1))]
        elif kind == "norm":
            parts = [self._part(nn.BatchNorm2d(channels, affine=bool(generator.integers(4))))]
        elif kind == "group-norm" and channels % 2 == 0:
            parts = [self._part(nn.GroupNorm(channels // 2, channels))]
        elif kind == "excite":
            parts = [self._part(nn.Linear(channels, 4)), self._part(nn.Linear(4, channels))]
        elif kind in ("add", "gate", "cat"):
            same = [i for i, value in enumerate(self.plan.values) if i and value[1] == size]
            same = same if kind == "cat" else [i for i in same if self.plan.values[i][0] == channels]
            reads = (source, int(generator.choice(same)))
            out = channels + self.plan.values[reads[1]][0] if kind == "cat" else channels
            if out > 40:
                return
        elif kind == "shared":
            same = [s for s in self.plan.steps if s[0] == "conv" and self.plan.values[s[1][0]][0] == channels]
            if not same:
                return
            parts = same[0][2]
            out = self.parts[parts[0]].weight.shape[0]
            kind = "conv"
        elif kind in ("shuffle", "chunk", "grouped", "group-norm") and channels % 2:
            return
        self.plan.steps.append((kind, reads, parts))
        self.plan.values.append((out, size))

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for kind, reads, names in self.plan.steps:
            values.append(self._run(kind, [values[i] for i in reads], [self.parts[name] for name in names]))
        return self.head(values[-1].mean((2, 3)))

    def _run(self, kind: str, inputs: list[Tensor], parts: list[nn.Module]) -> Tensor:
        y = inputs[0]
        n, c, h, w = y.shape
        match kind:
            case "relu":
                return torch.relu(y)
            case "sigmoid":
                return torch.sigmoid(y)
            case "add":
                return y + inputs[1]
            case "gate":
                return y * inputs[1]
            case "cat":
                return torch.cat(inputs, 1)
            case "pool":
                return F.max_pool2d(y, 3, 1, 1)
            case "chunk":
                a, b = y.chunk(2, 1)
                return torch.cat([b, a * 2], 1)
            case "shuffle":
                return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            case "excite":
                return y * torch.sigmoid(parts[1](torch.relu(parts[0](y.mean((2, 3))))))[:, :, None, None]
            case _:
                return parts[0](y)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 14))
def test_a_random_network_is_pruned_exactly(seed: int, length: int) -> None:
    torch.manual_seed(seed % 2**31)
    model = Drawn(seed, length).double().eval()
    inputs = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    graph, checked = trace(model, inputs, check=False), trace(model, inputs)
    # Only a shuffle says in Python how it cuts, so only there may the check still refuse what the labels allow.
    if not any(kind == "shuffle" for kind, _, _ in model.plan.steps):
        assert [group.name for group in checked.prunable] == [group.name for group in graph.prunable]
    generator = np.random.default_rng(seed)
    trial = perturbed(model, 1)
    for _ in range(2):
        kept = {
            group.name: np.sort(generator.choice(group.units, generator.integers(1, group.units + 1), replace=False))
            for group in checked.prunable
        }
        assert zero_then_remove(trial, checked, kept, inputs) < 1e-9
    small = slim(model, checked, kept, check=False)
    widths = {name: len(units) * checked.group(name).step for name, units in kept.items()}
    assert sum(p.numel() for p in small.parameters()) == checked.params(widths)
    assert trace(small, inputs, check=False).macs() == checked.macs(widths)
