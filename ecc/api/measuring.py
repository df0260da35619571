"""profile: the parts named, put together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ecc.api.constraints import demand_prunable
from ecc.api.ruler import Meters, meters_for
from ecc.core.errors import InputError
from ecc.core.problem import Progress
from ecc.core.table import ProfileTable
from ecc.network.blocks import aligned_steps, in_blocks
from ecc.network.graph import WidthGraph
from ecc.profiler.design import Point, plan
from ecc.profiler.devices import current_device
from ecc.profiler.gauges import gauge_for
from ecc.profiler.protocol import ProfileResult, profile
from ecc.profiler.runtimes import runtime_named
from ecc.profiler.store import Store
from ecc.profiler.window import Window

__all__ = ["measure_widths"]

_LOG = logging.getLogger("ecc")


def measure_widths(
    model: nn.Module,
    graph: WidthGraph,
    inputs: Any,
    *,
    metrics: Sequence[str] = ("latency",),
    samples: int = 200,
    device: str = "cpu",
    runtime: str = "eager",
    threads: int = 1,
    cores: Sequence[int] = (),
    step: int | None = None,
    window: Window | None = None,
    store: Store | str | Path | None = None,
    network: str = "",
    energy_source: str = "auto",
    meters: Meters = (),
    seed: int = 0,
    progress: Progress | None = None,
    wait: bool = True,
    more: Callable[[ProfileTable], Sequence[Point]] | None = None,
    over: Callable[[], bool] | None = None,
) -> ProfileResult:
    """Measure a plan of widths: most of them random, some corners and steps along one group.

    Args:
        cores: Of a CPU, to measure on; as many as threads, one per physical core, when empty.
        step: Channels that widths are multiples of, where groups are wide enough; the device's own step when None.
        energy_source: ``auto``, or ``counter`` or ``power`` where a GPU has both and they disagree.
        wait: Wait while another process measures on the device; refuse otherwise.
        meters: One or several of your own, for their metrics instead of the device's; these are measured anyway.
        more: Asked for further widths once those before are measured, until it gives none.
        over: Asked after each visit whether the time for measuring is over.

    Raises:
        InputError: If the input makes no sense, or the store belongs to something else.
        UnavailableError: If the device or a meter is not here, or another process measures and ``wait`` is off.
        Interrupted: On Ctrl-C; rows measured so far stay in the store.
    """
    if not metrics or len(set(metrics)) < len(metrics):
        raise InputError("give each metric once, at least one")
    demand_prunable(graph)
    place = current_device(device)
    multiple = place.channel_step if step is None else step
    blocks = in_blocks(graph, model, aligned_steps(graph, multiple))
    design = plan(blocks.space, samples, layers=blocks.layers, seed=seed, around=place.channel_step)
    few = _too_few(len(design), samples, blocks, graph)
    if few and progress is not None:
        progress("plan", 1, 1, few)
    elif few:
        _LOG.warning(few)
    result = profile(
        model,
        blocks,
        inputs,
        design,
        meters_for(metrics, place.torch_name, source=energy_source, own=meters),
        window=replace(window or Window.of(place.kind), threads=threads, cores=tuple(cores)),
        runtime=runtime_named(runtime, place.torch_name, threads),
        store=store,
        progress=progress,
        seed=seed,
        network=network,
        gauge=gauge_for(place.torch_name),
        wait=wait,
        more=more,
        over=over,
    )
    return replace(result, warnings=(few, *result.warnings)) if few else result


def _too_few(found: int, samples: int, blocks: WidthGraph, graph: WidthGraph) -> str:
    """What to say where there are fewer widths than samples were asked for; empty where there are as many."""
    if found >= samples:
        return ""
    asked = f"the network has only {found} different widths, fewer than the {samples} samples asked for"
    if blocks.space == graph.space:
        return asked
    longest = max(blocks.space.step)
    return f"{asked}, since their steps are up to {longest} channels; measure with --step 1 for finer ones"
