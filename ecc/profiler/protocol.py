"""Protocol: in which order networks are measured, how often, and when it is enough.

``profile`` measures many widths of one network in randomised complete blocks; ``compare`` measures a few finished
networks as precisely as asked. Both time each network in turn with the dense reference, pair by pair (see ``pairing``).
"""

from __future__ import annotations

import copy
import gc
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ecc.core.errors import InputError
from ecc.core.meter import Meter, Runtime
from ecc.core.problem import Progress
from ecc.core.table import ProfileTable, Provenance
from ecc.core.widths import Widths
from ecc.network.graph import WidthGraph
from ecc.network.nesting import bind, tensors_in
from ecc.network.slimming import outline
from ecc.profiler.clock import Clock, HostClock
from ecc.profiler.conditions import Gauge
from ecc.profiler.cores import choose_cores
from ecc.profiler.design import Point
from ecc.profiler.devices import current_device
from ecc.profiler.host import quiet
from ecc.profiler.locking import device_lock
from ecc.profiler.observation import Blind, Observer
from ecc.profiler.pairing import Estimate, Pairs, Ready, estimate, median_interval, ready
from ecc.profiler.runtimes.eager import Eager
from ecc.profiler.session import Session
from ecc.profiler.store import Store
from ecc.profiler.tables import Drift, drift, idle_power, noise
from ecc.profiler.warming import settle
from ecc.profiler.window import Window

__all__ = ["Comparison", "ProfileResult", "compare", "profile"]


