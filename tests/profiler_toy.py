"""A host whose clock is simulated: networks of known duration, on cores whose speed switches; its meters and gauges."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from ecc.core.layers import Layer, Side
from ecc.core.meter import Probe, Reading
from ecc.core.widths import WidthGroup
from ecc.network.graph import WidthGraph
from ecc.profiler.conditions import Conditions

NAMES, DENSE = ("a", "b"), (16, 8)
INPUTS = torch.zeros(1, 3)
BUSY_W, IDLE_W = 200.0, 50.0


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
    """Simulated time and energy; also the clock, the runtime and the maker of networks.

    Attributes:
        jitter: Relative noise of each inference.
        slow: Factor of the slow level; the level changes every 0.4 simulated seconds or so.
        drift: Relative slowing per simulated second.
        prepare_s: What it costs to prepare a network.
        built: Widths of all networks made.
        joules: Spent so far.
    """

    dense_s: float = 1e-3
    jitter: float = 0.01
    slow: float = 1.6
    drift: float = 0.0
    prepare_s: float = 0.0
    name: str = "eager"
    device: str = "cpu"
    environment: dict = field(default_factory=dict)
    time: float = 0.0
    joules: float = 0.0
    built: list = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def build(self, widths):
        self.built.append(dict(widths))
        return Timed(self.dense_s * true_ratio(widths))

    def prepare(self, module, inputs):
        self.time += self.prepare_s

        def run(times):
            while times > 0:
                some = min(times, 20)
                level = self.slow if int(self.time / 0.4 + np.sin(self.time)) % 2 else 1.0
                noise = np.exp(self.jitter / some**0.5 * self.rng.standard_normal()) * (1 + self.drift * self.time)
                self.spend(module.seconds * level * noise * some, BUSY_W)
                times -= some

        return run

    def spend(self, seconds, watts):
        self.time += seconds
        self.joules += seconds * watts

    def synchronise(self):
        pass

    def now(self):
        return self.time

    def wait(self, seconds):
        self.spend(seconds, IDLE_W)


@dataclass
class Watch:
    """A meter of the host's simulated time, or of its energy.

    Attributes:
        stop_at: Readings that succeed before ``error`` is raised.
        fails: Numbers of single readings that raise ``error`` instead.
        tick_s: What its probe tells.
    """

    host: Host
    metric: str = "latency"
    shortest_window_s: float = 1e-12
    stop_at: int = 10**9
    fails: tuple = ()
    error: type = KeyboardInterrupt
    tick_s: float | None = None
    reads: int = 0

    def probe(self):
        return Probe(True, "simulated", details={} if self.tick_s is None else {"tick_s": self.tick_s})

    def begin(self):
        self._start = self._read()

    def end(self):
        self.reads += 1
        if self.reads > self.stop_at or self.reads in self.fails:
            raise self.error("the sensor is gone")
        return Reading(self._read() - self._start)

    def _read(self):
        return self.host.time if self.metric == "latency" else self.host.joules


@dataclass
class Dial:
    """A gauge; ``state`` says what it shows from the number of its visit, counted from 0, and the host's time."""

    host: Host
    state: Callable[[int, float], Conditions]
    visits: int = 0
    open: bool = False

    def begin(self):
        assert not self.open
        self.open = True

    def end(self):
        assert self.open
        self.open = False
        self.visits += 1
        return self.state(self.visits - 1, self.host.time)
