"""Ruler: compact networks measured against the dense one, on the device that the cost models belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ecc.core.cost import CostModel
from ecc.core.errors import InputError, UnavailableError
from ecc.core.meter import Meter, Runtime
from ecc.core.problem import Progress
from ecc.core.table import Provenance
from ecc.core.verdict import Measured
from ecc.profiler.cores import choose_cores
from ecc.profiler.devices import Device, list_devices
from ecc.profiler.gauges import gauge_for
from ecc.profiler.meters import ENERGY_SOURCES, meter_for
from ecc.profiler.meters import METRICS as MEASURED
from ecc.profiler.meters.adapter import Monitor, WindowMeter
from ecc.profiler.protocol import Comparison, compare
from ecc.profiler.runtimes import runtime_named
from ecc.profiler.window import Window

__all__ = ["Meters", "Ruler", "find_device", "meters_for", "own_meters"]

Meters = Sequence[Meter | Monitor] | Meter | Monitor
"""Meters of the user's own: one or several; monitors of other libraries are made meters by WindowMeter."""

_VISITS = 10  # at least: enough that the interval covers what differs from visit to visit
_BURST = 3  # time is better spent on more visits
_REL_HALF_WIDTH = 0.008  # of the ratio: where a measurement may end before its time is over


def find_device(fingerprint: str) -> Device | None:
    """The device here that has that fingerprint, or None."""
    return next((device for device in list_devices() if device.fingerprint == fingerprint), None)


def own_meters(given: Meters | None) -> list[Meter]:
    """What the user gives as meters, as a list of such.

    Raises:
        InputError: If one has neither ``begin`` and ``end`` nor ``begin_window`` and ``end_window``.
    """
    if given is None:
        return []
    if isinstance(given, Iterable) and not isinstance(given, str | Mapping):
        return [_own_meter(each) for each in given]
    return [_own_meter(given)]


def _own_meter(given: Any) -> Meter:
    if not isinstance(given, type):
        if all(hasattr(given, name) for name in ("metric", "probe", "begin", "end")):
            meter: Meter = given
            return meter
        if all(callable(getattr(given, name, None)) for name in ("begin_window", "end_window")):
            return WindowMeter(given)
    got = f"the class {given.__name__}; make one with it" if isinstance(given, type) else type(given).__name__
    raise InputError(
        f"meters are objects with begin_window and end_window, or all that ecc.core.meter.Meter names; got {got}"
    )


def meters_for(metrics: Sequence[str], device: str, *, source: str = "auto", own: Meters = ()) -> list[Meter]:
    """One meter per metric, each probed.

    Args:
        source: Of energy, where the device's own meter is read.
        own: Meters to take instead of the device's; their metrics are measured too where they are not among the others.
    Raises:
        InputError: If a metric is not one that is measured, or not from that source, or there are two meters of one, or
            something else than a meter.
        UnavailableError: If the device has no such meter; the message says why and how to mend it.
    """
    mine = own_meters(own)
    given = {meter.metric: meter for meter in mine}
    if len(given) < len(mine):
        raise InputError("give one meter of each metric")
    if unknown := [metric for metric in given if metric not in MEASURED]:
        raise InputError(f"a meter has the metric {unknown[0]!r}; choose from {', '.join(MEASURED)}")
    wanted = dict.fromkeys((*metrics, *given))
    if source != ENERGY_SOURCES[0] and "energy" not in wanted:
        raise InputError(f"the energy source {source!r} is of the metric energy; measure that too, or leave it out")
    meters = [given.get(metric) or meter_for(metric, device, source=source) for metric in wanted]
    for meter in meters:
        probe = meter.probe()
        if not probe.available:
            raise UnavailableError(f"{meter.metric} cannot be measured on {device}: {probe.reason}")
    return meters