@dataclass(frozen=True, slots=True, eq=False)
class ProfileResult:
    """A profile and how it came about.

    Attributes:
        table: Everything that the store holds now.
        measured: Rows (configuration × block × metric) that were measured now.
        reused: Configurations of the table that the store held before this call.
        noise: Median relative half-width of the 95 % intervals, per metric.
        drift: Change of the reference over all visits, per metric; None where there are too few.
        seconds: Wall time.
        flags: How many configurations of the table have each flag.
        idle: Power of the device with nothing to do, W, with its 95 % interval; None where it was not measured.
        inside: Share of the wall time spent within the windows of rows measured now; None if there are none.
        warnings: Sentences on the state in which the device was found.
    """

    table: ProfileTable
    measured: int
    reused: int
    noise: Mapping[str, float]
    drift: Mapping[str, Drift | None]
    seconds: float
    flags: Mapping[str, int]
    idle: tuple[float, float, float] | None
    inside: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A network against the reference, measured in turn.

    Attributes:
        estimates: Per metric, the paired ratio with its interval, and the medians of both.
        intervals: Per metric, the 95 % interval of the network's own median, in s or J.
        flags: Per metric, words on what was wrong; ``noisy`` when the interval asked for was not reached in time.
    """

    estimates: Mapping[str, Estimate]
    intervals: Mapping[str, tuple[float, float]]
    flags: Mapping[str, tuple[str, ...]]


def profile(
    model: nn.Module,
    graph: WidthGraph,
    inputs: Any,
    design: Sequence[Widths | Point],
    meters: Sequence[Meter],
    *,
    window: Window | None = None,
    runtime: Runtime | None = None,
    store: Store | str | Path | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    network: str = "",
    build: Callable[[Widths], nn.Module] | None = None,
    gauge: Gauge | None = None,
    clock: Clock | None = None,
    wait: bool = True,
    more: Callable[[ProfileTable], Sequence[Widths | Point]] | None = None,
    over: Callable[[], bool] | None = None,
) -> ProfileResult:
    """Measure each width vector against the dense network, in randomised complete blocks.

    Args:
        model: The dense network; left as it is.
        graph: Its width graph.
        inputs: Tensor, tuple or dict of tensors that ``forward`` takes, nested as for ``trace``; the batch that is
            timed; figures are per call.
        design: Width vectors; plain ones count as drawn at random, see Point.
        meters: One per metric.
        window: How long to measure.
        runtime: How the network is run; eager on the CPU by default.
        store: Where rows are kept; rows that are there already are not measured again. In memory by default.
        progress: Told after each visit.
        seed: Of the order of measurement.
        network: Name for people.
        build: Makes the network at given widths; ``outline`` of ``model`` by default.
        gauge: Watches the state of the device over each visit; nothing is known of it by default.
        clock: Simulated in tests.
        wait: Wait while another process measures on the device; refuse otherwise.
        more: Asked for further width vectors once those before are measured, until it gives none.
        over: Asked after each visit whether the time for measuring is over; every row is measured by default.
    Raises:
        InputError: If the store belongs to another profile or cannot be written, or the network does not run on inputs.
        MeterError: If a meter stops answering; rows measured so far stay in the store.
        UnavailableError: If another process measures on the device and ``wait`` is off.
        Interrupted: On Ctrl-C; rows measured so far stay in the store.
    """
    if not design or not meters:
        raise InputError("profile(design, meters) needs at least one configuration and one meter")
    runner, timer = runtime or Eager(), clock or HostClock()
    plan = _placed(window, runner)
    maker = build or partial(outline, model, graph)
    where = _provenance(network or type(model).__name__, graph, inputs, runner, plan, meters)
    owned = not isinstance(store, Store)
    what = f"profiling {where.network} into {str(store.path if isinstance(store, Store) else store or 'memory')!r}"
    lock = device_lock(where.device_fingerprint, where.device, what=what, wait=wait, progress=progress)
    start = timer.now()
    with ExitStack() as stack:

        def alone() -> None:
            nonlocal start
            asked = timer.now()
            stack.enter_context(lock)
            start += timer.now() - asked  # waiting is not measuring

        known = isinstance(store, Store) or (store is not None and Path(store).exists())
        if not known:  # a store is checked, and may be complete, before anybody waits; a new one is made after that
            alone()
        keeper = store if isinstance(store, Store) else Store.open(store)
        try:
            keeper.check(where, graph.space)
            if keeper.energy_source():  # also while latency alone is added
                where = replace(where, environment={**where.environment, "energy": keeper.energy_source()})
            session = Session(
                *(keeper, graph, where, maker, inputs, runner, tuple(meters), plan, progress, seed),
                *(gauge or Blind(), timer),
                alone=alone if known else lambda: None,
                over=over or (lambda: False),
            )
            session.measure(design)
            while more is not None and (chosen := more(keeper.table())):
                session.measure(chosen)
            table, visits = keeper.table(), keeper.visits()
        finally:
            if owned:
                keeper.close()
        seconds = timer.now() - start
    return ProfileResult(
        table=table,
        measured=session.measured,
        reused=session.found,
        noise={metric: noise(table, metric) for metric in table.metrics},
        drift={metric: drift([visit for visit in visits if visit.metric == metric]) for metric in table.metrics},
        seconds=seconds,
        flags=Counter(word for flags in table.rows["flags"] for word in flags.split()),
        idle=idle_power(visits),
        inside=session.inside_s / seconds if session.measured and seconds > 0 else None,
        warnings=tuple(session.warnings),
    )


def compare(
    reference: nn.Module,
    candidates: Sequence[nn.Module],
    inputs: Any,
    meters: Sequence[Meter],
    *,
    window: Window | None = None,
    runtime: Runtime | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    gauge: Gauge | None = None,
    clock: Clock | None = None,
) -> list[Comparison]:
    """Measure finished networks against a reference, all in turn, until each ratio is known well enough.

    Args:
        reference: What the ratios refer to, usually the dense network. No network is changed.
        candidates: The networks to compare with it.
        inputs: Tensor, tuple or dict of tensors that ``forward`` takes.
        meters: One per metric.
        window: ``rel_half_width`` and ``max_s`` say when to stop; ±1 % or 60 s by default.
        gauge: Watches the state of the device over each visit.
        clock: Simulated in tests.
    Returns:
        One comparison per candidate, same order.
    Raises:
        MeterError: If a meter stops answering.
    """
    if not candidates or not meters:
        raise InputError("compare(candidates, meters) needs at least one network and one meter")
    runner, timer, watch = runtime or Eager(), clock or HostClock(), gauge or Blind()
    plan = _placed(window or Window(blocks=6, rel_half_width=0.01, max_s=60.0), runner)
    observer = Observer(watch, timer)
    rng = np.random.default_rng(seed)
    series: list[dict[str, list[Pairs]]] = [{meter.metric: [] for meter in meters} for _ in candidates]
    place = current_device(runner.device)
    with (
        device_lock(place.fingerprint, place.name, what="comparing networks", progress=progress),
        quiet(plan.threads, plan.cores),
    ):
        base = _copied(runner, reference, inputs, plan.device_warm_up_s, plan, timer)
        if not _on_cpu(runner):
            settle(base, runner, watch, replace(plan, device_warm_up_max_s=plan.max_s), timer)
        start = timer.now()
        while (vague := _vague(series, plan)) and (elapsed := timer.now() - start) < plan.max_s:
            if progress is not None:
                progress(
                    "compare",
                    elapsed,
                    plan.max_s,
                    "1 interval is still wide" if len(vague) == 1 else f"{len(vague)} intervals are still wide",
                )
            base = _copied(runner, reference, inputs, plan.warm_up_s, plan, timer)
            for candidate in rng.permutation(sorted({index for index, _ in vague})):
                network = _copied(runner, candidates[candidate], inputs, plan.warm_up_s, plan, timer)
                for meter in meters:
                    if (candidate, meter.metric) in vague:
                        n, burst = plan.pairs_of(meter), plan.burst_of(meter)
                        found = observer.observe(network, base, meter, n, rng, burst=burst)
                        series[candidate][meter.metric].append(found.pairs)
            gc.collect()  # networks may be cycles, and collection is off
    if progress is not None:
        progress("compare", plan.max_s, plan.max_s)
    return [_comparison(metrics, plan) for metrics in series]


def _copied(runtime: Runtime, module: nn.Module, inputs: Any, seconds: float, window: Window, clock: Clock) -> Ready:
    """A warm copy; fresh for each visit, because where a network lies in memory decides a little over its speed."""
    return ready(runtime, copy.deepcopy(module), inputs, seconds=seconds, runs=window.warm_up_runs, clock=clock)


def _vague(series: Sequence[Mapping[str, list[Pairs]]], window: Window) -> set[tuple[int, str]]:
    """Candidates and metrics that were visited less often than ``blocks``, or whose interval is still too wide."""
    return {
        (candidate, metric)
        for candidate, metrics in enumerate(series)
        for metric, visits in metrics.items()
        if len(visits) < window.blocks or estimate(visits).half_width > window.rel_half_width
    }


def _comparison(metrics: Mapping[str, list[Pairs]], window: Window) -> Comparison:
    estimates = {metric: estimate(blocks) for metric, blocks in metrics.items()}
    flags = {metric: {flag for pairs in blocks for flag in pairs.flags} for metric, blocks in metrics.items()}
    for metric, found in estimates.items():
        if found.half_width > window.rel_half_width:
            flags[metric].add("noisy")
    return Comparison(
        estimates=estimates,
        intervals={
            metric: median_interval(np.concatenate([pairs.values for pairs in blocks]))
            for metric, blocks in metrics.items()
        },
        flags={metric: tuple(sorted(words)) for metric, words in flags.items()},
    )


def _on_cpu(runtime: Runtime) -> bool:
    return torch.device(runtime.device).type == "cpu"


def _placed(window: Window | None, runtime: Runtime) -> Window:
    """The window with the cores to measure on; those of an accelerator's host only where they are asked for."""
    plan = window or Window.of(torch.device(runtime.device).type)
    if not plan.cores and not _on_cpu(runtime):
        return plan
    return replace(plan, cores=choose_cores(plan.threads, plan.cores))


def _provenance(
    network: str, graph: WidthGraph, inputs: Any, runtime: Runtime, window: Window, meters: Sequence[Meter]
) -> Provenance:
    device = current_device(runtime.device)
    first = next(tensors_in(list(bind(inputs))))  # the batch is its axis 0, as ecc.trace has it
    environment = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.platform(),
        "dtype": str(first.dtype).removeprefix("torch."),
        **device.settings,
        **runtime.environment,
    }
    if window.cores:
        environment["pinned"] = ",".join(map(str, window.cores))
    for probe in (meter.probe() for meter in meters if meter.metric == "energy"):
        if probe.available:
            environment["energy"] = probe.kind
    return Provenance(
        network=network,
        fingerprint=graph.fingerprint,
        input_shape=tuple(first.shape),
        device=device.name,
        device_fingerprint=device.fingerprint,
        runtime=runtime.name,
        threads=window.threads if device.kind == "cpu" else 0,
        environment=environment,
    )
