"""What the texts in a store mean, read without trust: a store may come from anybody."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecc.core.calls import OperatorCall
from ecc.core.errors import InputError
from ecc.core.fields import Fields, Scalar, parse_object
from ecc.core.layers import Layer, Side
from ecc.core.operators import COLUMNS, Operator
from ecc.core.table import PURPOSES, Provenance
from ecc.core.widths import WidthSpace
from ecc.profiler.conditions import Conditions
from ecc.profiler.host import Disturbance
from ecc.profiler.pairing import Pairs
from ecc.profiler.tables import UNITS, Visit

__all__ = ["Network", "Run", "check_figures", "check_run", "conditions_from", "network_from", "run_from", "visit_from"]

_LAST_INSTANT = 253_000_000_000  # Unix time in the year 9987: calendars end soon after


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """What a store has to know of a network so that its table can be fitted without it."""

    provenance: Provenance
    space: WidthSpace
    layers: tuple[Layer, ...]
    calls: tuple[OperatorCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """One stretch of measuring, in which the reference did not move.

    Attributes:
        number: From 1.
        started: Unix time.
        seed: Of the order of measurement.
        protocol: How long was measured: the plain members of its Window.
        environment: Versions and settings.
    """

    number: int
    started: float
    seed: int
    protocol: Mapping[str, Scalar]
    environment: Mapping[str, str]


def network_from(provenance: str, space: str, layers: str, where: str) -> Network:
    """Read the three texts.

    Raises:
        InputError: If one is not what a store writes.
    """
    fields = parse_object(provenance.encode(), where)
    groups = parse_object(space.encode(), where)
    widths = WidthSpace(groups.texts("names"), groups.wholes("dense", 1), groups.wholes("step", 1))
    if len(set(widths.names)) != len(widths):
        raise InputError(f"{where} has groups of equal names; it is damaged or not from this program")
    inside = parse_object(layers.encode(), where)
    calls = inside.items("calls") if "calls" in inside else []
    return Network(
        Provenance(
            network=fields.text("network"),
            fingerprint=fields.text("fingerprint"),
            input_shape=fields.wholes("input_shape"),
            device=fields.text("device"),
            device_fingerprint=fields.text("device_fingerprint"),
            runtime=fields.text("runtime"),
            threads=fields.whole("threads"),
            environment={name: str(value) for name, value in fields.scalars("environment").items()},
        ),
        widths,
        tuple(_layer(Fields(entry, where), where) for entry in inside.items("layers")),
        tuple(_call(Fields(entry, where), where) for entry in calls),
    )


def _layer(fields: Fields, where: str) -> Layer:
    return Layer(
        fields.text("name"),
        fields.text("kind"),
        _side(fields.items("reads"), where),
        _side(fields.items("writes"), where),
        fields.whole("macs"),
        *(fields.whole(name) if name in fields else 0 for name in ("channels_in", "channels_out")),
    )


def _call(fields: Fields, where: str) -> OperatorCall:
    shape, sides = fields.inner("shape"), fields.inner("sides")
    if not set(COLUMNS) >= {*shape, *sides}:
        raise InputError(f"{where} has an operator with numbers that are not known here; profile again")
    return OperatorCall(
        fields.text("module"),
        Operator(fields.text("kind"), **{column: shape.whole(column, 1) for column in shape}),
        tuple((column, _side(sides.items(column), where)) for column in sides),
        tuple(number - 1 for number in fields.wholes("inputs")),
        fields.text("weight"),
        *(_pair(fields, name, where) for name in ("padding", "strides", "dilations")),
    )


def _pair(fields: Fields, name: str, where: str) -> tuple[int, int]:
    sizes = fields.wholes(name)
    if len(sizes) != 2:
        raise InputError(f"{where} has an operator whose {name} is no pair; it is damaged or not from this program")
    return sizes[0], sizes[1]


def _side(parts: list[Any], where: str) -> Side:
    for part in parts:
        share, names = part if isinstance(part, list) and len(part) == 2 else (None, None)
        if not isinstance(share, int | float) or not 0 < share <= 1 or not isinstance(names, list):
            raise InputError(f"{where} has a layer whose side cannot be read; it is damaged or not from this program")
        if not all(isinstance(name, str) for name in names):
            raise InputError(f"{where} has a layer whose side names no group; it is damaged or not from this program")
    if not math.isclose(math.fsum(share for share, _ in parts), 1.0, abs_tol=1e-6):
        raise InputError(f"{where} has a layer whose side does not sum to 1; it is damaged or not from this program")
    return Side.from_json(parts)


def check_run(runtime: object, threads: object, provenance: str) -> None:
    """Refuse a run whose columns do not say what its provenance says.

    Raises:
        InputError: If they differ.
    """
    said = parse_object(provenance.encode(), "its provenance")
    if (runtime, threads) != (said.text("runtime"), said.whole("threads")):
        raise InputError("the runtime or the threads of a run are not those of its provenance")


def check_figures(row: Mapping[str, object], runs: Collection[int]) -> None:
    """Refuse a row with a cell that is no number of its kind, whatever else of it is read.

    Args:
        row: Columns by name: SQLite takes any value into any of them.
        runs: Numbers of the runs that there are.
    Raises:
        InputError: If there is one; names the column.
    """
    cells = Fields(dict(row), "a row")
    for name in ("n", "block", "position", "switches"):
        if name != "switches" or row[name] is not None:
            cells.whole(name, int(name == "n"))
    for name in ("ratio", "value", "reference", "cpu_s", "started", "seconds"):
        if cells.number(name) < 0:
            raise InputError(f"a row has a {name!r} below 0")
    for name in ("ratio_low", "ratio_high", "steal_s"):
        cells.optional_number(name)
    if row["run"] not in runs:
        raise InputError("a row has a 'run' that there is not")


def run_from(number: int, started: float, seed: int, protocol: str, provenance: str) -> Run:
    """Read a run.

    Raises:
        InputError: If it is not what a store writes (or TypeError, ValueError).
    """
    plain = {name: value for name, value in dict(json.loads(protocol)).items() if not isinstance(value, list | dict)}
    settings = parse_object(provenance.encode(), "its provenance").scalars("environment")
    return Run(
        int(number),
        _instant(started),
        int(seed),
        Fields({"protocol": plain}, "its protocol").scalars("protocol"),
        {name: str(value) for name, value in settings.items()},
    )


def conditions_from(text: str) -> Conditions:
    """Read what was known of the device's state.

    Raises:
        InputError: If it is not what a store writes.
    """
    found = parse_object(text.encode(), "its conditions")
    kinds = {field.name: str(field.type).removesuffix(" | None") for field in fields(Conditions)}
    if unknown := [name for name in found if name not in kinds]:
        raise InputError(f"its conditions name {unknown[0]!r}, which is none")
    return Conditions(**{name: _CONDITION[kinds[name]](found, name) for name in found})


def _words(found: Fields, name: str) -> tuple[str, ...]:
    words = found.texts(name)
    if not all(word and _plain(word) == word and " " not in word for word in words):
        raise ValueError("its conditions are not words")
    return words


_CONDITION: Mapping[str, Callable[[Fields, str], Any]] = {
    "float": Fields.number,
    "int": Fields.whole,
    "str": Fields.text,
    "bool": Fields.optional_flag,
    "tuple[str, ...]": _words,
}


def visit_from(
    run: int,
    widths: str,
    block: int,
    position: int,
    metric: str,
    pairs: str,
    n: int,
    started: float,
    seconds: float,
    steal_s: float | None,
    switches: int | None,
    flags: str,
    conditions: str,
    purpose: str,
    extras: str | None,
) -> Visit:
    """Read a row.

    Raises:
        ValueError: If it is not what a store writes (or TypeError, KeyError).
    """
    try:
        series = np.array(json.loads(pairs), dtype=np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError):  # speaks of Python
        raise ValueError("its pairs are not numbers") from None
    if series.ndim != 2 or series.shape[1] != 3 or not len(series):
        raise ValueError("its pairs are not triples")
    if not np.isfinite(series).all() or (series[:, :2] <= 0).any():
        raise ValueError("a reading is not a positive number")
    if n != len(series):
        raise ValueError("its number of pairs is not that of its pairs")
    if metric not in UNITS:
        raise ValueError("its metric is unknown")
    if purpose not in PURPOSES:
        raise ValueError("its purpose is unknown")
    if not 0 <= seconds < _LAST_INSTANT:
        raise ValueError("its time is not a number of seconds")
    chosen = parse_object(widths.encode(), "its widths")
    return Visit(
        widths={name: chosen.whole(name, 1) for name in chosen},
        block=int(block),
        position=int(position),
        metric=metric,
        pairs=Pairs(
            *(series[:, 0], series[:, 1], series[:, 2], tuple(_plain(flags).split())),
            extras={} if extras is None else _extras_from(extras, len(series)),
        ),
        started=_instant(started),
        seconds=float(seconds),
        disturbance=Disturbance(
            float(series[:, 2].sum()),
            None if steal_s is None else float(steal_s),
            None if switches is None else int(switches),
        ),
        conditions=conditions_from(conditions),
        run=int(run),
        purpose=purpose,
    )


def _extras_from(text: str, n: int) -> dict[str, NDArray[np.float64]]:
    found = parse_object(text.encode(), "its extras")
    read = {name: np.array(found.items(name), dtype=np.float64) for name in found}  # null is NaN
    if not all(name and _plain(name) == name and " " not in name for name in read):
        raise ValueError("its extras are not named by words")
    if any(values.shape != (n, 2) or np.isinf(values).any() for values in read.values()):
        raise ValueError("its extras are not pairs of numbers")
    return read


def _instant(started: float) -> float:
    if not 0 <= started < _LAST_INSTANT:
        raise ValueError("its time is none that a clock shows")
    return float(started)


def _plain(flags: str) -> str:
    if not flags.replace(" ", "a").replace("-", "a").isalnum() and flags:
        raise ValueError("its flags are not words")
    return flags
