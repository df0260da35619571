"""profile of operators: the device, its meters and the design, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ecc.api.ruler import meters_for
from ecc.core.errors import InputError
from ecc.core.problem import Progress
from ecc.profiler.devices import current_device
from ecc.profiler.gauges import gauge_for
from ecc.profiler.operators import OperatorProfile, profile_operators
from ecc.profiler.runtimes import runtime_named
from ecc.profiler.store import Store
from ecc.profiler.window import Window

__all__ = ["measure_operators"]

_SAMPLES, _SAMPLES_WITH_ENERGY = 3000, 1000  # windows of energy take seconds
_BLOCKS = 1  # many operators rather than few that are known well: what a law misses exceeds the noise of one visit
_WARM_UP_S = 0.05  # the reference, run in turn, keeps the device warm


def measure_operators(
    *,
    metrics: Sequence[str] = ("latency",),
    samples: int | None = None,
    device: str = "cpu",
    runtime: str = "eager",
    threads: int = 1,
    cores: Sequence[int] = (),
    dtype: str = "float32",
    window: Window | None = None,
    store: Store | str | Path | None = None,
    energy_source: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    wait: bool = True,
) -> OperatorProfile:
    """Measure operators over the shapes that networks have, once for all networks that will run on the device.

    Args:
        metrics: Latency is always measured.
        samples: Operators; 3000 by default, 1000 where energy is measured.
        cores: Of a CPU, to measure on; as many as threads, one per physical core, when empty.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        energy_source: ``auto``, or ``counter`` or ``power`` where a GPU has both and they disagree.
        wait: Wait while another process measures on the device; refuse otherwise.

    Raises:
        InputError: If the input makes no sense, or the store belongs to something else.
        UnavailableError: If the device or a meter is not here, or another process measures and ``wait`` is off.
        Interrupted: On Ctrl-C; rows measured so far stay in the store.
    """
    if len(set(metrics)) < len(metrics):
        raise InputError("give each metric once")
    place = current_device(device)
    most = _SAMPLES_WITH_ENERGY if "energy" in metrics else _SAMPLES
    usual = Window.of(place.kind)
    usual = replace(usual, blocks=_BLOCKS, max_blocks=_BLOCKS, warm_up_s=min(usual.warm_up_s, _WARM_UP_S))
    return profile_operators(
        meters_for(list(dict.fromkeys(("latency", *metrics))), place.torch_name, source=energy_source),
        samples=most if samples is None else samples,
        dtype=dtype,
        runtime=runtime_named(runtime, place.torch_name, threads),
        window=replace(window or usual, threads=threads, cores=tuple(cores)),
        store=store,
        progress=progress,
        seed=seed,
        gauge=gauge_for(place.torch_name),
        wait=wait,
    )
