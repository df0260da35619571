"""One profile being measured: what is known, what is left, and the reference that stays warm."""

from __future__ import annotations

import gc
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ecc.core.errors import EccError, InputError, Interrupted, MeterError
from ecc.core.meter import Meter, Runtime
from ecc.core.problem import Progress
from ecc.core.table import Provenance
from ecc.core.widths import Widths
from ecc.network.graph import WidthGraph
from ecc.profiler.clock import Clock, HostClock
from ecc.profiler.conditions import Gauge
from ecc.profiler.cores import Load
from ecc.profiler.design import Point
from ecc.profiler.host import quiet
from ecc.profiler.idle import Idle
from ecc.profiler.observation import Blind, Observer
from ecc.profiler.pairing import Pairs, Ready, Spread, estimate, ready, spread
from ecc.profiler.resuming import Old, moved
from ecc.profiler.store import Key, Store, configuration
from ecc.profiler.tables import Visit
from ecc.profiler.warming import settle
from ecc.profiler.window import Window

__all__ = ["Session"]

_OLD_ROWS = 2  # measured again on resuming
_LOADED = 0.2  # share of the cores taken by others, above which rows are flagged
_KNOWN_WARM_UP = 5  # a configuration that was measured before is warmed up that many times less
_VISITS_PER_COLLECTION = 8  # networks may be cycles, and collection is off
_REHEAT_S = 2.0  # load after an idle measurement

_PLAIN = (str, int, float)

_LOG = logging.getLogger("ecc")


