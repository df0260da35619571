"""Pairs: a network measured in turn with a reference, so that what slows the host slows both.

On shared hosts the speed of a core switches between levels within seconds; the ratio of two neighbouring runs does not.
The median of such ratios is what is modelled; its interval is made of order statistics and needs no assumption
about the shape of the noise. The first run after the other network finds cold caches and is not timed; so that most of
the time is spent on runs that are, several follow it, and their median is one reading. Weights that exceed the inner
caches take several inferences to come back (MobileNetV2 under ONNX Runtime eight: the first took twice as long as the
ninth), so the windows at the head that are slower than all of the later half, as all pairs together tell, do not count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from ecc.core.meter import Meter, Reading, Runnable, Runtime
from ecc.profiler.clock import Clock, HostClock

__all__ = ["Estimate", "Pairs", "Ready", "Spread", "alternate", "estimate", "median_interval", "ready", "spread"]

Floats = NDArray[np.float64]

_LEAD_IN_S = 0.5e-3  # untimed run after each switch, in which the caches forget the other network …
_LEAD_IN_SHARE = 0.05  # … or this share of the window where that is longer (power lags; its rise is left out anyway)
_WARM_S = 0.02  # a network that runs longer fills the caches early in its own time
_LEAD_INS = 14  # windows of a burst take that many times its lead-in …
_BURST_S = 0.02  # … and this time at least, in which caches settle
_FEW = 6  # values below which order statistics do not reach 95 %
_KNOWN, _WORTH = 20, 6.0  # configurations that tell the usual scatter, which counts as that many further readings
_BLOCKS_TO_RANK = 9  # the fewest blocks of which two order statistics hold the median although one block is spoilt


@dataclass(frozen=True, slots=True)
class Ready:
    """A network that has been warmed up.

    Attributes:
        run: Does k inferences.
        inference_s: Roughly how long one takes.
    """

    run: Runnable
    inference_s: float

    def repeats(self, window_s: float) -> int:
        """Inferences that fill a window."""
        return max(1, math.ceil(window_s / self.inference_s))

    def lead_in(self, window_s: float) -> int:
        """Inferences to run, untimed, before a window: the other network has left the caches cold."""
        seconds = max(_LEAD_IN_S, _LEAD_IN_SHARE * window_s)
        return 0 if self.inference_s > max(_WARM_S, seconds) else self.repeats(seconds)

    def burst(self, window_s: float, most: int) -> int:
        """Windows to measure after one lead-in, so that it costs little beside them and caches settle meanwhile."""
        if not (lead_in := self.lead_in(window_s)):
            return 1
        repeats = self.repeats(window_s)
        return min(most, math.ceil(max(_LEAD_INS * lead_in, _BURST_S / self.inference_s) / repeats))

    def side_s(self, window_s: float, most: int) -> float:
        """Roughly how long this side of a pair takes, in s."""
        inferences = self.lead_in(window_s) + self.burst(window_s, most) * self.repeats(window_s)
        return inferences * self.inference_s


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Neighbouring readings of a configuration and the reference, per inference.

    Attributes:
        values: Seconds or joules of the configuration, shape (n,).
        references: The same of the reference, shape (n,).
        cpu_s: CPU time that the process spent per inference of the configuration, shape (n,).
        flags: Words on what was wrong with the readings, sorted.
        inside_s: Time within the windows; None where it is not known any more.
        extras: What else the meter said of these readings, by name, shape (n, 2), of the configuration and of the
            reference; NaN where it did not: ``error`` (standard error), ``delta`` (end minus start of the counter),
            ``check`` (a second sensor), and the parts that readings are sums of (``package``, ``dram``).
    """

    values: Floats
    references: Floats
    cpu_s: Floats
    flags: tuple[str, ...] = ()
    inside_s: float | None = None
    extras: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def ratios(self) -> Floats:
        """Configuration / reference, shape (n,)."""
        return self.values / self.references