@dataclass(frozen=True, slots=True, eq=False)
class Ruler:
    """Measures networks in turn with the dense one.

    Attributes:
        dense: The reference.
        inputs: The batch that is timed.
        meters: One per metric.
        runtime: How the networks are run.
        threads: Intra-op threads of the CPU while it measures.
        device: Name for people.
        cores: Of a CPU, to measure on; chosen when empty.
    """

    dense: nn.Module
    inputs: Any
    meters: tuple[Meter, ...]
    runtime: Runtime
    threads: int
    device: str
    cores: tuple[int, ...] = ()

    @classmethod
    def of(cls, dense: nn.Module, inputs: Any, costs: Sequence[CostModel], own: Meters = ()) -> Ruler | str:
        """A ruler for the costs that are measured, or the reason why there is none.

        The reason is empty when no cost is of a kind that is measured.

        Args:
            own: Meters of the user's, which are taken for those of the costs that are of their metrics.
        """
        given = own_meters(own)
        measured = [(cost, cost.provenance) for cost in costs if cost.metric in MEASURED and not cost.exact]
        if not measured:
            return ""
        places = [place for _, place in measured if place is not None]
        if len(places) < len(measured):
            return "the cost model does not say what it was measured on"
        place = places[0]
        if any(other.key != place.key for other in places):
            return "the cost models were measured on different devices, runtimes or inputs"
        sources = {other.energy_source for cost, other in measured if other and cost.metric == "energy"}
        if len(sources) > 1:
            return f"the energies of the cost models were read from different sources: {', '.join(sorted(sources))}"
        metrics = [cost.metric for cost, _ in measured]
        mine = [meter for meter in given if meter.metric in metrics]
        return cls._at(dense, inputs, place, metrics, "".join(sources), mine)

    @classmethod
    def _at(
        cls,
        dense: nn.Module,
        inputs: Any,
        place: Provenance,
        metrics: Sequence[str],
        source: str,
        own: Sequence[Meter],
    ) -> Ruler | str:
        device = find_device(place.device_fingerprint)
        if device is None:
            return (
                f"the cost model belongs to {place.device} (fingerprint {place.device_fingerprint}), which is not here"
            )
        threads, cores = max(1, place.threads), tuple(int(core) for core in place.cores.split(",") if core.isdigit())
        energy = next((meter.probe().kind for meter in own if meter.metric == "energy"), "")
        if source and energy not in ("", source):
            return f"energy was measured by {source}, and the meter given here reads {energy}; give the former"
        if source not in ("", energy, *ENERGY_SOURCES):
            return (
                f"energy was measured by {source}, a meter of your own that is not known here; "
                "give it in Python: ecc.verify(..., meters=[...])"
            )
        try:
            named = source if source in ENERGY_SOURCES else "auto"
            meters = meters_for(metrics, device.torch_name, source=named, own=own)
            choose_cores(threads, cores)
            runtime = runtime_named(place.runtime, device.torch_name, threads)
        except (UnavailableError, InputError) as error:
            return str(error)
        return cls(dense, inputs, tuple(meters), runtime, threads, device.name, cores)

    def measure(
        self, networks: Sequence[nn.Module], *, seconds: float, progress: Progress | None = None, seed: int = 0
    ) -> list[dict[str, Measured]]:
        """Each network against the dense one: per network, metric → ratio, values and 95 % intervals.

        Args:
            seconds: When to stop at the latest; earlier where the ratios are known well enough.
        """
        window = replace(
            Window.of(torch.device(self.runtime.device).type),
            blocks=_VISITS,
            pairs=5,
            burst=_BURST,
            rel_half_width=_REL_HALF_WIDTH,
            max_s=seconds,
            threads=self.threads,
            cores=self.cores,
        )
        found = compare(
            self.dense,
            networks,
            self.inputs,
            self.meters,
            window=window,
            runtime=self.runtime,
            progress=progress,
            seed=seed,
            gauge=gauge_for(self.runtime.device),
        )
        return [_measured(comparison) for comparison in found]


def _measured(comparison: Comparison) -> dict[str, Measured]:
    result: dict[str, Measured] = {}
    for metric, found in comparison.estimates.items():
        low, high = comparison.intervals[metric]
        result[metric] = Measured(
            ratio=found.ratio,
            ratio_low=found.low,
            ratio_high=found.high,
            dense=found.reference,
            value=found.value,
            value_low=min(low, found.value),
            value_high=max(high, found.value),
        )
    return result
