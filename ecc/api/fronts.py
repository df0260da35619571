"""front: finished artefacts as points that can be compared."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ecc.artefact import Artefact, Manifest
from ecc.artefact import read as read_artefact
from ecc.core.cost import METRICS
from ecc.core.errors import InputError
from ecc.core.markup import printable
from ecc.core.verdict import BudgetCheck
from ecc.fronts import DENSE, Front, Fronts, LeftOut, Point

__all__ = ["AXES", "find_artefacts", "front_of"]

AXES: tuple[str, ...] = ("latency", "energy", "macs", "params", "memory", "bytes")
"""What the x axis of a front can be."""

_UNITS: Mapping[str, str] = {**METRICS, "bytes": "B"}
_FLOAT_BYTES = 4  # of a parameter of the dense network
_MANIFEST = "manifest.json"
_DEEPEST = 8  # folders below the one that was given
_ALIKE = ("method", "seed", "device", "measure_s")  # settings that are no property of a method


@dataclass(frozen=True, slots=True)
class _Placed:
    """An artefact on the axis: what it costs there, and which axes those are.

    Attributes:
        axes: What must be equal for two costs and accuracies to be comparable.
        check: Of the budget that x is read from; None where it is counted.
    """

    artefact: Artefact
    axes: tuple[str, ...]
    check: BudgetCheck | None

    @property
    def manifest(self) -> Manifest:
        return self.artefact.manifest


def front_of(folders: Sequence[str | Path], *, x: str | None = None) -> Fronts:
    """The artefacts in these folders, and the dense networks that they were made of, as fronts.

    Networks, data sets, devices and runtimes each have axes of their own. Artefacts of one method with other settings
    (epochs, options …) are methods of their own, named by what they differ in. What was measured is placed by its
    paired ratio to the dense network, times the dense network's median over all the artefacts of it: a device that was
    slower while one of them was measured does not move that one.

    Args:
        folders: Artefacts, and folders that hold artefacts at any depth, such as that of a sweep. What is named must be
            sound and on the axis; of what is found in a folder, the rest is left out and told.
        x: One of ``AXES``; the metric of the first budget when None, or ``macs`` where there is none.
    Raises:
        InputError: If a folder is neither, or what is named lacks the axis or the accuracy, or nothing is left.
    """
    if x is not None and x not in AXES:
        raise InputError(f"axis {x!r} is unknown; choose from {', '.join(AXES)}")
    told = _Told([])
    found = [(artefact, named) for path, named in _all_of(folders) for artefact in told.reading(path, named)]
    axis = x or _first_metric([artefact for artefact, _ in found])
    placed = [one for artefact, named in found for one in told.placing(artefact, named, axis)]
    if not placed:
        reason = told.left_out[0].reason if told.left_out else "no folder was given"
        raise InputError(f"none of {len(told.left_out)} artefacts can be placed: {reason}")
    groups: dict[tuple[str, ...], list[_Placed]] = {}
    for one in placed:
        groups.setdefault(one.axes, []).append(one)
    return Fronts(tuple(_front(group, axis) for group in groups.values()), tuple(told.left_out))


@dataclass(frozen=True, slots=True)
class _Told:
    """Remembers why what was found in a folder is left out; what was named is refused."""

    left_out: list[LeftOut]

    def reading(self, path: Path, named: bool) -> list[Artefact]:
        """The artefact, if it is sound."""
        try:
            return [read_artefact(path)]
        except InputError as error:
            return self._leave_out(path, named, error)

    def placing(self, artefact: Artefact, named: bool, x: str) -> list[_Placed]:
        """The artefact on the axis, if it has a value there."""
        try:
            return [_place(artefact, x)]
        except InputError as error:
            return self._leave_out(artefact.path, named, error)

    def _leave_out(self, path: Path, named: bool, error: InputError) -> list[Any]:
        if named:
            raise error
        self.left_out.append(LeftOut(printable(str(path)), printable(str(error))))
        return []


def _first_metric(artefacts: Sequence[Artefact]) -> str:
    """What the first budget is on."""
    checks = [check for artefact in artefacts for check in artefact.manifest.budgets]
    return next((check.metric for check in checks if check.measured is not None), "macs")


def find_artefacts(folder: str | Path) -> list[Path]:
    """The artefacts in a folder, at any depth, by name; hidden folders, links and what artefacts hold are passed over.

    Raises:
        InputError: If the folder cannot be read.
    """
    return sorted(_below(Path(folder), 0))


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as found:
            folders = [entry for entry in found if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}; choose another folder") from error
    for path in (Path(entry.path) for entry in folders if not entry.name.startswith(".")):
        if (path / _MANIFEST).is_file():
            yield path
        elif depth < _DEEPEST:
            yield from _below(path, depth + 1)


def _all_of(folders: Sequence[str | Path]) -> list[tuple[Path, bool]]:
    """Each artefact once, and whether it was named itself."""
    found: dict[Path, tuple[Path, bool]] = {}
    for given in folders:
        folder = Path(given).expanduser()
        inside = find_artefacts(folder) if folder.is_dir() and not (folder / _MANIFEST).exists() else []
        for path in inside or [folder]:  # a folder without any is refused as it is read
            place = path.resolve()
            before, named = found.get(place, (path, False))
            found[place] = (before, named or not inside)
    return list(found.values())


def _place(artefact: Artefact, x: str) -> _Placed:
    """Where an artefact belongs.

    Raises:
        InputError: If it has no accuracy or nothing on the axis.
    """
    manifest = artefact.manifest
    if manifest.accuracy is None:
        raise InputError(f"artefact {artefact.path} has no accuracy; compress with data to score it on")
    common = (manifest.network, manifest.fingerprint, manifest.data)
    if x == "bytes" or x in manifest.counts:
        return _Placed(artefact, common, None)
    for check in manifest.budgets:
        if check.metric == x and check.measured is not None and check.dense > 0:
            where = () if check.source else _device(manifest)
            return _Placed(artefact, (*common, check.shown_in, check.source, *where), check)
    measured = ", ".join(check.metric for check in manifest.budgets if check.measured is not None) or "nothing"
    raise InputError(
        f"artefact {artefact.path} has no measured {x} (measured: {measured}); "
        "choose another --x, or compress it with a budget on that metric"
    )


def _device(manifest: Manifest) -> tuple[str, ...]:
    """What a measurement depends on, beside the network."""
    batch = "×".join(str(shape[0]) for shape in manifest.input_shapes if shape)
    return (manifest.device, manifest.device_fingerprint, manifest.runtime, str(manifest.threads), batch)


def _front(group: Sequence[_Placed], x: str) -> Front:
    """One pair of axes."""
    dense = _dense_x(group, x)
    points = [
        _point(one, x, method, level, dense)
        for one, method, level in zip(group, _method_names(group), _levels(group), strict=True)
    ]
    check = group[0].check
    unit, source = (_UNITS[x], "") if check is None else (check.shown_in, printable(check.source))
    return Front((*_dense_points(group, dense), *points), x, unit, source, _place_of(group[0]))


def _place_of(one: _Placed) -> dict[str, str]:
    """What the points of its axes have in common, for people."""
    manifest = one.manifest
    place = {"network": manifest.network, "data": manifest.data}
    if one.check is not None and not one.check.source:
        device, _, runtime, threads, batch = _device(manifest)
        place |= {
            "device": device,
            "runtime": runtime,
            "threads": _counted(threads, "thread") if threads != "0" else "",
            "batch": f"batch {batch}" if batch else "",
        }
    return {name: printable(text) for name, text in place.items()}


def _counted(number: str, noun: str) -> str:
    return f"{number} {noun}{'' if number == '1' else 's'}"


def _dense_x(group: Sequence[_Placed], x: str) -> float | None:
    """Cost of the dense network on these axes: counted, or the median of what was measured beside its artefacts."""
    values: list[float] = []
    for one in group:
        counts = one.manifest.counts
        if one.check is not None:
            values.append(one.check.dense)
        elif x == "bytes" and "params_dense" in counts:
            values.append(float(_FLOAT_BYTES * counts["params_dense"]))
        elif f"{x}_dense" in counts:
            values.append(float(counts[f"{x}_dense"]))
    return median(values) if values else None


def _dense_points(group: Sequence[_Placed], x: float | None) -> list[Point]:
    """The dense networks: one for each set of weights that was started from."""
    if x is None:
        return []
    origins: dict[str, list[Manifest]] = {}
    for one in group:
        origins.setdefault(one.manifest.weights, []).append(one.manifest)
    found = []
    for manifests in origins.values():
        first, seeds = manifests[0], {manifest.seed for manifest in manifests}
        seed = first.seed if len(origins) > 1 and len(seeds) == 1 else None
        if first.accuracy_dense is not None:
            found.append(Point(DENSE, x, first.accuracy_dense, seed, label=printable(first.network), budget="no limit"))
    return found


def _point(one: _Placed, x: str, method: str, level: str, dense: float | None) -> Point:
    manifest, check = one.manifest, one.check
    value = float(one.artefact.weights.bytes if x == "bytes" else manifest.counts.get(x, 0))
    low = high = None
    if check is not None and check.measured is not None:
        scale = 1.0 if dense is None else dense / check.dense
        value = scale * check.measured
        low, high = (None if end is None else scale * end for end in (check.low, check.high))
    accuracy = math.nan if manifest.accuracy is None else manifest.accuracy  # not None: refused by _place
    return Point(method, value, accuracy, manifest.seed, low, high, printable(one.artefact.path.name), level)


def _method_names(group: Sequence[_Placed]) -> list[str]:
    """What made each artefact; where one method was run with several settings, with those that differ."""
    words = _differing(group, [_settings(one) for one in group])
    return [
        printable(f"{one.manifest.made_by} ({differing})" if differing else one.manifest.made_by)
        for one, differing in zip(group, words, strict=True)
    ]


def _levels(group: Sequence[_Placed]) -> list[str]:
    """What was asked for of each artefact: its budgets, and the options of secondary stages that differ."""
    words = _differing(group, [_stage_settings(one) for one in group])
    return [
        printable(" and ".join(filter(None, [*(_limit(check, one) for check in one.manifest.budgets), differing])))
        for one, differing in zip(group, words, strict=True)
    ]


def _limit(check: BudgetCheck, one: _Placed) -> str:
    """A budget as text, alike for all seeds; it names its analytic model where that is not the axis."""
    known = one.check is not None and one.check.source == check.source
    named = f"{check.metric} of {check.source}" if check.source and not known else check.metric
    if check.relative and check.dense > 0:
        return f"{named} ≤ {check.limit / check.dense:.3g} of dense"
    return f"{named} ≤ {check.limit:.4g} {check.shown_in}"


def _differing(group: Sequence[_Placed], settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Of each artefact, the settings that are not alike in all that were made by the same."""
    values: dict[tuple[str, str], list[str]] = {}
    makers = Counter(one.manifest.made_by for one in group)
    for one, own in zip(group, settings, strict=True):
        for key, value in own.items():
            values.setdefault((one.manifest.made_by, key), []).append(value)
    alike = {name for name, found in values.items() if len(set(found)) == 1 and len(found) == makers[name[0]]}
    return [
        ", ".join(f"{key} {value}" for key, value in own.items() if (one.manifest.made_by, key) not in alike)
        for one, own in zip(group, settings, strict=True)
    ]


def _settings(one: _Placed) -> dict[str, str]:
    """What may tell two uses of one method apart; what was meant for another device is another use on a common axis."""
    manifest = one.manifest
    found = {key: str(value) for key, value in manifest.settings.items() if key not in _ALIKE and value is not None}
    if one.check is None and manifest.device:
        found["for"] = " ".join(filter(None, [manifest.device, manifest.runtime]))
    return found


def _stage_settings(one: _Placed) -> dict[str, str]:
    return {
        f"{stage.name}.{key}": str(value)
        for stage in one.manifest.stages
        for key, value in stage.settings.items()
        if key != "seed"
    }
