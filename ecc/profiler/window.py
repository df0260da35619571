"""How long to measure."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from ecc.core.errors import InputError
from ecc.core.meter import Meter

__all__ = ["Window"]

_LONG_WINDOW_S = 0.1  # a meter whose windows are longer is read a few times, not many
_THREADS = "the number of threads (--threads)"  # which is given to whole profiles rather than here


@dataclass(frozen=True, slots=True)
class Window:
    """How long to measure.

    Attributes:
        device_warm_up_s: Load before anything is read, until clocks settle.
        device_warm_up_max_s: An accelerator is loaded on until its temperature and clock stand still, up to this time.
        warm_up_s: Load before the first pair of each visit to a configuration; a fifth of it at later visits.
        warm_up_runs: Inferences before it, at least.
        blocks: Visits to each configuration.
        pairs: Pairs (configuration, reference) per visit where a window is short (latency); see ``pairs_of``.
        burst: Windows per side of such a pair, at most; their median is the reading.
        long_pairs: Pairs per visit where a window takes seconds (energy).
        rel_half_width: Configurations whose 95 % interval is wider than this share of the ratio get more visits …
        max_blocks: … up to this many, also where these will not do: half the noise is worth its time to a cost model.
        max_s: No such additional visits after this time, and end of each comparison.
        idle_s: How long the idle power is measured where energy is; not at all at 0.
        idle_every: Visits after which it is measured again.
        threads: Intra-op threads of the CPU while it measures.
        cores: Cores that the process is pinned to; as many as threads, chosen by the profiler, when empty.
    """

    device_warm_up_s: float = 1.0
    device_warm_up_max_s: float = 180.0
    warm_up_s: float = 0.005
    warm_up_runs: int = 3
    blocks: int = 3
    pairs: int = 5
    burst: int = 40
    long_pairs: int = 1
    rel_half_width: float = 0.02
    max_blocks: int = 8
    max_s: float = 600.0
    idle_s: float = 5.0
    idle_every: int = 20
    threads: int = 1
    cores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("warm_up_runs", "blocks", "pairs", "burst", "long_pairs", "max_blocks", "idle_every", "threads"):
            if getattr(self, name) < 1:
                shown = _THREADS if name == "threads" else f"Window({name}=...)"
                raise InputError(f"{shown} must be at least 1, got {getattr(self, name)}")
        most = os.cpu_count() or 1
        if self.threads > most:
            raise InputError(f"{_THREADS} must be at most {most}, the cores of this machine, got {self.threads}")
        for name in ("device_warm_up_s", "device_warm_up_max_s", "warm_up_s", "idle_s"):
            if not 0 <= getattr(self, name) < 1e6:
                raise InputError(f"Window({name}=...) must be a number of seconds from 0, got {getattr(self, name)}")
        if not 0 < self.rel_half_width < 1:
            raise InputError(f"Window(rel_half_width=...) must be in (0, 1), got {self.rel_half_width}")
        if not self.max_s > 0:
            raise InputError(f"Window(max_s=...) must be positive, got {self.max_s}")

    @classmethod
    def of(cls, kind: str) -> Window:
        """What suits a kind of device.

        An accelerator chooses kernels and settles for longer than a CPU, and its windows of energy take seconds: two
        visits there, more where they disagree and time is left, make 200 configurations in 20 minutes.
        """
        if kind == "cpu":
            return cls()
        return cls(device_warm_up_s=5.0, warm_up_s=0.5, warm_up_runs=10, blocks=2, burst=5, max_s=1080.0, idle_every=80)

    def pairs_of(self, meter: Meter, prepared: float = 0.0) -> int:
        """Pairs per visit with that meter.

        Args:
            prepared: Pairs that could be measured in the time that it took to prepare the network. Where these are
                many, as many are measured, which costs little beside that; but no more than make in ``blocks`` visits
                what ``max_blocks`` of them would: that is enough.
        """
        if not self.brief(meter):
            return self.long_pairs
        most = self.pairs * max(self.blocks, self.max_blocks) // self.blocks
        return max(self.pairs, min(most, math.ceil(prepared)))

    def burst_of(self, meter: Meter) -> int:
        """Windows per side of a pair with that meter, at most."""
        return self.burst if self.brief(meter) else 1

    def brief(self, meter: Meter) -> bool:
        """Whether the meter can be read many times in a second."""
        return meter.shortest_window_s <= _LONG_WINDOW_S