@dataclass(frozen=True, slots=True)
class Estimate:
    """What pairs say about a configuration.

    Attributes:
        n: Number of pairs.
        ratio: Median of the paired ratios to the reference.
        low: Lower end of its 95 % interval.
        high: Upper end.
        value: Median of the configuration's own readings, unpaired, in s or J per inference.
        reference: Median of the reference's readings beside them.
    """

    n: int
    ratio: float
    low: float
    high: float
    value: float
    reference: float

    @property
    def half_width(self) -> float:
        """Half the interval, relative to the ratio; infinite when one pair was all."""
        return (self.high - self.low) / 2 / self.ratio


@dataclass(frozen=True, slots=True)
class Spread:
    """How readings of one configuration usually scatter, known from many.

    Attributes:
        variance: Of the logarithms of ratios.
        freedom: Further readings that this knowledge is worth.
    """

    variance: float
    freedom: float

    def moderate(self, variance: float, freedom: int) -> tuple[float, float]:
        """Variance and degrees of freedom together with a configuration's own (Smyth 2004, moderated t)."""
        total = self.freedom + freedom
        return (self.freedom * self.variance + freedom * variance) / total, total


def spread(configurations: Iterable[Sequence[Pairs]]) -> Spread | None:
    """The usual scatter where configurations have few pairs each; None where too few of them tell.

    Two readings say next to nothing of their noise (t = 12.7); two hundred configurations of two readings do.
    """
    logs = [np.log(np.concatenate([pairs.ratios for pairs in blocks])) for blocks in configurations]
    few = [each for each in logs if 2 <= len(each) < _FEW]
    if len(few) < _KNOWN:
        return None
    variance = sum(float(each.var(ddof=1)) * (len(each) - 1) for each in few) / sum(len(each) - 1 for each in few)
    return Spread(variance, _WORTH)


def ready(
    runtime: Runtime, module: nn.Module, inputs: Any, *, seconds: float, runs: int, clock: Clock | None = None
) -> Ready:
    """Prepare a network and run it until both ``seconds`` and ``runs`` are reached."""
    timer = clock or HostClock()
    run = runtime.prepare(module, inputs)
    run(1)  # allocates and chooses kernels: not the time of anything
    runtime.synchronise()
    start, times, fastest = timer.now(), 0, math.inf
    while times < runs or timer.now() - start < seconds:
        before = timer.now()
        run(1)
        runtime.synchronise()
        fastest = min(fastest, timer.now() - before)
        times += 1
    return Ready(run, max(fastest, 1e-7))


