"""What the texts in a store mean, read without trust: a store may come from anybody."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecc.core.errors import InputError
from ecc.core.fields import Fields, parse_object
from ecc.core.layers import Layer, Side
from ecc.core.table import Provenance
from ecc.core.widths import WidthSpace
from ecc.profiler.host import Disturbance
from ecc.profiler.pairing import Pairs
from ecc.profiler.tables import UNITS, Visit

__all__ = ["Network", "network_from", "visit_from"]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """What a store has to know of a network so that its table can be fitted without it."""

    provenance: Provenance
    space: WidthSpace
    layers: tuple[Layer, ...]


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
    entries = parse_object(layers.encode(), where).items("layers")
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
        tuple(_layer(Fields(entry, where), where) for entry in entries),
    )


def _layer(fields: Fields, where: str) -> Layer:
    return Layer(
        fields.text("name"),
        fields.text("kind"),
        _side(fields.items("reads"), where),
        _side(fields.items("writes"), where),
        fields.whole("macs"),
    )


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


def visit_from(
    widths: str,
    block: int,
    position: int,
    metric: str,
    pairs: str,
    started: float,
    seconds: float,
    steal_s: float | None,
    switches: int | None,
    flags: str,
) -> Visit:
    """Read a row.

    Raises:
        ValueError: If it is not what a store writes (or TypeError, KeyError).
    """
    series = np.array(json.loads(pairs), dtype=np.float64)
    if series.ndim != 2 or series.shape[1] != 3 or not len(series):
        raise ValueError("its pairs are not triples")
    if not np.isfinite(series).all() or (series[:, :2] <= 0).any():
        raise ValueError("a reading is not a positive number")
    if metric not in UNITS:
        raise ValueError("its metric is unknown")
    if not (math.isfinite(started) and math.isfinite(seconds)):
        raise ValueError("its time is not a number")
    chosen = parse_object(widths.encode(), "its widths")
    return Visit(
        widths={name: chosen.whole(name, 1) for name in chosen},
        block=int(block),
        position=int(position),
        metric=metric,
        pairs=Pairs(series[:, 0], series[:, 1], series[:, 2], tuple(_plain(flags).split())),
        started=float(started),
        seconds=float(seconds),
        disturbance=Disturbance(
            float(series[:, 2].sum()),
            None if steal_s is None else float(steal_s),
            None if switches is None else int(switches),
        ),
    )


def _plain(flags: str) -> str:
    if not flags.replace(" ", "a").replace("-", "a").isalnum() and flags:
        raise ValueError("its flags are not words")
    return flags
