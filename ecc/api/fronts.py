"""front: finished artefacts as points that can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from ecc.artefact import Artefact
from ecc.artefact import read as read_artefact
from ecc.core.cost import METRICS
from ecc.core.errors import InputError
from ecc.fronts import Front, Point

__all__ = ["AXES", "front_of"]

AXES: tuple[str, ...] = ("latency", "energy", "macs", "params", "memory", "bytes")
"""What the x axis of a front can be."""

_UNITS: Mapping[str, str] = {**METRICS, "bytes": "B"}
_FLOAT_BYTES = 4  # of a parameter of the dense network


def front_of(folders: Sequence[str | Path], *, x: str = "latency") -> Front:
    """The artefacts in these folders, and the dense networks that they were made of, as a front.

    What was measured is placed by its paired ratio to the dense network, times the dense network's median over all the
    artefacts of it: a device that was slower while one of them was measured does not move that one.

    Raises:
        InputError: If a folder is not a sound artefact or lacks the axis or the accuracy.
    """
    if x not in AXES:
        raise InputError(f"axis {x!r} is unknown; choose from {', '.join(AXES)}")
    artefacts = [read_artefact(folder) for folder in folders]
    dense = _dense(artefacts, x)
    points = [_point(artefact, x, dense.get(_origin(artefact))) for artefact in artefacts]
    source, unit = _refuse_mixed(artefacts, x) if x in ("latency", "energy") else ("", _UNITS[x])
    accuracies = {_origin(a): (a.manifest.accuracy_dense, a.manifest.network) for a in artefacts}
    references = [
        Point("dense", value, accuracy, label=network)
        for origin, value in dense.items()
        for accuracy, network in [accuracies[origin]]
        if accuracy is not None
    ]
    return Front((*references, *points), x, unit, source)


def _origin(artefact: Artefact) -> str:
    """Tells dense networks apart: architecture and weights."""
    return f"{artefact.manifest.fingerprint} {artefact.manifest.weights}"


def _point(artefact: Artefact, x: str, dense: float | None) -> Point:
    manifest = artefact.manifest
    if manifest.accuracy is None:
        raise InputError(f"artefact {artefact.path} has no accuracy; compress with data to score it on")
    name = artefact.path.name
    if x == "bytes":
        size = float(artefact.weights.bytes)
        return Point(manifest.made_by, size, manifest.accuracy, manifest.seed, label=name)
    if x in manifest.counts:
        return Point(manifest.made_by, float(manifest.counts[x]), manifest.accuracy, manifest.seed, label=name)
    for check in manifest.budgets:
        if check.metric == x and check.measured is not None and check.low is not None and check.high is not None:
            scale = 1.0 if dense is None else dense / check.dense
            value, low, high = (scale * each for each in (check.measured, check.low, check.high))
            return Point(manifest.made_by, value, manifest.accuracy, manifest.seed, low, high, name)
    measured = ", ".join(check.metric for check in manifest.budgets if check.measured is not None) or "nothing"
    raise InputError(
        f"artefact {artefact.path} has no measured {x} (measured: {measured}); "
        "choose another --x, or compress it with a budget on that metric"
    )


def _dense(artefacts: Sequence[Artefact], x: str) -> dict[str, float]:
    """Value of each dense network on the axis: counted, or the median of what was measured beside its artefacts."""
    values: dict[str, list[float]] = {}
    for artefact in artefacts:
        manifest = artefact.manifest
        found = [check.dense for check in manifest.budgets if check.metric == x]
        if x == "bytes" and "params_dense" in manifest.counts:
            found = [float(_FLOAT_BYTES * manifest.counts["params_dense"])]
        if f"{x}_dense" in manifest.counts:
            found = [float(manifest.counts[f"{x}_dense"])]
        values.setdefault(_origin(artefact), []).extend(found)
    return {origin: median(found) for origin, found in values.items() if found}


def _refuse_mixed(artefacts: Sequence[Artefact], x: str) -> tuple[str, str]:
    """What all values on the axis are of, empty for a device, and their unit."""
    kinds = {(check.source, check.shown_in): a for a in artefacts for check in a.manifest.budgets if check.metric == x}
    if len(kinds) > 1:
        (first, unit), (second, other), *_ = sorted(kinds)
        raise InputError(
            f"the {x} of artefact {kinds[first, unit].path} is in {unit} of {first or 'a device'}, and that of "
            f"{kinds[second, other].path} in {other} of {second or 'a device'}; "
            "compare those of one, or choose --x macs"
        )
    ((source, unit),) = kinds
    if source:
        return source, unit
    places = {(a.manifest.device_fingerprint, a.manifest.runtime, a.manifest.threads): a for a in artefacts}
    if len(places) > 1:
        one, two, *_ = places.values()
        raise InputError(
            f"artefacts {one.path} and {two.path} were measured on different devices or runtimes; "
            "compare those of one, or choose --x macs"
        )
    return source, unit
