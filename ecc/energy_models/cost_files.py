"""Cost models as JSON files: written atomically, read without trust.

Every file is one object with ``schema`` (version of the layout), ``kind`` and ``form`` (which class reads the rest).
Nothing read is believed before it is checked: a hostile file gives one InputError in bounded memory and time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from ecc.core.cost import METRICS
from ecc.core.errors import InputError
from ecc.core.fields import Fields, parse_object
from ecc.core.files import write_whole
from ecc.core.layers import Side
from ecc.core.table import Provenance
from ecc.core.widths import WidthSpace

__all__ = [
    "as_side",
    "metric_of",
    "numbers",
    "objects",
    "provenance_of",
    "read_cost",
    "refuse_large",
    "space_of",
    "write_cost",
]

_KIND = "ecc cost model"
_SCHEMA = 1
_MOST_BYTES = 16 << 20
_WIDEST = 1 << 31  # channels of a group
_MOST_GROUPS = 1 << 14
_MOST_PARTS = 1 << 12  # of one side
_MOST_PRODUCTS = 1 << 16
_MOST_CELLS = 1 << 24  # of the matrix parts × sides, float64
_MOST_ELEMENTS = 1 << 28  # of the batch that was timed
_MOST_FACTORS = 64  # groups of one part


def write_cost(path: str | Path, form: str, value: Mapping[str, Any]) -> None:
    """Write a cost model so that the file is either the old one or the whole new one.

    Raises:
        InputError: If the folder is missing or cannot be written, or something else than a plain file is there.
    """
    path = _as_path(path)
    if path.exists() and not path.is_file():  # a device would be replaced by a file
        raise InputError(f"cost model {str(path)!r} cannot be written: that is no plain file; choose another path")
    document = {"schema": _SCHEMA, "kind": _KIND, "form": form, **value}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        write_whole(path, (text + "\n").encode())
    except OSError as error:
        raise InputError(
            f"cost model {str(path)!r} cannot be written: {error.strerror}; choose another path"
        ) from error


def read_cost(path: str | Path) -> tuple[str, Fields]:
    """The form of the cost model in a file, and its members.

    Raises:
        InputError: If the file is missing, too large, not JSON, not a cost model or of another version.
    """
    path = _as_path(path)
    where = f"cost model {str(path)!r}"
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror}; fit one with `ecc fit`") from error
    if len(text) > _MOST_BYTES:
        raise InputError(f"{where} is larger than {_MOST_BYTES >> 20} MiB; it is no cost model of this program")
    fields = parse_object(text, where)
    if fields.text("kind", "") != _KIND:
        raise InputError(f"{where} holds something else; give a file that `ecc fit` has written")
    schema = fields.whole("schema")
    if schema != _SCHEMA:
        raise InputError(f"{where} has layout version {schema}, this program reads {_SCHEMA}; fit the model again")
    return fields.text("form"), fields


def _as_path(path: object) -> Path:
    """A path that the system can be asked for."""
    if not isinstance(path, str | Path) or "\0" in str(path):
        raise InputError(f"{path!r:.80} is no path of a cost model; give the name of a file such as cost.json")
    return Path(path)


def metric_of(fields: Fields, allowed: tuple[str, ...]) -> str:
    """The metric, checked together with its unit."""
    metric = fields.text("metric")
    if metric not in allowed or fields.text("unit") != METRICS[metric]:
        raise InputError(f"cost model: metric {metric!r} in {fields.text('unit')!r} does not go with its form")
    return metric


def space_of(fields: Fields) -> WidthSpace:
    """The member ``space``."""
    inner = fields.inner("space")
    names, dense, step = inner.texts("names"), inner.wholes("dense", 1), inner.wholes("step", 1)
    if len(names) > _MOST_GROUPS or len(set(names)) != len(names) or max(dense, default=1) > _WIDEST:
        raise InputError("cost model: 'space' has groups of equal names, too many, or too wide ones")
    return WidthSpace(names, dense, step)


def as_side(value: object, space: WidthSpace, *, foreign: bool = False) -> Side:
    """A side from JSON; its shares are positive and sum to 1, its groups are those of ``space`` unless ``foreign``."""
    parts = []
    for part in value if isinstance(value, list) and len(value) <= _MOST_PARTS else []:
        share, groups = part if isinstance(part, list) and len(part) == 2 else (None, None)
        if not _is_number(share) or not 0 < share <= 1 or not isinstance(groups, list) or len(groups) > _MOST_FACTORS:
            raise InputError(f"cost model: {part!r:.80} is not a part of a side")
        for name in groups:
            if not isinstance(name, str) or not (foreign or name in space.names):
                raise InputError(f"cost model: a side names {name!r:.80}, which is no group of the model")
        parts.append((float(share), tuple(groups)))
    if not math.isclose(math.fsum(share for share, _ in parts), 1.0, abs_tol=1e-6):
        raise InputError(f"cost model: the shares of side {value!r:.80} do not sum to 1")
    return Side(tuple(parts))


def objects(fields: Fields, name: str) -> list[Fields]:
    """A list of objects."""
    return [Fields(value, f"cost model: an entry of {name!r}") for value in fields.items(name)]


def refuse_large(products: Sequence[Sequence[Side]]) -> None:
    """Refuse products of sides whose evaluation would need a matrix that no real network needs."""
    sides = {side for product in products for side in product}
    parts = sum(len(side.parts) for side in sides)
    if len(products) > _MOST_PRODUCTS or len(sides) * parts > _MOST_CELLS:
        raise InputError("cost model: has more terms than any network of a sensible size")


def numbers(fields: Fields, name: str, *, length: int | None = None) -> tuple[float, ...]:
    """A list of finite numbers ≥ 0, of the given length if any."""
    values = fields.items(name)
    if not all(_is_number(value) and value >= 0 for value in values) or length not in (None, len(values)):
        raise InputError(f"cost model: {name!r} must be a list of {'' if length is None else f'{length} '}numbers ≥ 0")
    return tuple(float(value) for value in values)


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -1e300 < value < 1e300  # also false for NaN, and safe for whole numbers that no float can hold


def provenance_of(fields: Fields) -> Provenance | None:
    """The member ``provenance``; None where there is none."""
    if "provenance" not in fields:
        return None
    inner = fields.inner("provenance")
    shape = inner.wholes("input_shape", 1)
    if math.prod(shape) > _MOST_ELEMENTS:
        raise InputError("provenance: input_shape is too large to be one batch")
    return Provenance(
        network=inner.text("network"),
        fingerprint=inner.text("fingerprint"),
        input_shape=shape,
        device=inner.text("device"),
        device_fingerprint=inner.text("device_fingerprint"),
        runtime=inner.text("runtime"),
        threads=inner.whole("threads"),
        environment={name: str(value) for name, value in inner.scalars("environment").items()},
    )
