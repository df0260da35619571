"""A profile's rows as CSV or Parquet, with what they belong to and the unit of every column."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ecc.core.errors import UnavailableError
from ecc.core.table import OPERATOR_COLUMNS, ProfileTable
from ecc.profiler.operators import holds_operators, operator_table, without_chains
from ecc.profiler.tables import UNITS

__all__ = ["frame_of", "to_csv", "to_parquet", "units_of"]

_UNITS: Mapping[str, str] = {"s": "s", "j": "J", "hz": "Hz", "w": "W", "c": "°C", "bytes": "B"}
_BELONGING = ("network", "fingerprint", "input_shape", "device", "device_fingerprint", "runtime")
_PLAIN: Mapping[str, str] = {
    "flags": "words",
    "kind": "word",
    "purpose": "word",
    "throttled": "words",
    "run": "number of a run",
    "runs": "numbers of runs",
}


def frame_of(table: ProfileTable) -> pd.DataFrame:
    """One row per configuration: ``width:GROUP`` for each group, then the table's columns, each a plain value.

    Rows that are operators begin with their kind, sizes and counts instead; those of chains of operators are left out.

    Lists per block are left out but for ``runs``, which names the runs that a row was measured in. Last come, the same
    in every row so that none loses them, the long-run value and interval of the dense network (``dense_latency_s`` …)
    and what the rows belong to (``network``, ``device``, ``environment:torch`` …).
    """
    if holds_operators(table.space):
        table = without_chains(table)
    blocks = [str(name) for name in table.rows if str(name).endswith(("block_ratios", "block_runs"))]
    frame = table.rows.drop(columns=blocks)
    for name in frame:
        if frame[name].map(lambda value: isinstance(value, list | tuple)).any():
            frame[name] = frame[name].map(lambda value: " ".join(map(str, value)) if value is not None else value)
    for column, (name, values) in enumerate(_leading(table).items()):
        frame.insert(column, str(name), values)
    runs = table.rows[[name for name in blocks if name.endswith("block_runs")]]
    frame["runs"] = [
        " ".join(map(str, sorted({run for cell in cells for run in cell if run is not None})))
        for cells in runs.itertuples(index=False)
    ]
    return pd.concat([frame, pd.DataFrame(_belonging(table), index=frame.index)], axis=1)


def _leading(table: ProfileTable) -> pd.DataFrame:
    """What is measured in each row."""
    if holds_operators(table.space):
        return operator_table(table).rows[[*OPERATOR_COLUMNS]]
    return pd.DataFrame(table.widths, columns=[f"width:{name}" for name in table.space.names], index=table.rows.index)


def _belonging(table: ProfileTable) -> dict[str, Any]:
    """What is the same for all rows."""
    found: dict[str, Any] = {}
    for metric, values in table.reference.items():
        unit = UNITS[metric].lower()
        for name, value in zip(("", "_low", "_high"), values, strict=True):
            found[f"dense_{metric}{name}_{unit}"] = value
    place = table.provenance.to_json()
    environment = place.pop("environment")
    place["input_shape"] = "x".join(map(str, place["input_shape"]))
    return found | place | {f"environment:{name}": text for name, text in environment.items()}


def units_of(frame: pd.DataFrame) -> dict[str, str]:
    """The unit of each column of ``frame_of``: SI, ``1`` for a ratio, or what a cell holds."""
    return {str(name): _unit(str(name)) for name in frame}


def to_csv(table: ProfileTable) -> bytes:
    """CSV; its first line names the columns, which end in their units (``_s``, ``_j``, ``_hz``, ``_c``, ``_w``)."""
    return frame_of(table).to_csv(index=False, lineterminator="\n").encode()


def to_parquet(table: ProfileTable) -> bytes:
    """Parquet; ``attrs["units"]`` of what ``pandas.read_parquet`` returns are the columns' units.

    Raises:
        UnavailableError: If pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            "writing Parquet needs pyarrow, which is not installed; pip install 'ecc-compress[parquet]'"
        ) from error
    frame = frame_of(table)
    frame.attrs["units"] = units_of(frame)
    content = io.BytesIO()
    frame.to_parquet(content, engine="pyarrow", index=False)
    return content.getvalue()


def _unit(column: str) -> str:
    """Of a column, by its name: channels, a ratio (1), a count, or the unit that its last word says."""
    if column.startswith("width:"):
        return "channels"
    if column in _BELONGING or column.startswith("environment:"):
        return "text"
    if column in _PLAIN:
        return _PLAIN[column]
    if "ratio" in column or column.endswith("_error"):
        return "1"
    return _UNITS.get(column.rpartition("_")[2], "count")