@dataclass(eq=False)
class Session:
    """One call of ``profile``.

    Attributes:
        store: Where rows are kept; what it holds is not measured again.
        alone: Called before the first row is measured; waits until nobody else measures on the device.
        over: Asked after each configuration whether the time for measuring is over; no row is left half done.
        measured: Rows added so far.
        inside_s: Time within the windows of these rows.
        warnings: Sentences on the state in which the device was found.
        found: Configurations that the store held at first.
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
    gauge: Gauge = field(default_factory=Blind)
    clock: Clock = field(default_factory=HostClock)
    alone: Callable[[], None] = lambda: None
    over: Callable[[], bool] = lambda: False
    measured: int = field(init=False, default=0)
    inside_s: float = field(init=False, default=0.0)
    warnings: list[str] = field(init=False, default_factory=list)
    found: int = field(init=False)
    _known: dict[tuple[str, str], dict[int, Pairs]] = field(init=False, default_factory=dict)
    _widths: dict[str, Widths] = field(init=False, default_factory=dict)
    _loaded: tuple[str, ...] = field(init=False, default=())
    _purposes: dict[str, str] = field(init=False, default_factory=dict)
    _begun: tuple[Ready, int] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._observer = Observer(self.gauge, self.clock)
        self._idle = Idle(self.meters, self.runtime, self.window, self.clock)
        self._read()
        self.found = len(self._widths)

    def measure(self, design: Sequence[Widths | Point]) -> None:
        """Do what is left of the design."""
        named: dict[str, Widths] = {}
        for point in (each if isinstance(each, Point) else Point(each) for each in design):
            widths = self.graph.space.widths(self.graph.space.vector(point.widths))
            named[configuration(widths)] = widths
            self._purposes.setdefault(configuration(widths), point.purpose)
        if self._begun is None and self._unfinished(named):
            self.alone()
            self._read()  # whoever was waited for may have measured into the same store
        if self._unfinished(named):
            try:
                with quiet(self.window.threads, self.window.cores):
                    self._work(named)
            except KeyboardInterrupt:
                raise Interrupted(f"interrupted; {self._kept}") from None
            except MeterError as error:
                if not self.measured:
                    raise
                raise MeterError(f"{error}; {self._kept}") from error

    def _unfinished(self, named: Mapping[str, Widths]) -> bool:
        return any(self._left(named, block) for block in range(self._last_block))

    def _read(self) -> None:
        for visit in self.store.visits():
            self._learn(visit)

    @property
    def _kept(self) -> str:
        rows = f"{self.measured} new row{'' if self.measured == 1 else 's'}"
        if self.store.path.name == ":memory:":
            return f"{rows} were kept in memory only; give a store to go on from there"
        return f"{rows} are in the store; the same call goes on from there"

    @property
    def _last_block(self) -> int:
        return max(self.window.blocks, self.window.max_blocks)

    def _work(self, named: Mapping[str, Widths]) -> None:
        deadline = self.clock.now() + self.window.max_s
        reference, run = self._begin()
        for block in range(self._last_block):
            if block >= self.window.blocks and self.clock.now() > deadline:
                return
            rng = np.random.default_rng([self.seed, block])
            order = {name: position for position, name in enumerate(rng.permutation(sorted(named)).tolist())}
            left = sorted(self._left(named, block), key=lambda key: order[key[0]])
            total = (
                self.measured + len(left) + sum(len(self._left(named, b)) for b in range(block + 1, self.window.blocks))
            )
            self._observer.begin_block()
            for name, keys in itertools.groupby(left, key=lambda key: key[0]):
                metrics = {metric for _, _, metric in keys}
                if self._idle.pause():
                    self._heat(reference)
                self._visit(run, named[name], block, order[name], metrics, reference, rng)
                if order[name] % _VISITS_PER_COLLECTION == 0:
                    gc.collect()
                if self.progress is not None:
                    self.progress("profile", self.measured, total, f"block {block + 1}")
                if self.over():
                    return

    def _begin(self) -> tuple[Ready, int]:
        """The warm reference and the run; those of the design before, where this one goes on from it."""
        if self._begun is None:
            reference = self._reference()
            self._begun = reference, self._run(reference)
        else:
            self._heat(self._begun[0])
        return self._begun

    def _left(self, named: Mapping[str, Widths], block: int) -> list[Key]:
        """Rows that the block still needs: all at first, then those of configurations that are not precise yet."""
        usual = {
            meter.metric: spread(
                list(known.values()) for (_, metric), known in self._known.items() if metric == meter.metric
            )
            for meter in self.meters
            if block >= self.window.blocks
        }
        return [
            (name, block, meter.metric)
            for name in named
            for meter in self.meters
            if block not in self._known.get((name, meter.metric), {})
            and (block < self.window.blocks or self._vague(name, meter.metric, usual[meter.metric]))
        ]

    def _vague(self, name: str, metric: str, usual: Spread | None) -> bool:
        return estimate(list(self._known[name, metric].values()), usual).half_width > self.window.rel_half_width

    def _learn(self, visit: Visit) -> None:
        name = configuration(visit.widths)
        self._widths[name] = visit.widths
        self._purposes.setdefault(name, visit.purpose)
        self._known.setdefault((name, visit.metric), {})[visit.block] = visit.pairs

    # -- the reference

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
        before = Load.now(self.window.cores)
        reference = self._warm(module, self.window.device_warm_up_s)
        if torch.device(self.runtime.device).type == "cpu":
            self._look_around(Load.now(self.window.cores).foreign_share(before))
        elif not settle(reference, self.runtime, self.gauge, self.window, self.clock):
            self._warn(f"the device did not settle within {self.window.device_warm_up_max_s:.0f} s of load")
        return reference

    def _look_around(self, foreign: float | None) -> None:
        if foreign is not None and foreign > _LOADED:
            self._loaded = ("loaded",)
            self._warn(f"other processes take {foreign:.0%} of the cores to measure on; stop them for better rows")

    def _warn(self, sentence: str) -> None:
        self.warnings.append(sentence)
        if self.progress is None:
            _LOG.warning(sentence)
        else:
            self.progress("warm-up", 1, 1, sentence)

    def _heat(self, reference: Ready) -> None:
        """The device is as warm as before after a while of load."""
        start = self.clock.now()
        while self.clock.now() - start < min(_REHEAT_S, self.window.idle_s):
            reference.run(reference.repeats(_REHEAT_S / 10))
            self.runtime.synchronise()

    def _warm(self, module: nn.Module, seconds: float, *, known: bool = False) -> Ready:
        share, runs = (_KNOWN_WARM_UP, 1) if known else (1, self.window.warm_up_runs)
        return ready(self.runtime, module, self.inputs, seconds=seconds / share, runs=runs, clock=self.clock)

    # -- runs and rows

    def _run(self, reference: Ready) -> int:
        """The run that new rows belong to: the store's last one, unless versions or the device moved since."""
        last, network = self.store.last_run(), self.store.network()
        same = network is not None and network.provenance == self.provenance
        if last is not None and same:
            change = self._moved(reference)
            if not change:
                return last
            self._warn(f"{change} is not what it was, so the new rows are a run of their own")
        return self.store.begin_run(
            self.provenance,
            self.graph.space,
            self.graph.layers,
            calls=self.graph.calls,
            protocol=asdict(self.window) | self._sensors(),
            seed=self.seed,
            started=time.time(),
        )

    def _sensors(self) -> dict[str, Any]:
        """What is known of the meters at the begin of a run: ``energy_source``, ``energy_tick_s`` …"""
        found: dict[str, Any] = {}
        for meter in self.meters:
            _ = meter.shortest_window_s  # after which a meter knows its ticks
            probe = meter.probe()
            for name, value in {"source": probe.source, **probe.details}.items():
                inner = value if isinstance(value, Mapping) else {"": value}
                found |= {f"{meter.metric}_{name}_{part}".rstrip("_"): each for part, each in inner.items()}
        return {name: value for name, value in found.items() if value is None or isinstance(value, _PLAIN)}

    def _moved(self, reference: Ready) -> str:
        if not self._known:
            return ""
        names = np.random.default_rng(self.seed).permutation(sorted(self._widths)).tolist()[:_OLD_ROWS]
        metrics = [meter.metric for meter in self.meters]
        old: list[Old] = [
            (
                self._widths[name],
                {metric: list(known.values()) for metric in metrics if (known := self._known.get((name, metric)))},
            )
            for name in names
        ]
        warm = lambda widths: self._warm(self.build(widths), self.window.warm_up_s)  # noqa: E731
        before = self.store.table().reference
        return moved(reference, before, old, warm, self.meters, self.window, self.clock, self.seed)

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
        known = configuration(widths) in self._widths
        start = self.clock.now()
        network = self._warm(self.build(widths), self.window.warm_up_s, known=known)
        preparing_s = self.clock.now() - start
        for meter in self.meters:
            if meter.metric not in metrics:
                continue
            burst = self.window.burst_of(meter)
            pair_s = sum(each.side_s(meter.shortest_window_s, burst) for each in (network, reference))
            n = self.window.pairs_of(meter, preparing_s / pair_s)
            found = self._observer.observe(network, reference, meter, n, rng, burst=burst, flags=self._loaded)
            conditions = replace(found.conditions, idle_w=self._idle.watts)
            visit = Visit(
                *(widths, block, position, meter.metric, found.pairs),
                *(found.started, found.seconds, found.disturbance, conditions, run),
                purpose=self._purposes[configuration(widths)],
            )
            self.store.add(run, visit)
            self._learn(visit)
            self.measured += 1
            self.inside_s += found.pairs.inside_s or 0.0
