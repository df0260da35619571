"""One profile being measured: what is known, what is left, and the reference that stays warm."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import nn

from ecc.core.errors import EccError, InputError, Interrupted
from ecc.core.meter import Meter, Runtime
from ecc.core.problem import Progress
from ecc.core.table import Provenance
from ecc.core.widths import Widths
from ecc.network.graph import WidthGraph
from ecc.profiler.host import Disturbance, quiet
from ecc.profiler.pairing import Pairs, Ready, alternate, estimate, median_interval, ready
from ecc.profiler.store import Key, Store, configuration
from ecc.profiler.tables import Visit
from ecc.profiler.window import Window

__all__ = ["Session"]

_MOVED = 0.03  # shift of the reference above which a resumed profile is recorded as a new run
_PROBES = 24  # readings of the reference by which a resumed profile tells


@dataclass(eq=False)
class Session:
    """One call of ``profile``.

    Attributes:
        store: Where rows are kept; what it holds is not measured again.
        measured: Rows added so far.
    """

    store: Store
    graph: WidthGraph
    provenance: Provenance
    build: Callable[[Widths], nn.Module]
    inputs: Any
    runtime: Runtime
    meters: tuple[Meter, ...]
    window: Window
    progress: Progress | None
    seed: int
    measured: int = field(init=False, default=0)
    _known: dict[tuple[str, str], dict[int, Pairs]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for visit in self.store.visits():
            self._learn(visit)

    def measure(self, design: Sequence[Widths]) -> int:
        """Do what is left of the design.

        Returns:
            How many of its configurations the store knew before.
        """
        full = [self.graph.space.widths(self.graph.space.vector(widths)) for widths in design]
        named = {configuration(widths): widths for widths in full}
        reused = sum(any((name, meter.metric) in self._known for meter in self.meters) for name in named)
        if any(self._left(named, block) for block in range(self._last_block)):
            try:
                with quiet(self.window.threads):
                    self._work(named)
            except KeyboardInterrupt:
                raise Interrupted(f"interrupted; {self.measured} new rows are in the store") from None
        return reused

    @property
    def _last_block(self) -> int:
        return max(self.window.blocks, self.window.max_blocks)

    def _work(self, named: Mapping[str, Widths]) -> None:
        deadline = time.perf_counter() + self.window.max_s
        reference = self._reference()
        run = self._run(reference)
        for block in range(self._last_block):
            if block >= self.window.blocks and time.perf_counter() > deadline:
                return
            rng = np.random.default_rng([self.seed, block])
            order = {name: position for position, name in enumerate(rng.permutation(sorted(named)).tolist())}
            left = sorted(self._left(named, block), key=lambda key: order[key[0]])
            total = (
                self.measured + len(left) + sum(len(self._left(named, b)) for b in range(block + 1, self.window.blocks))
            )
            for name, keys in itertools.groupby(left, key=lambda key: key[0]):
                metrics = {metric for _, _, metric in keys}
                self._visit(run, named[name], block, order[name], metrics, reference, rng)
                gc.collect()  # the network may be a cycle, and collection is off
                if self.progress is not None:
                    self.progress("profile", self.measured, total, f"block {block + 1}")

    def _left(self, named: Mapping[str, Widths], block: int) -> list[Key]:
        """Rows that the block still needs: all at first, then those of configurations that are not precise yet."""
        return [
            (name, block, meter.metric)
            for name in named
            for meter in self.meters
            if block not in self._known.get((name, meter.metric), {})
            and (block < self.window.blocks or self._vague(name, meter.metric))
        ]

    def _vague(self, name: str, metric: str) -> bool:
        return estimate(list(self._known[name, metric].values())).half_width > self.window.rel_half_width

    def _learn(self, visit: Visit) -> None:
        self._known.setdefault((configuration(visit.widths), visit.metric), {})[visit.block] = visit.pairs

    def _reference(self) -> Ready:
        module = self.build(self.graph.space.full)
        try:
            self.runtime.prepare(module, self.inputs)(1)
        except EccError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise InputError(
                f"the network does not run on inputs of shape {self.provenance.input_shape}: "
                f"{(str(error).strip() or type(error).__name__).splitlines()[0]}"
            ) from error
        return self._warm(module, self.window.device_warm_up_s)

    def _warm(self, module: nn.Module, seconds: float) -> Ready:
        return ready(self.runtime, module, self.inputs, seconds=seconds, runs=self.window.warm_up_runs)

    def _run(self, reference: Ready) -> int:
        """The run that new rows belong to: the store's last one, unless versions or the reference moved since."""
        last, network = self.store.last_run(), self.store.network()
        same = network is not None and network.provenance == self.provenance
        if last is not None and same and not self._moved(reference):
            return last
        return self.store.begin_run(
            self.provenance,
            self.graph.space,
            self.graph.layers,
            protocol=asdict(self.window),
            seed=self.seed,
            started=time.time(),
        )

    def _moved(self, reference: Ready) -> bool:
        known = self.store.table().reference if self._known else {}
        for meter in self.meters:
            if meter.metric not in known or not self.window.brief(meter):
                continue
            rng = np.random.default_rng(self.seed)
            readings = alternate(reference, reference, meter, _PROBES, rng).values
            value, low, high = known[meter.metric]
            now, now_low, now_high = float(np.median(readings)), *median_interval(readings)
            if abs(now / value - 1) > _MOVED and (now_low > high or now_high < low):
                return True
        return False

    def _visit(
        self,
        run: int,
        widths: Widths,
        block: int,
        position: int,
        metrics: set[str],
        reference: Ready,
        rng: np.random.Generator,
    ) -> None:
        network = self._warm(self.build(widths), self.window.warm_up_s)
        for meter in self.meters:
            if meter.metric not in metrics:
                continue
            started, clock, before = time.time(), time.perf_counter(), Disturbance.now()
            pairs = alternate(network, reference, meter, self.window.pairs_of(meter), rng)
            seconds, disturbance = time.perf_counter() - clock, Disturbance.now().since(before)
            visit = Visit(widths, block, position, meter.metric, pairs, started, seconds, disturbance)
            self.store.add(run, visit)
            self._learn(visit)
            self.measured += 1
