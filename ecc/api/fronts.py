"""front: finished artefacts as points that can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ecc.artefact import Artefact
from ecc.artefact import read as read_artefact
from ecc.core.cost import METRICS
from ecc.core.errors import InputError
from ecc.fronts import Front, Point

__all__ = ["AXES", "front_of"]

AXES: tuple[str, ...] = ("latency", "energy", "macs", "params", "bytes")
"""What the x axis of a front can be."""

_UNITS: Mapping[str, str] = {**METRICS, "bytes": "B"}


def front_of(folders: Sequence[str | Path], *, x: str = "latency") -> Front:
    """The artefacts in these folders, and the dense networks that they were made of, as a front.

    Raises:
        InputError: If a folder is not a sound artefact or lacks the axis or the accuracy.
    """
    if x not in AXES:
        raise InputError(f"axis {x!r} is unknown; choose from {', '.join(AXES)}")
    artefacts = [read_artefact(folder) for folder in folders]
    if x in ("latency", "energy"):
        _refuse_mixed(artefacts)
    points = [_point(artefact, x) for artefact in artefacts]
    return Front((*_dense(artefacts, x), *points), x, _UNITS[x])


def _point(artefact: Artefact, x: str) -> Point:
    manifest = artefact.manifest
    if manifest.accuracy is None:
        raise InputError(f"artefact {artefact.path} has no accuracy; compress with data to score it on")
    value, low, high = _place(artefact, x)
    return Point(manifest.method, value, manifest.accuracy, manifest.seed, low, high, artefact.path.name)


def _place(artefact: Artefact, x: str) -> tuple[float, float | None, float | None]:
    """Value on the axis with its interval."""
    manifest = artefact.manifest
    if x == "bytes":
        return float(artefact.files["weights.safetensors"].bytes), None, None
    if x in manifest.counts:
        return float(manifest.counts[x]), None, None
    for check in manifest.budgets:
        if check.metric == x and check.measured is not None:
            return check.measured, check.low, check.high
    measured = ", ".join(check.metric for check in manifest.budgets if check.measured is not None) or "nothing"
    raise InputError(
        f"artefact {artefact.path} has no measured {x} (measured: {measured}); "
        "choose another --x, or compress it with a budget on that metric"
    )


def _dense(artefacts: Sequence[Artefact], x: str) -> list[Point]:
    """One point per distinct dense network, in order of first use."""
    points: dict[str, Point] = {}
    for artefact in artefacts:
        manifest = artefact.manifest
        value = manifest.counts.get(f"{x}_dense") or next((c.dense for c in manifest.budgets if c.metric == x), None)
        if value is not None and manifest.accuracy_dense is not None:
            key = f"{manifest.fingerprint} {manifest.weights}"
            points.setdefault(key, Point("dense", float(value), manifest.accuracy_dense, label=manifest.network))
    return list(points.values())


def _refuse_mixed(artefacts: Sequence[Artefact]) -> None:
    places = {(a.manifest.device_fingerprint, a.manifest.runtime, a.manifest.threads): a for a in artefacts}
    if len(places) > 1:
        first, second, *_ = places.values()
        raise InputError(
            f"artefacts {first.path} and {second.path} were measured on different devices or runtimes; "
            "compare those of one, or choose --x macs"
        )
