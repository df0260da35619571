"""A device that follows a law, and a cost model that is wrong about it, for tests of whole jobs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ecc.api.ruler import Ruler
from ecc.core.verdict import Measured
from ecc.energy_models.counting import CountCost

_POSITIONS = 64  # of the images of cli_toy's network, which it keeps until its head


def macs_of(network: nn.Module) -> int:
    """MACs of a network of cli_toy."""
    weights = [(each, module.weight.numel()) for each, module in network.named_modules() if hasattr(module, "weight")]
    return sum(count * (1 if each == "head" else _POSITIONS) for each, count in weights if each != "norm")


@dataclass(frozen=True, eq=False)
class LineCost:
    """share + (1 - share) × MACs left, in ms: what a bilinear model would say; promises ±spread."""

    count: CountCost
    share: float = 0.2
    spread: float = 0.05
    metric: str = "latency"
    dense: float = 1e-3
    unit: str = "s"
    exact: bool = False
    source: str = ""
    provenance: None = None

    @property
    def space(self):
        return self.count.space

    @property
    def interactions(self):
        return self.count.interactions

    def __call__(self, widths):
        return self.dense * (self.share + (1 - self.share) * self.count(widths) / self.count.dense)

    def interval(self, widths, level=0.95):
        value = self(widths)
        reach = self.spread * math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
        return value * math.exp(-reach), value * math.exp(reach)

    def save(self, path):
        raise NotImplementedError(path)


@dataclass(frozen=True, eq=False)
class LawRuler(Ruler):
    """Measures what a law says of the share of MACs that is left, ± noise (95 %)."""

    laws: dict[str, Callable[[float], float]] = field(default_factory=dict)
    noise: float = 0.005
    count: int = 0
    calls: list[int] = field(default_factory=list)

    @classmethod
    def on(cls, dense: Any, inputs: Any, **laws: Callable[[float], float]) -> LawRuler:
        return cls(dense, inputs, (), None, 1, "toy", (), laws, 0.005, macs_of(dense), [])

    def measure(self, networks, *, seconds, progress=None, seed=0):
        self.calls.append(len(networks))
        found = []
        for network in networks:
            left = macs_of(network) / self.count
            found.append({metric: self._read(law(left)) for metric, law in self.laws.items()})
        return found

    def _read(self, ratio: float) -> Measured:
        low, high = ratio * (1 - self.noise), ratio * (1 + self.noise)
        return Measured(ratio, low, high, 1e-3, ratio * 1e-3, low * 1e-3, high * 1e-3)