def alternate(
    network: Ready,
    reference: Ready,
    meter: Meter,
    n: int,
    rng: np.random.Generator,
    *,
    burst: int = 1,
    clock: Clock | None = None,
) -> Pairs:
    """Measure n pairs; who goes first changes from pair to pair, from a random start, so that order cancels.

    Args:
        burst: Windows per side of a pair, at most.
    """
    window_s, timer = meter.shortest_window_s, clock or HostClock()
    sides: tuple[list[_Side], list[_Side]] = [], []
    network_first = bool(rng.integers(2))
    for pair in range(n):
        for place, column in enumerate((0, 1) if network_first else (1, 0)):
            subject, cold = (network, reference)[column], place == 1 or pair == 0
            sides[column].append(_read(subject, meter, window_s, subject.burst(window_s, burst), timer, cold=cold))
        network_first = not network_first
    return _paired(*(_settled(column) for column in sides))


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a pair.

    Attributes:
        readings: Of its windows.
        seconds: How long each of them took.
        repeats: Inferences per window.
        cpu_s: CPU time per inference.
        cold: Whether the other network ran before.
    """

    readings: Sequence[Reading]
    seconds: Sequence[float]
    repeats: int
    cpu_s: float
    cold: bool

    @property
    def value(self) -> float:
        """Median of the windows, per inference."""
        return float(np.median([reading.value for reading in self.readings])) / self.repeats


def _read(subject: Ready, meter: Meter, window_s: float, windows: int, clock: Clock, *, cold: bool) -> _Side:
    """As many windows, after a lead-in where the caches are cold."""
    repeats, readings, seconds = subject.repeats(window_s), list[Reading](), list[float]()
    if cold:
        subject.run(subject.lead_in(window_s))
    cpu_s = time.process_time()
    for _ in range(windows):
        meter.begin()
        start = clock.now()
        subject.run(repeats)
        readings.append(meter.end())  # waits for the device
        seconds.append(clock.now() - start)
    return _Side(readings, seconds, repeats, (time.process_time() - cpu_s) / (repeats * windows), cold)


def _settled(sides: Sequence[_Side]) -> list[_Side]:
    """Cold sides of a network without the windows at the head that were slower than every one of the later half.

    The same ones go from all of them, by their median: what hits one window of one side decides nothing. Where windows
    are all alike, that of the head goes in one of W / 2 + 1 cases, and nothing is lost but a reading.
    """
    values = np.median([[reading.value for reading in side.readings] for side in sides if side.cold], axis=0)
    half = len(values) // 2
    slower = values[:half] > values[half:].max()
    head = half if slower.all() else int(np.argmin(slower))
    return [
        replace(side, readings=side.readings[head:], seconds=side.seconds[head:]) if side.cold else side
        for side in sides
    ]


def _paired(networks: Sequence[_Side], references: Sequence[_Side]) -> Pairs:
    both = [*networks, *references]
    told = [[_extras(side) for side in column] for column in (networks, references)]
    names = dict.fromkeys(name for column in told for extras in column for name in extras)
    return Pairs(
        values=np.array([side.value for side in networks]),
        references=np.array([side.value for side in references]),
        cpu_s=np.array([side.cpu_s for side in networks]),
        flags=tuple(sorted({word for side in both for reading in side.readings for word in reading.flag.split()})),
        inside_s=sum(sum(side.seconds) for side in both),
        extras={name: np.array([[each.get(name, np.nan) for each in column] for column in told]).T for name in names},
    )


def _extras(side: _Side) -> dict[str, float]:
    """Medians over the windows, per inference, of what all of them told beside their values."""
    found = [
        {**reading.parts, "error": reading.error, "delta": reading.delta, "check": reading.check}
        for reading in side.readings
    ]
    told = {name: [each.get(name) for each in found] for name in found[0]}
    return {
        name: float(np.median([value for value in values if value is not None])) / side.repeats
        for name, values in told.items()
        if None not in values
    }


def median_interval(values: Floats, level: float = 0.95, usual: Spread | None = None) -> tuple[float, float]:
    """Interval of the median of positive values.

    Between two order statistics; below six values, where these do not reach 95 %, the t-interval of the logarithms,
    moderated by their usual spread where that is known; for one value (0, inf).
    """
    n = len(values)
    if n < 2:
        return 0.0, math.inf
    rank = int(stats.binom.ppf((1 - level) / 2, n, 0.5))  # P(fewer than rank of n below the median) <= (1 - level) / 2
    if rank >= 1:
        ordered = np.sort(values)
        return float(ordered[rank - 1]), float(ordered[n - rank])
    logs = np.log(values)
    variance, freedom = float(logs.var(ddof=1)), float(n - 1)
    if usual is not None:
        variance, freedom = usual.moderate(variance, n - 1)
    half = float(stats.t.ppf((1 + level) / 2, freedom) * math.sqrt(variance / n))
    return float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))


def estimate(blocks: Sequence[Pairs], usual: Spread | None = None) -> Estimate:
    """Pool the pairs of all blocks of one configuration; their usual spread counts where they are few.

    Pairs of one block share what the host did in that time. From nine blocks on, the interval therefore also covers the
    one of the blocks' medians, which does not take their pairs as independent.
    """
    ratios = np.concatenate([pairs.ratios for pairs in blocks])
    low, high = median_interval(ratios, usual=usual)
    middle = float(np.median(ratios))
    if len(blocks) >= _BLOCKS_TO_RANK:
        lowest, highest = median_interval(np.array([np.median(pairs.ratios) for pairs in blocks]))
        low, high = min(low, lowest), max(high, highest)
    return Estimate(
        n=len(ratios),
        ratio=middle,
        low=min(low, middle),
        high=max(high, middle),
        value=float(np.median(np.concatenate([pairs.values for pairs in blocks]))),
        reference=float(np.median(np.concatenate([pairs.references for pairs in blocks]))),
    )
