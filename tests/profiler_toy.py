"""A host whose clock is simulated: networks of known duration, on cores whose speed switches."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from ecc.core.layers import Layer, Side
from ecc.core.meter import Probe, Reading
from ecc.core.widths import WidthGroup
from ecc.network.graph import WidthGraph

NAMES, DENSE = ("a", "b"), (16, 8)
INPUTS = torch.zeros(1, 3)


def toy_graph(shape=(1, 3)):
    groups = tuple(WidthGroup(n, w, 1, True, "", (), (n,)) for n, w in zip(NAMES, DENSE, strict=True))
    layer = Layer("b", "linear", Side(((1.0, ("a",)),)), Side(((1.0, ("b",)),)), 128)
    return WidthGraph(groups, (layer,), {}, (shape,))


def true_ratio(widths):
    """What the toy's networks take, relative to dense."""
    return 0.2 + 0.8 * widths["a"] * widths["b"] / 128


class Timed(nn.Module):
    """A network that takes a known time."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds


@dataclass
class Host:
    """Simulated time; also the runtime and the maker of networks.

    Attributes:
        jitter: Relative noise of each inference.
        slow: Factor of the slow level; the level changes every 0.4 simulated seconds or so.
        built: Widths of all networks made.
    """

    dense_s: float = 1e-3
    jitter: float = 0.01
    slow: float = 1.6
    name: str = "eager"
    device: str = "cpu"
    now: float = 0.0
    built: list = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    fail_after: float = float("inf")

    def build(self, widths):
        self.built.append(dict(widths))
        return Timed(self.dense_s * true_ratio(widths))

    def prepare(self, module, inputs):
        def run(times):
            level = self.slow if int(self.now / 0.4 + np.sin(self.now)) % 2 else 1.0
            noise = np.exp(self.jitter * self.rng.standard_normal())
            self.now += module.seconds * level * noise * min(times, 3)  # the real clock sees nothing of this

        return run

    def synchronise(self):
        pass


@dataclass
class Watch:
    """A meter on the host's simulated clock; ``joules`` makes it an energy meter of one watt."""

    host: Host
    metric: str = "latency"
    shortest_window_s: float = 1e-12
    stop_at: int = 10**9
    error: type = KeyboardInterrupt
    reads: int = 0

    def probe(self):
        return Probe(True, "simulated")

    def begin(self):
        self._start = self.host.now

    def end(self):
        self.reads += 1
        if self.reads > self.stop_at:
            raise self.error("the sensor is gone")
        return Reading(self.host.now - self._start)
